"""What the sources have in common that get a certificate from a service over HTTP."""

import asyncio
import json
import random
from collections.abc import Mapping
from contextlib import suppress
from typing import Annotated, Any, Final

import asyncssh
from pydantic import Field

from hpcgate import __version__
from hpcgate.auth import Principal
from hpcgate.config import PluginSettings
from hpcgate.config.base import NARROWS
from hpcgate.config.values import HostKey, Pause, Seconds
from hpcgate.credentials.base import Credential
from hpcgate.credentials.certificate_cache import CertificateSource
from hpcgate.credentials.certificates import Expectation, checked, user_certificate
from hpcgate.errors import CredentialRefused, Unavailable
from hpcgate.outbound.client import Answer, BrokenOff, HttpClient, ServiceError, TooSlow, Unreachable, Unusable
from hpcgate.outbound.documents import decoded, string_at
from hpcgate.outbound.wording import clipped, one_line
from hpcgate.telemetry.base import trace_headers
from hpcgate.telemetry.journal import note_exchange

_MAX_ANSWER: Final = 256 * 1024
_MAX_WORDS: Final = 300
_ATTEMPTS: Final = 3


class SigningSettings(PluginSettings):
    """How the service is reached, and what its certificates have to be."""

    url: str = Field(pattern=r"^https?://", description="The base URL of the service.")
    max_connections: int = Field(100, ge=0, description="Most connections to the service; 0 means no limit.")
    timeout: float = Field(5, gt=0, description="Seconds that one answer may take.")
    accepted_principals: tuple[str, ...] = Field(
        ("{username}",),
        min_length=1,
        description="A certificate is used if one of these is among its principals; {username} is filled in, and * is"
        " any principal, or none.",
    )
    ca_public_keys: Annotated[tuple[HostKey, ...], NARROWS] = Field(
        (), description="The public keys of the authorities that certificates may be signed by; any if empty."
    )
    max_lifetime: Seconds | None = Field(
        7 * 86400, description="Most seconds that a certificate may hold; null takes any, even one without end."
    )
    leeway: Pause = Field(
        60, description="Seconds that a certificate may begin after now, for clocks that differ; it is used at once."
    )


class SigningService(CertificateSource):
    """Gets certificates from a service over HTTP."""

    def __init__(self, settings: SigningSettings) -> None:
        super().__init__()
        self._settings = settings
        self._authorities = frozenset(asyncssh.import_public_key(key).public_data for key in settings.ca_public_keys)
        self._http = HttpClient(
            connections=settings.max_connections,
            headers={
                "x-client-type": "api",
                "x-client-name": "hpcgate",
                "x-client-version": __version__,
                "User-Agent": f"hpcgate/{__version__}",
            },
        )

    async def close(self) -> None:
        """End what is under way and close the connections."""
        await super().close()
        await self._http.close()

    async def post(
        self, path: str, body: Mapping[str, Any], principal: Principal, headers: Mapping[str, str], *secrets: str
    ) -> str:
        """Send a request to the service and return the text of its answer.

        Args:
            path: Below the service's URL.
            body: What is sent as JSON.
            principal: For whom.
            headers: What is sent beside the ids of the request.
            secrets: What of it, beside the user's token, must not show when the service echoes it.

        Raises:
            CredentialRefused: It answered with anything but success; its own words are in the message.
            Unavailable: It did not answer, or with something that is too large or compressed.
        """
        sent = dict(headers)
        if principal.request_id is not None:
            sent["X-Request-ID"] = principal.request_id
        if principal.correlation_id is not None:
            sent["X-Correlation-ID"] = principal.correlation_id
        trace_headers(sent)
        answer = await self._exchange(self._settings.url.rstrip("/") + path, body, sent)
        if answer.status not in (200, 201):
            words = clipped(one_line(_words(answer.text)), _MAX_WORDS, principal.token, *secrets)
            words = words or f"status {answer.status}"
            raise CredentialRefused(f"The {self.service} gave no credential for {principal.username}: {words}")
        return answer.text

    def certified(self, text: str, key: asyncssh.SSHKey, principal: Principal) -> Credential:
        """Return the credential of a key and the certificate of it that the service gave.

        Raises:
            CredentialRefused: The certificate is not one to log this user in with.
        """
        what = f"The certificate of the {self.service} for {principal.username}"
        certificate = user_certificate(text, key, what)
        expected = Expectation(
            principals=tuple(
                name.replace("{username}", principal.username) for name in self._settings.accepted_principals
            ),
            authorities=self._authorities,
            max_lifetime=self._settings.max_lifetime,
            leeway=self._settings.leeway,
        )
        return Credential(key, certificate, checked(certificate, expected, what).valid_before)

    async def _exchange(self, url: str, body: Mapping[str, Any], headers: Mapping[str, str]) -> Answer:
        seconds = self._settings.timeout
        try:
            # A connection that breaks off may be tried again, all within the time of one answer.
            async with asyncio.timeout(seconds):
                for attempt in range(_ATTEMPTS):
                    if attempt:
                        await asyncio.sleep(random.uniform(0.05, 0.2) * attempt)  # noqa: S311 (jitter, no secret)
                    try:
                        answer = await self._http.ask(
                            "POST", url, seconds=seconds, most=_MAX_ANSWER, headers=headers, json=body
                        )
                    except (Unreachable, BrokenOff) as error:
                        cause: ServiceError = error
                        continue
                    note_exchange(url, answer.status)
                    return answer
        except (TimeoutError, TooSlow) as error:
            raise Unavailable(f"The {self.service} did not answer in time", headers={"Retry-After": "5"}) from error
        except Unusable as error:
            raise Unavailable(f"The {self.service} gave no usable answer: {error}") from error
        except ServiceError as error:
            raise Unavailable(f"The {self.service} gave no usable answer") from error
        raise Unavailable(f"The {self.service} cannot be reached", headers={"Retry-After": "5"}) from cause


def field_of(text: str, *path: str) -> str:
    """Return a string within a JSON object.

    Raises:
        ValueError: There is none, or the text is not JSON.
    """
    return string_at(decoded(text.encode()), *path)


def _words(text: str) -> str:
    """Return what an error answer says to a person."""
    with suppress(ValueError):
        said = decoded(text.encode())
        if isinstance(said, dict) and isinstance(said.get("errors"), list):  # as Vault has it
            return "; ".join(one if isinstance(one, str) else json.dumps(one) for one in said["errors"])
        for key in ("message", "detail", "error", "description"):
            with suppress(ValueError):
                return string_at(said, key)
    return text
