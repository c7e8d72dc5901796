"""Who is served, who waits, and who is refused."""

import time

from hpcgate.admission import CALM, FLOOR, START, Admission


class Caller:
    def __init__(self, *, gone: bool = False) -> None:
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
    for strain in ({"lag": 0.2}, {"busy": 0.99}):
        admission = Admission(2000, 1.0)
        for _ in range(20):
            look(admission, running=START, done=100, **strain)
        assert 450 <= admission.limit <= 550
        for _ in range(60):
            look(admission, running=START, done=1, **strain)
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


def test_who_has_waited_too_long_and_who_would_is_refused() -> None:
    admission = Admission(2000, 0.05)
    patient, late = Caller(), Caller()
    admission.wait(patient, START)
    time.sleep(0.06)
    admission.wait(late, START)
    look(admission, lag=1.0, running=START)
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
