"""Spans, by the SDK's own exporter in memory."""

import asyncio

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from hpcgate.errors import PathNotFound
from hpcgate.telemetry.base import SILENT, trace_headers
from hpcgate.telemetry.metrics import Metrics
from hpcgate.telemetry.recorder import Recorder
from hpcgate.telemetry.tracing import MAX_CHILDREN, Tracing

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"


class Kept(InMemorySpanExporter):
    """What the exporter was given, by the spans' names."""

    def named(self) -> dict[str, ReadableSpan]:
        return {span.name: span for span in self.get_finished_spans()}


def traced(ratio: float = 1.0) -> tuple[Tracing, Kept]:
    kept = Kept()
    return Tracing(kept, service="hpcgate", version="1", ratio=ratio), kept


def header(flags: str = "01") -> list[tuple[bytes, bytes]]:
    return [(b"traceparent", f"00-{TRACE}-{PARENT}-{flags}".encode()), (b"authorization", b"Bearer secret")]


async def test_a_request_goes_on_the_caller_s_trace() -> None:
    tracing, kept = traced(ratio=0)
    recorder = Recorder(tracing=tracing)
    outgoing: dict[str, str] = {}
    with tracing.request("GET", header(), "r-1") as span:
        with recorder.stage("sftp", "daint", "stat"):
            trace_headers(outgoing)
        tracing.answered(span, route="/filesystem/{system_name}/ops/ls", method="GET", status=200, system="daint")
    tracing.close()
    spans = kept.named()
    request, child = spans["GET /filesystem/{system_name}/ops/ls"], spans["sftp stat"]
    assert request.parent is not None
    assert child.parent is not None
    assert f"{request.context.trace_id:032x}" == f"{child.context.trace_id:032x}" == TRACE
    assert f"{request.parent.span_id:016x}" == PARENT
    assert child.parent.span_id == request.context.span_id
    assert outgoing == {"traceparent": f"00-{TRACE}-{child.context.span_id:016x}-01"}
    assert dict(request.attributes or {}) == {
        "http.request.method": "GET",
        "hpcgate.request_id": "r-1",
        "http.route": "/filesystem/{system_name}/ops/ls",
        "http.response.status_code": 200,
        "hpcgate.system": "daint",
    }
    assert dict(child.attributes or {}) == {"hpcgate.system": "daint", "hpcgate.sftp": "stat"}


async def test_a_caller_that_is_not_traced_is_not_traced_here() -> None:
    tracing, kept = traced()
    with tracing.request("GET", header("00"), "r-1"):
        pass
    tracing.close()
    assert kept.get_finished_spans() == ()


async def test_tasks_of_a_request_belong_to_it() -> None:
    tracing, kept = traced()
    recorder = Recorder(tracing=tracing)

    async def login() -> None:
        with recorder.stage("connect", "daint", ""):
            await asyncio.sleep(0)

    with tracing.request("GET", [], "r-1"):
        await asyncio.create_task(login())
    await asyncio.create_task(login())
    tracing.close()
    spans = kept.get_finished_spans()
    # What nobody's request began makes no traces of its own.
    assert [span.name for span in spans] == ["connect", "GET"]
    assert spans[0].context.trace_id == spans[1].context.trace_id


async def test_an_error_says_its_kind_and_nothing_of_the_user_s() -> None:
    tracing, kept = traced()
    recorder = Recorder(tracing=tracing)
    with (
        pytest.raises(PathNotFound),
        tracing.request("GET", [], "r-1"),
        recorder.stage("command", "daint", "stat"),
    ):
        raise PathNotFound("cannot statx '/home/alice/secret'")
    tracing.close()
    child = kept.named()["command stat"]
    assert (child.attributes or {})["error.type"] == "PathNotFound"
    for span in kept.get_finished_spans():
        assert not span.status.is_ok
        assert "secret" not in span.to_json()


async def test_one_request_makes_only_so_many_spans() -> None:
    tracing, kept = traced()
    recorder = Recorder(tracing=tracing)
    with tracing.request("GET", [], "r-1"):
        for _ in range(MAX_CHILDREN + 5):
            with recorder.stage("sftp", "daint", "readdir"):
                pass
    tracing.close()
    assert len(kept.get_finished_spans()) == MAX_CHILDREN + 1
    assert (kept.named()["GET"].attributes or {})["hpcgate.spans_dropped"] == 5


async def test_metrics_and_spans_together() -> None:
    tracing, kept = traced()
    metrics = Metrics()
    recorder = Recorder(metrics, tracing)
    with tracing.request("GET", [], "r-1"), recorder.stage("scheduler", "daint", "jobs"):
        pass
    tracing.close()
    assert "scheduler jobs" in kept.named()
    value = metrics.registry.get_sample_value(
        "hpcgate_scheduler_seconds_count", {"system": "daint", "operation": "jobs"}
    )
    assert value == 1


def test_nobody_listens() -> None:
    """What is told is told to nobody, without an error, where nothing listens."""
    for telemetry in (SILENT, Recorder()):
        with telemetry.stage("sftp", "daint", "stat"):
            telemetry.login("daint", "ok")
            telemetry.waited("daint", "login", 1)
            telemetry.token("accepted")
            telemetry.transfer("daint", "s3", "in", 7)
            telemetry.transfer_job("daint", "cp")
    headers: dict[str, str] = {}
    trace_headers(headers)
    assert headers == {}
