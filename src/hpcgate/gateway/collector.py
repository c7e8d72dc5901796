"""Metrics that are read off the gateway when Prometheus asks, the port where it does, and the event loop's lag."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from functools import partial

import prometheus_client
import structlog
from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from hpcgate import __version__
from hpcgate.config import MetricsSettings
from hpcgate.gateway.gateway import Gateway
from hpcgate.schedulers.reads import SharedReads
from hpcgate.telemetry.containment import FAULTS, kept
from hpcgate.telemetry.metrics import Metrics
from hpcgate.telemetry.writer import WRITERS

log = structlog.stdlib.get_logger(__name__)

LAG_EVERY = 0.5
"""Seconds between looks at the event loop."""


class GatewayCollector(Collector):
    """Reads pools, boards and keys of a gateway at the moment of the question, so that nothing counts twice.

    Args:
        gateway: Returns the gateway that serves at that moment.
    """

    def __init__(self, gateway: Callable[[], Gateway]) -> None:
        self._current = gateway

    @property
    def _gateway(self) -> Gateway:
        return self._current()

    def collect(self) -> Iterable[Metric]:
        """Return all of them."""
        yield from self._general()
        yield from self._pools()
        yield from self._schedulers()
        yield from self._health()

    def _general(self) -> Iterator[Metric]:
        version = GaugeMetricFamily("hpcgate_build_info", "Always 1; the label tells the version.", labels=["version"])
        version.add_metric([__version__], 1)
        yield version
        yield from self._of_the_process()
        yield GaugeMetricFamily(
            "hpcgate_ready",
            "1 if requests can be served: the IdP's keys are loaded and the process is not about to stop; else 0.",
            value=float(self._gateway.ready),
        )
        yield from self._requests()
        yield from self._streams()
        tasks = GaugeMetricFamily(
            "hpcgate_background_tasks",
            "Tasks that go on by themselves, of the gateway and its systems.",
            labels=["task"],
        )
        for task, count in sorted(self._gateway.running.items()):
            tasks.add_metric([task], count)
        yield tasks
        yield GaugeMetricFamily("hpcgate_asyncio_tasks", "Tasks of the event loop.", len(asyncio.all_tasks()))
        age = GaugeMetricFamily(
            "hpcgate_jwks_age_seconds", "Seconds since the IdP's keys were last read; missing before the first time."
        )
        jwks = self._gateway.jwks
        if jwks.age is not None:
            age.add_metric([], jwks.age)
        yield age

    def _of_the_process(self) -> Iterator[Metric]:
        faults = CounterMetricFamily(
            "hpcgate_internal_errors",
            "Errors contained where no request waits for them: in callbacks, timers, ticks and background tasks.",
            labels=["where"],
        )
        for place, count in sorted(FAULTS.counts.items()):
            faults.add_metric([place], count)
        yield faults
        dropped = CounterMetricFamily(
            "hpcgate_log_lines_dropped",
            "Lines of a log (log, audit) that were dropped, for too much waited to be written.",
            labels=["log"],
        )
        waiting = GaugeMetricFamily(
            "hpcgate_log_lines_waiting", "Lines of a log that wait to be written.", labels=["log"]
        )
        for writer in WRITERS:
            dropped.add_metric([writer.name], writer.dropped)
            waiting.add_metric([writer.name], writer.waiting)
        yield from (dropped, waiting)

    def _requests(self) -> Iterator[Metric]:
        admission = self._gateway.admission
        yield CounterMetricFamily(
            "hpcgate_http_requests_refused", "Requests refused by overload, before all else.", value=admission.refused
        )
        yield GaugeMetricFamily(
            "hpcgate_http_requests_running", "Requests that are served now, streams apart.", admission.running
        )
        yield GaugeMetricFamily("hpcgate_http_requests_limit", "As many may be served at a time.", admission.limit)
        yield GaugeMetricFamily("hpcgate_http_requests_waiting", "Requests that wait to be served.", admission.waiting)

    def _streams(self) -> Iterator[Metric]:
        yield GaugeMetricFamily("hpcgate_streams", "Streams under way.", self._gateway.streams.taken)
        begun = CounterMetricFamily("hpcgate_streams_begun", "Streams that have begun.", labels=["kind"])
        for kind, count in sorted(self._gateway.streams.begun.items()):
            begun.add_metric([kind], count)
        ended = CounterMetricFamily("hpcgate_streams_ended", "Streams that have ended.", labels=["kind", "outcome"])
        for (kind, outcome), count in sorted(self._gateway.streams.ended.items()):
            ended.add_metric([kind, outcome], count)
        yield from (begun, ended)
        followed = GaugeMetricFamily("hpcgate_followed_files", "Files that are followed.", labels=["system"])
        looks = CounterMetricFamily("hpcgate_follow_looks", "Looks at files that are followed.", labels=["system"])
        for system in self._gateway.systems.values():
            followed.add_metric([system.name], len(system.following))
            looks.add_metric([system.name], system.following.looks)
        yield from (followed, looks)

    def _pools(self) -> Iterator[Metric]:
        gauges = {
            name: GaugeMetricFamily(f"hpcgate_ssh_pool_{name}", text, labels=["system"])
            for name, text in (
                ("connections", "SSH connections that are open, being opened or being closed."),
                ("idle_connections", "Of these, open ones that nobody uses."),
                ("max_connections", "The most that there may be: max_clients."),
                ("channels", "Channels that are open on all connections."),
                ("waiting", "Requests that wait for a login now."),
                ("channel_waiting", "Requests that wait for a channel now, where the login node allows no more."),
            )
        }
        evictions = CounterMetricFamily(
            "hpcgate_ssh_pool_evictions", "Idle connections closed to make room for another user's.", labels=["system"]
        )
        for system in self._gateway.systems.values():
            stats = system.pool.stats
            label = [system.name]
            gauges["connections"].add_metric(label, stats.connections)
            gauges["idle_connections"].add_metric(label, stats.idle)
            gauges["max_connections"].add_metric(label, system.settings.ssh.max_clients)
            gauges["channels"].add_metric(label, stats.channels)
            gauges["waiting"].add_metric(label, stats.waiting)
            gauges["channel_waiting"].add_metric(label, stats.channel_waiting)
            evictions.add_metric(label, stats.evictions)
        yield from gauges.values()
        yield evictions

    def _schedulers(self) -> Iterator[Metric]:
        asked = CounterMetricFamily(
            "hpcgate_scheduler_reads", "Reads of the scheduler that users asked for.", labels=["system"]
        )
        shared = CounterMetricFamily(
            "hpcgate_scheduler_reads_shared",
            "Of these, reads that cost the scheduler no query of their own: answered together with others.",
            labels=["system"],
        )
        watchers = GaugeMetricFamily(
            "hpcgate_watchers", "Requests that wait for something to become of a job.", labels=["system"]
        )
        polls = CounterMetricFamily(
            "hpcgate_watching_queries", "Queries of the scheduler for all who watch.", labels=["system"]
        )
        for system in self._gateway.systems.values():
            watchers.add_metric([system.name], system.watching.watchers)
            polls.add_metric([system.name], system.watching.polls)
            if isinstance(system.scheduler, SharedReads):
                stats = system.scheduler.stats
                asked.add_metric([system.name], stats.asked)
                shared.add_metric([system.name], max(0, stats.asked - stats.queries))
        yield from (asked, shared, watchers, polls)

    def _health(self) -> Iterator[Metric]:
        service = ["system", "service", "path"]
        healthy = GaugeMetricFamily(
            "hpcgate_service_healthy", "1 if the last probe found the service healthy, else 0.", labels=service
        )
        seconds = GaugeMetricFamily("hpcgate_service_probe_seconds", "Seconds of the last probe.", labels=service)
        checked = GaugeMetricFamily(
            "hpcgate_service_checked_timestamp_seconds", "When the last probe ended, Unix seconds.", labels=service
        )
        interval = GaugeMetricFamily(
            "hpcgate_probe_interval_seconds", "Seconds between rounds of probes: interval_check.", labels=["system"]
        )
        for name, prober in self._gateway.probers.items():
            interval.add_metric([self._gateway.systems[name].name], prober.interval)
        maintenance = GaugeMetricFamily(
            "hpcgate_maintenance", "1 while the system is under maintenance, else 0.", labels=["system"]
        )
        now = time.time()
        for system in self._gateway.systems.values():
            maintenance.add_metric([system.name], float(system.calendar.current(now) is not None))
            for result in system.board.results:
                label = [system.name, result.service, result.path or ""]
                healthy.add_metric(label, float(result.healthy))
                checked.add_metric(label, result.checked_at)
                if result.latency is not None:
                    seconds.add_metric(label, result.latency)
        yield from (healthy, seconds, checked, interval, maintenance)


def registry_of(metrics: Metrics, gateway: Callable[[], Gateway]) -> CollectorRegistry:
    """Return what is exposed: what was counted, what the gateway says now, and the process's CPU and memory."""
    registry = metrics.registry
    registry.register(GatewayCollector(gateway))
    prometheus_client.ProcessCollector(registry=registry)
    prometheus_client.PlatformCollector(registry=registry)
    prometheus_client.GCCollector(registry=registry)
    return registry


def exposition(registry: CollectorRegistry, accept: str) -> tuple[bytes, str]:
    """Return all metrics as text, and its media type, in the format that the Accept header asks for."""
    encode, media_type = choose_encoder(accept)
    return encode(registry), media_type


@asynccontextmanager
async def monitored(
    gateway: Callable[[], Gateway], metrics: Metrics, settings: MetricsSettings
) -> AsyncIterator[CollectorRegistry]:
    """Collect, watch the event loop, and serve the metrics at their own port if there is one.

    Raises:
        OSError: The port cannot be opened.
    """
    registry = registry_of(metrics, gateway)
    lag = asyncio.create_task(kept("metrics.lag", partial(_watch_lag, metrics)))
    runner: web.AppRunner | None = None
    try:
        if settings.port is not None:
            runner = await _serve(registry, settings.host, settings.port)
        yield registry
    finally:
        lag.cancel()
        await asyncio.gather(lag, return_exceptions=True)
        if runner is not None:
            await runner.cleanup()


async def _serve(registry: CollectorRegistry, host: str, port: int) -> web.AppRunner:
    async def answer(request: web.Request) -> web.Response:
        body, media_type = exposition(registry, request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": media_type})

    app = web.Application()
    app.router.add_get("/metrics", answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
    except BaseException as error:
        if isinstance(error, OSError):
            log.error("metrics.cannot_listen", host=host, port=port, reason=error.strerror)
        await runner.cleanup()
        raise
    log.info("metrics.serving", host=host, port=port)
    return runner


async def _watch_lag(metrics: Metrics) -> None:
    loop = asyncio.get_running_loop()
    lag = metrics.loop_lag.labels()
    while True:
        due = loop.time() + LAG_EVERY
        await asyncio.sleep(LAG_EVERY)
        lag.observe(max(0.0, loop.time() - due))
