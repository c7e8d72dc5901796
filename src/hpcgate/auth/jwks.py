"""The IdP's public keys: fetched in the background, kept, renewed."""

import asyncio
import os
import stat
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType, TracebackType
from typing import Self
from urllib.parse import unquote, urlsplit

import structlog

from hpcgate.auth.keys import VerificationKey, parse_keys
from hpcgate.config import OidcSettings
from hpcgate.outbound.client import BadAddress, HttpClient, TooSlow
from hpcgate.sharing.flights import Flights
from hpcgate.telemetry.containment import kept, reaped
from hpcgate.threads import alone

MAX_DOCUMENT = 512 * 1024
"""Most bytes of a key document."""
MAX_REDIRECTS = 5
"""Most redirects, all on one host."""

log = structlog.get_logger()


class SourceError(Exception):
    """A source of keys gave none; the message is for the operator's log and quotes nothing of the document."""


@dataclass(slots=True)
class Source:
    """One place that keys come from, and what it gave last."""

    url: str
    keys: tuple[VerificationKey, ...] = ()
    loaded_at: float | None = None
    failure: str | None = None
    """Why it gave none the last time, if so."""

    @property
    def name(self) -> str:
        """The URL as a log may show it: without user, password, query and fragment."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


class Jwks:
    """The keys of all configured sources.

    `open` starts a task that fetches them and goes on doing so; it does not wait for it, so an IdP that is down at the
    start is not fatal. A source that fails keeps its last good keys.
    """

    def __init__(self, settings: OidcSettings) -> None:
        """Keep the settings; nothing is opened."""
        self._settings = settings
        self._sources = tuple(Source(url) for url in settings.public_certs)
        self._by_kid: Mapping[str | None, tuple[VerificationKey, ...]] = {}
        self._identities: frozenset[str] = frozenset()
        # One client for each, so that a source that hangs holds no other.
        self._http = {source.url: HttpClient(connections=2, by_proxy=True) for source in self._sources}
        self._reading = Flights[str, bytes]("jwks", OSError, SourceError)
        self._refresher: asyncio.Task[None] | None = None
        self._flight: asyncio.Task[None] | None = None
        self._last_start = -float("inf")
        self._closed = False

    def __repr__(self) -> str:
        """Tell how many keys are held and how many sources gave some."""
        loaded = sum(source.loaded_at is not None for source in self._sources)
        return f"<Jwks {len(self._identities)} keys of {loaded}/{len(self._sources)} sources>"

    async def __aenter__(self) -> Self:
        """Begin to fetch keys."""
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop fetching keys, and close the connections."""
        await self.close()

    async def open(self) -> None:
        """Start fetching in the background and return at once."""
        if not self._sources:
            log.warning("jwks.none", setting="public_certs")
        if self._refresher is None:
            self._refresher = asyncio.create_task(kept("auth.jwks", self._refresh_forever), name="jwks-refresher")

    async def close(self) -> None:
        """Stop fetching. Keys that are held stay usable."""
        self._closed = True
        tasks = [task for task in (self._refresher, self._flight) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._refresher = self._flight = None
        for http in self._http.values():
            await http.close()

    @property
    def ready(self) -> bool:
        """Whether there is any key to verify with."""
        return bool(self._identities)

    @property
    def complete(self) -> bool:
        """Whether every source has given its keys at least once."""
        return bool(self._sources) and all(source.loaded_at is not None for source in self._sources)

    @property
    def age(self) -> float | None:
        """Seconds since the source that was read longest ago was last read; None before there is any key."""
        times = [source.loaded_at for source in self._sources if source.loaded_at is not None]
        return time.monotonic() - min(times) if times else None

    @property
    def retry_after(self) -> int:
        """Whole seconds after which missing keys may have been fetched."""
        wait = self._last_start + self._settings.jwks_cooldown - time.monotonic()
        return max(1, int(wait + 0.999)) if wait > 0 else 1

    @property
    def sources(self) -> tuple[Source, ...]:
        """Where the keys come from, and what each place gave."""
        return self._sources

    @property
    def identities(self) -> frozenset[str]:
        """The identities of all keys that are valid now."""
        return self._identities

    def has(self, kid: str | None) -> bool:
        """Tell whether a key has exactly that id."""
        return kid is not None and kid in self._by_kid

    def candidates(self, kid: str | None) -> tuple[VerificationKey, ...]:
        """Return the keys to try for a token that names this key id, or none.

        A token's key id chooses the keys that have it, else those that have no id; a token without one may be by any.
        """
        if kid is None:
            return tuple(key for keys in self._by_kid.values() for key in keys)
        return self._by_kid.get(kid) or self._by_kid.get(None, ())

    async def renew(self) -> bool:
        """Fetch the keys now, unless that was tried within the last `jwks_cooldown` seconds.

        Callers at the same time share one fetch, and whoever is cancelled leaves it to the others.

        Returns:
            Whether the keys were fetched while this call waited, so that looking again makes sense.
        """
        running = self._flight is not None and not self._flight.done()
        if self._closed or (not running and time.monotonic() - self._last_start < self._settings.jwks_cooldown):
            return False
        await self._fetch()
        return True

    async def _fetch(self) -> None:
        if self._flight is None or self._flight.done():
            self._last_start = time.monotonic()
            self._flight = asyncio.create_task(self._refresh(), name="jwks-fetch")
        await asyncio.wait((self._flight,))
        if self._flight is not None and self._flight.done():
            reaped(self._flight, "auth.jwks")

    async def _refresh_forever(self) -> None:
        pause = self._settings.jwks_cooldown
        while True:
            started = time.monotonic()
            await self._fetch()
            # A source that fails is tried again soon, then less and less often, down to the ordinary rate.
            if all(source.loaded_at is not None and source.loaded_at >= started for source in self._sources):
                pause = self._settings.jwks_cooldown
                await asyncio.sleep(self._settings.jwks_refresh)
            else:
                await asyncio.sleep(min(pause, self._settings.jwks_refresh))
                pause *= 2

    async def _refresh(self) -> None:
        async with asyncio.TaskGroup() as group:
            for source in self._sources:
                group.create_task(self._refresh_source(source))

    async def _refresh_source(self, source: Source) -> None:
        started = time.monotonic()
        try:
            async with asyncio.timeout(self._settings.jwks_timeout):
                document = await self._read(source.url)
            keys = parse_keys(document, self._settings.jwk_algorithm)
        except Exception as error:  # whatever is wrong with one source, the others and the refresher go on
            source.failure = _reason(error) or type(error).__name__
            log.warning(
                "jwks.failed",
                source=source.name,
                error=type(error).__name__,
                reason=_reason(error),
                kept=len(source.keys),
                seconds=round(time.monotonic() - started, 3),
            )
            return
        changed = {key.identity for key in keys} != {key.identity for key in source.keys}
        source.keys, source.failure = keys, None
        source.loaded_at = time.monotonic()
        if changed:
            self._index()
        event = log.info if changed else log.debug
        event(
            "jwks.refresh",
            source=source.name,
            keys=len(keys),
            changed=changed,
            seconds=round(time.monotonic() - started, 3),
        )

    def _index(self) -> None:
        by_kid: dict[str | None, dict[str, VerificationKey]] = {}
        for source in self._sources:
            for key in source.keys:
                by_kid.setdefault(key.kid, {})[key.identity] = key
        self._by_kid = MappingProxyType({kid: tuple(keys.values()) for kid, keys in by_kid.items()})
        self._identities = frozenset(identity for keys in by_kid.values() for identity in keys)

    async def _read(self, url: str) -> bytes:
        scheme, _, rest = url.partition("://")
        match scheme.lower():
            case "file":
                return await self._read_in_thread("/" + unquote(rest.partition("/")[2]))
            case "http" | "https":
                return await self._get(url)
        raise SourceError("only file://, http:// and https:// are understood")

    async def _read_in_thread(self, path: str) -> bytes:
        """Read a file. One on a file system that hangs holds one thread, however often it is tried."""
        return await self._reading.share(path, lambda: alone(partial(_read_file, path)))

    async def _get(self, url: str) -> bytes:
        answer = await self._http[url].ask(
            "GET",
            url,
            seconds=self._settings.jwks_timeout,
            most=MAX_DOCUMENT,
            headers={"Accept": "application/jwk-set+json, application/json, */*;q=0.5"},
            redirects=MAX_REDIRECTS,
        )
        if answer.status != 200:
            raise SourceError(f"HTTP status {answer.status}")
        return answer.content


def _read_file(path: str) -> bytes:
    # A FIFO would block at open, for good; a device may never end.
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise SourceError("not a regular file")
        document = file.read(MAX_DOCUMENT + 1)
    if len(document) > MAX_DOCUMENT:
        raise SourceError(f"more than {MAX_DOCUMENT} bytes")
    return document


def _reason(error: Exception) -> str:
    if isinstance(error, (TimeoutError, TooSlow)):
        return "no answer within jwks_timeout"
    if isinstance(error, BadAddress):
        return "no usable URL"
    return str(error)
