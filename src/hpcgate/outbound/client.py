"""The HTTP client for the services of a site: bounded in bytes, time, connections and redirects.

Errors, none of which shows a URL, a header or anything of the answer:

  ServiceError
    BadAddress     not a URL
    Unreachable    no connection; nothing was sent
    BrokenOff      the connection ended before the answer did
    TooSlow        no whole answer in time
    Unusable       an answer that is too long, compressed, or not HTTP
"""

import asyncio
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import aiohttp
from aiohttp.client_proto import ResponseHandler
from yarl import URL

from hpcgate.outbound.documents import decoded

MAX_HEADERS: Final = 64
"""Most headers of an answer."""
MAX_HEADER: Final = 8190
"""Most bytes of a header, or of the status line."""
_BLOCK: Final = 64 * 1024
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})

Method = Literal["GET", "POST", "DELETE"]


class ServiceError(Exception):
    """A service gave no answer that can be used; the message is fit for a log and for operators."""


class BadAddress(ServiceError):
    """The configured address is not a URL."""


class Unreachable(ServiceError):
    """No connection came about."""


class BrokenOff(ServiceError):
    """The connection ended before the answer did."""


class TooSlow(ServiceError):
    """The answer was not complete in time."""


class Unusable(ServiceError):
    """The answer is too long, compressed, or not HTTP."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer.

    Attributes:
        status: The HTTP status.
        reason: The words beside it, if there are any.
        headers: By name, in any case; of repeated ones the first.
        content: The body, as it was sent: it was not compressed.
    """

    status: int
    reason: str
    headers: Mapping[str, str] = field(repr=False)
    content: bytes = field(repr=False)

    def json(self) -> Any:
        """Return what the body says in JSON.

        Raises:
            ValueError: `documents.decoded`, strict, refuses it.
        """
        return decoded(self.content, strict=True)

    @property
    def text(self) -> str:
        """The body as text; bytes that are not UTF-8 show as U+FFFD."""
        return self.content.decode("utf-8", "replace")

    @property
    def is_page(self) -> bool:
        """Whether it is a page for people: what a portal or a proxy answers in place of a service."""
        kind = self.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        return kind in ("text/html", "application/xhtml+xml")


class HttpClient:
    """Asks one service, by connections of its own, so that no other service waits when this one hangs.

    Each answer is bounded by what `ask` is told, whatever the service does: endless or dripping bodies, endless
    headers, compression (refused, since a few bytes of it can stand for any number), redirects, and answers that nobody
    asked for.

    Args:
        connections: Most connections at a time; 0 means no limit. Further requests wait within their time.
        by_proxy: Use the proxy that the environment names.
        reuse: Keep connections for further requests.
        headers: What each request carries.
        trust: The TLS certificates to trust; those that the machine trusts by default.
    """

    def __init__(
        self,
        *,
        connections: int,
        by_proxy: bool = False,
        reuse: bool = True,
        headers: Mapping[str, str] | None = None,
        trust: ssl.SSLContext | None = None,
    ) -> None:
        self._connections = connections
        self._by_proxy = by_proxy
        self._reuse = reuse
        self._headers = dict(headers or {})
        self.trust = trust
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close the connections. They open again when something is asked."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def ask(
        self,
        method: Method,
        url: str | URL,
        *,
        seconds: float,
        most: int,
        headers: Mapping[str, str] | None = None,
        json: Any = None,
        form: Mapping[str, str] | None = None,
        redirects: int = 0,
    ) -> Answer:
        """Send one request and return the whole answer.

        Args:
            method: The HTTP method.
            url: Where to.
            seconds: Most seconds for all of it, waiting for a connection included.
            most: Most bytes of the body.
            headers: What to send beside what all requests carry.
            json: A body to send as JSON.
            form: A body to send as a form.
            redirects: How many redirects to follow, to the same host only and never from https to http; only for what
                carries no secret. A redirect beyond that is an answer like any other.

        Raises:
            ServiceError: As the module says.
        """
        try:
            async with asyncio.timeout(seconds):
                target = URL(url) if isinstance(url, str) else url
                for _ in range(redirects + 1):
                    answer = await self._exchange(method, target, most, headers, json, form)
                    if not redirects or answer.status not in _REDIRECTS:
                        return answer
                    target = _next(target, answer.headers.get("Location", ""))
                raise Unusable("redirected too often")
        except TimeoutError:
            raise TooSlow(f"no answer within {seconds:g} s") from None
        # From here on without the cause: aiohttp's errors hold the request, and with it the token.
        except (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError):
            raise BadAddress("not a URL") from None
        except aiohttp.ClientConnectorError as error:
            raise Unreachable(_words(error)) from None
        except (aiohttp.ClientConnectionError, OSError):
            raise BrokenOff("the connection was closed") from None
        except aiohttp.ClientPayloadError:
            raise BrokenOff("the answer broke off") from None
        except (aiohttp.ClientError, ValueError):
            raise Unusable("not an answer in HTTP") from None

    async def _exchange(
        self,
        method: Method,
        url: URL,
        most: int,
        headers: Mapping[str, str] | None,
        json: Any,
        form: Mapping[str, str] | None,
    ) -> Answer:
        request = self._opened().request(method, url, headers=headers, json=json, data=form, allow_redirects=False)
        async with request as response:
            if response.status < 200:
                response.close()
                raise Unusable("another protocol")
            encodings = [one.strip().lower() for one in response.headers.getall("Content-Encoding", [])]
            if any(encoding not in ("", "identity") for encoding in encodings):
                response.close()
                raise Unusable("a compressed answer")
            content = bytearray()
            async for block in response.content.iter_chunked(_BLOCK):
                content += block
                if len(content) > most:
                    response.close()
                    raise Unusable(f"more than {most} bytes")
            return Answer(response.status, response.reason or "", response.headers, bytes(content))

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None or self._session.closed:
            self._session = aiohttp.ClientSession(
                connector=_Connector(
                    limit=self._connections, force_close=not self._reuse, ssl=self.trust if self.trust else True
                ),
                timeout=aiohttp.ClientTimeout(total=None),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={**self._headers, "Accept-Encoding": "identity"},
                auto_decompress=False,
                trust_env=self._by_proxy,
                max_line_size=MAX_HEADER,
                max_field_size=MAX_HEADER,
                max_headers=MAX_HEADERS,
            )
        return self._session


class _Connector(aiohttp.TCPConnector):
    """Gives no connection on which something has come that nobody asked for: it would answer the next request."""

    async def connect(self, *args: Any, **kwargs: Any) -> aiohttp.connector.Connection:
        while True:
            connection = await super().connect(*args, **kwargs)
            protocol = connection.protocol
            if not isinstance(protocol, ResponseHandler) or not protocol.should_close:
                return connection
            connection.close()
            # However fast a service does that: others have their turn.
            await asyncio.sleep(0)


def _next(here: URL, location: str) -> URL:
    try:
        there = here.join(URL(location))
    except ValueError:
        raise Unusable("redirected to no usable URL") from None
    if not location or there.scheme not in ("http", "https"):
        raise Unusable("redirected to no usable URL")
    if here.scheme == "https" and there.scheme != "https":
        raise Unusable("redirected from https to http")
    if there.host != here.host:
        raise Unusable("redirected to another host")
    return there


def _words(error: aiohttp.ClientConnectorError) -> str:
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return str(error.certificate_error)
    return error.os_error.strerror or str(error.os_error)
