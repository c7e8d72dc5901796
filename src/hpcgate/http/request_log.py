"""The lines that one request leaves in the logs: access, FirecREST's tracing, and the audit log."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from starlette.types import Scope

from hpcgate.config.groups import Group
from hpcgate.telemetry.journal import Journal, current

log = structlog.get_logger("hpcgate.access")
trace_log = structlog.get_logger("f7t_v2_tracing_log")
audit_log = structlog.get_logger("hpcgate.audit")


class AccessLog(ABC):
    """A logger that makes the access lines by itself, as `RequestLines` would have them but at less of a cost."""

    @abstractmethod
    def request(
        self,
        method: str,
        path: str,
        status: int,
        seconds: float,
        user: str | None,
        client: str | None,
        request_id: str,
        correlation_id: str,
    ) -> None:
        """Write the line of one request."""


@dataclass(slots=True)
class Ended:
    """A request that has ended. Not frozen, which takes ten times as long to make.

    Attributes:
        scope: Its ASGI scope.
        asked: Its headers.
        status: The status of the answer, or `CLIENT_GONE`.
        seconds: How long it took.
        whole: Whether the answer was sent to its end.
    """

    scope: Scope
    asked: Mapping[bytes, bytes]
    status: int
    seconds: float
    whole: bool


class RequestLines:
    """The lines that one request leaves in the logs.

    Args:
        access: Whether there is an access line.
        tracing: Whether there is a tracing line, as FirecREST has it.
        tracing_headers: Request headers of the tracing line, each with the name of its field.
        audit: Whether actions are recorded.
        audit_reads: Whether those are that only read.
        audit_required: Whether what cannot be recorded is refused.
    """

    def __init__(
        self,
        *,
        access: bool = True,
        tracing: bool = False,
        tracing_headers: Sequence[tuple[str, str]] = (),
        audit: bool = False,
        audit_reads: bool = True,
        audit_required: bool = False,
    ) -> None:
        self._access = access
        self._tracing = tracing
        self._tracing_headers = [(name.lower().encode("latin-1"), field) for name, field in tracing_headers]
        self._audit = audit
        self._audit_reads = audit_reads
        recorded = frozenset(Group) if audit_reads else frozenset(Group) - _READS
        self._required: frozenset[str] = recorded if audit_required else frozenset()

    def begin(self, request_id: str, correlation_id: str) -> Journal:
        """Open the journal of a request, for all that is logged from here on."""
        notes = Journal(request_id, correlation_id, [] if self._audit else None, [] if self._tracing else None)
        notes.required = self._required
        current.set(notes)
        return notes

    def end(self, notes: Journal, ended: Ended) -> None:
        """Write the lines and close the journal."""
        scope = ended.scope
        state = scope["state"]
        if self._access:
            seconds = round(ended.seconds * 1e6) / 1e6
            client = scope["client"][0] if scope.get("client") else None
            # What the logger's own methods are found by, in one call instead of three.
            to = log.bind()
            if isinstance(to, AccessLog):
                to.request(
                    scope["method"],
                    scope["path"],
                    ended.status,
                    seconds,
                    state["username"],
                    client,
                    notes.request_id,
                    notes.correlation_id,
                )
            else:
                to.info(
                    "http.request",
                    method=scope["method"],
                    path=scope["path"],
                    status=ended.status,
                    seconds=seconds,
                    user=state["username"],
                    client=client,
                    request_id=notes.request_id,
                    correlation_id=notes.correlation_id,
                )
        if self._tracing:
            trace_log.info("http.trace", **self._trace(notes, ended))
        if notes.operation is not None:
            self._record(notes, notes.operation, ended)
        notes.open = False

    def _trace(self, notes: Journal, ended: Ended) -> dict[str, Any]:
        scope = ended.scope
        state = scope["state"]
        fields: dict[str, Any] = {
            "username": state["username"],
            "system_name": state.get("system"),
            "endpoint": scope["path"],
            "resource": scope["path"].strip("/").partition("/")[0],
            "status_code": ended.status,
            "user_agent": _text(ended.asked.get(b"user-agent")),
        }
        for name, key in self._tracing_headers:
            fields.setdefault(key, "***" if name in _SECRET_HEADERS else _text(ended.asked.get(name)))
        if notes.backend:
            fields["backend"] = notes.backend[0] if len(notes.backend) == 1 else notes.backend
        return {name: value for name, value in fields.items() if value is not None}

    def _record(self, notes: Journal, operation: tuple[str, str], ended: Ended) -> None:
        method, route = operation
        if notes.group in _READS and not self._audit_reads:
            return
        audit_log.info(
            "action",
            **notes.who,
            system=ended.scope["state"].get("system"),
            operation=f"{method} {route}",
            group=notes.group,
            paths=notes.paths or None,
            job_id=notes.job_id,
            outcome=_outcome(ended),
            status=ended.status,
            seconds=round(ended.seconds, 6),
        )


_READS: frozenset[str | None] = frozenset({Group.STATUS_READ, Group.COMPUTE_READ, Group.FS_READ})


_SECRET_HEADERS = frozenset(
    {b"authorization", b"cookie", b"proxy-authorization", b"sec-websocket-protocol", b"x-api-key"}
)


def _outcome(ended: Ended) -> str:
    if not ended.whole:
        return "aborted"
    if ended.status in (401, 403):
        return "denied"
    return "success" if ended.status < 400 else "failure"


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("latin-1")
