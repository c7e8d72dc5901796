"""The metrics that are counted as things happen. Labels hold no user names, paths or job ids.

Those that are read off the pools, the boards and so on when Prometheus asks are in `hpcgate.gateway.collector`.
"""

from typing import Final

from prometheus_client import CollectorRegistry

from hpcgate.telemetry.tally import Counter, Histogram

HTTP_BUCKETS: Final = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0)
"""Seconds. prometheus-client has no native histograms to fill."""
FAST_BUCKETS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
SLOW_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """The metrics of one gateway, in a registry of its own."""

    def __init__(self) -> None:
        """Make them; nothing is served yet."""
        self.registry = CollectorRegistry()
        self._make_http(self.registry)
        self._make_logins(self.registry)
        self._make_asking(self.registry)
        self._make_transfers(self.registry)
        self.loop_lag = Histogram(
            "hpcgate_event_loop_lag_seconds",
            "Seconds by which a timer of the event loop was late, looked at twice a second.",
            buckets=FAST_BUCKETS,
            registry=self.registry,
        )

    def _make_http(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            "hpcgate_http_requests",
            "Requests answered, by route, method, status and system.",
            ("route", "method", "status", "system"),
            registry=registry,
        )
        self.request_seconds = Histogram(
            "hpcgate_http_request_seconds",
            "Seconds from a request's head to the end of its answer.",
            ("route", "method", "system"),
            buckets=HTTP_BUCKETS,
            registry=registry,
        )
        self.request_bytes = Counter(
            "hpcgate_http_request_body_bytes",
            "Bytes of request bodies: what came in.",
            ("route", "system"),
            registry=registry,
        )
        self.response_bytes = Counter(
            "hpcgate_http_response_body_bytes",
            "Bytes of response bodies: what went out.",
            ("route", "system"),
            registry=registry,
        )
        self.tokens = Counter(
            "hpcgate_tokens",
            "Tokens looked at, by outcome: accepted, missing, refused, forbidden, unavailable.",
            ("outcome",),
            registry=registry,
        )

    def _make_logins(self, registry: CollectorRegistry) -> None:
        self.logins = Counter(
            "hpcgate_ssh_logins",
            "Logins to login nodes, by outcome: ok, refused, host_key, unreachable, pool_full, failed.",
            ("system", "outcome"),
            registry=registry,
        )
        self.distrusted = Counter(
            "hpcgate_ssh_distrusted",
            "What was ended on login nodes for what it said, by source: resident, sftp, connection.",
            ("system", "source"),
            registry=registry,
        )
        self.waits = Histogram(
            "hpcgate_ssh_pool_wait_seconds",
            "Seconds that a login waited for room in the pool (connection) or for others that log in (login).",
            ("system", "reason"),
            buckets=SLOW_BUCKETS,
            registry=registry,
        )
        self.credential_seconds = Histogram(
            "hpcgate_ssh_credential_seconds",
            "Seconds to get a user's SSH credential.",
            ("system",),
            buckets=SLOW_BUCKETS,
            registry=registry,
        )
        self.handshake_seconds = Histogram(
            "hpcgate_ssh_handshake_seconds",
            "Seconds to connect to a login node and log in.",
            ("system",),
            buckets=SLOW_BUCKETS,
            registry=registry,
        )

    def _make_asking(self, registry: CollectorRegistry) -> None:
        self.command_seconds = Histogram(
            "hpcgate_ssh_command_seconds",
            "Seconds of one command on a login node.",
            ("system",),
            buckets=SLOW_BUCKETS,
            registry=registry,
        )
        self.resident_seconds = Histogram(
            "hpcgate_ssh_resident_seconds",
            "Seconds of one question to a process that is kept on a login node.",
            ("system",),
            buckets=FAST_BUCKETS,
            registry=registry,
        )
        self.sftp_seconds = Histogram(
            "hpcgate_sftp_request_seconds",
            "Seconds of one SFTP request.",
            ("system",),
            buckets=FAST_BUCKETS,
            registry=registry,
        )
        self.scheduler_seconds = Histogram(
            "hpcgate_scheduler_seconds",
            "Seconds of one query of the scheduler, or of one change.",
            ("system", "operation"),
            buckets=SLOW_BUCKETS,
            registry=registry,
        )

    def _make_transfers(self, registry: CollectorRegistry) -> None:
        self.transfers = Counter(
            "hpcgate_transfers",
            "Transfers begun, by method (s3, streamer, wormhole) and direction (in, out).",
            ("system", "method", "direction"),
            registry=registry,
        )
        self.transfer_bytes = Counter(
            "hpcgate_transfer_announced_bytes",
            "Bytes of the files of transfers begun, where their size was said.",
            ("system", "method", "direction"),
            registry=registry,
        )
        self.transfer_jobs = Counter(
            "hpcgate_transfer_jobs",
            "Jobs submitted for work on files (mv, cp, rm, compress, extract) and for transfers.",
            ("system", "kind"),
            registry=registry,
        )
