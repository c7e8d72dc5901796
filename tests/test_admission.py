"""Who is served, who waits, and who is refused."""

import pytest

from hpcgate import admission as admission_module
from hpcgate.admission import ALONE, CALM, FLOOR, HARD, LATELY, SETTLED, SHARE, START, Admission


class Clock:
    """The admission's clock, which goes on when a test says so."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(admission_module, "time", clock)
    return clock


class Caller:
    def __init__(self, *, gone: bool = False, key: bytes = b"somebody") -> None:
        self.key = key
        self.gone = gone
        self.fate = ""

    def let_in(self) -> bool:
        self.fate = "in"
        return not self.gone

    def turn_away(self) -> None:
        self.fate = "away"


def look(admission: Admission, *, lag: float = 0.0, busy: float = 0.1, running: int = 0, done: int = 0) -> None:
    admission.look(lag=lag, busy=busy, seconds=0.1, running=running, done=done)


def test_as_many_are_served_as_are_done_in_time_when_the_loop_is_at_its_limit() -> None:
    for strain in ({"lag": 0.2, "busy": 0.5}, {"busy": 0.99}):
        admission = Admission(2000, 1.0)
        for _ in range(20):
            look(admission, running=START, done=100, **strain)
        assert 450 <= admission.limit <= 550
        for _ in range(60):
            look(admission, running=START, done=1, **strain)
        assert admission.limit == FLOOR


def test_a_loop_that_was_kept_from_the_core_has_not_too_much_to_do() -> None:
    admission = Admission(2000, 0.4)
    look(admission, running=10, done=2, lag=0.2, busy=HARD / 2)
    assert not admission.busy
    assert admission.limit == START
    look(admission, running=10, done=2, lag=0.2, busy=HARD * 2)
    assert admission.busy
    assert admission.limit == FLOOR


def test_what_waits_for_login_nodes_does_not_keep_others_out() -> None:
    admission = Admission(2000, 1.0)
    for _ in range(6):
        look(admission, running=admission.limit)
    assert admission.limit == 2000
    look(admission, busy=1.0, running=500, done=1)
    calm = admission.limit
    for _ in range(int(CALM * 10) - 1):
        look(admission, running=calm)
    assert admission.limit == calm
    for _ in range(7):
        look(admission, running=admission.limit)
    assert admission.limit == 2000


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
    assert admission.refused == 0


def test_who_has_waited_too_long_and_who_would_is_refused(clock: Clock) -> None:
    admission = Admission(2000, 0.05)
    patient, late = Caller(), Caller()
    admission.wait(patient, START)
    clock.now += 0.06
    admission.wait(late, START)
    look(admission, lag=1.0, busy=1.0, running=START)
    assert (patient.fate, late.fate) == ("away", "")
    more = [Caller() for _ in range(FLOOR)]
    for caller in more:
        admission.wait(caller, START)
    assert [caller.fate for caller in more] == [""] * (FLOOR - 1) + ["away"]
    assert admission.refused == 2
    assert (admission.news(), admission.news()) == (2, 0)


def test_there_is_a_most() -> None:
    admission = Admission(START, 60.0)
    caller = Caller()
    admission.wait(caller, START)
    assert caller.fate == "away"


def busy(max_delay: float = 60.0, done: int = 1000) -> Admission:
    admission = Admission(2000, max_delay)
    look(admission, busy=1.0, done=done)
    assert admission.busy
    return admission


def test_one_who_asks_for_much_waits_for_himself_once_the_loop_is_at_its_limit() -> None:
    admission = busy()
    begun = [admission.begin(b"greedy") for _ in range(SHARE)]
    assert not admission.must_wait(b"greedy", SHARE), "nobody else is here"
    admission.end(b"modest", admission.begin(b"modest"))
    assert admission.must_wait(b"greedy", SHARE)
    assert not admission.must_wait(b"modest", SHARE)
    more = [Caller(key=b"greedy") for _ in range(3)]
    for caller in more:
        admission.wait(caller, SHARE)
    admission.feed(SHARE)
    assert admission.waiting == 3
    admission.end(b"greedy", begun[0])
    admission.feed(SHARE - 1)
    assert not admission.must_wait(b"modest", SHARE)
    look(admission, busy=1.0, running=SHARE, done=1000)
    assert admission.waiting == 0, "what runs for long no longer counts as his share"
    admission.end(b"greedy", begun[1])
    assert admission.begin(b"greedy") != begun[1]


def test_an_idle_loop_knows_no_shares() -> None:
    admission = Admission(2000, 60.0)
    for _ in range(10 * SHARE):
        admission.begin(b"greedy")
    assert not admission.must_wait(b"greedy", SHARE)


def test_callers_take_turns_and_who_has_most_waiting_is_refused_first() -> None:
    admission = busy(max_delay=0.02, done=1)
    greedy = [Caller(key=b"greedy") for _ in range(FLOOR)]
    modest = [Caller(key=b"modest") for _ in range(2)]
    for caller in (*greedy, *modest):
        admission.wait(caller, admission.limit)
    assert [caller.fate for caller in greedy[-2:]] == ["away", "away"], "his newest make room"
    assert (admission.waiting, admission.refused) == (FLOOR, 2)
    admission.feed(admission.limit - 4)
    assert [caller.fate for caller in (*greedy[:2], *modest)] == ["in"] * 4
    assert greedy[2].fate == ""


def test_nobody_is_refused_because_of_what_another_began_before_the_limit_fell(clock: Clock) -> None:
    admission = Admission(2000, 0.4)
    running = admission.limit
    look(admission, busy=1.0, running=running, done=6)
    greedy = [Caller(key=b"greedy") for _ in range(FLOOR)]
    modest = [Caller(key=bytes([number])) for number in range(SHARE + 1)]
    for caller in (*greedy, *modest):
        assert admission.must_wait(caller.key, running)
        admission.wait(caller, running)
    clock.now += 0.1
    look(admission, busy=1.0, running=running - 6, done=6)
    assert [caller.fate for caller in modest] == ["in"] * SHARE + [""], "a few at a time"
    clock.now += 0.1
    look(admission, busy=1.0, running=running - 6, done=6)
    assert modest[-1].fate == "in"
    assert "in" not in {caller.fate for caller in greedy}


def test_nobody_is_refused_because_many_log_in(clock: Clock) -> None:
    admission = Admission(2000, 0.02)
    admission.settling = lambda: True
    look(admission, busy=1.0, running=START, done=1)
    assert not admission.busy
    callers = [Caller(key=bytes([number])) for number in range(200)]
    for caller in callers:
        admission.wait(caller, START)
    clock.now += 0.03
    look(admission, busy=1.0, running=START, done=1)
    assert admission.refused == 0


def test_what_has_come_while_many_logged_in_is_done_first(clock: Clock) -> None:
    admission = Admission(2000, 0.02)
    admission.settling = lambda: True
    look(admission, busy=1.0, running=START, done=1)
    admission.settling = lambda: False
    for _ in range(200):
        admission.wait(Caller(), START)
    clock.now += 0.03
    for _ in range(int(SETTLED / 0.1) - 1):
        look(admission, busy=1.0, running=2000, done=1)
        assert admission.refused == 0
    for _ in range(2):
        look(admission, busy=1.0, running=2000, done=1)
    assert admission.refused == 200


def test_who_is_alone_may_have_more_at_a_time_and_others_are_remembered_for_a_while() -> None:
    admission = busy()
    for _ in range(ALONE):
        assert not admission.must_wait(b"greedy", 0)
        admission.begin(b"greedy")
    assert admission.must_wait(b"greedy", 0)
    admission.begin(b"modest")
    for looks, waits in ((LATELY, True), (2 * LATELY, False)):
        for _ in range(looks):
            look(admission, busy=1.0, running=ALONE, done=1000)
        for _ in range(SHARE):
            admission.begin(b"greedy")
        assert admission.must_wait(b"greedy", 0) == waits
