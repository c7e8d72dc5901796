"""Long-lived responses: each has an owner, counts against bounds, is told when to end, and is seen in logs and metrics.

A request that streams holds one for as long as it runs. Admission leaves those out of account: they wait more than they
work. There are two sorts. One that ends by itself (a file, an archive) may finish when the process stops or takes up a
changed configuration, and after its token has expired, as any request that was begun in time. One that would go on for
as long as its client stays (a socket, events) is told to close by each of these.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import structlog

from hpcgate.auth import Principal
from hpcgate.errors import RateLimited, Unavailable
from hpcgate.telemetry.containment import contained

log = structlog.stdlib.get_logger(__name__)

RETRY_AFTER = "5"

LOOK = 30.0
"""Most seconds between looks at the clock that tokens expire by: that of the loop knows nothing of its being set."""


@dataclass(frozen=True, slots=True)
class Bound:
    """How many streams there may be at a time: all users together, and of one user."""

    most: int
    most_per_user: int


class Stream:
    """One that is under way.

    Attributes:
        kind: What it is, for logs and metrics: ``download``, ``upload``, ``archive``, ``listing``, ``socket``, ...
        owner: The user's name.
        system: The system's name.
        endless: Whether it goes on for as long as its client stays.
        closing: Is set when it is to end soon; `reason` says why.
        reason: ``stop``, ``reload``, ``expired``, ``revoked``, ``longest`` or ``stalled``, or nothing.
        principal: Whose it is, and by which token; None where nobody has to show one.
        timer: When its token is looked at again.
    """

    __slots__ = ("closing", "endless", "kind", "owner", "principal", "reason", "since", "system", "timer")

    def __init__(
        self, kind: str, owner: str, system: str, *, endless: bool, principal: Principal | None = None
    ) -> None:
        self.kind = kind
        self.principal = principal
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
        apart: Bounds of kinds that have their own, and are left out of those of all others.

    Attributes:
        begun: How many have begun since the process started, by kind.
        ended: How many have ended, by kind and by what ended them: ``done``, ``failed``, ``gone``, ``stop``,
            ``reload``, ``expired``, ``revoked``, ``longest`` or ``stalled``.
    """

    def __init__(
        self,
        most: int,
        most_per_user: int,
        *,
        leeway: float = 0,
        clock: Callable[[], float] = time.time,
        look: float = LOOK,
        apart: Mapping[str, Bound] | None = None,
    ) -> None:
        self._bound = Bound(most, most_per_user)
        self._apart = apart or {}
        self._leeway = leeway
        self._clock = clock
        self._look = look
        self._open: set[Stream] = set()
        self._taken: Counter[str] = Counter()
        self._owners: Counter[tuple[str, str]] = Counter()
        self._winding_up = ""
        self.begun: Counter[str] = Counter()
        self.ended: Counter[tuple[str, str]] = Counter()

    def __repr__(self) -> str:
        return f"<Streams {self.taken}/{self._bound.most}>"

    @property
    def taken(self) -> int:
        """How many are under way now."""
        return len(self._open)

    def follow(self, before: "Streams") -> None:
        """Go on counting where another gateway's left off."""
        self.begun, self.ended = before.begun, before.ended

    @contextmanager
    def hold(
        self,
        kind: str,
        principal: Principal | None,
        system: str,
        *,
        endless: bool = False,
        longest: float | None = None,
    ) -> Iterator[Stream]:
        """Count as one stream of the user for as long as the context lasts.

        Args:
            kind: What it is.
            principal: Whose it is, and by which token; None where nobody has to show one.
            system: The system's name.
            endless: Whether it goes on for as long as its client stays; then it ends with the token.
            longest: Seconds after which it is told to end at the latest.

        Raises:
            RateLimited: There are too many.
            Unavailable: It would be told to end at once.
        """
        owner = "" if principal is None else principal.username
        group = kind if kind in self._apart else ""
        self._require_room(group, owner)
        if endless and self._winding_up:
            raise Unavailable("The gateway is about to stop", headers={"Retry-After": "1"})
        stream = Stream(kind, owner, system, endless=endless, principal=principal)
        self._take(stream, group)
        # One that ends by itself has its line in the access log soon.
        tell = log.info if endless else log.debug
        tell("stream.begin", kind=kind, user=owner, system=system)
        outcome = "failed"
        try:
            self._set_end(stream, principal if endless else None, longest)
            yield stream
            outcome = stream.reason or "done"
        except asyncio.CancelledError:
            outcome = stream.reason or "gone"
            raise
        finally:
            self._give_back(stream, group)
            self.ended[kind, outcome] += 1
            seconds = round(time.monotonic() - stream.since, 3)
            tell("stream.end", kind=kind, user=owner, system=system, seconds=seconds, outcome=outcome)

    def _take(self, stream: Stream, group: str) -> None:
        self._open.add(stream)
        self._taken[group] += 1
        self._owners[group, stream.owner] += 1
        self.begun[stream.kind] += 1

    def _give_back(self, stream: Stream, group: str) -> None:
        self._open.discard(stream)
        if stream.timer is not None:
            stream.timer.cancel()
        self._taken[group] -= 1
        self._owners[group, stream.owner] -= 1
        if not self._owners[group, stream.owner]:
            del self._owners[group, stream.owner]

    def _require_room(self, group: str, owner: str) -> None:
        bound = self._apart.get(group, self._bound)
        if self._owners[group, owner] >= bound.most_per_user:
            raise RateLimited(
                f"You have {bound.most_per_user} streams under way; wait for one to end.",
                headers={"Retry-After": RETRY_AFTER},
            )
        if self._taken[group] >= bound.most:
            raise RateLimited("Too many streams are under way.", headers={"Retry-After": RETRY_AFTER})

    def _set_end(self, stream: Stream, principal: Principal | None, longest: float | None) -> None:
        """Have a stream end with a token or after some time, whichever comes first."""
        ends = []
        if principal is not None and principal.expires_at is not None:
            ends.append((principal.expires_at + self._leeway, "expired"))
        if longest is not None:
            ends.append((self._clock() + longest, "longest"))
        if ends:
            self._end_by(stream, *min(ends))

    @contained("stream.expiry")
    def _end_by(self, stream: Stream, end: float, reason: str) -> None:
        """Have a stream end at a time, in Unix seconds."""
        left = end - self._clock()
        if left <= 0:
            stream.close(reason)
            return
        loop = asyncio.get_running_loop()
        stream.timer = loop.call_later(min(left, self._look), self._end_by, stream, end, reason)

    def endless(self) -> list[list[Stream]]:
        """Return the streams that go on for as long as their clients stay, each token's on one system together."""
        found: dict[tuple[str, str], list[Stream]] = {}
        for stream in self._open:
            if stream.endless and not stream.reason and stream.principal is not None:
                found.setdefault((stream.principal.token, stream.system), []).append(stream)
        return list(found.values())

    def wind_up(self, reason: str) -> None:
        """Have those end that would not by themselves, and take no more of them."""
        self._winding_up = reason
        for stream in self._open:
            if stream.endless:
                stream.close(reason)
