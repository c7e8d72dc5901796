"""Who is served, who waits, and who is refused."""

import itertools
import random
from collections import Counter

import pytest

from hpcgate.admission.askers import Asker, Stranger, User
from hpcgate.admission.queue import (
    BEHIND_ONE,
    BYTES_EACH,
    CALLER_MEMORY,
    EVIDENCE,
    FLOOR,
    IN_SERVICE,
    SETTLED,
    SETTLING,
    SHARE,
    SHARE_ALONE,
    START,
    STRANGERS,
    Admission,
)

TICK = 0.1


class Caller:
    def __init__(
        self, asker: Asker | str = "somebody", *, gone: bool = False, size: int = 100, since: float = 0.0
    ) -> None:
        self.asker = User(asker) if isinstance(asker, str) else asker
        self.size = size
        self.since = since
        self.gone = gone
        self.fate = ""

    def let_in(self) -> bool:
        self.fate = "in"
        return not self.gone

    def turn_away(self) -> None:
        self.fate = "away"


def look(admission: Admission, *, idle: float = 0.9, running: int = 0, done: int = 0) -> None:
    admission.look(idle=idle, seconds=TICK, had=TICK, running=running, done=done)


def looks(admission: Admission, seconds: float, *, idle: float = 0.9, running: int = 0, done: int = 0) -> None:
    for _ in range(round(seconds / TICK)):
        look(admission, idle=idle, running=running, done=done)


def stranger(number: int = 1, *, bearer: bool = True) -> Stranger:
    return Stranger(f"192.0.2.{number}", bearer)


class Loop:
    """An event loop that does so many requests a second, whatever the machine, under a closed loop of clients.

    It has a share of a core to itself.
    """

    def __init__(self, admission: Admission, rate: float, core: float = 1.0) -> None:
        self.core = core
        self.admission = admission
        self.rate = rate
        self.running: list[tuple[SimulatedCaller, object]] = []
        self.good: Counter[Asker] = Counter()
        self.refused: Counter[Asker] = Counter()
        self.waits: list[float] = []
        self.now = 0.0
        self.room = 0.0

    def ask(self, asker: Asker, *, again: bool = True) -> None:
        caller = SimulatedCaller(self, asker, again=again)
        if self.admission.must_wait(asker, len(self.running)):
            self.admission.wait(caller, len(self.running))
        else:
            caller.let_in()

    def tick(self, *, idle: float | None = None) -> None:
        """A tenth of a second: as many requests are done as there is time for."""
        self.now += TICK
        self.room += self.rate * TICK
        done = 0
        while self.running and self.room >= 1:
            self.room -= 1
            done += 1
            caller, turn = self.running.pop(0)
            self.good[caller.asker] += 1
            self.admission.end(turn, self.core / self.rate)  # type: ignore[arg-type]
            self.admission.feed(len(self.running))
            if caller.again:
                self.ask(caller.asker)
        had_time = self.room >= 1
        self.room = min(self.room, 0.99)
        self.admission.look(
            idle=(0.9 if had_time else 0.0) if idle is None else idle,
            seconds=TICK,
            had=self.core * TICK,
            running=len(self.running),
            done=done,
        )

    def run(self, seconds: float) -> None:
        for _ in range(round(seconds / TICK)):
            self.tick()


class SimulatedCaller:
    """A client that asks again when it has its answer, and a second after a refusal."""

    def __init__(self, loop: Loop, asker: Asker, *, again: bool) -> None:
        self.loop = loop
        self.asker = asker
        self.again = again
        self.size = 100
        self.since = loop.admission.now
        self.came = loop.now

    def let_in(self) -> bool:
        self.loop.waits.append(self.loop.now - self.came)
        self.loop.running.append((self, self.loop.admission.begin(self.asker)))
        return True

    def turn_away(self) -> None:
        self.loop.refused[self.asker] += 1


RATES = (40.0, 250.0, 3000.0)
"""Requests a second of slow machines and fast ones."""


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("clients", [100, 500, 1000, 2000])
def test_a_closed_loop_is_served_at_the_full_rate_and_nobody_is_refused_who_can_be_served_in_time(
    rate: float, clients: int
) -> None:
    admission = Admission(5000, 10.0)
    loop = Loop(admission, rate)
    for number in range(clients):
        loop.ask(User(f"u{number % 200}"))
    loop.run(30)
    assert loop.good.total() >= 0.99 * rate * 30 - 1
    if clients <= 0.9 * rate * 10:
        assert not loop.refused
    assert max(loop.waits) <= 10.0 + 2 * TICK


@pytest.mark.parametrize("rate", RATES)
def test_five_times_the_rate_in_an_open_loop_loses_nothing_and_waits_are_bounded(rate: float) -> None:
    admission = Admission(5000, 10.0)
    loop = Loop(admission, rate)
    names = itertools.cycle([User(f"u{number}") for number in range(200)])
    for _ in range(300):
        for _ in range(int(5 * rate * TICK)):
            loop.ask(next(names), again=False)
        loop.tick()
    assert loop.good.total() >= 0.95 * rate * 30
    assert max(loop.waits) <= 10.0 + 2 * TICK
    assert admission.waiting <= 5000


@pytest.mark.parametrize("rate", RATES)
def test_as_many_are_served_at_a_time_as_are_done_in_time_when_the_loop_is_at_its_limit(rate: float) -> None:
    admission = Admission(5000, 10.0)
    looks(admission, 6, idle=0.0, running=START, done=int(rate * TICK))
    wanted = max(FLOOR, rate * IN_SERVICE)
    assert 0.9 * wanted <= admission.limit <= 1.1 * wanted
    looks(admission, 6, idle=0.0, running=START, done=0)
    assert admission.limit == FLOOR


def test_the_limit_falls_step_by_step_and_rises_while_the_loop_has_time_and_somebody_waits() -> None:
    admission = Admission(5000, 10.0)
    looks(admission, 2, running=START)
    high = admission.limit
    assert high > START
    look(admission, idle=0.0, running=high, done=1)
    assert high / 2 < admission.limit < high
    looks(admission, 3, idle=0.0, running=high, done=1)
    admission.wait(Caller(), high)
    before = admission.limit
    look(admission, idle=0.5, running=high, done=1)
    assert admission.limit == 2 * before


def test_the_limit_that_slow_login_nodes_need_is_given_up_when_they_no_longer_do() -> None:
    admission = Admission(5000, 10.0)
    for _ in range(20):
        look(admission, running=admission.limit)
    assert admission.limit == 5000
    looks(admission, 10)
    assert admission.limit == START


def test_what_is_set_aside_does_not_count() -> None:
    admission = Admission(2000, 1.0, lambda: 1000)
    look(admission, running=1000)
    assert not admission.full(1000 + START - 1)
    assert admission.full(1000 + START)


def test_the_first_to_come_is_the_first_to_be_let_in_and_the_gone_take_no_room() -> None:
    admission = Admission(2000, 60.0)
    callers = [Caller(gone=True), Caller(), Caller()]
    for caller in callers:
        admission.wait(caller, START)
    admission.feed(START - 1)
    assert [caller.fate for caller in callers] == ["in", "in", ""]
    admission.leave(callers[2])
    assert admission.waiting == 0
    admission.leave(callers[2])
    admission.feed(0)
    assert callers[2].fate == ""
    assert admission.refused == 0


def test_who_has_waited_too_long_is_refused() -> None:
    admission = Admission(2000, 1.0)
    patient = Caller()
    admission.wait(patient, START)
    looks(admission, 0.6, idle=0.0, running=START)
    late = Caller(since=admission.now)
    admission.wait(late, START)
    looks(admission, 0.6, idle=0.0, running=START)
    assert (patient.fate, late.fate) == ("away", "")
    assert (admission.news(), admission.news()) == (1, 0)
    admission.wait(unread := Caller("other", since=admission.now - 1.1), START)
    admission.feed(0)
    assert unread.fate == "away", "what came long ago and was left unread is late as well"


def test_who_would_wait_too_long_is_refused_at_once_but_not_before_there_is_evidence() -> None:
    admission = Admission(2000, 2.0)
    callers = [Caller() for _ in range(500)]
    for caller in callers:
        admission.wait(caller, START)
    assert not admission.refused
    for _ in range(round(EVIDENCE * 2.0 / TICK) + 1):
        admission.feed(admission.limit - 10)
        look(admission, idle=0.0, running=admission.limit, done=10)
    # A hundred a second for two seconds.
    assert 180 <= admission._users.most <= 220
    late = Caller()
    admission.wait(late, START)
    assert late.fate == "away"
    assert "" in {caller.fate for caller in callers}, "nobody who waits already is refused for that"


def test_more_than_are_served_in_a_second_are_left_unread_but_for_those_of_whom_fewer_wait() -> None:
    admission = Admission(5000, 60.0)
    greedy, modest = User("greedy"), User("modest")
    for _ in range(START):
        admission.wait(Caller("greedy"), START)
    assert not admission.ample, "nothing is known of how fast they are served"
    for _ in range(20):
        for _ in range(50):
            admission.wait(Caller("greedy"), START)
        admission.feed(admission.limit - 30)
        look(admission, idle=0.0, running=admission.limit, done=30)
    # Thirty at each of ten looks a second.
    assert 250 <= admission._users.ahead <= 350
    assert admission.stays_unread(greedy)
    assert not admission.crowded(greedy), "nobody is refused for that"
    assert not admission.stays_unread(modest)
    admission.wait(Caller("modest"), START)
    assert admission.waiting > admission._users.ahead


def test_while_many_log_in_all_are_read() -> None:
    admission = Admission(5000, 60.0)
    admission.settling = lambda: True
    look(admission, idle=0.0, running=START, done=1)
    for _ in range(2 * START):
        admission.wait(Caller("greedy"), START)
    assert not admission.ample


def test_there_is_a_most_of_requests_and_of_bytes() -> None:
    admission = Admission(START, 60.0)
    look(admission, running=START)
    caller = Caller()
    admission.wait(caller, START)
    assert caller.fate == "away"
    admission = Admission(64, 60.0)
    small, large = Caller(size=BYTES_EACH), Caller(size=64 * BYTES_EACH)
    admission.wait(small, 0)
    admission.wait(large, 0)
    assert (small.fate, large.fate) == ("", "away")
    assert admission.grow(small, BYTES_EACH)
    assert not admission.grow(small, 64 * BYTES_EACH)
    assert small.fate == "away"
    assert admission.waiting == 0
    admission.wait(last := Caller(size=64 * BYTES_EACH), 0)
    assert last.fate == "", "what was refused is no longer counted"


def busy(max_delay: float = 60.0, done: int = 1000) -> Admission:
    admission = Admission(2000, max_delay)
    look(admission, idle=0.0, done=done)
    assert admission.busy
    return admission


def test_one_who_asks_for_much_waits_for_himself_once_the_loop_is_at_its_limit() -> None:
    admission = busy()
    greedy, modest = User("greedy"), User("modest")
    begun = [admission.begin(greedy) for _ in range(SHARE)]
    assert not admission.must_wait(greedy, SHARE), "nobody else is here"
    admission.end(admission.begin(modest))
    assert admission.must_wait(greedy, SHARE)
    assert not admission.must_wait(modest, SHARE)
    more = [Caller("greedy") for _ in range(3)]
    for caller in more:
        admission.wait(caller, SHARE)
    admission.feed(SHARE)
    assert admission.waiting == 3
    admission.end(begun[0])
    assert not admission.must_wait(modest, SHARE)
    look(admission, idle=0.0, running=SHARE, done=1000)
    assert admission.waiting == 0, "what runs for long no longer counts as his share"
    admission.end(begun[1])
    assert admission.begin(greedy).generation != begun[1].generation


def test_an_idle_loop_knows_no_shares() -> None:
    admission = Admission(2000, 60.0)
    for _ in range(10 * SHARE):
        admission.begin(User("greedy"))
    assert not admission.must_wait(User("greedy"), SHARE)


def test_callers_take_turns_and_who_has_most_waiting_is_refused_first() -> None:
    admission = busy()
    admission._users.most = FLOOR
    greedy = [Caller("greedy") for _ in range(FLOOR)]
    modest = [Caller("modest") for _ in range(2)]
    for caller in (*greedy, *modest):
        admission.wait(caller, admission.limit)
    assert [caller.fate for caller in greedy[-2:]] == ["away"] * 2, "his newest make room"
    assert (admission.waiting, admission.refused) == (FLOOR, 2)
    assert admission.crowded(User("greedy"))
    assert not admission.crowded(User("modest"))
    admission.feed(admission.limit - 4)
    assert [caller.fate for caller in (*greedy[:2], *modest)] == ["in"] * 4
    assert greedy[2].fate == ""


def test_a_few_are_let_in_behind_whom_another_has_far_more_waiting() -> None:
    admission = Admission(2000, 10.0)
    running = admission.limit
    look(admission, idle=0.0, running=running, done=6)
    greedy = [Caller("greedy") for _ in range(FLOOR)]
    modest = [Caller(f"modest{number}") for number in range(SHARE + 1)]
    for caller in (*greedy, *modest):
        assert admission.must_wait(caller.asker, running)
        admission.wait(caller, running)
    look(admission, idle=0.0, running=running, done=6)
    assert [caller.fate for caller in modest] == ["in"] * SHARE + [""], "a few at a time"
    look(admission, idle=0.0, running=running, done=6)
    assert modest[-1].fate == "in"
    assert "in" not in {caller.fate for caller in greedy}


def test_waiting_takes_longer_while_many_log_in_and_until_what_came_meanwhile_is_done() -> None:
    admission = Admission(2000, 1.0)
    admission.settling = lambda: True
    callers = [Caller(f"u{number}") for number in range(200)]
    for caller in callers:
        admission.wait(caller, START)
    looks(admission, 0.5 * SETTLING, idle=0.0, running=2000, done=1)
    assert not admission.busy
    admission.settling = lambda: False
    looks(admission, SETTLED - TICK, idle=0.0, running=2000, done=1)
    assert admission.refused == 0
    looks(admission, 1.0, idle=0.0, running=2000, done=1)
    assert admission.refused == 200


@pytest.mark.parametrize(
    ("rate", "alone"), [(20, SHARE_ALONE), (1000, SHARE_ALONE), (4000, 100), (10_000, 250)], ids=str
)
def test_who_is_alone_may_have_what_is_done_in_a_moment_and_others_are_remembered_for_a_while(
    rate: int, alone: int
) -> None:
    admission = busy(done=round(rate * TICK))
    assert alone == max(SHARE_ALONE, round(rate * BEHIND_ONE))
    greedy = User("greedy")
    for _ in range(alone):
        assert not admission.must_wait(greedy, 0)
        admission.begin(greedy)
    assert admission.must_wait(greedy, 0)
    admission.begin(User("modest"))
    for times, waits in ((CALLER_MEMORY, True), (2 * CALLER_MEMORY, False)):
        for _ in range(times):
            look(admission, idle=0.0, running=alone, done=round(rate * TICK))
        for _ in range(SHARE):
            admission.begin(greedy)
        assert admission.must_wait(greedy, 0) == waits


def test_one_caller_gets_more_at_a_time_while_the_loop_has_ample_time() -> None:
    admission = busy()
    admission.begin(User("modest"))
    for _ in range(SHARE):
        admission.begin(User("greedy"))
    admission.wait(Caller("greedy"), SHARE)
    assert admission.must_wait(User("greedy"), SHARE)
    look(admission, idle=0.5, running=SHARE)
    assert admission.share == 2 * SHARE
    look(admission, idle=0.0, running=SHARE)
    assert admission.share == SHARE


# Strangers.


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("connections", [600, 3000])
@pytest.mark.parametrize("addresses", [1, 200])
@pytest.mark.parametrize("core", [1.0, 0.25])
def test_strangers_get_a_tenth_of_the_time_while_users_are_there(
    rate: float, connections: int, addresses: int, core: float
) -> None:
    admission = Admission(5000, 10.0)
    loop = Loop(admission, rate, core)
    users = [User(f"u{number}") for number in range(20)]
    for number in range(connections):
        loop.ask(stranger(number % addresses))
    for user in users:
        loop.ask(user)
    loop.run(2)
    loop.good.clear()
    loop.refused.clear()
    loop.run(20)
    of_users = sum(loop.good[user] for user in users)
    of_strangers = loop.good.total() - of_users
    assert of_strangers <= 1.2 * STRANGERS * loop.good.total() + 20
    assert of_strangers >= 0.5 * STRANGERS * loop.good.total() - 20, "they are not shut out"
    assert not any(loop.refused[user] for user in users)
    assert loop.good.total() >= 0.95 * rate * 20


def test_strangers_may_have_all_of_the_time_while_nobody_else_is_there() -> None:
    admission = Admission(5000, 10.0)
    loop = Loop(admission, 1000.0)
    for _ in range(1000):
        loop.ask(stranger())
    loop.run(5)
    assert loop.good.total() >= 0.9 * 5000


def test_one_address_does_not_keep_out_another_nor_who_has_no_token_one_who_has() -> None:
    for crowd, single in ((stranger(1), stranger(2)), (stranger(1, bearer=False), stranger(1))):
        admission = Admission(5000, 10.0)
        loop = Loop(admission, 1000.0)
        loop.ask(User("alice"))
        for _ in range(3000):
            loop.ask(crowd)
        loop.run(3)
        loop.ask(single, again=False)
        for _ in range(10):
            loop.tick()
            if loop.good[single]:
                break
        assert loop.good[single] == 1


def test_a_token_that_turns_out_to_be_good_costs_strangers_nothing() -> None:
    admission = busy()
    before = admission._credit
    admission._price = 0.001
    turn = admission.begin(stranger())
    assert admission._credit < before
    admission.verified(turn, "alice")
    admission.verified(turn, "alice")
    assert admission._credit == pytest.approx(before)
    admission.end(turn, 0.5)
    assert admission._credit == pytest.approx(before)
    assert admission._strangers_running == 0


def test_what_strangers_cost_is_counted_and_a_debt_is_not_kept_for_ever() -> None:
    admission = busy()
    admission.begin(User("alice"))
    admission.end(admission.begin(stranger()), 5.0)
    assert admission.must_wait(stranger(), 1)
    looks(admission, 2, idle=0.0)
    admission.begin(User("alice"))
    assert not admission.must_wait(stranger(), 1)


def test_all_who_wait_are_refused_at_the_end() -> None:
    admission = busy()
    callers = [Caller(), Caller("other"), Caller(stranger())]
    for caller in callers:
        admission.wait(caller, START)
    admission.clear()
    assert [caller.fate for caller in callers] == ["away"] * 3
    assert admission.waiting == 0


def test_the_longest_queue_is_known_whatever_comes_and_goes() -> None:
    rng = random.Random(1)
    admission = busy()
    line = admission._users
    waiting: list[Caller] = []
    for _ in range(3000):
        if rng.random() < 0.55 or not waiting:
            caller = Caller(f"u{rng.randrange(7)}")
            admission.wait(caller, START)
            waiting.append(caller)
        else:
            admission.leave(waiting.pop(rng.randrange(len(waiting))))
        lengths = Counter(caller.asker for caller in waiting)
        if lengths:
            assert line.longest()[1] == max(lengths.values()) == lengths[line.longest()[0]]
    assert line.waiting == len(waiting)


@pytest.mark.parametrize("slow", [0.1, 1.0])
def test_requests_that_wait_for_slow_login_nodes_do_not_take_the_rate_down(slow: float) -> None:
    """Half of the requests take no time of the loop's, but long on the login node."""
    rate = 1000.0
    admission = Admission(5000, 10.0)
    running: list[tuple[float, Asker, object]] = []
    now = 0.0
    done_in_all = 0

    def ask(user: User) -> None:
        caller = Waiting(user, since=admission.now)
        if admission.must_wait(user, len(running)):
            admission.wait(caller, len(running))
        else:
            caller.let_in()

    class Waiting(Caller):
        def let_in(self) -> bool:
            kind = next(kinds)
            running.append((now + (slow if kind else 0.0), self.asker, admission.begin(self.asker)))
            return True

    kinds = itertools.cycle([True, False])
    for number in range(2000):
        ask(User(f"u{number % 200}"))
    for tick in range(200):
        now += TICK
        done = 0
        ready = [entry for entry in running if entry[0] <= now][: int(rate * TICK)]
        while ready and done < rate * TICK:
            for entry in ready:
                running.remove(entry)
                admission.end(entry[2])  # type: ignore[arg-type]
                done += 1
                admission.feed(len(running))
                assert isinstance(entry[1], User)
                ask(entry[1])
            ready = [entry for entry in running if entry[0] <= now][: int(rate * TICK) - done]
        done_in_all += done if tick >= 50 else 0
        admission.look(idle=1 - done / (rate * TICK), seconds=TICK, had=TICK, running=len(running), done=done)
    assert done_in_all >= 0.8 * rate * 15
