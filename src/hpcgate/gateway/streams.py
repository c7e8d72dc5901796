"""Long-lived responses: each has an owner, counts against bounds, is told when to end, and is seen in logs and metrics.

A request that streams holds one for as long as it runs. Admission leaves those out of account: they wait more than they
work. There are two sorts. One that ends by itself (a file, an archive) may finish when the process stops or takes up a
changed configuration, and after its token has expired, as any request that was begun in time. One that would go on for
as long as its client stays (a socket, events) is told to close by each of these.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog

from hpcgate.auth import Principal
from hpcgate.errors import RateLimited, Unavailable
from hpcgate.telemetry.containment import contained

log = structlog.stdlib.get_logger(__name__)

RETRY_AFTER = "5"

LOOK = 30.0
"""Most seconds between looks at the clock that tokens expire by: that of the loop knows nothing of its being set."""


class Stream:
    """One that is under way.

    Attributes:
        kind: What it is, for logs and metrics: ``download``, ``upload``, ``archive``, ``listing``, ``socket``, ...
        owner: The user's name.
        system: The system's name.
        endless: Whether it goes on for as long as its client stays.
        closing: Is set when it is to end soon; `reason` says why.
        reason: ``stop``, ``reload``, ``expired`` or ``stalled``, or nothing.
        timer: When its token is looked at again.
    """

    __slots__ = ("closing", "endless", "kind", "owner", "reason", "since", "system", "timer")

    def __init__(self, kind: str, owner: str, system: str, *, endless: bool) -> None:
        self.kind = kind
        self.owner = owner
        self.system = system
        self.endless = endless
        self.closing = asyncio.Event()
        self.reason = ""
        self.since = time.monotonic()
        self.timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        state = f"closing for a {self.reason}" if self.reason else "open"
        return f"<Stream {self.kind} of {self.owner} on {self.system}, {state}>"

    def close(self, reason: str) -> None:
        """Have it end soon. Whoever runs it waits for `closing` beside all else."""
        if not self.reason:
            self.reason = reason
            self.closing.set()


class Streams:
    """Those of one gateway.

    Args:
        most: At a time, all users together.
        most_per_user: Of one user at a time.
        leeway: Seconds that a token counts after it has expired.
        clock: What tokens expire by, in Unix seconds.
        look: Seconds between looks at it.

    Attributes:
        begun: How many have begun since the process started, by kind.
        ended: How many have ended, by kind and by what ended them: ``done``, ``failed``, ``gone``, ``stop``,
            ``reload``, ``expired`` or ``stalled``.
    """

    def __init__(
        self,
        most: int,
        most_per_user: int,
        *,
        leeway: float = 0,
        clock: Callable[[], float] = time.time,
        look: float = LOOK,
    ) -> None:
        self._most = most
        self._most_per_user = most_per_user
        self._leeway = leeway
        self._clock = clock
        self._look = look
        self._open: set[Stream] = set()
        self._owners: Counter[str] = Counter()
        self._winding_up = ""
        self.begun: Counter[str] = Counter()
        self.ended: Counter[tuple[str, str]] = Counter()

    def __repr__(self) -> str:
        return f"<Streams {self.taken}/{self._most}>"

    @property
    def taken(self) -> int:
        """How many are under way now."""
        return len(self._open)

    def follow(self, before: "Streams") -> None:
        """Go on counting where another gateway's left off."""
        self.begun, self.ended = before.begun, before.ended

    @contextmanager
    def hold(self, kind: str, principal: Principal | None, system: str, *, endless: bool = False) -> Iterator[Stream]:
        """Count as one stream of the user for as long as the context lasts.

        Args:
            kind: What it is.
            principal: Whose it is, and by which token; None where nobody has to show one.
            system: The system's name.
            endless: Whether it goes on for as long as its client stays; then it ends with the token.

        Raises:
            RateLimited: There are too many.
            Unavailable: It would be told to end at once.
        """
        owner = "" if principal is None else principal.username
        if self._owners[owner] >= self._most_per_user:
            raise RateLimited(
                f"You have {self._most_per_user} streams under way; wait for one to end.",
                headers={"Retry-After": RETRY_AFTER},
            )
        if self.taken >= self._most:
            raise RateLimited("Too many streams are under way.", headers={"Retry-After": RETRY_AFTER})
        if endless and self._winding_up:
            raise Unavailable("The gateway is about to stop", headers={"Retry-After": "1"})
        stream = Stream(kind, owner, system, endless=endless)
        self._open.add(stream)
        self._owners[owner] += 1
        self.begun[kind] += 1
        # One that ends by itself has its line in the access log soon.
        tell = log.info if endless else log.debug
        tell("stream.begin", kind=kind, user=owner, system=system)
        outcome = "failed"
        try:
            if endless and principal is not None and principal.expires_at is not None:
                self._end_by(stream, principal.expires_at + self._leeway)
            yield stream
            outcome = stream.reason or "done"
        except asyncio.CancelledError:
            outcome = stream.reason or "gone"
            raise
        finally:
            self._open.discard(stream)
            if stream.timer is not None:
                stream.timer.cancel()
            self._owners[owner] -= 1
            if not self._owners[owner]:
                del self._owners[owner]
            self.ended[kind, outcome] += 1
            seconds = round(time.monotonic() - stream.since, 3)
            tell("stream.end", kind=kind, user=owner, system=system, seconds=seconds, outcome=outcome)

    @contained("stream.expiry")
    def _end_by(self, stream: Stream, end: float) -> None:
        """Have a stream end at a time, in Unix seconds."""
        left = end - self._clock()
        if left <= 0:
            stream.close("expired")
            return
        loop = asyncio.get_running_loop()
        stream.timer = loop.call_later(min(left, self._look), self._end_by, stream, end)

    def wind_up(self, reason: str) -> None:
        """Have those end that would not by themselves, and take no more of them."""
        self._winding_up = reason
        for stream in self._open:
            if stream.endless:
                stream.close(reason)
