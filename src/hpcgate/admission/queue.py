"""Which requests are served, which wait for their turn, and which are refused, so that load never takes the loop."""

from collections.abc import Callable
from dataclasses import dataclass

from hpcgate.admission.askers import Asker, Stranger, User
from hpcgate.admission.line import Caller, Line

FLOOR = 32
"""As few as this are always served at a time, and may always wait."""
START = 128
"""As many may be served at a time before anything is known."""
IN_SERVICE = 0.2
"""Seconds that a request should take from its turn to its answer while the event loop is at its limit."""
IDLE = 0.1
"""The share of its time below which an event loop that rests has no time left."""
AMPLE = 0.3
"""The share from which on it has time for more at a time of one caller."""
SHRINK = 0.8
"""The limit on requests at a time falls to this share of itself with each look at a loop without time."""
CALM_AFTER = 1.0
"""Seconds for which the loop must have had time before callers no longer take turns."""
SHARE = 6
"""As many requests of one caller run at a time while callers take turns."""
SHARE_ALONE = 32
"""As many at least if there has been no other caller lately: many at a time share packets, and nobody waits behind
them."""
BEHIND_ONE = 0.025
"""Seconds for which the next caller to come may find the loop taken by one who was alone: so many more run."""
CALLER_MEMORY = 100
"""Looks for which a caller is remembered, once or twice."""
STRANGERS = 0.1
"""The share of the loop's time that callers without a verified token get while users are there."""
ACTIVE = 1.0
"""Seconds for which a user is there after the last request."""
SETTLING = 10
"""So many times as long requests may wait while many users log in at once, as after a restart."""
SETTLED = 2.0
"""Seconds for which that still holds when they have: what has come meanwhile must be done first."""
EVIDENCE = 0.25
"""The share of the longest wait for which a queue must have stood before it is said how fast it is served."""
READ_AHEAD = 1.0
"""Seconds before its turn from which on a request is read. What is parsed long before is no longer at the processor's
hand when it is served; and what is refused in the end has not been parsed in vain."""
LOOKS_AHEAD = 4
"""So many looks ahead at least: whoever is left unread is read at a look."""
BYTES_EACH = 16 * 1024
"""Bytes that each of the requests which may wait holds at most on average: heads, and the beginning of bodies."""
_MEMORY = 0.5
"""Seconds over which the rate of what is done is averaged."""


@dataclass(slots=True)
class Turn:
    """A request that is served.

    Attributes:
        asker: Who asks. It changes once the token was verified.
        generation: Since which look it runs.
        paid: Seconds that were counted for it in advance.
    """

    asker: Asker
    generation: int
    paid: float = 0.0


class Admission:
    """Decides which requests are served, which wait, and which are refused. Plain and synchronous.

    How many are served at a time follows what the loop does, not how fast it is. While it rests for less than a tenth
    of its time it is at its limit: then more at a time would only share the same time, and the limit falls to what is
    done within `IN_SERVICE` seconds (Little's law). While it rests and somebody waits, what runs waits for login nodes,
    and the limit doubles with every look.

    Whoever finds no room waits, callers in turn, for up to `max_delay` seconds. Who would wait for longer is refused at
    once: more than what is let in within `max_delay`, at the rate at which the line has been served so far, may not
    wait. He who has most waiting is refused first.

    While many users log in at once, as after a restart, and until what has come meanwhile is done, the loop is at its
    limit for a good reason and for seconds only: the clock of those who wait goes slower.

    At the limit callers take turns. A caller is a user whose token was verified before. Of one only `SHARE` requests
    run at a time, as far as they are no longer than the time between two looks; so one who asks for five hundred things
    at once waits for himself. All the others are strangers. They wait in a line of their own, addresses in turn, and
    while users are there they get `STRANGERS` of the loop's time: what each of them has cost is measured, and nothing
    is counted for who turns out to be a user.

    Attributes:
        now: The clock of those who wait, in seconds.

    Args:
        most: Requests at a time, those that wait included, those set aside apart; as many strangers may wait.
        max_delay: Seconds that a request waits to be served at most.
        uncounted: Returns how many of the requests under way do not count: streams, which last and cost little in
            between, and those that wait for a login. Can be set anew.
    """

    def __init__(self, most: int, max_delay: float, uncounted: Callable[[], int] = lambda: 0) -> None:
        self.most = most
        self.limit = min(START, most)
        self.share = SHARE
        self._share_alone = SHARE_ALONE
        self.running = 0
        self.refused = 0
        self.idle = 1.0
        self._users = Line(most)
        self._strangers = Line(most)
        self._strangers_running = 0
        self._held: dict[Asker, int] = {}
        self._generation = 0
        self._callers: set[Asker] = set()
        self._callers_before: set[Asker] = set()
        self._max_delay = max_delay
        self.count_uncounted = uncounted
        self.settling: Callable[[], bool] = lambda: False
        self._uncounted = 0
        self._settled = SETTLED
        self._calm = CALM_AFTER
        self.now = 0.0
        self._seen_user = -ACTIVE
        self._rate = 0.0
        self._bytes = 0
        self._credit = 0.0
        self._price = 0.0
        self._told = 0

    def __repr__(self) -> str:
        return f"<Admission limit={self.limit}/{self.most} waiting={self.waiting} refused={self.refused}>"

    @property
    def waiting(self) -> int:
        """How many wait to be served."""
        return self._users.waiting + self._strangers.waiting

    @property
    def busy(self) -> bool:
        """Whether callers take turns."""
        return self._calm < CALM_AFTER

    @property
    def users_there(self) -> bool:
        """Whether strangers have to leave time for others."""
        return self._users.waiting > 0 or self.now - self._seen_user < ACTIVE

    def begin(self, asker: Asker) -> Turn:
        """Take note that a request of a caller begins, and return what `end` wants to know."""
        turn = Turn(asker, self._generation)
        if isinstance(asker, Stranger):
            self._strangers_running += 1
            turn.paid = self._price
            self._credit -= turn.paid
        else:
            self._hold(asker)
        return turn

    def verified(self, turn: Turn, name: str) -> None:
        """Take note that the token of one who was a stranger is good: from here on it is a user's request."""
        if isinstance(turn.asker, Stranger):
            self._strangers_running -= 1
            self._credit += turn.paid
            turn.asker = User(name)
            turn.generation = self._generation
            self._hold(turn.asker)

    def end(self, turn: Turn, cost: float = 0.0) -> None:
        """Take note that it has ended.

        Args:
            turn: What `begin` returned.
            cost: The loop's seconds that a stranger has cost.
        """
        asker = turn.asker
        if isinstance(asker, Stranger):
            self._strangers_running -= 1
            self._price += (cost - self._price) / 16
            self._credit += turn.paid - cost
        elif turn.generation == self._generation:
            self._held[asker] -= 1
            self._users.unblock(asker)

    def _hold(self, user: User) -> None:
        self._held[user] = self._held.get(user, 0) + 1
        self._callers.add(user)
        self._seen_user = self.now

    def must_wait(self, asker: Asker, running: int) -> bool:
        """Say whether a request of this caller cannot be served at once."""
        if isinstance(asker, Stranger):
            return self._strangers.waiting > 0 or self.full(running) or not self._strangers_may()
        return self._has_share(asker) or self._users.of(asker) is not None or self.full(running)

    def _has_share(self, asker: Asker) -> bool:
        held = self._held.get(asker, 0)
        return (
            held >= self.share
            and self.busy
            and (held >= self._share_alone * self.share // SHARE or not self._alone(asker))
        )

    def _alone(self, asker: Asker) -> bool:
        for callers in (self._callers, self._callers_before):
            if len(callers) > 1 or (callers and asker not in callers):
                return False
        return True

    def _strangers_may(self) -> bool:
        if self._strangers_running >= max(1, int(self.limit * STRANGERS)):
            return False
        return self._credit > 0 or not self.users_there

    def full(self, running: int) -> bool:
        """Say whether so many requests, those aside included, leave no room for one more."""
        return running - self._uncounted >= self.limit

    def wait(self, caller: Caller, running: int) -> None:
        """Have a request wait for room, or refuse it if it would wait in vain."""
        line = self._line(caller.asker)
        if self._bytes + caller.size > self.most * BYTES_EACH or line.crowded(caller.asker):
            self._refuse(caller)
            return
        if line.filled:
            self._refuse(self._take(line, line.longest()[0], newest=True))
        line.add(caller)
        self._bytes += caller.size

    @property
    def ample(self) -> bool:
        """Whether somebody's next request would be left unread."""
        users = self._users
        return users.waiting >= users.ahead or users.waiting >= users.most or self._strangers.filled

    def crowded(self, asker: Asker) -> bool:
        """Say whether a request of this caller would be refused."""
        return self._line(asker).crowded(asker)

    def stays_unread(self, asker: Asker) -> bool:
        """Say whether a request of this caller is best left unread for now."""
        line = self._users if isinstance(asker, User) else self._strangers
        return (line.waiting >= line.ahead or line.waiting >= line.most) and line.has_most(asker)

    def _line(self, asker: Asker) -> Line:
        return self._users if isinstance(asker, User) else self._strangers

    def grow(self, caller: Caller, size: int) -> bool:
        """Count further bytes of a request that waits; False, and it is refused, if that is too much."""
        line = self._line(caller.asker)
        if self._bytes + size <= self.most * BYTES_EACH:
            self._bytes += size
            caller.size += size
            return True
        if line.remove(caller):
            self._bytes -= caller.size
            self._refuse(caller)
        return False

    def leave(self, caller: Caller) -> None:
        """Take note that the client of a request that waits has gone."""
        line = self._line(caller.asker)
        if line.remove(caller):
            self._bytes -= caller.size

    def _take(self, line: Line, asker: Asker, *, newest: bool = False) -> Caller:
        caller = line.take(asker, newest=newest)
        self._bytes -= caller.size
        return caller

    def feed(self, running: int) -> None:
        """Let in who waits while there is room: strangers as far as they may, users in turn."""
        while not self.full(running):
            if self._strangers.waiting and self._strangers_may():
                asker = next(iter(self._strangers.queues))
                self._strangers.queues.move_to_end(asker)
                running += self._let_in(self._strangers, asker)
                continue
            turns = self._users.queues
            if not turns:
                return
            asker = next(iter(turns))
            if self._has_share(asker):
                self._users.block(asker)
                continue
            turns.move_to_end(asker)
            running += self._let_in(self._users, asker)

    def _let_in(self, line: Line, asker: Asker) -> bool:
        caller = self._take(line, asker)
        if self.too_late(caller.since):
            self._refuse(caller)
            return False
        line.let_in += 1
        return caller.let_in()

    def too_late(self, since: float) -> bool:
        """Say whether who waits since then has waited for as long as anybody may."""
        return self.now - since > self._max_delay

    def look(self, *, idle: float, seconds: float, had: float, running: int, done: int) -> None:
        """Take note of what went on since the last look, and let in or refuse those who wait.

        Args:
            idle: For which share of the time the event loop had nothing to do.
            seconds: How long ago the last look was.
            had: Seconds of these that were the event loop's own: others may use the core as well.
            running: How many requests are served now, those aside included.
            done: How many were answered, those refused apart.
        """
        self.idle = idle
        self._uncounted = self.count_uncounted()
        self.running = running - self._uncounted
        self._settled = 0.0 if self.settling() else self._settled + seconds
        settling = self._settled < SETTLED
        self.now += seconds / (SETTLING if settling else 1)
        for line in (self._users, self._strangers):
            line.look(seconds)
            self._set_most(line, self.most if line is self._strangers else self.most - self.running)
        self._set_ahead(self._users, seconds)
        self._set_limit(done / seconds, seconds, settling=settling)
        # Credit that was not asked for is not kept for long, and neither is a debt.
        self._credit = max(-STRANGERS, min(self._credit + STRANGERS * had, STRANGERS * 2 * had))
        # What has not ended by now waits for something else than the loop.
        self._held.clear()
        self._generation += 1
        for asker in list(self._users.blocked):
            self._users.unblock(asker)
        if self._generation % CALLER_MEMORY == 0:
            self._callers, self._callers_before = set(), self._callers
        self.feed(running)
        self._squeeze_in()
        for line in (self._users, self._strangers):
            for caller in line.late(self.now - self._max_delay):
                self._bytes -= caller.size
                self._refuse(caller)

    def _set_most(self, line: Line, most: int) -> None:
        """Set how many may wait in a line: as many as are let in within the longest wait."""
        if line.stood >= EVIDENCE * self._max_delay and self._settled >= SETTLED:
            most = min(most, max(FLOOR, int(line.rate * self._max_delay)))
        line.most = max(0, most)

    def _set_ahead(self, line: Line, seconds: float) -> None:
        """Set how many are read before their turn; all of them while nothing is known of how fast they are served."""
        rate = max(line.rate, self._rate)
        if self._settled < SETTLED:
            line.ahead = line.most
        else:
            line.ahead = max(START, int(rate * max(READ_AHEAD, LOOKS_AHEAD * seconds)))

    def _set_limit(self, rate: float, seconds: float, *, settling: bool) -> None:
        self._rate += min(1.0, seconds / _MEMORY) * (rate - self._rate)
        if self._calm >= CALM_AFTER:
            # After a rest the average says nothing.
            self._rate = max(self._rate, rate)
        if self.idle < IDLE and not settling:
            self._calm = 0.0
            least = max(FLOOR, int(self._rate * IN_SERVICE))
            self._share_alone = max(SHARE_ALONE, int(self._rate * BEHIND_ONE))
            self.limit = min(self.most, max(least, int(self.limit * SHRINK)))
            self.share = SHARE
            return
        self._calm += seconds
        if self._users.waiting and self.idle >= AMPLE and not settling:
            self.share = min(self.limit, self.share * 2)
        kept_out = self._users.waiting or (self._strangers.waiting and not self.users_there)
        if kept_out or (self._calm >= CALM_AFTER and self.running >= self.limit // 2):
            self.limit = min(self.most, self.limit * 2)
        elif self._calm >= CALM_AFTER and self.running < self.limit // 4:
            self.limit = min(self.most, max(START, int(self.limit * SHRINK)))

    def _squeeze_in(self) -> None:
        """Let in a few callers behind whom another has far more waiting, though there is no room.

        When the limit falls it is below what runs already, which is that one's: the others would wait until all of it
        has ended.
        """
        queues = self._users.queues
        most = max(map(len, queues.values()), default=0)
        modest = [asker for asker, queue in queues.items() if len(queue) + 1 < most and not self._has_share(asker)]
        for asker in modest[:SHARE]:
            queues.move_to_end(asker)
            self._let_in(self._users, asker)

    def clear(self) -> None:
        """Refuse all who wait, for the process is about to end."""
        for line in (self._users, self._strangers):
            while line.waiting:
                self._refuse(self._take(line, next(iter(line.queues or line.blocked))))

    def news(self) -> int:
        """Return how many were refused since the last call."""
        fresh, self._told = self.refused - self._told, self.refused
        return fresh

    def _refuse(self, caller: Caller) -> None:
        self.refused += 1
        caller.turn_away()
