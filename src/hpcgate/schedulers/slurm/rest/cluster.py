"""Nodes, partitions, reservations, accounts and the controllers, as slurmrestd tells of them."""

import time

from hpcgate.schedulers.base import Account, Node, Partition, Reservation
from hpcgate.schedulers.slurm.rest import values
from hpcgate.schedulers.slurm.states import node_state


def nodes(answer: object) -> tuple[Node, ...]:
    """Return the nodes of ``/slurm/<version>/nodes``."""
    return tuple(values.parse_rows(answer, "nodes", _node))


def _node(row: values.Row) -> Node:
    name, cpus = values.text(row.get("name")), values.number(row.get("cpus"))
    if name is None or cpus is None:
        raise ValueError("no node")
    allocated = values.number(row.get("alloc_cpus"))
    effective = values.number(row.get("effective_cpus"))
    load = values.number(row.get("cpu_load"))
    return Node(
        name=name,
        cpus=cpus,
        state=node_state(*values.names(row.get("state")), *values.names(row.get("state_flags"))),
        address=values.text(row.get("address")),
        hostname=values.text(row.get("hostname")),
        sockets=values.number(row.get("sockets")),
        cores=values.number(row.get("cores")),
        threads=values.number(row.get("threads")),
        # In hundredths.
        cpu_load=None if load is None else load / 100,
        alloc_cpus=allocated,
        idle_cpus=None if allocated is None else max(0, (effective or cpus) - allocated),
        alloc_memory=values.number(row.get("alloc_memory")),
        free_memory=values.number(row.get("free_mem", row.get("free_memory"))),
        features=values.names(row.get("active_features")),
        partitions=values.names(row.get("partitions")),
        weight=values.number(row.get("weight")),
    )


def partitions(answer: object, *, show_hidden: bool) -> tuple[Partition, ...]:
    """Return the partitions of ``/slurm/<version>/partitions``."""

    def partition(row: values.Row) -> Partition | None:
        name = values.text(row.get("name"))
        if name is None:
            raise ValueError("no partition")
        if not show_hidden and "HIDDEN" in (flag.upper() for flag in values.names(row.get("flags"))):
            return None
        nested = values.names(values.row(row.get("partition")).get("state"))
        return Partition(
            name=name,
            state="+".join(nested or values.names(row.get("state"))) or "UNKNOWN",
            cpus=values.number(values.row(row.get("cpus")).get("total", row.get("total_cpus"))),
            total_nodes=values.number(values.row(row.get("nodes")).get("total", row.get("total_nodes"))),
        )

    return tuple(found for found in values.parse_rows(answer, "partitions", partition) if found is not None)


def reservations(answer: object, now: float | None = None) -> tuple[Reservation, ...]:
    """Return the reservations of ``/slurm/<version>/reservations``.

    Whether one is active is not said; it is from its start to its end. `now` is in Unix seconds.
    """
    instant = time.time() if now is None else now

    def reservation(row: values.Row) -> Reservation:
        name = values.text(row.get("name"))
        start, end = values.time(row.get("start_time")), values.time(row.get("end_time"))
        if name is None or start is None or end is None:
            raise ValueError("no reservation")
        return Reservation(
            name=name,
            node_list=values.string(row.get("node_list")),
            start_time=start,
            end_time=end,
            state="active" if start <= instant < end else "inactive",
            features=values.text(row.get("features")),
        )

    return tuple(values.parse_rows(answer, "reservations", reservation))


def accounts(answer: object, username: str) -> tuple[Account, ...]:
    """Return the accounts of a user from ``/slurmdb/<version>/associations``, each once, the default one flagged."""
    found: dict[str, bool] = {}
    for row in values.rows(answer, "associations"):
        name = values.text(row.get("account"))
        if name is not None and row.get("user") == username:
            default = row.get("is_default") in (True, 1) or "DEFAULT" in values.names(row.get("flags"))
            found[name] = found.get(name, False) or default
    return tuple(Account(name, default=default) for name, default in found.items())


def controllers(answer: object) -> tuple[bool, str]:
    """Return whether a controller of ``/slurm/<version>/ping`` answers, and what is said of those that do not."""
    up, words = False, []
    for row in values.rows(answer, "pings"):
        ping = row.get("ping", row.get("pinged"))
        if ping == "UP" or row.get("responding") is True:
            up = True
            continue
        status = row.get("status")
        said = status if isinstance(status, str) and status else "it does not answer"
        words.append(f"slurmctld at {values.string(row.get('hostname')) or 'an unknown host'} is down: {said}")
    return up, "; ".join(words)
