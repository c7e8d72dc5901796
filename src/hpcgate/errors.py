"""Every error that a request can end with.

The HTTP status is an attribute of the class; `hpcgate.api.errors` is the one place that turns an error into JSON.
The message is what the user may read. What only the operator may see is chained with ``raise ... from``.

GatewayError                 500
  BadRequest                 400
    NotADirectory            400
    IsADirectory             400
    AlreadyExists            400
    SubmissionRefused        400
    NoSuchTransfer           400
  Unauthenticated            401
  Forbidden                  403
    Denied                   403
    PermissionDenied         403
  NotFound                   404
    SystemNotFound           404
    PathNotFound             404
    JobNotFound              404
  TimedOut                   408
  Conflict                   409
    UnderWay                 409
  Gone                       410
  PreconditionFailed         412
  TooLarge                   413
  UnsupportedMediaType       415
  RangeNotSatisfiable        416
  KeyReused                  422
  Locked                     423
  LoginNodeError             424
    CredentialRefused        424
    HostKeyRefused           424
    LoginNodeUnreachable     424
      LoginNodeShut          503
    ConnectionLost           424
    NeverBegan               424
      NeverReached           424
    BadAnswer                424
  RateLimited                429
  ChecksumMismatch           460
  CommandFailed              500
  NotSupported               501
    ToolMissing              501
  Unavailable                503
    Unhealthy                503
    UnderMaintenance         503
    PoolExhausted            503
    SchedulerUnavailable     503
  NoSpace                    507
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

MAX_MESSAGE: Final = 32 * 1024
"""Characters of a message: more than an error about the longest path, and no more than that of whatever a login node or
a service has to say."""
_MAX_CAUSES: Final = 20


class GatewayError(Exception):
    """The root of all errors that a user may be told of.

    Args:
        message: What the user reads; never a token, a key or a private address.
        caused_by: Further lines for the user, outermost first.
        data: Machine-readable details, JSON-serialisable.
        headers: Response headers that belong to this error, such as ``Retry-After``.
    """

    status: ClassVar[int] = 500
    reason: ClassVar[str | None] = None
    """A word for programs that tell this error from others of its status: `reason` at the top of the body."""

    def __init__(
        self,
        message: str,
        *,
        caused_by: Sequence[str] = (),
        data: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        message = _short(message)
        super().__init__(message)
        self.message = message
        self.caused_by = tuple(map(_short, caused_by[:_MAX_CAUSES]))
        self.data = data
        self.headers = dict(headers or {})


def _short(text: str) -> str:
    return text if len(text) <= MAX_MESSAGE else text[:MAX_MESSAGE] + "..."


class BadRequest(GatewayError):
    """The request cannot be carried out as it stands."""

    status = 400


class NotADirectory(BadRequest):
    """ENOTDIR: a component of the path is not a directory."""


class IsADirectory(BadRequest):
    """EISDIR: the operation wants a file."""


class AlreadyExists(BadRequest):
    """EEXIST: the path is taken."""


class SubmissionRefused(BadRequest):
    """The scheduler refused the job; the message carries the scheduler's own words."""


class NoSuchTransfer(BadRequest):
    """The system does not offer the method of a transfer.

    Args:
        system: The system's name.
        methods: Those that it offers.
        instead: What works in any case, as a sentence, or nothing.
    """

    def __init__(self, system: str, methods: Sequence[str], instead: str = "") -> None:
        offered = f"{system} offers {', '.join(methods)}." if methods else f"{system} offers none."
        super().__init__(
            " ".join(filter(None, ("Requested transfer method is not available.", offered, instead))),
            data={"transferMethods": list(methods)},
        )
        self.system = system
        self.methods = tuple(methods)


class Unauthenticated(GatewayError):
    """No token, or one that is not accepted."""

    status = 401


class Forbidden(GatewayError):
    """The user is known and may not."""

    status = 403


class Denied(Forbidden):
    """The policy of the configuration does not let the user do this.

    Args:
        rule: The name of the rule that denies it, or ``default`` if none applies.
        reason: What about the request is denied, as the end of a sentence.
    """

    def __init__(self, rule: str, reason: str = "") -> None:
        words = "no rule of the policy allows it" if rule == "default" else f"denied by the policy's rule {rule!r}"
        super().__init__(
            f"Not allowed: {words}{': ' if reason else ''}{reason}", data={"reason": "policy", "rule": rule}
        )
        self.rule = rule


class PermissionDenied(Forbidden):
    """EACCES or EPERM on the login node."""


class NotFound(GatewayError):
    """What the request names does not exist."""

    status = 404


class SystemNotFound(NotFound):
    """No system of that name is configured."""

    def __init__(self) -> None:
        super().__init__("System not found")


class PathNotFound(NotFound):
    """ENOENT on the login node."""


class JobNotFound(NotFound):
    """The scheduler knows no such job."""

    def __init__(self, job_id: str) -> None:
        super().__init__(f"Job not found: {job_id}")


class TimedOut(GatewayError):
    """A command or an operation on the login node took longer than its time-out."""

    status = 408


class Conflict(GatewayError):
    """The state of what the request is about is not what the request takes it for."""

    status = 409


class UnderWay(Conflict):
    """An earlier request with the same Idempotency-Key has not come to its end.

    Args:
        retry_after: Seconds until the same request may be sent again.
        words: What the scheduler's command has said so far, for instance that it waits for room in a full queue.
    """

    def __init__(self, retry_after: int, words: str = "") -> None:
        super().__init__(
            "The submission with this Idempotency-Key is under way" + (f": {words}" if words else ""),
            data={"reason": "under_way"},
            headers={"Retry-After": str(retry_after)},
        )


class Gone(GatewayError):
    """What the request names is no more, and will not be again."""

    status = 410


class PreconditionFailed(GatewayError):
    """A condition of the request's own headers does not hold."""

    status = 412


class UnsupportedMediaType(GatewayError):
    """The body is of a kind that the request cannot be carried out with."""

    status = 415


class RangeNotSatisfiable(GatewayError):
    """No part that was asked for lies within the file."""

    status = 416


class KeyReused(GatewayError):
    """An Idempotency-Key comes again, with another request."""

    status = 422


class Locked(GatewayError):
    """Somebody else is at work on what the request is about."""

    status = 423


class ChecksumMismatch(GatewayError):
    """What arrived is not what was sent (tus 1.0, checksum extension)."""

    status = 460


class TooLarge(GatewayError):
    """A file, an upload or an output is over ``max_ops_file_size``."""

    status = 413


class LoginNodeError(GatewayError):
    """The SSH connection to the login node failed."""

    status = 424


class CredentialRefused(LoginNodeError):
    """The login node refused the user's key, or no credential could be had."""


class HostKeyRefused(LoginNodeError):
    """The host key of the login node or of the jump host is not one that is trusted."""


class LoginNodeUnreachable(LoginNodeError):
    """No connection within the time-out, refused, or no such host."""


class LoginNodeShut(LoginNodeUnreachable):
    """The login node is up, but takes no new logins from the gateway's address for now."""

    status = 503


class ConnectionLost(LoginNodeError):
    """An established connection broke; the operation may or may not have been carried out."""


class NeverBegan(LoginNodeError):
    """The user's login shell ended and never came to the gateway's command, or came to something else."""


class NeverReached(NeverBegan):
    """The user's login shell hangs, or prints without end, in its start-up files."""


class BadAnswer(LoginNodeError):
    """A program or a server on the login node answered what makes no sense, or more than it was asked for."""


class RateLimited(GatewayError):
    """The user sends more than is allowed."""

    status = 429


class CommandFailed(GatewayError):
    """A command on the login node failed in a way that has no better class."""


class NotSupported(GatewayError):
    """The configured scheduler or transfer method cannot do this."""

    status = 501


class ToolMissing(NotSupported):
    """A program that the request needs is not on the login node.

    Args:
        tool: The program's name.
        operation: What needs it, as in the request's path, if that is known.
    """

    def __init__(self, tool: str, operation: str = "") -> None:
        needs = f"{operation} needs {tool}" if operation else f"{tool} is needed"
        super().__init__(f"{needs}, which the login node does not have, or not in the user's PATH (ssh.path)")
        self.tool = tool


class Unavailable(GatewayError):
    """A service that the request needs is not to be had now."""

    status = 503


class Unhealthy(Unavailable):
    """Probing marked the service as unhealthy."""

    def __init__(self, service: str, system: str, *, retry_after: int | None = None) -> None:
        super().__init__(
            f"The {service} service for the requested system ({system}) is unhealthy.",
            data={"reason": "unhealthy", "service": service},
            headers=None if retry_after is None else {"Retry-After": str(retry_after)},
        )


class UnderMaintenance(Unavailable):
    """The operators have taken the system out of service for a while.

    Args:
        system: The system's name.
        until: When it comes back, ISO 8601, or None if nobody has said so.
        reason: What the operators say, or nothing.
        retry_after: Seconds until then.
    """

    reason: ClassVar[str | None] = "maintenance"

    def __init__(
        self, system: str, *, until: str | None = None, reason: str = "", retry_after: int | None = None
    ) -> None:
        end = f" until {until}" if until is not None else ""
        words = f": {reason}" if reason else "."
        super().__init__(
            f"The system {system} is under maintenance{end}{words}",
            data={"reason": self.reason, "until": until},
            headers=None if retry_after is None else {"Retry-After": str(retry_after)},
        )


class PoolExhausted(Unavailable):
    """Every connection of the system is in use and none came free in time."""


class SchedulerUnavailable(Unavailable):
    """The scheduler, or the part of it that is needed, does not answer, or takes nothing now.

    Args:
        message: What the user reads.
        retry_after: Seconds until the same request may be sent again; None where it may have been carried out.
    """

    def __init__(self, message: str, *, retry_after: int | None = 5) -> None:
        super().__init__(message, headers=None if retry_after is None else {"Retry-After": str(retry_after)})


class NoSpace(GatewayError):
    """ENOSPC or EDQUOT on the login node."""

    status = 507
