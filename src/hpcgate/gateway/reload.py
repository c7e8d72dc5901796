"""A changed configuration, taken up by SIGHUP while the process serves."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import structlog

from hpcgate.config import ConfigError, Model, Settings
from hpcgate.gateway.gateway import Gateway
from hpcgate.telemetry.base import Telemetry
from hpcgate.telemetry.containment import FAULTS, contained, reaped
from hpcgate.threads import alone

log = structlog.stdlib.get_logger(__name__)

FIXED = (
    "app_version", "apis_root_path", "doc_servers", "logger", "audit", "http", "metrics", "tracing",
)  # fmt: skip
"""Settings of the application and of the HTTP server, which are made once."""

_LOOK_EVERY = 0.05
_CANCEL_PATIENCE = 5.0
"""Seconds that requests have to clear up after they were cancelled."""
_MARGIN = 1.0
"""Seconds beyond `jwks_timeout` that the IdP's keys may take."""

Tasks = Iterable["asyncio.Task[Any]"]


@dataclass(frozen=True, slots=True)
class _Opened:
    """A gateway, and what closes it."""

    gateway: Gateway
    stack: AsyncExitStack


class Gateways:
    """The gateway that serves, and those before it that have requests to finish.

    A context manager: it opens the first gateway, and closes whatever is open at the end.

    Args:
        settings: What the process starts with.
        telemetry: Who is told of what each of them does.
        serve: Called with the gateway that is to take all further requests.
    """

    def __init__(self, settings: Settings, telemetry: Telemetry, serve: Callable[[Gateway], None]) -> None:
        self._started_with = settings
        self._telemetry = telemetry
        self._serve = serve
        self._current: _Opened | None = None
        self._retiring: dict[asyncio.Task[None], Gateway] = {}

    def __repr__(self) -> str:
        """Tell how many of them are open."""
        return f"<Gateways, {len(self._retiring)} before the one that serves>"

    def _uncounted(self) -> int:
        return 0 if self._current is None else self._current.gateway.uncounted(*self._retiring.values())

    async def __aenter__(self) -> Self:
        """Open the first gateway."""
        self._current = await self._open(self._started_with)
        self._current.gateway.admission.count_uncounted = self._uncounted
        self._serve(self._current.gateway)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close all of them."""
        for task in self._retiring:
            task.cancel()
        await asyncio.gather(*self._retiring, return_exceptions=True)
        if self._current is not None:
            await self._current.stack.aclose()

    def wind_up(self, reason: str) -> None:
        """Have streams end that would go on for as long as their clients stay, of whichever gateway."""
        current = () if self._current is None else (self._current.gateway,)
        for gateway in (*current, *self._retiring.values()):
            gateway.streams.wind_up(reason)

    async def reload(self, load: Callable[[], Settings], under_way: Callable[[], Tasks]) -> bool:
        """Put a gateway of a new configuration in the place of the one that serves, unless something is wrong with it.

        Args:
            load: Reads the configuration; called in a thread.
            under_way: Returns the requests that run at the moment of the change. They end on the old gateway, which
                closes its connections after that.

        Returns:
            Whether it was done. If not, nothing has changed, and the log says why.
        """
        started = time.monotonic()
        before = self._current
        if before is None:
            return False
        settings = await _loaded(load)
        opened = None if settings is None else await self._opened(settings, before.gateway)
        if settings is None or opened is None:
            return False
        # From here to the list of requests nothing may wait: a request is either on that list or on the new gateway.
        opened.gateway.follow(before.gateway)
        self._current = opened
        self._serve(opened.gateway)
        requests = set(under_way())
        patience = settings.streams.max_after_reload
        task = asyncio.create_task(_retire(before, requests, patience))
        self._retiring[task] = before.gateway
        task.add_done_callback(self._retired)
        systems, old = opened.gateway.systems, before.gateway.systems
        log.info(
            "config.reloaded",
            systems=[system.name for system in systems.values()],
            unchanged=[system.name for name, system in systems.items() if system is old.get(name)],
            finishing=len(requests),
            seconds=round(time.monotonic() - started, 3),
        )
        if fixed := sorted(fixed_changes(self._started_with, settings)):
            log.warning("config.restart_needed", keys=fixed, consequence="these stay as they were at the start")
        return True

    @contained("reload.retire")
    def _retired(self, task: "asyncio.Task[None]") -> None:
        del self._retiring[task]
        reaped(task, "reload.retire")

    async def _opened(self, settings: Settings, before: Gateway) -> _Opened | None:
        """Return the gateway of a new configuration, open; None, and the log says why, if it is not as good."""
        try:
            opened = await self._open(settings, before)
        except Exception as error:  # whatever a plug-in comes up with, the gateway that serves goes on
            log.error("config.reload_refused", reason=str(error), consequence=_STAYS, exc_info=error)
            return None
        try:
            refusal = await _not_as_good(opened.gateway, before)
        except BaseException:
            await opened.stack.aclose()
            raise
        if refusal is not None:
            log.error("config.reload_refused", reason=refusal, consequence=_STAYS)
            await opened.stack.aclose()
            return None
        return opened

    async def _open(self, settings: Settings, before: Gateway | None = None) -> _Opened:
        async with AsyncExitStack() as stack:
            gateway = await stack.enter_async_context(Gateway.open(settings, self._telemetry, before))
            return _Opened(gateway, stack.pop_all())


_STAYS = "the configuration from before stays"


async def _loaded(load: Callable[[], Settings]) -> Settings | None:
    """Return a configuration; None, and the log says why, if it has mistakes."""
    try:
        return await alone(load)
    except ConfigError as error:
        for mistake in error.mistakes:
            log.error("config.mistake", file=str(mistake.file), key=mistake.key, reason=mistake.message)
        log.error("config.reload_refused", mistakes=len(error.mistakes), consequence=_STAYS)
        return None


async def _retire(opened: _Opened, requests: "set[asyncio.Task[Any]]", patience: float) -> None:
    """Close a gateway once these requests have ended; those that take longer than so many seconds are cut off."""
    started = time.monotonic()
    try:
        opened.gateway.rest()
        if requests:
            _, late = await asyncio.wait(requests, timeout=patience)
            if late:
                log.warning("config.old_requests_cut_off", requests=len(late))
                for request in late:
                    request.cancel()
                await asyncio.wait(late, timeout=_CANCEL_PATIENCE)
    finally:
        await opened.stack.aclose()
        log.info("config.old_gateway_closed", seconds=round(time.monotonic() - started, 3))


async def _not_as_good(gateway: Gateway, before: Gateway) -> str | None:
    """Wait until a new gateway can do what the one before it can; say so if it cannot."""
    wanted = _can_verify(before)
    give_up = time.monotonic() + gateway.settings.auth.authentication.jwks_timeout + _MARGIN
    while not _can_verify(gateway):
        if time.monotonic() >= give_up:
            return "the keys of auth.authentication.public_certs could not be loaded" if wanted else None
        await asyncio.sleep(_LOOK_EVERY)
    return "the process is about to stop" if before.stopping else None


def _can_verify(gateway: Gateway) -> bool:
    """Say whether tokens can be verified, those of each issuer."""
    sources = gateway.settings.auth.authentication.public_certs
    return gateway.tokens.ready and (gateway.jwks.complete or not sources)


def fixed_changes(started_with: Settings, settings: Settings) -> Iterator[str]:
    """Yield the dotted keys of what a reload cannot change, and that differ."""
    for name in FIXED:
        yield from _differences(getattr(started_with, name), getattr(settings, name), name)


def _differences(one: Any, other: Any, name: str) -> Iterator[str]:
    if isinstance(one, Model) and isinstance(other, Model) and type(one) is type(other):
        for field in type(one).model_fields:
            yield from _differences(getattr(one, field), getattr(other, field), f"{name}.{field}")
    elif one != other:
        yield name


class Reloader:
    """Reloads when asked, one reload at a time.

    Args:
        reload: Does it.
    """

    def __init__(self, reload: Callable[[], Awaitable[Any]]) -> None:
        self._reload = reload
        self._asked = False
        self._task: asyncio.Task[None] | None = None

    def ask(self) -> None:
        """Have a reload begin soon; safe in a signal handler."""
        self._asked = True

    def tick(self) -> None:
        """Begin a reload if one was asked for and none is under way."""
        if self._asked and (self._task is None or self._task.done()):
            self._asked = False
            self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Break off what is under way."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        try:
            await self._reload()
        except Exception as error:  # a fault of ours; the next SIGHUP may go well
            log.error("config.reload_crashed", reason=str(error))
            FAULTS.note("reload", error)
