"""Authorisation by an OpenFGA service."""

import asyncio
import re
import time
from enum import Enum
from functools import partial
from hashlib import sha256

import structlog

from hpcgate.auth.principal import Principal
from hpcgate.config import OpenFgaSettings
from hpcgate.errors import Forbidden, Unavailable
from hpcgate.outbound.client import Answer, HttpClient, ServiceError, TooSlow, Unreachable
from hpcgate.sharing.flights import Flights
from hpcgate.sharing.recent import Recent
from hpcgate.telemetry.base import trace_headers

DEFAULT_TIMEOUT = 60.0
"""Seconds, where the setting is null."""
MAX_ANSWER = 64 * 1024
"""Most bytes of an answer."""
MAX_CACHED = 10_000
"""Most decisions that are remembered."""

_PLAIN = re.compile(rb"[^ -~]|\s")
"""What stands between the letters of a text in another encoding than UTF-8, or before it."""

log = structlog.get_logger()

Question = tuple[str, str, bytes]
"""User name, system and SHA-256 of the token: another token of the same user may be judged differently."""


class Decision(Enum):
    """What came of a question."""

    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"


class OpenFga:
    """Asks an OpenFGA check endpoint, with the user's own token, whether the user is a member of the system."""

    def __init__(self, settings: OpenFgaSettings) -> None:
        """Keep the settings; connections are opened at the first question."""
        self._settings = settings
        self._http = HttpClient(connections=settings.max_connections)
        self._asking = Flights[Question, Decision]("auth.openfga")
        self._decided = Recent[Question, Decision](MAX_CACHED)
        self._closed = False

    def __repr__(self) -> str:
        """Tell how many decisions are remembered and under way."""
        return f"<OpenFga {len(self._decided)} decided, {len(self._asking)} under way>"

    async def authorize(self, principal: Principal, system: str) -> None:
        """Return if the service lets the principal use the system of that configured name.

        Identical questions at the same time share one request.

        Raises:
            Forbidden: It says no, or refuses the token.
            Unavailable: It cannot be reached, does not answer in time, or answers with an error.
        """
        question = (principal.username, system, sha256(principal.token.encode("utf-8", "surrogatepass")).digest())
        decision = self._decided.get(question)
        if decision is None:
            decision = await self._shared(question, principal)
        if decision is Decision.NO:
            raise Forbidden(f"The user {principal.username} is not authorized for the system {system}")
        if decision is Decision.UNKNOWN:
            raise Unavailable("The authorization service is not available", headers={"Retry-After": "1"})

    async def close(self) -> None:
        """End what is under way and close the connections; further questions are answered with Unavailable."""
        self._closed = True
        await self._asking.close()
        await self._http.close()

    async def _shared(self, question: Question, principal: Principal) -> Decision:
        if self._closed:
            return Decision.UNKNOWN
        task = self._asking.start(question, partial(self._ask, question, principal))
        await asyncio.wait((task,))  # whoever is cancelled leaves the request to the others
        return Decision.UNKNOWN if task.cancelled() else task.result()

    async def _ask(self, question: Question, principal: Principal) -> Decision:
        started = time.monotonic()
        reason = None
        try:
            decision, reason = await self._post(question, principal)
        except TooSlow:
            decision, reason = Decision.UNKNOWN, "no answer within its time-out"
        except Unreachable:
            # What those who watch the log know it by.
            decision, reason = Decision.UNKNOWN, "ClientConnectorError"
        except ServiceError as error:
            decision, reason = Decision.UNKNOWN, str(error)
        if decision is Decision.UNKNOWN:
            seconds = round(time.monotonic() - started, 3)
            log.warning("openfga.failed", system=question[1], user=question[0], reason=reason, seconds=seconds)
        elif self._settings.cache:
            self._decided.keep(question, decision, time.monotonic() + self._settings.cache)
        return decision

    async def _post(self, question: Question, principal: Principal) -> tuple[Decision, str | None]:
        username, system, _ = question
        body = {"user": f"user:{username}", "relation": "member", "object": f"vcluster:{system}"}
        headers = {"Authorization": f"Bearer {principal.bearer}"}
        if principal.request_id is not None:
            headers["X-Request-ID"] = principal.request_id
        if principal.correlation_id is not None:
            headers["X-Correlation-ID"] = principal.correlation_id
        trace_headers(headers)
        # A redirect would carry the user's token to wherever it points.
        seconds = self._settings.timeout or DEFAULT_TIMEOUT
        url = self._settings.url
        answer = await self._http.ask("POST", url, seconds=seconds, most=MAX_ANSWER, headers=headers, json=body)
        if answer.status in (401, 403):
            return Decision.NO, None
        if answer.status != 200:
            return Decision.UNKNOWN, f"HTTP status {answer.status}"
        if answer.is_page:
            return Decision.UNKNOWN, "a page for people"
        decision = _decision(answer)
        return decision, "an answer that cannot be read" if decision is Decision.UNKNOWN else None


def _decision(answer: Answer) -> Decision:
    """Read the body of a 200: OpenFGA says ``allowed``; a service that does not say it means yes by the status.

    What was to say it, and says it in another way or place than OpenFGA, is neither.
    """
    try:
        said = answer.json()
    except ValueError:
        said = None
        meant = _PLAIN.sub(b"", answer.content)[:1] == b"{"
    else:
        meant = False
    if isinstance(said, dict) and "allowed" in said:
        return Decision.YES if said["allowed"] is True else Decision.NO
    return Decision.UNKNOWN if meant or b"allowed" in _PLAIN.sub(b"", answer.content).lower() else Decision.YES
