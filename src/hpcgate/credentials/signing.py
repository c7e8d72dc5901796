"""What the sources have in common that get a certificate from a service over HTTP."""

import asyncio
import json
import random
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

import aiohttp
from pydantic import Field

from hpcgate import __version__
from hpcgate.auth import Principal
from hpcgate.config import PluginSettings
from hpcgate.credentials.kept import CertificateSource
from hpcgate.errors import CredentialRefused, Unavailable
from hpcgate.telemetry.base import trace_headers
from hpcgate.telemetry.journal import note_exchange

_MAX_ANSWER: Final = 256 * 1024
_MAX_WORDS: Final = 300
_ATTEMPTS: Final = 3


class SigningSettings(PluginSettings):
    """How the service is reached."""

    url: str = Field(pattern=r"^https?://", description="The base URL of the service.")
    max_connections: int = Field(100, ge=0, description="Most connections to the service; 0 is no limit.")
    timeout: float = Field(5, gt=0, description="Seconds that one answer may take.")


class SigningService(CertificateSource):
    """Gets certificates from a service over HTTP."""

    def __init__(self, settings: SigningSettings) -> None:
        super().__init__()
        self._settings = settings
        self._http: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """End what is under way and close the connections."""
        await super().close()
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
    with suppress(ValueError):  # Vault's errors are a list
        listed = json.loads(text)
        if isinstance(listed, dict) and isinstance(listed.get("errors"), list):
            words = "; ".join(str(one) for one in listed["errors"])
    for key in ("message", "detail", "error", "description"):
        try:
            words = field_of(text, key)
        except ValueError:
            continue
        break
    words = " ".join("".join(character if character.isprintable() else " " for character in words).split())
    return words if len(words) <= _MAX_WORDS else words[:_MAX_WORDS] + "..."
