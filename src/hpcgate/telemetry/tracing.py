"""Traces by OpenTelemetry, sent by OTLP over HTTP. Needs the extra ``tracing``.

A span holds the route, the system, the names of commands and SFTP requests, sizes of nothing and names of nobody:
users, paths, arguments and tokens stay out of it.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

MAX_CHILDREN = 128
"""Spans below that of one request; a recursive listing would make thousands."""


_SILENT_ON_ERRORS: dict[str, Any] = {"record_exception": False, "set_status_on_exception": False}
"""What an exception says may name the user's files."""


@dataclass(slots=True)
class _Budget:
    left: int = MAX_CHILDREN
    dropped: int = 0


_budget: ContextVar[_Budget | None] = ContextVar("hpcgate_span_budget", default=None)


class Tracing:
    """Makes spans and hands them to an exporter in the background.

    Args:
        exporter: Where finished spans go.
        service: The name of the service.
        version: Its version.
        ratio: The part of the traces begun here that is recorded; what a caller has begun is recorded as it asks.
    """

    def __init__(self, exporter: SpanExporter, *, service: str, version: str, ratio: float) -> None:
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(ratio)),
            resource=Resource.create({"service.name": service, "service.version": version}),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("hpcgate", version)
        self._w3c = TraceContextTextMapPropagator()

    @contextmanager
    def request(self, method: str, headers: Sequence[tuple[bytes, bytes]], request_id: str) -> Iterator[Span]:
        """Return a context in which a request is answered: a span that goes on the caller's trace, if there is one."""
        carrier = {
            name.decode("latin-1"): value.decode("latin-1")
            for name, value in headers
            if name in (b"traceparent", b"tracestate")
        }
        with self._tracer.start_as_current_span(
            method,
            context=self._w3c.extract(carrier),
            kind=SpanKind.SERVER,
            attributes={"http.request.method": method, "hpcgate.request_id": request_id},
            **_SILENT_ON_ERRORS,
        ) as span:
            if not span.is_recording():
                yield span
                return
            token = _budget.set(budget := _Budget())
            try:
                with _marked(span):
                    yield span
                if budget.dropped:
                    span.set_attribute("hpcgate.spans_dropped", budget.dropped)
            finally:
                _budget.reset(token)

    def child(self, stage: str, system: str, detail: str) -> AbstractContextManager[Any] | None:
        """Return a span below the one at hand; None outside of requests, and when one request has had enough."""
        budget = _budget.get()
        if budget is None:
            return None
        if budget.left <= 0:
            budget.dropped += 1
            return None
        budget.left -= 1
        return self._child(stage, system, detail)

    @contextmanager
    def _child(self, stage: str, system: str, detail: str) -> Iterator[None]:
        attributes = {"hpcgate.system": system, f"hpcgate.{stage}": detail}
        with (
            self._tracer.start_as_current_span(
                f"{stage} {detail}" if detail else stage,
                kind=SpanKind.CLIENT,
                attributes=attributes,
                **_SILENT_ON_ERRORS,
            ) as span,
            _marked(span),
        ):
            yield

    @staticmethod
    def answered(span: Span, *, route: str, method: str, status: int, system: str) -> None:
        """Take down how a request was answered.

        https://opentelemetry.io/docs/specs/semconv/http/http-spans/
        """
        span.update_name(f"{method} {route}")
        span.set_attribute("http.route", route)
        span.set_attribute("http.response.status_code", status)
        if system:
            span.set_attribute("hpcgate.system", system)
        if status >= 500:
            span.set_status(Status(StatusCode.ERROR))

    def close(self) -> None:
        """Send what is left and stop; blocks until the exporter is done."""
        self._provider.shutdown()


@contextmanager
def _marked(span: Span) -> Iterator[None]:
    """Mark the span if what it stands for fails, by the error's kind alone."""
    try:
        yield
    except BaseException as error:
        span.set_attribute("error.type", type(error).__name__)
        span.set_status(Status(StatusCode.ERROR))
        raise


def _unread() -> Any:
    """Return a session of requests that reads no body: the status is all that counts, and a body may have no end."""
    from requests import PreparedRequest, Response, Session
    from requests.adapters import HTTPAdapter

    class Unread(HTTPAdapter):
        def send(self, request: PreparedRequest, *args: Any, **kwargs: Any) -> Response:
            response = super().send(request, *args, **{**kwargs, "stream": True})
            response.close()
            response._content = b""
            return response

    session = Session()
    for scheme in ("http://", "https://"):
        session.mount(scheme, Unread())
    return session


def by_otlp(endpoint: str, headers: Mapping[str, str], *, service: str, version: str, ratio: float) -> Tracing:
    """Return tracing that sends spans to a collector by OTLP over HTTP.

    Args:
        endpoint: The URL that takes traces, such as ``http://collector:4318/v1/traces``.
        headers: What the collector wants to see, such as an API key.
        service: The name of the service.
        version: Its version.
        ratio: As for `Tracing`.
    """
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    exporter = OTLPSpanExporter(endpoint=endpoint, headers=dict(headers), timeout=5, session=_unread())
    return Tracing(exporter, service=service, version=version, ratio=ratio)
