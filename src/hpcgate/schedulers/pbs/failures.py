"""What a failed PBS command means, told by its exit status and its own words.

An exit status is mostly PBS's error number (pbs_error.h, from 15000) modulo 256; qstat's is 255 and pbsnodes' 1 if the
server cannot be reached.
"""

import re
from collections.abc import Mapping
from types import MappingProxyType

from hpcgate.errors import BadRequest, CommandFailed, Forbidden, GatewayError, SchedulerUnavailable
from hpcgate.outbound.wording import clipped
from hpcgate.ssh.runner import Completed

UNREACHABLE = (
    "cannot connect to server",
    "Couldn't connect to cluster",
    "Unknown Host",
    "Server could not connect to MOM",
    "End of File",
    "Premature end of message",
    "No server to connect to",
    "munge: Error",
)
"""The server, or for an operation on a running job its node, does not answer."""

UNSURE = ("End of File", "Premature end of message", ") submitting job", "Connection reset by peer", "Broken pipe")
"""The server may have taken the job, and could not say so; qsub's own word is ``Error (15033) submitting job``."""

NO_HISTORY = ("PBS is not configured to maintain job history", "job_history_enable")
"""The server keeps no history, which is its default; qstat's exit status is 0 all the same."""

UNAUTHORIZED = 159

OVER_LIMIT = (188, 196)
"""Over a limit of the queue or the server: PBSE_EXCQRESC and PBSE_MAXQUED."""

OVER_LIMIT_WORDS = ("would exceed", "Maximum number of jobs already in")

BROKEN = (
    "got an alarm call",
    "hook error",
    "PBS server internal error",
    "System error",
    "Server shutting down",
    "Server connection table full",
    "No free connections",
    "Resource temporarily unavailable",
    "Failed to save job/resv",
    "PBS license is invalid",
    "Floating License unavailable",
)
"""The server's own trouble, whatever was asked for, its hooks' included. Nothing was done.

OpenPBS's pbs_messages.c; the first is of a hook that takes too long. One that "encountered an exception" has mostly met
a value that it did not expect, and does so again: the server calls the request rejected, and so it is.
"""

NOT_RUN = (126, 127)
"""Exit statuses of a shell that cannot run a command, or does not find it."""

TRANSIENT = ("try again",)
"""What is refused now, and may be done a little later."""

ABOUT: Mapping[str, str] = MappingProxyType({"Array job exceeds": "array", "illegal -J value": "array"})
"""What PBS's words are about, by the name of the field in a request."""

MALFORMED = ("illegally formed job identifier",)


def says(words: str, phrases: tuple[str, ...]) -> bool:
    """Return whether one of the phrases is in what a command said."""
    return any(phrase in words for phrase in phrases)


def failure(done: Completed, tool: str) -> GatewayError:
    """Return the error for a command that failed, with its own words."""
    words = done.words
    if done.exit_status == 127 and not words:
        words = f"{tool}: command not found"
    message = words or f"{tool} ended with exit status {done.exit_status}"
    if done.exit_status in NOT_RUN:
        return SchedulerUnavailable(f"{tool} cannot be run on the login node: {message}")
    if done.exit_status == 255 or says(words, (*UNREACHABLE, *BROKEN)):
        return SchedulerUnavailable(message)
    if done.exit_status == UNAUTHORIZED:
        return Forbidden(message)
    return CommandFailed(message)


def no_list(done: Completed, tool: str) -> GatewayError:
    """Return the error for a command that ended well, and printed no whole document: jobs not in it may well exist."""
    said = clipped(b"\n".join((done.stdout, done.stderr)).decode("utf-8", "replace").strip(), 2000)
    if document(done.stdout) is False:
        return SchedulerUnavailable(f"The list that {tool} printed breaks off")
    return SchedulerUnavailable(f"{tool} printed no list: {said}")


_BEGINS = re.compile(rb"^\{", re.MULTILINE)
_ENDS = re.compile(rb"^(?:\{.*)?\}", re.MULTILINE)


def document(output: bytes) -> bool | None:
    """Return whether the last JSON document of an output has an end; None if it has none at all."""
    begins = [match.start() for match in _BEGINS.finditer(output)]
    return _ENDS.search(output, begins[-1]) is not None if begins else None


def refused(done: Completed, tool: str) -> GatewayError:
    """Return the error for a command that did not do what a user wanted of a job, with its own words."""
    error = failure(done, tool)
    if says(error.message.lower(), TRANSIENT):
        return SchedulerUnavailable(error.message)
    # Of a command that was killed, or that said nothing, nobody knows what became of it.
    if type(error) is CommandFailed and done.exit_status >= 0 and done.words:
        return BadRequest(error.message)
    return error
