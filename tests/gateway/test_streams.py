"""Long-lived responses: bounded, told when to end, counted and logged."""

import asyncio
import time

import pytest
from structlog.testing import capture_logs

from hpcgate.auth import Principal
from hpcgate.errors import RateLimited, Unavailable
from hpcgate.gateway.streams import Bound, Stream, Streams


def user(name: str, *, until: float | None = None) -> Principal:
    return Principal(name, "", expires_at=until)


def test_streams_are_bounded_for_each_user_and_in_all() -> None:
    streams = Streams(3, 2)
    with streams.hold("download", user("a"), "demo"), streams.hold("download", user("a"), "demo"):
        with pytest.raises(RateLimited) as caught, streams.hold("download", user("a"), "demo"):
            pass
        assert caught.value.headers["Retry-After"]
        with streams.hold("upload", user("b"), "demo"):
            with pytest.raises(RateLimited), streams.hold("upload", user("c"), "demo"):
                pass
            assert streams.taken == 3
    assert streams.taken == 0
    assert streams.begun == {"download": 2, "upload": 1}
    assert streams.ended == {("download", "done"): 2, ("upload", "done"): 1}


async def run(streams: Streams, opened: list[Stream]) -> str:
    with streams.hold("events", user("alice"), "demo", endless=True) as stream:
        opened.append(stream)
        await stream.closing.wait()
        return stream.reason


async def test_what_has_no_end_is_told_to_close_and_what_has_one_goes_on() -> None:
    streams = Streams(9, 9)
    opened: list[Stream] = []
    running = asyncio.create_task(run(streams, opened))
    with capture_logs() as logs, streams.hold("download", user("alice"), "demo") as finite:
        await asyncio.sleep(0)
        streams.wind_up("reload")
        streams.wind_up("stop")
        assert await running == "reload"
        assert (finite.reason, finite.closing.is_set()) == ("", False)
        with pytest.raises(Unavailable), streams.hold("events", user("alice"), "demo", endless=True):
            pass
        with streams.hold("upload", user("alice"), "demo"):
            assert streams.taken == 2
    assert streams.ended["events", "reload"] == 1
    assert repr(opened[0]) == "<Stream events of alice on demo, closing for a reload>"
    told = [line for line in logs if line["event"] == "stream.end" and line["kind"] == "events"]
    assert [(line["log_level"], line["user"], line["outcome"]) for line in told] == [("info", "alice", "reload")]


async def test_a_stream_says_what_ended_it() -> None:
    streams = Streams(9, 9)

    async def broken() -> None:
        with streams.hold("download", user("alice"), "demo"):
            raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        await broken()
    left = asyncio.create_task(run(streams, []))
    await asyncio.sleep(0)
    left.cancel()
    await asyncio.gather(left, return_exceptions=True)
    assert streams.ended == {("download", "failed"): 1, ("events", "gone"): 1}
    assert streams.taken == 0


async def test_the_next_gateway_goes_on_counting() -> None:
    before, after = Streams(9, 9), Streams(9, 9)
    with before.hold("download", user("alice"), "demo"):
        after.follow(before)
    with after.hold("download", user("alice"), "demo"):
        assert (before.taken, after.taken) == (0, 1)
    assert after.ended == {("download", "done"): 2}


async def test_what_has_no_end_ends_with_its_token_and_what_has_one_goes_on() -> None:
    now = [1000.0]
    streams = Streams(9, 9, leeway=5, clock=lambda: now[0], look=0.001)
    token = user("alice", until=1010)
    with (
        capture_logs() as logs,
        streams.hold("download", token, "demo") as finite,
        streams.hold("socket", user("alice"), "demo", endless=True) as kept,
    ):
        with streams.hold("events", token, "demo", endless=True) as stream:
            now[0] = 1014.9
            await asyncio.sleep(0.01)
            assert not stream.closing.is_set()
            # Somebody has set the clock, of which the loop's timers know nothing.
            now[0] = 1015
            async with asyncio.timeout(120):
                await stream.closing.wait()
        assert (finite.reason, kept.reason) == ("", "")
    assert streams.ended == {("download", "done"): 1, ("events", "expired"): 1, ("socket", "done"): 1}
    ends = [line for line in logs if line["event"] == "stream.end" and line["kind"] == "events"]
    assert [(line["user"], line["outcome"]) for line in ends] == [("alice", "expired")]


async def test_a_stream_with_a_token_that_has_expired_is_told_to_close_at_once_and_leaves_no_timer() -> None:
    streams = Streams(9, 9)
    with streams.hold("events", user("alice", until=time.time()), "demo", endless=True) as stream:
        assert (stream.closing.is_set(), stream.reason) == (True, "expired")
    with streams.hold("events", user("alice", until=time.time() + 1e9), "demo", endless=True) as stream:
        timer = stream.timer
        assert timer is not None
    assert timer.cancelled()


def test_kinds_with_bounds_of_their_own_are_left_out_of_those_of_all_others() -> None:
    streams = Streams(1, 1, apart={"follow": Bound(2, 1)})
    with streams.hold("follow", user("a"), "demo"), streams.hold("download", user("a"), "demo"):
        with pytest.raises(RateLimited), streams.hold("follow", user("a"), "demo"):
            pass
        with streams.hold("follow", user("b"), "demo"):
            with pytest.raises(RateLimited), streams.hold("follow", user("c"), "demo"):
                pass
            assert streams.taken == 3
    with streams.hold("follow", user("a"), "demo"), streams.hold("follow", user("b"), "demo"):
        assert streams.taken == 2


@pytest.mark.parametrize(("until", "longest", "reason"), [(None, 0, "longest"), (0, 9, "expired"), (9, 0, "longest")])
async def test_a_stream_is_told_to_end_by_its_token_or_its_longest_time(
    until: float | None, longest: float, reason: str
) -> None:
    """Whichever comes first."""
    streams = Streams(9, 9, clock=lambda: 1000.0)
    principal = user("alice", until=None if until is None else 1000.0 + until)
    with streams.hold("follow", principal, "demo", endless=True, longest=longest) as stream:
        await stream.closing.wait()
        assert stream.reason == reason
    assert streams.ended["follow", reason] == 1
