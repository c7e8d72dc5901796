"""Slurm's states, as tables."""

from collections.abc import Mapping

ENDED = frozenset(
    {
        "BOOT_FAIL",
        "CANCELLED",
        "COMPLETED",
        "DEADLINE",
        "FAILED",
        "LAUNCH_FAILED",
        "NODE_FAIL",
        "OUT_OF_MEMORY",
        "PREEMPTED",
        "RECONFIG_FAIL",
        "REVOKED",
        "TIMEOUT",
    }
)
"""States that a job does not leave by itself: https://slurm.schedmd.com/job_state_codes.html"""

LISTED = (
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PENDING", "PREEMPTED",
    "RUNNING", "SUSPENDED", "TIMEOUT",
)  # fmt: skip
"""All base states, in the words of each release. Asked for its jobs since a time without any state, the database leaves
out those that were never eligible to run: cancelled while they were held, or waited for another job."""

WAITING = frozenset(
    {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT"}
)
"""States in which a job has no start time but an estimate."""

STATES = (
    ENDED
    | WAITING
    | frozenset(
        {
            "COMPLETING",
            "EXPEDITING",
            "POWER_UP_NODE",
            "RESIZING",
            "RUNNING",
            "SIGNALING",
            "STAGE_OUT",
            "STOPPED",
            "SUSPENDED",
            "UPDATE_DB",
        }
    )
)
"""All: https://slurm.schedmd.com/job_state_codes.html"""

FINISHED = frozenset({"COMPLETED", "FAILED", "OUT_OF_MEMORY"})
"""States of a batch step that nobody else has ended."""

BETWEEN = frozenset({"COMPLETING", "CONFIGURING", "REQUEUED", "STAGE_OUT"})
"""States that a job leaves for one of which the time was set before: when it began, or has ended."""

NODE_STATES: Mapping[str, str | None] = {
    # Base states.
    "ALLOCATED": "ALLOCATED",
    "DOWN": "DOWN",
    "ERROR": "DOWN",
    "FUTURE": "OFFLINE",
    "IDLE": "IDLE",
    "MIXED": "MIXED",
    "UNKNOWN": "UNKNOWN",
    # Flags.
    "BLOCKED": "BUSY",
    "CLOUD": None,
    "COMPLETING": "COMPLETING",
    "DRAIN": "DRAIN",
    "DRAINED": "DRAIN",
    "DRAINING": "DRAIN",
    "DYNAMIC_FUTURE": None,
    "DYNAMIC_NORM": None,
    "EXTERNAL": None,
    "FAIL": "DOWN",
    "FAILING": "DOWN",
    "INVALID_REG": "DOWN",
    "MAINTENANCE": "RESERVED",
    "NOT_RESPONDING": "DOWN",
    "PERFCTRS": "BUSY",
    "PLANNED": None,
    "POWERED_DOWN": "OFFLINE",
    "POWERING_DOWN": "POWERING_DOWN",
    "POWERING_UP": "POWERING_UP",
    "POWER_DOWN": "POWERING_DOWN",
    "POWER_DRAIN": "DRAIN",
    "POWER_UP": "POWERING_UP",
    "REBOOT_CANCEL": None,
    "REBOOT_ISSUED": "DOWN",
    "REBOOT_REQUESTED": None,
    "RESERVED": "RESERVED",
    "RESUME": None,
    "UNDRAIN": None,
}
"""Slurm's node states and flags, and the contract's; None adds nothing to the others.

https://slurm.schedmd.com/node_state_codes.html, https://slurm.schedmd.com/sinfo.html (NODE STATE CODES)
"""


def node_state(*names: str) -> tuple[str, ...]:
    """Return the contract's states of a node for Slurm's, each once, in order; UNKNOWN if nothing is left."""
    found: dict[str, None] = {}
    for name in names:
        mapped = NODE_STATES.get(name.strip("*~#!%$@^-+ ").upper(), "UNKNOWN")
        if mapped is not None:
            found[mapped] = None
    return tuple(found) or ("UNKNOWN",)
