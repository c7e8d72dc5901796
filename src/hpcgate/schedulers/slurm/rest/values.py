"""How slurmrestd writes values, in all data versions: each is told by its shape."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from hpcgate.schedulers import reading
from hpcgate.schedulers.slurm.values import NOTHING

Parsed = TypeVar("Parsed")
Row = Mapping[str, Any]

_LARGEST = 2**63
_NO_VALUES = frozenset({0xFFFE, 0xFFFFFFFE, 0xFFFFFFFFFFFFFFFE})
_INFINITE = frozenset({0xFFFF, 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF})
"""NO_VAL and INFINITE of slurm.h, in the sizes in which they slip out."""


def number(value: object) -> int | None:
    """Return a whole number; None for none, unset, infinite and for what is not a number.

    >>> number({"set": True, "infinite": False, "number": 10})
    10
    """
    if isinstance(value, Mapping):
        value = None if value.get("infinite") or not value.get("set") else value.get("number")
    if isinstance(value, str):
        value = int(value) if value.isascii() and value.isdigit() and len(value) < 20 else None
    if isinstance(value, float):
        value = int(value) if abs(value) < _LARGEST else None
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if 0 <= value < _LARGEST and value not in _NO_VALUES | _INFINITE else None


def time(value: object) -> int | None:
    """Return a time in Unix seconds; None for none and for 0."""
    return number(value) or None


def minutes(value: object) -> int | None:
    """Return the seconds of a limit in minutes, None for none and for UNLIMITED."""
    found = number(value)
    return None if found is None else found * 60


def text(value: object) -> str | None:
    """Return a text, or None for what stands for none."""
    return value if isinstance(value, str) and value not in NOTHING else None


def string(value: object) -> str:
    """Return a text as it is, an empty one for anything else."""
    return value if isinstance(value, str) else ""


def names(value: object) -> tuple[str, ...]:
    """Return the names in a list, in a string separated by commas, or alone."""
    if isinstance(value, str):
        value = value.split(",")
    return tuple(name for name in value if isinstance(name, str) and name) if isinstance(value, list) else ()


def row(value: object) -> Row:
    """Return an object, an empty one for anything else."""
    return value if isinstance(value, Mapping) else {}


def rows(answer: object, name: str) -> Iterator[Row]:
    """Yield the objects of a list in an answer."""
    items = row(answer).get(name)
    for item in items if isinstance(items, list) else ():
        yield row(item)


def parse_rows(answer: object, name: str, parse: Callable[[Row], Parsed]) -> list[Parsed]:
    """Parse each object of a list; one that cannot be parsed is logged and skipped.

    Args:
        answer: The whole answer.
        name: The list's name in it.
        parse: What makes something of an object; a ValueError means that it cannot.
    """
    return reading.rows("slurm.row_skipped", "slurmrestd", rows(answer, name), parse)


def exit_status(value: object) -> tuple[int | None, int | None]:
    """Return exit status and signal, from a status of wait(2) or from an object that spells it out."""
    if not isinstance(value, Mapping):
        status = number(value)
        return (None, None) if status is None else (status >> 8 & 0xFF, status & 0x7F)
    signal = row(value.get("signal"))
    caught = number(signal.get("id")) or number(signal.get("signal_id")) or 0
    status = number(value.get("return_code"))
    if status is None and not caught and "PENDING" in names(value.get("status")):
        return None, None
    return (0 if status is None else status), caught
