"""A cache keeps what was used lately, until its time is over."""

from hpcgate.sharing.recent import Recent


def test_the_longest_unused_goes_first() -> None:
    recent: Recent[str, int] = Recent(2)
    for number, key in enumerate("ab"):
        recent.keep(key, number)
    assert recent.get("a") == 0
    recent.keep("c", 2)
    assert [recent.get(key) for key in "abc"] == [0, None, 2]
    assert repr(recent) == "<Recent 2/2>"


def test_each_entry_ends_at_a_time_of_its_own() -> None:
    now = 0.0
    recent: Recent[str, int] = Recent(10, lambda: now)
    recent.keep("soon", 1, 5.0)
    recent.keep("late", 2, 10.0)
    recent.keep("never", 3)
    now = 5.0
    assert [recent.get(key) for key in ("soon", "late", "never")] == [None, 2, 3]
    assert len(recent) == 2, "what is over is not kept once it was asked for"
    recent.keep("late", 4, 20.0)
    recent.forget("never")
    now = 15.0
    assert [recent.get(key) for key in ("late", "never")] == [4, None]
