"""What was asked for lately, within bounds (docs/decisions/caches.md)."""

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


def _monotonic() -> float:
    return time.monotonic()


class Recent(Generic[K, V]):
    """A cache of so many entries, each until a time of its own; for a new one the longest unused goes.

    Args:
        most: How many entries there may be.
        clock: What the times are of, seconds.
    """

    __slots__ = ("_clock", "_kept", "_most")

    def __init__(self, most: int, clock: Callable[[], float] = _monotonic) -> None:
        self._most = most
        self._clock = clock
        self._kept: OrderedDict[K, tuple[float, V]] = OrderedDict()

    def __repr__(self) -> str:
        return f"<Recent {len(self)}/{self._most}>"

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: K) -> V | None:
        """Return what is kept, None if nothing is or its time is over."""
        found = self._kept.get(key)
        if found is None:
            return None
        until, value = found
        if self._clock() >= until:
            del self._kept[key]
            return None
        self._kept.move_to_end(key)
        return value

    def keep(self, key: K, value: V, until: float = float("inf")) -> None:
        """Keep something, by the clock until then."""
        self._kept[key] = until, value
        self._kept.move_to_end(key)
        if len(self._kept) > self._most:
            self._kept.popitem(last=False)

    def forget(self, key: K) -> None:
        """Keep it no longer."""
        self._kept.pop(key, None)
