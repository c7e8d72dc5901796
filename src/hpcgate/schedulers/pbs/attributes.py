"""What a job's fields are to qsub: OpenPBS 23.06 Reference Guide, qsub(1B) and pbs_resources(7B).

What a node is to hold is one statement in PBS (``-l select``), not an option each. So the fields of `resources` become
one, and where the script has a statement of its own, what the fields do not say stays as the script has it.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from hpcgate.errors import BadRequest, NotSupported
from hpcgate.schedulers.job_spec import Dependency, JobAttributes, MailEvent, Option, Resources
from hpcgate.schedulers.pbs.job_ids import JobId


@dataclass(frozen=True, slots=True)
class Row:
    """A field of a job.

    Attributes:
        field: Its name in a request.
        option: The option of qsub.
        manual: The page of the manual besides qsub's own, or an empty text.
        write: Makes arguments of qsub of its value; None for what PBS has nothing like.
    """

    field: str
    option: str
    manual: str
    write: Callable[[Any], Sequence[str]] | None


def _clock(seconds: int) -> str:
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"


_ARRAY = re.compile(r"([0-9]{1,9})-([0-9]{1,9})(:[0-9]{1,9})?(%[0-9]{1,9})?")


def _array(indices: str) -> list[str]:
    match = _ARRAY.fullmatch(indices)
    if match is None or int(match[1]) >= int(match[2]):
        raise NotSupported(f"array: PBS has arrays of one range, as 0-99 or 0-98:2%10, and not {indices!r}")
    return ["-J", indices]


_DEPENDENCIES = ("after", "afterany", "afternotok", "afterok")


def depend(dependencies: tuple[Dependency, ...]) -> list[str]:
    """Return dependencies as qsub and qalter take them.

    Raises:
        NotSupported: PBS has no such type.
        BadRequest: An id is not one that a job can wait for.
    """
    words = []
    for one in dependencies:
        if one.type not in _DEPENDENCIES:
            raise NotSupported(f"dependencies: the type {one.type!r} is not supported on PBS")
        words.append(":".join((one.type, *map(_id, one.job_ids))))
    return ["-W", f"depend={','.join(words)}"]


def _id(text: str) -> str:
    parsed = JobId.read(text)
    if parsed is None:
        raise BadRequest(f"dependencies: {text!r} is not the id of a job")
    return parsed.argument


_MAIL: Mapping[MailEvent, str] = MappingProxyType({"begin": "b", "end": "e", "fail": "a"})


def _mail(events: tuple[MailEvent, ...]) -> list[str]:
    if "requeue" in events:
        raise NotSupported("mail.events: 'requeue' is not supported on PBS")
    return ["-m", "".join(_MAIL[event] for event in events)]


TABLE: tuple[Row, ...] = (
    *(
        Row(field, "-l select", "pbs_resources(7B)", lambda _: ())
        for field in (
            "resources.nodeCount",
            "resources.processCount",
            "resources.processesPerNode",
            "resources.cpuCoresPerProcess",
            "resources.gpuCoresPerProcess",
            "resources.memory",
        )
    ),
    Row("resources.exclusiveNodeUse", "-l place", "pbs_resources(7B)", lambda _: ()),
    Row("duration", "-l walltime", "pbs_resources(7B)", lambda time: ["-l", f"walltime={_clock(time)}"]),
    Row("qos", "", "", None),
    Row("array", "-J", "", _array),
    Row("dependencies", "-W depend", "pbs_job_attributes(7B)", depend),
    Row("hold", "-h", "", lambda _: ["-h"]),
    # `qsub.command` writes it, in the login node's own time zone.
    Row("begin", "-a", "", lambda _: ()),
    Row("requeue", "-r", "", lambda again: ["-r", "y" if again else "n"]),
    Row("mail.events", "-m", "", _mail),
    Row("mail.address", "-M", "", lambda address: ["-M", address]),
)

EXTRA = "extra.pbs"

FIELDS: frozenset[str] = frozenset(row.field for row in TABLE) | {EXTRA}

OWNED: Mapping[str, str] = MappingProxyType(
    {
        "N": "the field name is for it",
        "A": "the field account is for it",
        "q": "the fields partition and reservation are for it",
        "o": "the field standardOutput is for it",
        "e": "the field standardError is for it",
        "v": "the field env is for it",
        "V": "the field env is for it",
        "C": "the gateway marks jobs by it",
        "S": "the first line of the script is for it",
        "f": "the gateway reads what qsub prints",
        "G": "the gateway reads what qsub prints",
        "z": "the gateway reads what qsub prints",
        "I": "a job of the gateway's is not interactive",
        "X": "a job of the gateway's is not interactive",
    }
)
"""Options that `extra.pbs` may not hold, and why."""

_FLAGS = frozenset("h")
_LETTERS = frozenset("acJjklMmPpRruW") | _FLAGS
"""Options that it may hold."""

_BY_FIELD: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "a": ("begin",),
        "h": ("hold",),
        "J": ("array",),
        "M": ("mail.address",),
        "m": ("mail.events",),
        "r": ("requeue",),
    }
)
_REFUSED_ATTRIBUTES = re.compile(r"(?:^|,)\s*(block|interactive|sandbox)\s*=", re.IGNORECASE)


def arguments(attributes: JobAttributes, stated: Sequence[str] = (), *, gpus: str = "ngpus") -> list[str]:
    """Return the arguments of qsub that a job's fields become.

    Args:
        attributes: The fields.
        stated: What the script's directives say behind ``-l``.
        gpus: The site's name for GPUs as a resource.

    Raises:
        BadRequest: A field that makes no option, or that cannot be told apart from what is stated elsewhere.
        NotSupported: PBS has nothing like it.
    """
    asked = attributes.asked()
    for field in sorted(asked.keys() - FIELDS):
        raise NotSupported(f"{field} is not supported on PBS")
    found: list[str] = []
    for row in TABLE:
        if row.field in asked:
            if row.write is None:
                raise NotSupported(f"{row.field} is not supported on PBS")
            found += row.write(asked[row.field])
    found += _resources(attributes.resources, stated, gpus)
    for letter, value in attributes.extra.get("pbs", {}).items():
        found += _own(letter, value, asked)
    return found


def check_constraints(attributes: JobAttributes, constraints: str) -> None:
    """Return if constraints, which are a resource list here, say nothing that the fields say as well.

    Raises:
        BadRequest: They do.
    """
    _check_list("constraints", constraints, attributes.asked())


def _check_list(name: str, resources: str, asked: Mapping[str, object]) -> None:
    names = {item.partition("=")[0].strip() for item in resources.split(",")}
    if "walltime" in names and "duration" in asked:
        raise BadRequest(f"{name}: the field duration of the request is for the same")
    if names & _STATEMENTS and any(field.startswith("resources.") for field in asked):
        raise BadRequest(f"{name}: the fields resources of the request are for the same")


def _own(letter: str, value: Option, asked: Mapping[str, object]) -> list[str]:
    if letter in OWNED:
        raise BadRequest(f"{EXTRA}.{letter} is not taken: {OWNED[letter]}")
    if letter not in _LETTERS:
        raise BadRequest(f"{EXTRA}.{letter}: it takes options of qsub by their letters: {' '.join(sorted(_LETTERS))}")
    if (value is True) != (letter in _FLAGS):
        # What follows a flag would be the script's name to qsub.
        raise BadRequest(f"{EXTRA}.{letter}: it needs {'true, and no value' if letter in _FLAGS else 'a value'}")
    for field in _BY_FIELD.get(letter, ()):
        if field in asked:
            raise BadRequest(f"{EXTRA}.{letter}: the field {field} of the request is for the same")
    text = "" if value is True else str(value)
    if letter == "W" and (match := _REFUSED_ATTRIBUTES.search(text)):
        raise BadRequest(f"{EXTRA}.W: {match[1]} is not taken")
    if letter == "W" and "depend" in text and "dependencies" in asked:
        raise BadRequest(f"{EXTRA}.W: the field dependencies of the request is for the same")
    if letter == "l":
        _check_list(f"{EXTRA}.l", text, asked)
    return [f"-{letter}"] if value is True else [f"-{letter}", text]


# What a node is to hold.

_STATEMENTS = frozenset({"select", "place", "nodes", "ncpus", "mem", "mpiprocs", "ompthreads", "ngpus"})


def _resources(asked: Resources, stated: Sequence[str], gpus: str) -> list[str]:
    if asked == Resources():
        return []
    items = [item.strip() for item in stated]
    names = {item.partition("=")[0] for item in items}
    if names & (_STATEMENTS - {"select", "place"}):
        raise BadRequest("resources: the job asks for resources of the whole job (-l nodes, ncpus, mem) elsewhere")
    place = [item.partition("=")[2].split(":") for item in items if item.startswith("place=")]
    sharing = [] if not place else [word for word in place[-1] if word in ("excl", "exclhost", "shared")]
    if asked.exclusive_node_use:
        sharing = ["exclhost"]
    if asked == Resources(exclusive_node_use=True):
        arrangement = [] if not place else [word for word in place[-1] if word not in ("excl", "exclhost", "shared")]
        return ["-l", f"place={':'.join((*arrangement, *sharing))}"]
    select = _select(asked, _stated_chunk(items), gpus)
    if asked.node_count is None:
        return ["-l", select, *(["-l", f"place={':'.join(sharing)}"] if asked.exclusive_node_use else [])]
    # A chunk for each node, and each on a node of its own.
    return ["-l", select, "-l", f"place={':'.join(('scatter', *sharing))}"]


def _stated_chunk(items: Sequence[str]) -> tuple[int | None, dict[str, str]]:
    """Return how many chunks the job asks for elsewhere, and what each is to hold."""
    found = next((item for item in reversed(items) if item.startswith("select=")), None)
    if found is None:
        return None, {}
    if "+" in found:
        raise BadRequest("resources: the job asks for chunks of several kinds elsewhere (-l select with +)")
    first, *rest = found.removeprefix("select=").split(":")
    count = int(first) if first.isdecimal() and len(first) < 10 else None
    words = rest if count is not None else [first, *rest]
    return count, dict(word.partition("=")[::2] for word in words if word)


def _select(asked: Resources, stated: tuple[int | None, dict[str, str]], gpus: str) -> str:
    count, chunk = stated
    nodes, processes = asked.node_count, asked.processes
    if nodes is None and asked.memory is not None and (processes is not None or asked.processes_per_node):
        raise NotSupported("resources.memory is what a node has: on PBS it needs resources.nodeCount beside processes")
    if nodes is None and asked.processes_per_node is not None and processes is not None:
        nodes, left = divmod(processes, asked.processes_per_node)
        parts = [(nodes, asked.processes_per_node), (1 if left else 0, left)]
    elif nodes is not None and processes is not None:
        each, more = divmod(processes, nodes)
        if not each:
            raise BadRequest("resources.processCount: on PBS each node has a process at least")
        parts = [(more, each + 1), (nodes - more, each)]
    elif processes is not None:
        parts = [(processes, 1)]
    else:
        parts = [(nodes or count or 1, asked.processes_per_node or 0)]
    return "select=" + "+".join(_part(number, each, asked, chunk, gpus) for number, each in parts if number)


def _part(number: int, processes: int, asked: Resources, stated: dict[str, str], gpus: str) -> str:
    """Return a number of chunks that each hold some processes; 0 if it is not said how many."""
    said = stated.get("mpiprocs", "")
    known = processes or (int(said) if said.isdecimal() and len(said) < 10 else 0)
    chunk = dict(stated)
    if processes:
        chunk["mpiprocs"] = str(processes)
    if asked.cpu_cores_per_process is not None:
        chunk["ncpus"] = str((known or 1) * asked.cpu_cores_per_process)
        chunk["ompthreads"] = str(asked.cpu_cores_per_process)
    elif processes and "ncpus" not in chunk:
        # qsub refuses more processes than CPUs nowhere, and a site's hooks may.
        chunk["ncpus"] = str(processes)
    if asked.gpu_cores_per_process is not None:
        chunk[gpus] = str((known or 1) * asked.gpu_cores_per_process)
    if asked.memory is not None:
        chunk["mem"] = f"{-(-asked.memory // 1024)}kb"
    return ":".join((str(number), *(f"{name}={value}" if value else name for name, value in chunk.items())))
