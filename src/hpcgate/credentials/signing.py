"""What the sources have in common that get a certificate from a service over HTTP."""

import asyncio
import json
import random
import time
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, Final

import aiohttp
import structlog
from pydantic import Field

from hpcgate import __version__
from hpcgate.auth import Principal
from hpcgate.config import PluginSettings
from hpcgate.credentials.base import Credential, CredentialSource
from hpcgate.credentials.certificates import contents
from hpcgate.errors import CredentialRefused, Unavailable
from hpcgate.telemetry.base import trace_headers
from hpcgate.telemetry.journal import note_exchange

audit = structlog.get_logger("hpcgate.audit")

RENEW_BEFORE: Final = 30.0
"""Seconds before its end from which on a certificate is not handed out any more."""
_KEEP_ENDLESS: Final = 3600.0
_MAX_KEPT: Final = 10_000
_MAX_ANSWER: Final = 256 * 1024
_MAX_WORDS: Final = 300
_ATTEMPTS: Final = 3


class SigningSettings(PluginSettings):
    """How the service is reached."""

    url: str = Field(pattern=r"^https?://", description="The base URL of the service.")
    max_connections: int = Field(100, ge=0, description="Most connections to the service; 0 is no limit.")
    timeout: float = Field(5, gt=0, description="Seconds that one answer may take.")


class SigningService(CredentialSource):
    """Gets a certificate for a user and keeps it until shortly before it ends.

    However many ask for one user's credential at a time, the service is asked once.
    """

    service: str
    """What to call the service in messages."""

    def __init__(self, settings: SigningSettings) -> None:
        self._settings = settings
        self._http: aiohttp.ClientSession | None = None
        self._kept: dict[str, tuple[float, Credential]] = {}
        self._asking: dict[str, asyncio.Task[Credential]] = {}

    @abstractmethod
    async def sign(self, principal: Principal) -> Credential:
        """Ask the service for a new credential of the principal."""

    async def credential(self, principal: Principal) -> Credential:
        """Return the credential of the principal, a kept one while it holds for at least 30 more seconds.

        Raises:
            CredentialRefused: The service said no, or gave something that is none.
            Unavailable: The service cannot be reached, or does not answer in time.
        """
        name = principal.username
        kept = self._kept.get(name)
        if kept is not None and kept[0] > time.time():
            return kept[1]
        asking = self._asking.get(name)
        if asking is None:
            asking = asyncio.get_running_loop().create_task(self._ask(principal))
            self._asking[name] = asking
            asking.add_done_callback(lambda task: self._asked(name, task))
        try:
            return await asyncio.shield(asking)
        except (CredentialRefused, Unavailable) as error:
            raise type(error)(error.message, headers=error.headers) from error.__cause__

    async def close(self) -> None:
        """End what is under way and close the connections."""
        asking = list(self._asking.values())
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
        if self._http is not None:
            await self._http.close()
            self._http = None

    async def post(self, path: str, body: Mapping[str, Any], principal: Principal, headers: Mapping[str, str]) -> str:
        """Send a request to the service and return the text of its answer.

        Raises:
            CredentialRefused: It answered with anything but success; its own words are in the message.
            Unavailable: It did not answer.
        """
        sent = dict(headers)
        if principal.request_id is not None:
            sent["X-Request-ID"] = principal.request_id
        if principal.correlation_id is not None:
            sent["X-Correlation-ID"] = principal.correlation_id
        trace_headers(sent)
        status, text = await self._exchange(self._settings.url.rstrip("/") + path, body, sent)
        if status not in (200, 201):
            words = _words(text).replace(principal.token, "***") if principal.token else _words(text)
            raise CredentialRefused(
                f"The {self.service} gave no credential for {principal.username}: {words or f'status {status}'}"
            )
        return text

    async def _exchange(self, url: str, body: Mapping[str, Any], headers: Mapping[str, str]) -> tuple[int, str]:
        http = self._session()
        for attempt in range(_ATTEMPTS):
            if attempt:
                await asyncio.sleep(random.uniform(0.05, 0.2) * attempt)  # noqa: S311 (jitter, no secret)
            try:
                async with (
                    asyncio.timeout(self._settings.timeout),
                    http.post(url, json=body, headers=headers, allow_redirects=False) as answer,
                ):
                    note_exchange(url, answer.status)
                    data = await answer.content.read(_MAX_ANSWER)
                    while not answer.content.at_eof() and len(data) < _MAX_ANSWER:
                        data += await answer.content.read(_MAX_ANSWER - len(data))
                    return answer.status, data.decode("utf-8", "replace")
            except TimeoutError as error:
                raise Unavailable(f"The {self.service} did not answer in time", headers={"Retry-After": "5"}) from error
            except aiohttp.ClientConnectionError as error:
                cause: Exception = error
            except aiohttp.ClientError as error:
                raise Unavailable(f"The {self.service} gave no usable answer") from error
        raise Unavailable(f"The {self.service} cannot be reached", headers={"Retry-After": "5"}) from cause

    async def _ask(self, principal: Principal) -> Credential:
        credential = await self.sign(principal)
        if credential.certificate is not None:
            said = contents(credential.certificate)
            audit.info(
                "certificate.issued",
                user=principal.username,
                client_id=principal.client_id,
                token_id=principal.token_id,
                by=self.service,
                serial=said.serial,
                key_id=said.key_id,
                principals=said.principals,
                valid_before=said.valid_before,
                request_id=principal.request_id,
                correlation_id=principal.correlation_id,
            )
        now = time.time()
        until = now + _KEEP_ENDLESS if credential.expires_at is None else credential.expires_at - RENEW_BEFORE
        if len(self._kept) >= _MAX_KEPT:
            self._kept = {name: kept for name, kept in self._kept.items() if kept[0] > now}
        self._kept.pop(principal.username, None)
        if until > now and len(self._kept) < _MAX_KEPT:
            self._kept[principal.username] = (until, credential)
        return credential

    def _asked(self, name: str, task: "asyncio.Task[Credential]") -> None:
        if self._asking.get(name) is task:
            del self._asking[name]
        if not task.cancelled():
            task.exception()

    def _session(self) -> aiohttp.ClientSession:
        if self._http is None or self._http.closed:
            self._http = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self._settings.max_connections),
                timeout=aiohttp.ClientTimeout(total=None),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={
                    "x-client-type": "api",
                    "x-client-name": "hpcgate",
                    "x-client-version": __version__,
                    "User-Agent": f"hpcgate/{__version__}",
                },
            )
        return self._http


def field_of(text: str, *path: str) -> str:
    """Return a string within a JSON object.

    Raises:
        ValueError: There is none, or the text is no JSON.
    """
    value: Any = json.loads(text)
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    if not isinstance(value, str):
        raise ValueError(f"no {'.'.join(path)}")
    return value


def _words(text: str) -> str:
    """Return what an error answer says to a person, on one line and not too long."""
    words = text
    for key in ("message", "detail", "error", "description"):
        try:
            words = field_of(text, key)
        except ValueError:
            continue
        break
    words = " ".join("".join(character if character.isprintable() else " " for character in words).split())
    return words if len(words) <= _MAX_WORDS else words[:_MAX_WORDS] + "..."
