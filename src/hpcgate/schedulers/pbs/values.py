"""How PBS's commands write values."""

import calendar
import re
from collections.abc import Mapping

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_TIME = re.compile(
    r"(?:[A-Z][a-z]{2}) (?P<month>[A-Z][a-z]{2}) +(?P<day>\d{1,2})"
    r" (?P<hour>\d\d):(?P<minute>\d\d):(?P<second>\d\d) (?P<year>\d{4})",
    re.ASCII,
)
_DURATION = re.compile(r"(?:(?:(\d{1,9}):)?(\d{1,9}):)?(\d{1,12})(?:\.\d+)?", re.ASCII)
_INTEGER = re.compile(r"[+-]?\d{1,18}", re.ASCII)
_SIZE = re.compile(r"(\d{1,18})([kmgtp]?)([bw]?)", re.ASCII | re.IGNORECASE)
_SCALE: Mapping[str, int] = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}
_WORD = 8
"""Bytes of a word, in which sizes may be given too."""


def epoch(value: str | None) -> int | None:
    """Return Unix seconds for a time as ctime(3) writes it in UTC, ``Sun Nov 22 20:16:56 2026``, or None."""
    match = _TIME.fullmatch(value.strip()) if value else None
    if match is None or match["month"] not in _MONTHS:
        return None
    month, day = _MONTHS.index(match["month"]) + 1, int(match["day"])
    year, hour, minute, second = (int(match[name]) for name in ("year", "hour", "minute", "second"))
    if not (year >= 1970 and 1 <= day <= 31 and hour < 24 and minute < 60 and second <= 60):
        return None
    return calendar.timegm((year, month, day, hour, minute, second))


def integer(value: str | None) -> int | None:
    """Return a whole number, or None."""
    return int(value) if value is not None and _INTEGER.fullmatch(value.strip()) else None


def duration(value: str | None) -> int | None:
    """Return the seconds of ``[[hours:]minutes:]seconds``, or None for what is not a duration."""
    match = _DURATION.fullmatch(value.strip()) if value else None
    if match is None:
        return None
    hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return (hours * 60 + minutes) * 60 + seconds


def size(value: str | None) -> int | None:
    """Return the bytes of a size such as ``24684096kb``, or None. A bare number is bytes."""
    match = _SIZE.fullmatch(value.strip()) if value else None
    if match is None:
        return None
    found: int = int(match[1]) * 1024 ** _SCALE[match[2].lower()] * (_WORD if match[3].lower() == "w" else 1)
    return found


def mebibytes(value: str | None) -> int | None:
    """Return the MiB of a size, rounded down, or None."""
    found = size(value)
    return None if found is None else found // 1024**2


def hosts(exec_host: str | None) -> tuple[str, ...]:
    """Return the hosts of ``exec_host``, each once, in order.

    >>> hosts("n1/0*4+n2/0+n2/1")
    ('n1', 'n2')
    """
    if not exec_host:
        return ()
    names = (part.partition("/")[0].strip("() ") for part in exec_host.split("+"))
    return tuple(dict.fromkeys(name for name in names if name))


def path(value: str | None) -> str | None:
    """Return a path without the host that stands before it (``host:/path``)."""
    if value is None:
        return None
    host, colon, rest = value.partition(":")
    return rest if colon and "/" not in host else value
