"""How Slurm's commands write values."""

import re

NOTHING = frozenset({"", "(null)", "N/A", "n/a", "None", "NONE", "Unknown", "UNKNOWN", "NOT_SET", "INVALID", "n/s"})
"""What stands where there is no value."""

_DURATION = re.compile(r"(?:(\d{1,9})-)?(?:(\d{1,9}):)?(\d{1,9}):(\d{1,9})(?:\.\d+)?")
_EXIT = re.compile(r"(\d{1,9}):(\d{1,9})")

_NO_PRIORITY = 4294967294
"""NO_VAL of slurm.h."""


def text(value: str) -> str | None:
    """Return a text, or None for what stands for none."""
    return None if value in NOTHING else value


def integer(value: str) -> int | None:
    """Return a whole number, or None."""
    value = value.strip()
    return int(value) if value.isascii() and value.isdigit() and len(value) < 20 else None


def number(value: str) -> float | None:
    """Return a decimal number, or None."""
    return float(value) if re.fullmatch(r"\d{1,15}(\.\d{1,15})?", value) else None


def epoch(value: str) -> int | None:
    """Return a time in Unix seconds as written under ``SLURM_TIME_FORMAT=%s``; None for none and for 0."""
    return integer(value) or None


def duration(value: str) -> int | None:
    """Return the seconds of ``[days-][hours:]minutes:seconds``; None for UNLIMITED and for what is not a duration."""
    match = _DURATION.fullmatch(value.strip())
    if match is None:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def seconds(value: str) -> float | None:
    """Return the seconds of a duration that may have a fraction, ``00:02.517``."""
    whole = duration(value)
    fraction = number("0." + value.strip().rpartition(".")[2]) if "." in value else None
    return None if whole is None else round(whole + (fraction or 0.0), 3)


_SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,9})?)([KMGTP]?)")
_SCALE = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4, "P": 5}


def size(value: str) -> int | None:
    """Return the bytes of a size such as ``11228K``; a bare number is bytes."""
    match = _SIZE.fullmatch(value.strip())
    return int(float(match[1]) * 1024 ** _SCALE[match[2]]) if match else None


def minutes(value: str) -> int | None:
    """Return the seconds of a number of minutes; None for UNLIMITED."""
    found = integer(value)
    return None if found is None else found * 60


def priority(value: str) -> int | None:
    """Return a job's priority, None where it is not set."""
    found = integer(value)
    return None if found is None or found == _NO_PRIORITY else found


def exit_code(value: str) -> tuple[int | None, int | None]:
    """Return exit status and signal of ``status:signal``; no signal is 0."""
    match = _EXIT.fullmatch(value.strip())
    return (int(match[1]), int(match[2])) if match else (None, None)


def wait_status(value: str) -> tuple[int | None, int | None]:
    """Return exit status and signal of a status as wait(2) gives it, or of ``status:signal`` (squeue from 24.11 on)."""
    found = integer(value)
    return exit_code(value) if found is None else (found >> 8 & 0xFF, found & 0x7F)
