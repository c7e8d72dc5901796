"""pbs_rstat: reservations, of which there is no JSON. OpenPBS 23.06 Reference Guide, "pbs_rstat"."""

import re

from hpcgate.schedulers import reading
from hpcgate.schedulers.base import Reservation
from hpcgate.schedulers.pbs import values
from hpcgate.schedulers.pbs.documents import blocks

COMMAND = ("pbs_rstat", "-F")

_VNODE = re.compile(r"[(+]([^:()+]+)")


def parse(output: str) -> tuple[Reservation, ...]:
    """Return the reservations, each under the name of its queue, by which jobs are submitted into it."""
    found = blocks(output, "Resv ID")
    return tuple(
        reading.rows("pbs.row_skipped", "pbs_rstat", found, lambda one: _reservation(*one), lambda one: one[0])
    )


def _reservation(name: str, attributes: dict[str, str]) -> Reservation:
    start, end = values.epoch(attributes.get("reserve_start")), values.epoch(attributes.get("reserve_end"))
    if start is None or end is None:
        raise ValueError("no times")
    state = attributes.get("reserve_state", "")
    return Reservation(
        name=attributes.get("queue") or name.partition(".")[0],
        node_list=",".join(dict.fromkeys(_VNODE.findall(attributes.get("resv_nodes", "")))),
        start_time=start,
        end_time=end,
        state="active" if state == "RESV_RUNNING" else "inactive",
    )
