"""How the layers tell what they do, without knowing who listens."""

import sys
from collections.abc import MutableMapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

Stage = Literal["credential", "connect", "command", "resident", "sftp", "scheduler"]
"""A part of a request's way that takes time.

credential: getting the user's SSH credential. connect: TCP connection, key exchange and login. command: one command on
the login node. resident: one question to a process kept there. sftp: one SFTP request. scheduler: one query or change.
"""

Source = Literal["resident", "sftp", "connection"]
"""What can say too much: a process kept on the login node, its SFTP server, its sshd."""

_NOTHING: AbstractContextManager[Any] = nullcontext()


class Telemetry:
    """Is told, and lets it pass. `hpcgate.telemetry.recorder.Recorder` is the one that keeps it."""

    def stage(self, stage: Stage, system: str, detail: str) -> AbstractContextManager[Any]:
        """Return a context within which a stage takes place.

        Args:
            stage: Which.
            system: On which system.
            detail: What exactly: the command's name, the SFTP request. It names nothing of the user's.
        """
        return _NOTHING

    def login(self, system: str, outcome: str) -> None:
        """Tell how a login ended: ``ok``, or why not."""

    def distrusted(self, system: str, source: Source) -> None:
        """Tell that something on a login node was ended for what it said: unasked for, without end, or nonsense."""

    def waited(self, system: str, reason: Literal["connection", "login"], seconds: float) -> None:
        """Tell that a login waited: for room in the pool, or for others that log in."""

    def token(self, outcome: str) -> None:
        """Tell what became of a token: accepted, missing, refused, forbidden, unavailable."""

    def transfer(self, system: str, method: str, direction: Literal["in", "out"], size: int | None) -> None:
        """Tell that a transfer has begun, and how many bytes it is, if that is known."""

    def transfer_job(self, system: str, kind: str) -> None:
        """Tell that a job was submitted that works on files."""


SILENT = Telemetry()


def trace_headers(headers: MutableMapping[str, str]) -> None:
    """Add W3C trace context (``traceparent``, ``tracestate``) to a request's headers, if a trace is under way.

    https://www.w3.org/TR/trace-context/
    """
    # Only where tracing is on has anything loaded it.
    w3c = sys.modules.get("opentelemetry.trace.propagation.tracecontext")
    if w3c is not None:
        w3c.TraceContextTextMapPropagator().inject(headers)
