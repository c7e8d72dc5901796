"""qhold, qrls, qrerun, qsig, qalter and qmove: OpenPBS 23.06 Reference Guide, "Commands"."""

import re
from typing import Final

from hpcgate.errors import BadRequest, Conflict, Forbidden, GatewayError, JobNotFound, NotSupported
from hpcgate.schedulers.control import SIGNALS, Action, JobChanges
from hpcgate.schedulers.pbs.attributes import depend
from hpcgate.schedulers.pbs.failures import MALFORMED, UNAUTHORIZED, refused, says
from hpcgate.schedulers.pbs.job_ids import JobId
from hpcgate.ssh.runner import Completed

_UNKNOWN = (153, 156)
_FORBIDDEN = (UNAUTHORIZED, 155)
_CONFLICT = (35, 167, 168)
"""Exit statuses, PBS's errors (pbs_error.h) modulo 256: no such job or subjob; not allowed, an attribute that is not
for users; the job has finished, an attribute of a running job cannot be modified, not in its state."""

_COMMANDS: Final = {
    Action.HOLD: ("qhold",),
    Action.RELEASE: ("qrls",),
    Action.REQUEUE: ("qrerun",),
    Action.SUSPEND: ("qsig", "-s", "suspend"),
    Action.RESUME: ("qsig", "-s", "resume"),
}

_QUEUE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
"""Without the at sign that names another server."""


def action_command(action: Action, job_id: JobId) -> list[str]:
    """Return the command that does something to a job."""
    return [*_COMMANDS[action], job_id.argument]


def signal_command(job_id: JobId, number: int) -> list[str]:
    """Return the command that sends a signal to a job; its node knows it by name, or takes the number."""
    name = next((f"SIG{name}" for name, known in SIGNALS.items() if known == number), str(number))
    return ["qsig", "-s", name, job_id.argument]


def change_commands(job_id: JobId, changes: JobChanges) -> list[list[str]]:
    """Return the commands that change a job: one for its attributes, one for its queue.

    Raises:
        NotSupported: The server lets nobody do it but its managers, or has no way.
        BadRequest: A value would mean something else to PBS.
    """
    if changes.comment is not None:
        raise NotSupported("comment: PBS lets its managers only change the comment of a job")
    if changes.partition is not None and not _QUEUE.fullmatch(changes.partition):
        raise BadRequest(f"partition: not the name of a queue: {changes.partition[:80]!r}")
    options = []
    if changes.time_limit is not None:
        options += ["-l", f"walltime={changes.time_limit}"]
    if changes.priority is not None:
        options += ["-p", str(changes.priority)]
    if changes.name is not None:
        if "\0" in changes.name:
            raise BadRequest("name: A NUL character cannot be submitted")
        options += ["-N", changes.name]
    if changes.dependencies is not None:
        if not changes.dependencies:
            raise NotSupported("dependencies: PBS cannot remove the dependencies of a job")
        options += depend(changes.dependencies)
    commands = [["qalter", *options, job_id.argument]] if options else []
    if changes.partition is not None:
        commands.append(["qmove", changes.partition, job_id.argument])
    return commands


def refusal(done: Completed, tool: str, job_id: JobId) -> GatewayError:
    """Return the error for a command that did not do to a job what its user wanted, with its own words."""
    status, said = done.exit_status, done.words
    if status in _UNKNOWN or says(said, MALFORMED):
        return JobNotFound(job_id.argument)
    if status in _FORBIDDEN:
        return Forbidden(said)
    if status in _CONFLICT:
        return Conflict(said)
    return refused(done, tool)
