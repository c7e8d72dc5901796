"""Requests to slurmrestd, in the user's name and with the user's token."""

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Any, Final, Literal, TypeVar
from urllib.parse import urlencode

import structlog
from yarl import URL

from hpcgate.auth import Principal
from hpcgate.errors import BadAnswer, CommandFailed, Forbidden, GatewayError, SchedulerUnavailable, TimedOut
from hpcgate.outbound.client import HttpClient, ServiceError, TooSlow, Unreachable, Unusable
from hpcgate.outbound.documents import decoded_in_turns, with_whole_characters
from hpcgate.outbound.wording import clipped, masked
from hpcgate.schedulers.slurm.doubts import MAX_USERS, Doubts
from hpcgate.schedulers.slurm.rest import cluster
from hpcgate.schedulers.slurm.rest.problems import MAX_WORDS, REFUSED_TOKEN, DaemonDown, Unclear, numbers, problems
from hpcgate.schedulers.slurm.rest.versions import ApiVersion
from hpcgate.sharing.recent import Recent
from hpcgate.ssh.runner import SENSELESS
from hpcgate.telemetry.base import trace_headers
from hpcgate.telemetry.containment import contained
from hpcgate.telemetry.journal import note_exchange

Query = Mapping[str, str] | Sequence[tuple[str, str]]

MAX_CONNECTIONS: Final = 32
"""Most connections to one slurmrestd; further requests wait their turn within their time-out."""
MAX_ANSWER: Final = 512 * 1024 * 1024
"""Most bytes of an answer: some 80,000 jobs."""
LARGE: Final = 256 * 1024
"""Bytes from which on an answer is read in a thread, so that the event loop serves others meanwhile."""
LARGE_AT_A_TIME: Final = 2
"""Large answers of one slurmrestd that are read at a time: each takes a thread, and many times its size in memory."""
DIAGNOSIS: Final = 3.0
"""Seconds for finding out what an unclear error means."""
ALIVE: Final = 1.0
"""Seconds for finding out whether slurmrestd is alive at all when it let a request time out."""
DOUBT: Final = 30.0
"""Seconds for which a controller that did not answer is first asked by ping, once in `DIAGNOSIS` by one request of each
user who is in doubt, or by one of anybody's if all are.

slurmrestd tries for 9 to 20 s before it gives up, with one of its few threads for each request.
"""

_EVERYBODY: Final = ""
"""Stands for all users, none of whom has such a name."""

_log = structlog.get_logger(__name__)

Method = Literal["GET", "POST", "DELETE"]
Parsed = TypeVar("Parsed")


class RestClient:
    """One system's slurmrestd.

    Nothing is ever sent twice. Each request has a connection of its own: slurmrestd closes idle ones when it pleases,
    and of a submission on a connection that just broke nobody knows whether it went through.
    """

    def __init__(self, system: str, url: str, version: ApiVersion, timeout: float) -> None:
        """Keep the address; connections are opened at the first request. `timeout` is in seconds."""
        self.system = system
        self.version = version
        self._url = url.rstrip("/")
        self._timeout = timeout
        self._http = HttpClient(connections=MAX_CONNECTIONS, reuse=False)
        self._reading = asyncio.Semaphore(LARGE_AT_A_TIME)
        self._doubts = Doubts(DOUBT)
        self._pinged = Recent[str, bool](MAX_USERS, lambda: asyncio.get_running_loop().time())

    async def close(self) -> None:
        """Close the connections."""
        await self._http.close()

    async def controller(
        self,
        principal: Principal,
        method: Method,
        path: str,
        parse: Callable[[int, Any], Parsed],
        *,
        query: Query | None = None,
        body: Any = None,
    ) -> Parsed:
        """Ask slurmctld through ``/slurm/<version>/<path>`` and return what `parse` makes of status and answer.

        Raises:
            SchedulerUnavailable: slurmrestd or slurmctld cannot be reached.
            TimedOut: No answer within the time-out.
            Forbidden: The token is refused.
            GatewayError: What `parse` raises; `Unclear` is replaced by what it turns out to be.
        """
        path = f"slurm/{self.version.name}/{path}"
        if self._doubts.hold(principal.username):
            await self._ask_whether_up(principal)
        try:
            answer = await self.ask(principal, method, path, parse, query=query, body=body)
        except Unclear as error:
            raise await self._explained(principal, error) from error
        except DaemonDown:
            self._doubt(principal)
            raise
        except TimedOut:
            # Whether a submission went through nobody knows; anything else may be sent again.
            if await self._lives(principal):
                self._doubt(principal)
                if method != "POST":
                    raise SchedulerUnavailable(f"slurmctld did not answer within {self._timeout:g} s") from None
            raise
        self._doubts.end(principal.username)
        return answer

    def _doubt(self, principal: Principal) -> None:
        self._doubts.begin(principal.username)
        self._keep_from_asking(principal)

    def _askers(self, principal: Principal) -> tuple[str, ...]:
        """Return whose questions a user's question stands for: everybody's only if everybody is in doubt."""
        return (principal.username, _EVERYBODY) if self._doubts.shared else (principal.username,)

    def _keep_from_asking(self, principal: Principal) -> None:
        until = asyncio.get_running_loop().time() + DIAGNOSIS
        for asker in self._askers(principal):
            self._pinged.keep(asker, True, until)

    async def _ask_whether_up(self, principal: Principal) -> None:
        """Return if the controller of which there is doubt answers a ping; ask only if nobody just did.

        Raises:
            SchedulerUnavailable: It does not.
            Forbidden: It does not accept the token.
        """
        askers = self._askers(principal)
        if any(map(self._pinged.get, askers)):
            raise SchedulerUnavailable("slurmctld does not answer")
        self._keep_from_asking(principal)
        verdict = await self._verdict(principal)
        if verdict is PingResult.TOKEN_REFUSED:
            # It says nothing of the controller, and keeps nobody else from asking.
            self._pinged.forget(_EVERYBODY)
            raise Forbidden("Slurm does not accept the token")
        if verdict is PingResult.UP:
            for asker in askers:
                self._pinged.forget(asker)
        else:
            self._doubt(principal)
            raise SchedulerUnavailable("slurmctld does not answer")

    async def _lives(self, principal: Principal) -> bool:
        """Return whether slurmrestd itself answers: what asks the database does not wait for the controller."""
        try:
            async with asyncio.timeout(ALIVE):
                await self.database(principal, "tres", by_database)
        except (GatewayError, TimeoutError):
            return False
        return True

    async def database(
        self,
        principal: Principal,
        path: str,
        parse: Callable[[int, Any], Parsed],
        *,
        query: Query | None = None,
    ) -> Parsed:
        """Ask slurmdbd through ``/slurmdb/<version>/<path>``; as `controller`."""
        return await self.ask(principal, "GET", f"slurmdb/{self.version.name}/{path}", parse, query=query)

    async def ask(
        self,
        principal: Principal,
        method: Method,
        path: str,
        parse: Callable[[int, Any], Parsed],
        *,
        query: Query | None = None,
        body: Any = None,
    ) -> Parsed:
        """Send one request and return what `parse` makes of status and answer: JSON, or text if it is none."""
        # Quoted here: slurmrestd reads no comma and no colon in a query as they are.
        url = URL(f"{self._url}/{path}" + (f"?{urlencode(query)}" if query else ""), encoded=True)
        try:
            async with asyncio.timeout(self._timeout):
                status, content = await self._exchange(principal, method, url, body)
                return await self._read(method, status, content, parse)
        except GatewayError as error:
            # The daemon's own words are in it, may be of the token, and have no end.
            error.message = clipped(error.message, MAX_WORDS, principal.token)
            error.args = (error.message,)
            error.caused_by = tuple(masked(line, principal.token) for line in error.caused_by)
            raise
        except (TimeoutError, TooSlow):
            unsure = "; the job may have been submitted all the same" if method == "POST" else ""
            raise TimedOut(f"slurmrestd did not answer within {self._timeout:g} s{unsure}") from None
        except ServiceError as error:
            _log.warning("slurm.rest_failed", system=self.system, path=path, error=str(error))
            if isinstance(error, Unusable):
                unsure = "; the job may have been submitted all the same" if method == "POST" else ""
                raise CommandFailed(f"The answer of slurmrestd cannot be used: {error}{unsure}") from None
            raise _broken(error, method) from None

    async def _read(self, method: Method, status: int, content: bytes, parse: Callable[[int, Any], Parsed]) -> Parsed:
        """Return what `parse` makes of an answer, of a large one in a thread.

        Raises:
            BadAnswer: It makes no sense, in a way that `parse` has no words for.
            GatewayError: As `parse` says.
        """

        def understood() -> Parsed:
            try:
                return parse(status, _decoded(content, large=len(content) >= LARGE))
            except SENSELESS as error:
                unsure = "; the job may have been submitted all the same" if method == "POST" else ""
                raise BadAnswer(f"slurmrestd's answer makes no sense{unsure}") from error

        if len(content) < LARGE:
            return understood()
        await self._reading.acquire()
        reading = asyncio.get_running_loop().run_in_executor(None, understood)
        # A thread cannot be stopped: whoever leaves it does not free its place.
        reading.add_done_callback(self._done)
        return await asyncio.shield(reading)

    @contained("slurm.rest.reading")
    def _done(self, _: "asyncio.Future[Any]") -> None:
        self._reading.release()

    async def _exchange(self, principal: Principal, method: Method, url: URL, body: Any) -> tuple[int, bytes]:
        headers = {"X-SLURM-USER-NAME": principal.username, "X-SLURM-USER-TOKEN": principal.bearer}
        if principal.request_id is not None:
            headers["X-Request-ID"] = principal.request_id
        if principal.correlation_id is not None:
            headers["X-Correlation-ID"] = principal.correlation_id
        trace_headers(headers)
        headers["Accept"] = "application/json"
        # Asked to close the connection, slurmrestd 22.05 sends a header after the body; so it is closed from here.
        headers["Connection"] = "keep-alive"
        # A redirect would carry the user's token to wherever it points.
        answer = await self._http.ask(method, url, seconds=self._timeout, most=MAX_ANSWER, headers=headers, json=body)
        note_exchange(str(url), answer.status)
        return answer.status, answer.content

    async def _explained(self, principal: Principal, unclear: Unclear) -> GatewayError:
        """Find out whether an error that says nothing comes from a controller that is down or from a refused token."""
        verdict = await self._verdict(principal)
        if verdict is PingResult.TOKEN_REFUSED:
            return Forbidden(f"Slurm does not accept the token: {unclear.message}")
        if verdict is PingResult.UP:
            return CommandFailed(unclear.message)
        self._doubt(principal)
        return SchedulerUnavailable(f"Unable to contact slurm controller: {unclear.message}")

    async def _verdict(self, principal: Principal) -> "PingResult":
        """Judge controller and token by a ping.

        Of v0.0.38 that fails in the same way whether the controller is down or the token is refused; then the database
        is another judge of the token.
        """
        verdict = PingResult.UNKNOWN
        try:
            async with asyncio.timeout(DIAGNOSIS):
                verdict = await self.ask(principal, "GET", f"slurm/{self.version.name}/ping", by_ping)
                if verdict is PingResult.UNKNOWN:
                    verdict = await self.database(principal, "tres", by_database)
        except (GatewayError, TimeoutError):
            pass
        return verdict


class PingResult(Enum):
    """What a ping says of the controller and the token."""

    UP = "up"
    DOWN = "down"
    TOKEN_REFUSED = "token refused"  # noqa: S105 (no secret)
    UNKNOWN = "unknown"


def by_ping(_: int, answer: object) -> PingResult:
    """Judge by the answer of ``/slurm/<version>/ping``."""
    up, said = cluster.controllers(answer)
    if up:
        return PingResult.UP
    if "Protocol authentication error" in said or numbers(problems(answer)) & REFUSED_TOKEN:
        return PingResult.TOKEN_REFUSED
    return PingResult.DOWN if said else PingResult.UNKNOWN


def by_database(_: int, answer: object) -> PingResult:
    """Judge by an answer of the accounting database."""
    return PingResult.TOKEN_REFUSED if numbers(problems(answer)) & REFUSED_TOKEN else PingResult.UNKNOWN


def _decoded(content: bytes, *, large: bool = False) -> Any:
    text = content.decode("utf-8", "replace")
    try:
        return decoded_in_turns(text) if large else json.loads(with_whole_characters(text))
    except (ValueError, RecursionError):
        return text


def _broken(error: ServiceError, method: Method) -> SchedulerUnavailable:
    if method == "POST" and not isinstance(error, Unreachable):
        words = "slurmrestd broke off the connection; the job may have been submitted all the same"
        return SchedulerUnavailable(words, retry_after=None)
    return SchedulerUnavailable("slurmrestd cannot be reached")
