"""What the middleware tells of each request: to the metrics, and to the trace."""

from collections.abc import Awaitable, MutableMapping
from time import perf_counter
from typing import TYPE_CHECKING, Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hpcgate.http.disconnect import CLIENT_GONE
from hpcgate.http.envelope import HEADS, SWITCHING
from hpcgate.telemetry.metrics import Metrics
from hpcgate.telemetry.tally import Count, Counter, Tally

if TYPE_CHECKING:
    # OpenTelemetry is an extra.
    from hpcgate.telemetry.tracing import Tracing

OTHER = "other"
"""The label of what has no route, or no method that HTTP knows: callers must not make up labels."""
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_WITH_BODY = frozenset({"POST", "PUT", "PATCH"})


class RequestMetrics:
    """Counts requests. The children of each metric are looked up once, which is what makes it cheap."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._counted: dict[tuple[str, str, int, str], tuple[Count, Tally]] = {}
        self._received: dict[tuple[str, str], Count] = {}
        self._sent: dict[tuple[str, str], Count] = {}

    def record(self, scope: Scope, status: int, seconds: float, received: int, sent: int) -> None:
        """Take down one request that has ended."""
        method = scope["method"] if scope["method"] in _METHODS else OTHER
        route, system = labels_of(scope)
        key = (route, method, status, system)
        known = self._counted.get(key)
        if known is None:
            metrics = self._metrics
            known = self._counted[key] = (
                metrics.requests.labels(route, method, str(status), system),
                metrics.request_seconds.labels(route, method, system),
            )
        known[0].inc()
        known[1].observe(seconds)
        if received:
            self._move(self._received, self._metrics.request_bytes, route, system, received)
        if sent:
            self._move(self._sent, self._metrics.response_bytes, route, system, sent)

    @staticmethod
    def _move(known: dict[tuple[str, str], Count], metric: Counter, route: str, system: str, size: int) -> None:
        counter = known.get((route, system))
        if counter is None:
            counter = known[route, system] = metric.labels(route, system)
        counter.inc(size)


def labels_of(scope: Scope) -> tuple[str, str]:
    """Return the route and the system of a request: the path as it is declared, the name as it is configured."""
    state: MutableMapping[str, Any] = scope.get("state", {})
    route = scope.get("route")
    return getattr(route, "path", OTHER), state.get("system") or ""


class Measured:
    """Counts each request, its seconds and its bytes.

    It stands within what changes a request's path, so that the route is found where the router leaves it.
    """

    def __init__(self, app: ASGIApp, *, requests: RequestMetrics) -> None:
        self.app = app
        self._requests = requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        status = CLIENT_GONE
        received = sent = 0
        started = perf_counter()

        async def counted_receive() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            return message

        def counted_send(message: Message) -> Awaitable[None]:
            nonlocal status, sent
            if message["type"] in HEADS:
                status = message.get("status", SWITCHING)
            else:
                sent += len(message.get("body", b""))
            return send(message)

        try:
            await self.app(scope, counted_receive if scope["method"] in _WITH_BODY else receive, counted_send)
        finally:
            self._requests.record(scope, status, perf_counter() - started, received, sent)


class Traced:
    """Makes a span of each request; stands where `Measured` does."""

    def __init__(self, app: ASGIApp, *, tracing: "Tracing") -> None:
        self.app = app
        self._tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        method = scope["method"] if scope["method"] in _METHODS else OTHER
        status = CLIENT_GONE

        async def seen(message: Message) -> None:
            nonlocal status
            if message["type"] in HEADS:
                status = message.get("status", SWITCHING)
            await send(message)

        with self._tracing.request(method, scope["headers"], scope["state"].get("request_id", "")) as span:
            try:
                await self.app(scope, receive, seen)
            finally:
                route, system = labels_of(scope)
                self._tracing.answered(span, route=route, method=method, status=status, system=system)
