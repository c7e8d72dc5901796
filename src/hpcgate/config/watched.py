"""Files of this machine that count until they are others: each is looked at often, and read when it has changed."""

import asyncio
import errno
import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, Generic, TypeVar

from hpcgate.config.files import MOST
from hpcgate.sharing.flights import Flights
from hpcgate.threads import alone

T = TypeVar("T")


class Watched(Generic[T]):
    """What some files say that belong together. A file that is no good is read once, and is no good until it changes.

    Args:
        place: Where, for the metrics and the log, if reading fails while nobody waits.
        parse: Makes of their contents what they say; raises ValueError.
        paths: The files.
        most: The bytes that each may have.

    Attributes:
        version: Rises whenever they are read anew.
    """

    def __init__(self, place: str, parse: Callable[..., T], *paths: Path, most: int = MOST) -> None:
        self.version = 0
        self._parse = parse
        self._paths = paths
        self._most = most
        self._seen: tuple[tuple[int, ...], ...] = ()
        self._found: Callable[[], T] | None = None
        self._reading: Flights[None, T] = Flights(place, OSError, ValueError)

    def __repr__(self) -> str:
        return f"<Watched {' '.join(map(str, self._paths))} version {self.version}>"

    @property
    def under_way(self) -> bool:
        """Whether a look has begun and not ended."""
        return None in self._reading

    async def look(self, seconds: float) -> T:
        """Return what the files say. On a file system that hangs they hold one thread, however many look.

        Args:
            seconds: How long to wait.

        Raises:
            TimeoutError: It takes longer.
            OSError, ValueError: As `read`.
        """
        async with asyncio.timeout(seconds):
            return await self._reading.share(None, lambda: alone(self.read))

    def read(self) -> T:
        """Return what the files say; they may hang, and one thread may do this at a time.

        Raises:
            OSError: One cannot be read, or is longer than it may be.
            ValueError: They say nothing that makes sense.
        """
        with ExitStack() as stack:
            files = [stack.enter_context(path.open("rb")) for path in self._paths]
            seen = tuple(map(_state, files))
            if self._found is None or seen != self._seen:
                contents = [file.read(self._most + 1) for file in files]
                if any(len(content) > self._most for content in contents):
                    raise OSError(errno.EFBIG, f"more than {self._most} bytes")
                self._found, self._seen = self._parsed(contents), seen
                self.version += 1
        return self._found()

    def _parsed(self, contents: list[bytes]) -> Callable[[], T]:
        try:
            found = self._parse(*contents)
        except ValueError as error:
            kind, words = type(error), error.args

            def refuse() -> T:
                raise kind(*words)

            return refuse
        return lambda: found


def _state(file: BinaryIO) -> tuple[int, ...]:
    found = os.fstat(file.fileno())
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
