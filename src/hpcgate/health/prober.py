"""The probes of one system, run again and again on connections of their own."""

import asyncio
import random
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from hpcgate.auth import Principal
from hpcgate.auth.service_account import ServiceLogin
from hpcgate.config import Cluster, plugin
from hpcgate.config.probing import ProbingService, ServiceName
from hpcgate.credentials.base import CredentialSource
from hpcgate.errors import CommandFailed, GatewayError, LoginNodeShut
from hpcgate.health.board import RECHECK, HealthBoard, ServiceHealth
from hpcgate.schedulers.base import Scheduler
from hpcgate.ssh.pool import Pool
from hpcgate.transfers.base import RunJob, Transfer, TransferContext

log = structlog.stdlib.get_logger(__name__)

JITTER = 0.1
"""The part of the interval by which rounds come earlier or later, so that replicas do not march in step."""
_DEFAULT_TIMEOUT = 10.0
_IDLE = 1.0
"""Seconds that the probes' connection is kept once a round is over."""


@dataclass(frozen=True, slots=True)
class _Probe:
    """One thing to look at.

    Attributes:
        service: Which service it tells of.
        seconds: The most that it may take.
        run: Returns if the service is well, raises if not.
        path: The file system, if that is what it looks at.
    """

    service: ServiceName
    seconds: float
    run: Callable[[Principal], Awaitable[None]]
    path: str | None = None


class Prober:
    """Probes the services of one system and writes what it finds on the system's board.

    It has a pool, a scheduler client and storage clients of its own, so that probes neither wait for users nor make
    them wait, and end at time-outs of their own. Each round logs in anew: that sessions go on which are open already
    says nothing of the next user's.

    Args:
        settings: The system.
        credentials: Where the service account's SSH credential comes from.
        account: The service account; None if there is none, then only storage can be probed.
        run_job: What storage clients are made with; probes run no jobs.
        board: Where results go.
    """

    def __init__(
        self,
        settings: Cluster,
        credentials: CredentialSource,
        account: ServiceLogin | None,
        run_job: RunJob,
        board: HealthBoard,
    ) -> None:
        self._name = settings.name
        self._interval = settings.probing.interval_check
        self._account = account
        self._board = board
        services = settings.probing.services or {}
        seconds: dict[ServiceName, float] = {name: _seconds(probe) for name, probe in services.items()}
        longest = max(seconds.values(), default=_DEFAULT_TIMEOUT)
        self._pool = _own_pool(settings, credentials, seconds.get("ssh", longest), longest)
        self._scheduler: Scheduler | None = None
        self._storage: list[Transfer] = []
        self._first: list[_Probe] = []
        self._then: list[_Probe] = []
        self._apart: list[_Probe] = []
        if "ssh" in seconds:
            self._first.append(_Probe("ssh", seconds["ssh"], self._log_in))
        if "scheduler" in seconds:
            scheduler = settings.scheduler.model_copy(update={"timeout": seconds["scheduler"]})
            self._scheduler = plugin("hpcgate.schedulers", scheduler.type)(self._name, scheduler, self._pool)
            self._then.append(_Probe("scheduler", seconds["scheduler"], self._scheduler.ping))
        if "filesystem" in seconds:
            for file_system in settings.file_systems:
                path = file_system.path.rstrip("/") or "/"
                self._then.append(_Probe("filesystem", seconds["filesystem"], self._mount(path), path))
        around = TransferContext(self._name, self._pool, run_job)
        behind: defaultdict[ServiceName, list[Transfer]] = defaultdict(list)
        for transfer in settings.data_operation.data_transfer:
            method: type[Transfer] = plugin("hpcgate.transfers", transfer.service_type)
            service = method.service
            if service is not None and service.name in seconds:
                own = transfer.model_copy(update={"timeout": seconds[service.name]})
                behind[service.name].append(method(own, around))
        for name, methods in behind.items():
            self._storage += methods
            self._apart.append(_Probe(name, seconds[name], _pinging(methods)))

    def __repr__(self) -> str:
        return f"<Prober {self._name} every {self._interval:g} s>"

    @property
    def interval(self) -> float:
        """Seconds between rounds."""
        return self._interval

    @property
    def idle(self) -> bool:
        """Whether there is nothing to probe."""
        return not (self._first or self._then or self._apart)

    async def run(self) -> None:
        """Run a round now and then one after the other, until cancelled."""
        while True:
            started = time.monotonic()
            await self.round()
            seconds = self._interval if self._board.well else min(self._interval, RECHECK)
            seconds *= random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311 (jitter, no secret)
            await asyncio.sleep(max(0.0, started + seconds - time.monotonic()))

    async def round(self) -> None:
        """Probe everything once. A result counts as soon as its probe has ended."""
        async with asyncio.TaskGroup() as group:
            for probe in self._apart:
                group.create_task(self._probe(probe, Principal(username="", token="")))
            if self._first or self._then:
                group.create_task(self._as_the_account())
        self._board.finished()

    async def close(self) -> None:
        """Close the connections."""
        for transfer in self._storage:
            await transfer.close()
        if self._scheduler is not None:
            await self._scheduler.close()
        await self._pool.close()

    async def _as_the_account(self) -> None:
        try:
            if self._account is None:
                raise CommandFailed("There is no service account to probe with")
            principal = await self._account.principal()
        except Exception as error:
            # Whatever it is, the next round must run.
            message = error.message if isinstance(error, GatewayError) else "The probes could not run"
            if self._board.failed(message):
                crash = None if isinstance(error, GatewayError) else error
                log.warning("health.cannot_probe", system=self._name, message=message, exc_info=crash)
            return
        self._board.works()
        # One after the other, so that a scheduler's latency is not that of the login before it.
        for probe in self._first:
            await self._probe(probe, principal)
        async with asyncio.TaskGroup() as group:
            for probe in self._then:
                group.create_task(self._probe(probe, principal))

    async def _probe(self, probe: _Probe, principal: Principal) -> None:
        started = time.monotonic()
        message: str | None = None
        try:
            async with asyncio.timeout(probe.seconds):
                await probe.run(principal)
        except TimeoutError:
            message = f"No answer within {probe.seconds:g} s"
        except LoginNodeShut as error:
            # The node serves all who are logged in, and says nothing of how it is: what was found before stands.
            if self._board.failed(error.message):
                log.warning("health.cannot_probe", system=self._name, service=probe.service, message=error.message)
            return
        except GatewayError as error:
            message = error.message
        except Exception as error:
            # Whatever a plug-in comes up with, the next round must run.
            log.error("health.probe_crashed", system=self._name, service=probe.service, exc_info=error)
            message = "The probe failed"
        seconds = time.monotonic() - started
        result = ServiceHealth(probe.service, message is None, time.time(), seconds, message, probe.path)
        if self._board.record(result):
            fields = {"system": self._name, "service": probe.service, "seconds": round(seconds, 3)}
            if probe.path is not None:
                fields["path"] = probe.path
            if message is None:
                log.info("health.recovered", **fields)
            else:
                log.warning("health.unhealthy", message=message, **fields)

    async def _log_in(self, principal: Principal) -> None:
        async with self._pool.lease(principal) as session:
            done = await session.run(["true"])
        if not done.ok:
            raise CommandFailed(f"`true` ended with status {done.exit_status}: {done.words}")

    def _mount(self, path: str) -> Callable[[Principal], Awaitable[None]]:
        # statfs(2) asks the file system itself, where stat(2) may be answered from a cache.
        argv = ["stat", "--file-system", "--format=%T", "--", path]

        async def ask(principal: Principal) -> None:
            async with self._pool.lease(principal) as session:
                done = await session.run(argv)
            if not done.ok:
                raise CommandFailed(done.words or f"{path} does not answer")

        return ask


def _seconds(probe: ProbingService) -> float:
    return _DEFAULT_TIMEOUT if probe.timeout is None else probe.timeout


def _own_pool(settings: Cluster, credentials: CredentialSource, login: float, command: float) -> Pool:
    """Return a pool for the probes: few connections, none kept, and a refusal is not remembered."""
    times: dict[str, Any] = {"connection": login, "login": login, "command_execution": command, "idle_timeout": _IDLE}
    own: dict[str, Any] = {
        "timeout": settings.ssh.timeout.model_copy(update=times),
        "max_clients": 2,
        "max_logins": 1,
        "pool_wait": command,
        "failed_login_pause": 0,
    }
    return Pool(settings.name, settings.ssh.model_copy(update=own), credentials)


def _pinging(methods: Sequence[Transfer]) -> Callable[[Principal], Awaitable[None]]:
    async def ping(_: Principal) -> None:
        for method in methods:
            await method.ping()

    return ping
