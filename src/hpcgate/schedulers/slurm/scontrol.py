"""scontrol: nodes, partitions, reservations, the controllers, scripts. https://slurm.schedmd.com/scontrol.html"""

import math
import re
from collections.abc import Callable, Mapping
from typing import TypeVar

from hpcgate.errors import BadAnswer
from hpcgate.outbound.wording import clipped
from hpcgate.schedulers import reading
from hpcgate.schedulers.base import Node, Partition, Reservation
from hpcgate.schedulers.slurm import values
from hpcgate.schedulers.slurm.states import node_state

ENVIRONMENT: Mapping[str, str] = {"TZ": "UTC", "SLURM_TIME_FORMAT": "%s"}
"""Times in Unix seconds."""

NODES = ("scontrol", "--all", "--oneliner", "show", "nodes")
RESERVATIONS = ("scontrol", "--all", "--oneliner", "show", "reservations")
PING = ("scontrol", "ping")
CONFIG = ("scontrol", "show", "config")

_MAX_LINE = 256 * 1024
"""Characters of a line; one of a node or a partition has a few thousand."""
_NAME = re.compile(r"(?<!\S)([A-Z][A-Za-z0-9_:/]*)=")

Parsed = TypeVar("Parsed")


def partitions_command(*, show_hidden: bool) -> list[str]:
    """Return the command that lists the partitions."""
    return ["scontrol", *(["--all"] if show_hidden else []), "--oneliner", "show", "partitions"]


def script_command(raw: str) -> list[str]:
    """Return the command that prints the script of a job that the controller knows.

    If it cannot, it exits with 0 and an empty standard output all the same.
    """
    return ["scontrol", "write", "batch_script", raw, "-"]


def parse_nodes(text: str) -> tuple[Node, ...]:
    """Return the nodes."""
    return pairs_of(text, "NodeName", _node)


def parse_partitions(text: str) -> tuple[Partition, ...]:
    """Return the partitions."""
    return pairs_of(text, "PartitionName", _partition)


def parse_reservations(text: str) -> tuple[Reservation, ...]:
    """Return the reservations, none for ``No reservations in the system``."""
    return pairs_of(text, "ReservationName", _reservation)


_CONTROLLER = re.compile(r"^Slurmctld\([^)\n]*\) at .* is (UP|DOWN)", re.MULTILINE)


def parse_ping(text: str) -> bool:
    """Return whether at least one controller is up."""
    return "UP" in _CONTROLLER.findall(text)


_CLUSTER = re.compile(r"^ClusterName\s*=\s*(\S+)", re.MULTILINE)


def parse_cluster(text: str) -> str:
    """Return the cluster's name from ``show config``, or an empty string."""
    match = _CLUSTER.search(text)
    return match[1] if match else ""


_STORAGE = re.compile(r"^AccountingStorageType\s*=\s*(\S+)", re.MULTILINE)


def parse_accounting(text: str) -> bool:
    """Return whether there is a database for accounting, as far as ``show config`` tells."""
    match = _STORAGE.search(text)
    return match is None or match[1] == "accounting_storage/slurmdbd"


_KEPT = re.compile(r"^MinJobAge\s*=\s*(\d{1,9}) sec", re.MULTILINE)


def parse_kept(text: str) -> float:
    """Return for how many seconds the controller knows a job after its end, as ``show config`` tells; 0 is for good.

    https://slurm.schedmd.com/slurm.conf.html (MinJobAge)
    """
    match = _KEPT.search(text)
    if match is None:
        raise ValueError("no MinJobAge")
    return float(match[1]) or math.inf


_NEXT = re.compile(r"^NEXT_JOB_ID\s*=\s*(\d{1,10})$", re.MULTILINE)


def parse_next_id(text: str) -> int:
    """Return the id of the next job, as ``show config`` tells."""
    match = _NEXT.search(text)
    if match is None:
        raise ValueError("no NEXT_JOB_ID")
    return int(match[1])


_UNTOLD = re.compile(r"^[^\S\n]*DBD Agent queue size:\s*([1-9][0-9]*)", re.MULTILINE)


def told_all(text: str) -> bool:
    """Return whether the controller has told the database all, as far as sdiag says."""
    return _UNTOLD.search(text) is None


_NONE = re.compile(r"^No \w+ in the system", re.MULTILINE)


def answered(text: str, parse: Callable[[str], tuple[Parsed, ...]]) -> tuple[Parsed, ...]:
    """Return what `parse` makes of what scontrol printed.

    Raises:
        BadAnswer: That is words, and none of scontrol's: something in its place refused, with exit status 0.
    """
    found = parse(text)
    if not found and text.strip() and not _NONE.search(text):
        raise BadAnswer(f"scontrol: {clipped(text.strip(), 400)}")
    return found


def pairs_of(text: str, first: str, parse: Callable[[Mapping[str, str]], Parsed]) -> tuple[Parsed, ...]:
    """Return what `parse` makes of the names and values of each line that begins with this name.

    A line that cannot be parsed (ValueError, KeyError) is logged and skipped.
    """

    def parsed(line: str) -> Parsed:
        if len(line) > _MAX_LINE:
            raise ValueError("too long")
        # A value ends where the next name begins: names of reservations may have blanks. Free text (OS, Reason,
        # Comment, Extra) stands after all that is read here, so the first of a name counts.
        pairs: dict[str, str] = {}
        _, *rest = _NAME.split(line)
        for name, value in zip(rest[::2], rest[1::2], strict=True):
            pairs.setdefault(name, value.strip())
        return parse(pairs)

    lines = (line for line in text.split("\n") if line.startswith(first + "="))
    return tuple(reading.rows("slurm.row_skipped", "scontrol", lines, parsed, lambda line: line[:1000]))


def _node(pairs: Mapping[str, str]) -> Node:
    cpus, allocated = values.integer(pairs["CPUTot"]), values.integer(pairs.get("CPUAlloc", ""))
    if cpus is None:
        raise ValueError("no CPUs")
    effective = values.integer(pairs.get("CPUEfctv", ""))
    state = node_state(*pairs["State"].split("+"))
    usable = cpus if effective is None else effective
    return Node(
        name=pairs["NodeName"],
        cpus=cpus,
        state=state,
        address=values.text(pairs.get("NodeAddr", "")),
        hostname=values.text(pairs.get("NodeHostName", "")),
        sockets=values.integer(pairs.get("Sockets", "")),
        cores=values.integer(pairs.get("CoresPerSocket", "")),
        threads=values.integer(pairs.get("ThreadsPerCore", "")),
        cpu_load=values.number(pairs.get("CPULoad", "")),
        alloc_cpus=allocated,
        idle_cpus=None if allocated is None else max(0, usable - allocated),
        alloc_memory=values.integer(pairs.get("AllocMem", "")),
        free_memory=values.integer(pairs.get("FreeMem", "")),
        features=tuple(features.split(",")) if (features := values.text(pairs.get("ActiveFeatures", ""))) else (),
        partitions=tuple(name for name in pairs.get("Partitions", "").split(",") if name),
        weight=values.integer(pairs.get("Weight", "")),
    )


def _partition(pairs: Mapping[str, str]) -> Partition:
    return Partition(
        name=pairs["PartitionName"],
        state=pairs["State"],
        cpus=values.integer(pairs.get("TotalCPUs", "")),
        total_nodes=values.integer(pairs.get("TotalNodes", "")),
    )


def _reservation(pairs: Mapping[str, str]) -> Reservation:
    start, end = values.epoch(pairs["StartTime"]), values.epoch(pairs["EndTime"])
    if start is None or end is None:
        raise ValueError("no times")
    state = values.text(pairs.get("State", ""))
    return Reservation(
        name=pairs["ReservationName"],
        node_list=values.text(pairs.get("Nodes", "")) or "",
        start_time=start,
        end_time=end,
        state=state.lower() if state else None,
        features=values.text(pairs.get("Features", "")),
    )
