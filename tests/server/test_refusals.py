"""Refusals that are said late, and requests that are left unread."""

import pytest

from hpcgate.server.refusals import HOLD, SHARE, TURNS, Lobby, Refusals

COST = 0.001
"""Seconds that the loop takes for each."""


class Clock:
    """A clock that goes on when it is told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class One:
    """A refusal, or an unread connection."""

    def __init__(self, clock: Clock, size: int = 100, asker: str = "alice") -> None:
        self.clock = clock
        self.size = size
        self.asker = asker
        self.late = False
        self.stays = False
        self.fate = ""

    def say(self) -> bool:
        self.clock.now += COST
        self.fate = "said"
        return True

    def read(self) -> None:
        self.clock.now += COST
        self.fate = "read"

    def refuse(self) -> None:
        self.fate = "refused"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def wall() -> Clock:
    return Clock()


def test_a_refusal_is_held_back_and_one_that_has_waited_is_not(clock: Clock, wall: Clock) -> None:
    refusals = Refusals(10, clock, wall)
    wall.now = 5.0
    new, late = One(clock), One(clock)
    refusals.add(new, 5.0)
    refusals.add(late, 5.0 - HOLD)
    refusals.look(0.1)
    assert (new.fate, late.fate) == ("", "said")
    wall.now += HOLD
    refusals.look(HOLD)
    assert (new.fate, refusals.said, len(refusals)) == ("said", 2, 0)


def test_a_loop_that_comes_round_late_does_not_refuse_early(clock: Clock, wall: Clock) -> None:
    refusals = Refusals(10, clock, wall)
    refusals.look(0.1)
    wall.now = 0.9 * HOLD
    refusals.add(one := One(clock), wall.now)
    wall.now = 1.1 * HOLD
    refusals.look(HOLD)
    assert one.fate == "", "it came long after the last look"


@pytest.mark.parametrize("core", [1.0, 0.25])
def test_refusals_take_their_share_of_the_time_and_all_are_said_in_the_end(
    clock: Clock, wall: Clock, core: float
) -> None:
    refusals = Refusals(100_000, clock, wall)
    many = [One(clock) for _ in range(10_000)]
    for one in many:
        refusals.add(one, wall.now)
    wall.now += HOLD
    refusals.look(core * HOLD)
    for _ in range(50):
        before = clock.now
        wall.now += 0.1
        refusals.look(core * 0.1)
        assert clock.now - before <= SHARE * core * 0.1 + COST
    assert many[-1].fate == ""
    while len(refusals):
        before = clock.now
        wall.now += 0.1
        refusals.look(core * 0.1)
        assert clock.now - before <= SHARE * core * 0.1 + COST
    assert {one.fate for one in many} == {"said"}


def test_there_is_a_most_of_refusals_held_and_all_are_said_at_the_end(clock: Clock) -> None:
    refusals = Refusals(2, clock, clock)
    many = [One(clock) for _ in range(3)]
    for one in many:
        refusals.add(one, 0.0)
    assert [one.fate for one in many] == ["said", "", ""]
    refusals.clear()
    assert {one.fate for one in many} == {"said"}
    assert refusals.said == 3


def test_what_is_unread_is_read_once_there_is_room(clock: Clock) -> None:
    lobby = Lobby(1_000_000, clock)
    many = [One(clock) for _ in range(1000)]
    for one in many:
        one.stays = True
        lobby.add(one)
    lobby.look(0.1)
    assert {one.fate for one in many} == {""}
    for one in many[:500]:
        one.stays = False
    lobby.look(0.1)
    assert [one.fate for one in many] == ["read"] * 500 + [""] * 500
    lobby.clear()
    assert {one.fate for one in many} == {"read"}
    assert len(lobby) == 0


def test_callers_are_read_in_turn_and_one_for_whom_there_is_no_room_holds_up_no_other(clock: Clock) -> None:
    lobby = Lobby(1_000_000, clock)
    read: list[str] = []

    class Told(One):
        def read(self) -> None:
            super().read()
            read.append(self.asker)

    many = [Told(clock, asker=asker) for asker in ("alice",) * 100 + ("bob",) * 3 + ("carol",)]
    for one in many:
        one.stays = one.asker == "carol"
        lobby.add(one)
    for one in many[2:100]:
        one.stays = True
    lobby.look(0.1)
    assert read == ["alice", "bob", "alice", "bob", "bob"]
    assert len(lobby) == 99


def test_however_many_callers_have_no_room_a_look_at_them_ends_and_each_has_a_turn(clock: Clock) -> None:
    lobby = Lobby(1_000_000, clock)
    many = [One(clock, asker=str(number)) for number in range(3 * TURNS)]
    for one in many:
        one.stays = True
        lobby.add(one)
    many[-1].stays = False
    for look in range(3):
        assert many[-1].fate == "", look
        lobby.look(0.1)
    assert many[-1].fate == "read"


@pytest.mark.parametrize("stays", [True, False])
def test_what_has_waited_too_long_is_read_to_be_refused_in_its_share_of_the_time(clock: Clock, stays: bool) -> None:
    lobby = Lobby(1_000_000, clock)
    many = [One(clock) for _ in range(1000)]
    for one in many:
        one.late = True
        one.stays = stays
        lobby.add(one)
    for _ in range(10):
        before = clock.now
        lobby.look(0.1)
        assert before < clock.now <= before + SHARE * 0.1 + COST
    assert many[-1].fate == ""


def test_there_is_a_most_of_bytes_unread(clock: Clock) -> None:
    lobby = Lobby(250, clock)
    many = [One(clock) for _ in range(3)]
    for one in many:
        lobby.add(one)
    assert [one.fate for one in many] == ["", "", "refused"]
    lobby.clear()
    lobby.add(again := One(clock))
    assert again.fate == ""
