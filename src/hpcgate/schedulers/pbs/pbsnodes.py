"""pbsnodes: OpenPBS 23.06 Reference Guide, "pbsnodes"."""

from collections.abc import Mapping

from hpcgate.schedulers import reading
from hpcgate.schedulers.base import Node
from hpcgate.schedulers.pbs import values
from hpcgate.schedulers.pbs.documents import Attributes, items, text

COMMAND = ("pbsnodes", "-a", "-F", "json")

STATES: Mapping[str, str] = {
    "busy": "BUSY",
    "down": "DOWN",
    "free": "IDLE",
    "initializing": "POWERING_UP",
    "job-busy": "ALLOCATED",
    "job-exclusive": "ALLOCATED",
    "maintenance": "DRAIN",
    "offline": "OFFLINE",
    "provisioning": "POWERING_UP",
    "resv-exclusive": "RESERVED",
    "sleep": "OFFLINE",
    "stale": "DOWN",
    "state-unknown": "UNKNOWN",
    "unresolvable": "DOWN",
    "wait-provisioning": "POWERING_UP",
}
"""PBS's states of a vnode and the contract's. OpenPBS 23.06 Reference Guide, "Vnode states"."""


def parse(output: str) -> tuple[Node, ...]:
    """Return the nodes."""
    found = items(output, "nodes")
    return tuple(reading.rows("pbs.row_skipped", "pbsnodes", found, lambda node: _node(*node), lambda node: node[0]))


def node_state(state: str, *, in_use: bool) -> tuple[str, ...]:
    """Return the contract's states for PBS's, separated by commas; a free node that runs jobs is MIXED."""
    found: dict[str, None] = {}
    for word in state.split(","):
        mapped = STATES.get(word.strip().lower(), "UNKNOWN")
        found["MIXED" if mapped == "IDLE" and in_use else mapped] = None
    return tuple(found)


def _node(name: str, attributes: Attributes) -> Node:
    state = text(attributes, "state")
    if state is None:
        raise ValueError("no state")
    cpus = values.integer(text(attributes, "resources_available", "ncpus"))
    if cpus is None:
        cpus = values.integer(text(attributes, "pcpus"))
    assigned = values.integer(text(attributes, "resources_assigned", "ncpus")) or 0
    memory = values.mebibytes(text(attributes, "resources_available", "mem"))
    used = values.mebibytes(text(attributes, "resources_assigned", "mem")) or 0
    queue = text(attributes, "queue")
    return Node(
        name=name,
        cpus=cpus or 0,
        state=node_state(state, in_use=assigned > 0 or bool(attributes.get("jobs"))),
        address=text(attributes, "Mom"),
        hostname=text(attributes, "resources_available", "host"),
        alloc_cpus=assigned,
        idle_cpus=None if cpus is None else max(0, cpus - assigned),
        alloc_memory=used,
        free_memory=None if memory is None else max(0, memory - used),
        features=(),
        partitions=(queue,) if queue else None,
        weight=values.integer(text(attributes, "priority")),
    )
