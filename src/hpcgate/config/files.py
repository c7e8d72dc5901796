"""Files of this machine that somebody waits for: each has so many seconds, for a file system may hang."""

import errno
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from hpcgate.threads import within

T = TypeVar("T")

PATIENCE = 10.0
"""Seconds that one look at a file may take."""
MOST = 16 * 1024 * 1024
"""Bytes of a file, as a rule."""


def in_time(call: Callable[[], T]) -> T:
    """Return what a function returns that touches the file system.

    Raises:
        OSError: It hangs; and whatever the function raises.
    """
    try:
        return within(PATIENCE, call)
    except TimeoutError:
        raise OSError(errno.ETIMEDOUT, f"nothing came within {PATIENCE:g} s") from None


def read(path: Path, most: int = MOST) -> bytes:
    """Return the content of a file.

    Raises:
        OSError: It cannot be read, is longer, or hangs, as a FIFO that nobody writes to.
    """
    content = in_time(partial(_read, path, most))
    if len(content) > most:
        raise OSError(errno.EFBIG, f"more than {most} bytes")
    return content


def read_text(path: Path, most: int = MOST, encoding: str = "utf-8") -> str:
    """Return the text of a file, with newlines as Python has them.

    Raises:
        OSError: As `read`.
        UnicodeDecodeError: It is in another encoding.
    """
    return read(path, most).decode(encoding).replace("\r\n", "\n").replace("\r", "\n")


def _read(path: Path, most: int) -> bytes:
    with path.open("rb") as file:
        return file.read(most + 1)
