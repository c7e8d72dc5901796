"""The paths of a job's standard streams, expanded as slurmd expands them.

https://slurm.schedmd.com/sbatch.html (filename pattern)
"""

import posixpath
import re
from dataclasses import dataclass

_PATTERN = re.compile(r"%([0-9]*)([%AabJjNnstuxg])")
_NUMBERS = frozenset("AabJjnt")
"""Patterns that a width fills up with zeros, to at most 10 digits."""
_WIDEST = 10


@dataclass(frozen=True, slots=True)
class StreamNames:
    """What the patterns stand for.

    Attributes:
        raw: The number of the job's own record.
        array: The id of the array, or None for a job that is not an array task.
        task: The number of the array task, if known.
        user: The owner.
        name: The job's name.
        node: The first node's short host name, if the job has one.
        directory: The working directory.
    """

    raw: str
    array: str | None
    task: int | None
    user: str
    name: str
    node: str | None
    directory: str


def expanded(path: str | None, names: StreamNames) -> str | None:
    """Return the absolute path with its patterns filled in; one that cannot be known yet stays as it is."""
    if not path:
        return None
    if "\\" in path:
        return posixpath.join(names.directory, path.replace("\\", ""))
    if names.array is not None and path == posixpath.join(names.directory, f"slurm-{names.raw}.out"):
        # squeue shows a single job's default; an array's tasks have another.
        path = "slurm-%A_%a.out"
    known = {
        "A": names.array or names.raw,
        "a": "4294967294" if names.array is None else _number(names.task),
        "b": "4" if names.array is None else _number(None if names.task is None else names.task % 10),
        "J": names.raw,
        "j": names.raw,
        "N": names.node,
        "n": "0",
        "s": "batch",
        "t": "0",
        "u": names.user,
        "x": names.name,
        "%": "%",
    }

    def fill(match: re.Match[str]) -> str:
        value = known.get(match[2])
        if value is None:
            return match[0]
        if match[2] not in _NUMBERS or not match[1]:
            return value
        # The width itself may have more digits than Python makes an int of.
        return value.zfill(min(int(match[1].lstrip("0")[:3] or 0), _WIDEST))

    return posixpath.join(names.directory, _PATTERN.sub(fill, path))


def _number(value: int | None) -> str | None:
    return None if value is None else str(value)


_HOSTS = re.compile(r"([^\[,]*)(?:\[([^\]]*)\])?([^,]*)")


def first_node(nodes: str) -> str | None:
    """Return the short name of the first node of a host list such as ``nid[001-004,7],x1``.

    >>> first_node("nid[001-004,7],x1")
    'nid001'
    """
    match = _HOSTS.match(nodes)
    if match is None or not nodes or " " in nodes or nodes == "(null)":
        return None
    number = re.split(r"[-,]", match[2])[0] if match[2] else ""
    return (match[1] + number + match[3]).partition(".")[0] or None
