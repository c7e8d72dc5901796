"""pbs_rstat: reservations, of which there is no JSON. OpenPBS 23.06 Reference Guide, "pbs_rstat"."""

import re

import structlog

from hpcgate.outbound.wording import clipped
from hpcgate.schedulers.base import Reservation
from hpcgate.schedulers.pbs import values
from hpcgate.schedulers.pbs.documents import blocks

_log = structlog.get_logger(__name__)

COMMAND = ("pbs_rstat", "-F")

_VNODE = re.compile(r"[(+]([^:()+]+)")


def parse(output: str) -> tuple[Reservation, ...]:
    """Return the reservations, each under the name of its queue, by which jobs are submitted into it."""
    found = []
    for name, attributes in blocks(output, "Resv ID"):
        try:
            found.append(_reservation(name, attributes))
        except ValueError as error:
            _log.warning("pbs.row_skipped", tool="pbs_rstat", row=clipped(name, 100), error=str(error))
    return tuple(found)


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
