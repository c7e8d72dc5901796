"""The one that listens: stages become metrics, and spans where tracing is on."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from time import perf_counter
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from hpcgate.telemetry.base import Source, Stage, Telemetry
from hpcgate.telemetry.metrics import Metrics
from hpcgate.telemetry.tally import Count, Histogram, Tally

if TYPE_CHECKING:
    # OpenTelemetry is an extra.
    from hpcgate.telemetry.tracing import Tracing


class Recorder(Telemetry):
    """Keeps what it is told.

    Args:
        metrics: Where to count, or None.
        tracing: Where to make spans, or None.
    """

    def __init__(self, metrics: Metrics | None = None, tracing: "Tracing | None" = None) -> None:
        self.metrics = metrics
        self.tracing = tracing
        self._by_stage: Mapping[Stage, Histogram] = {}
        self._known: dict[tuple[str, ...], Tally] = {}
        self._tokens: dict[str, Count] = {}
        if metrics is not None:
            self._by_stage = {
                "credential": metrics.credential_seconds,
                "connect": metrics.handshake_seconds,
                "command": metrics.command_seconds,
                "resident": metrics.resident_seconds,
                "sftp": metrics.sftp_seconds,
                "scheduler": metrics.scheduler_seconds,
            }

    def stage(self, stage: Stage, system: str, detail: str) -> AbstractContextManager[Any]:
        """Return a context that is timed, and a span."""
        span = None if self.tracing is None else self.tracing.child(stage, system, detail)
        if self.metrics is None:
            return super().stage(stage, system, detail) if span is None else span
        key = (stage, system, detail) if stage == "scheduler" else (stage, system)
        tally = self._known.get(key)
        if tally is None:
            tally = self._known[key] = self._by_stage[stage].labels(*key[1:])
        return _Timed(tally, span)

    def login(self, system: str, outcome: str) -> None:
        """Count a login."""
        if self.metrics is not None:
            self.metrics.logins.labels(system, outcome).inc()

    def distrusted(self, system: str, source: Source) -> None:
        """Count what was ended for what it said."""
        if self.metrics is not None:
            self.metrics.distrusted.labels(system, source).inc()

    def waited(self, system: str, reason: Literal["connection", "login"], seconds: float) -> None:
        """Take down a wait."""
        if self.metrics is not None:
            self.metrics.waits.labels(system, reason).observe(seconds)

    def token(self, outcome: str) -> None:
        """Count a token."""
        if self.metrics is None:
            return
        counter = self._tokens.get(outcome)
        if counter is None:
            counter = self._tokens[outcome] = self.metrics.tokens.labels(outcome)
        counter.inc()

    def transfer(self, system: str, method: str, direction: Literal["in", "out"], size: int | None) -> None:
        """Count a transfer and its bytes."""
        if self.metrics is not None:
            self.metrics.transfers.labels(system, method, direction).inc()
            self.metrics.transfer_bytes.labels(system, method, direction).inc(size or 0)

    def transfer_job(self, system: str, kind: str) -> None:
        """Count a job."""
        if self.metrics is not None:
            self.metrics.transfer_jobs.labels(system, kind).inc()


class _Timed:
    """One stage under way. A context manager by generator would cost four times as much."""

    __slots__ = ("_span", "_started", "_tally")

    def __init__(self, tally: Tally, span: AbstractContextManager[Any] | None) -> None:
        self._tally = tally
        self._span = span

    def __enter__(self) -> None:
        if self._span is not None:
            self._span.__enter__()
        self._started = perf_counter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tally.observe(perf_counter() - self._started)
        if self._span is not None:
            self._span.__exit__(kind, error, trace)
