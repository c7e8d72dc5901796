"""What a failed Slurm command means, told by its own words."""

from collections.abc import Mapping
from types import MappingProxyType

from hpcgate.errors import BadRequest, CommandFailed, Conflict, Forbidden, GatewayError, SchedulerUnavailable
from hpcgate.outbound.wording import clipped
from hpcgate.ssh.runner import Completed

UNREACHABLE = (
    "Unable to contact slurm controller",
    "Unable to contact slurm daemon",
    "Slurm backup controller in standby mode",
    "Socket timed out on send/recv operation",
    "Zero Bytes were transmitted or received",
    "Problem talking to the database",
    "Sending PersistInit msg",
    "failed to open persistent connection",
    "Connection refused",
    "Connection timed out",
    "Unable to process configuration file",
    "Could not establish a configuration source",
    "Can't find an address, check slurm.conf",
    "Controller is in standby mode",
    "Protocol authentication error",
    "Munge encode failed",
)
"""slurmctld or slurmdbd does not answer."""

BROKEN = (
    "I/O error writing script/environment to file",
    "Unable to create job record",
    "Slurm internal error",
    "Error generating job credential",
    "System submissions disabled",
    "Rate limit exceeded",
    "Incompatible versions of client and server code",
    "Plugin initialization failed",
    "Plugin has invalid format or unable to be loaded",
    "cannot create auth context",
    "failed to initialize auth plugin",
)
"""The cluster's own trouble, whatever was asked for: a full disk, an upgrade half done. Nothing was done.

Slurm's slurm_errno.c; the last two are the tools' own words.
"""

BUSY = (
    "sleeping and retrying",
    "temporarily unable to accept job",
    "Job creation temporarily disabled",
    "Slurm job queue full",
    "Resource temporarily unavailable",
)
"""slurmctld takes no more jobs now (MaxJobCount, its start, a reconfiguration); sbatch tries again for minutes."""

TRANSIENT = (
    "try again later",
    "transitional state",
    "transistional state",
)
"""What is refused now, and may be done a little later; one of them in Slurm's own spelling."""

DISABLED = ("Requested operation is presently disabled",)
"""What the state of a job or the cluster's configuration does not allow (ESLURM_DISABLED): waiting will not do."""

UNSURE = (
    "Socket timed out on send/recv operation",
    "Zero Bytes were transmitted or received",
    "send failure",
    "receive failure",
    "shutdown failure",
    "Unexpected message received",
    "Insane message length",
    "Header lengths are longer than data received",
    # errno(3): a connection that was there, and broke.
    "Broken pipe",
    "Cannot send after transport endpoint shutdown",
    "Connection reset by peer",
    "Input/output error",
    "Interrupted system call",
    "Network is down",
    "Network is unreachable",
    "No route to host",
    "Software caused connection abort",
    "Transport endpoint is not connected",
)
"""slurmctld may have taken the job, and could not say so."""

IN_DOUBT = (*UNSURE, "Protocol authentication error", "Connection timed out")
"""As `UNSURE`, where the scheduler can be asked: it may have been the answer that failed."""

NO_ACCOUNTING = ("accounting storage is disabled", "not running a supported accounting_storage plugin")
"""The site has no slurmdbd."""

UNKNOWN_JOB = ("Invalid job id specified",)

OVER_LIMIT = ("violates accounting/QOS policy",)
"""https://slurm.schedmd.com/resource_limits.html"""

NOT_RUN = (126, 127)
"""Exit statuses of a shell that cannot run a command, or does not find it."""

DENIED = ("Access/permission denied", "Invalid user id")


def says(words: str, phrases: tuple[str, ...]) -> bool:
    """Return whether one of the phrases is in what a command said."""
    return any(phrase in words for phrase in phrases)


ABOUT: Mapping[str, str] = MappingProxyType(
    {
        "job dependency": "dependencies",
        "Job dependency": "dependencies",
        "job array specification": "array",
        "Pathname of a file, directory or other parameter too long": "script",
    }
)
"""What Slurm's words are about, by the name of the field in a request, where they do not have it."""


def _tool(done: Completed) -> str:
    words = map(str, done.argv)
    return next((word for word in words if not word.startswith(("env", "-")) and "=" not in word), "")


def failure(done: Completed, mark: str | None = None) -> GatewayError:
    """Return the error for a command that failed, with its own words.

    Args:
        done: The command.
        mark: What stands between the columns of the list that it was to print: part of that list is no word of its.
    """
    listed = mark is not None and mark.encode() in done.stdout
    words = done.words or ("" if listed else clipped(done.stdout.decode("utf-8", "replace").strip(), 2000))
    tool = _tool(done)
    message = words or f"{tool} ended with exit status {done.exit_status}"
    if says(words, (*UNREACHABLE, *BUSY, *BROKEN)):
        return SchedulerUnavailable(message)
    if done.exit_status in NOT_RUN:
        return SchedulerUnavailable(f"{tool} cannot be run on the login node: {message}")
    if says(words, DENIED):
        return Forbidden(message)
    return CommandFailed(message)


def no_list(done: Completed) -> GatewayError:
    """Return the error for a command that ended well, and printed something else than the list it was asked for."""
    said = clipped(b"\n".join((done.stdout, done.stderr)).decode("utf-8", "replace").strip(), 2000)
    tool = _tool(done)
    message = f"{tool} printed no list: {said}" if said else f"{tool} printed nothing, not even a list's heading"
    return SchedulerUnavailable(message) if says(said, (*UNREACHABLE, *BUSY, *BROKEN)) else CommandFailed(message)


def broken_off(done: Completed) -> GatewayError:
    """Return the error for a command that ended well, and whose list has no end: what is not in it may well exist."""
    return SchedulerUnavailable(f"The list that {_tool(done)} printed breaks off")


def unreadable(done: Completed) -> GatewayError:
    """Return the error for a command that printed a list of which not one row can be read."""
    return CommandFailed(f"The list that {_tool(done)} printed cannot be read; the gateway's log shows its rows")


def refused(done: Completed) -> GatewayError:
    """Return the error for a command that did not do what a user wanted of a job, with its own words."""
    error = failure(done)
    if says(error.message, TRANSIENT):
        return SchedulerUnavailable(error.message)
    if says(error.message, DISABLED):
        return Conflict(error.message)
    # Of a command that was killed, or that said nothing, nobody knows what became of it.
    if type(error) is CommandFailed and done.exit_status >= 0 and done.words:
        return BadRequest(error.message)
    return error
