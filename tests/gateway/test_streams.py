"""Long-lived responses: bounded, told when to end, counted and logged."""

import asyncio

import pytest
from structlog.testing import capture_logs

from hpcgate.errors import RateLimited, Unavailable
from hpcgate.gateway.streams import Stream, Streams


def test_streams_are_bounded_for_each_user_and_in_all() -> None:
    streams = Streams(3, 2)
    with streams.hold("download", "a", "demo"), streams.hold("download", "a", "demo"):
        with pytest.raises(RateLimited) as caught, streams.hold("download", "a", "demo"):
            pass
        assert caught.value.headers["Retry-After"]
        with streams.hold("upload", "b", "demo"):
            with pytest.raises(RateLimited), streams.hold("upload", "c", "demo"):
                pass
            assert streams.taken == 3
    assert streams.taken == 0
    assert streams.begun == {"download": 2, "upload": 1}
    assert streams.ended == {("download", "done"): 2, ("upload", "done"): 1}


async def run(streams: Streams, opened: list[Stream]) -> str:
    with streams.hold("events", "alice", "demo", endless=True) as stream:
        opened.append(stream)
        await stream.closing.wait()
        return stream.reason


async def test_what_has_no_end_is_told_to_close_and_what_has_one_goes_on() -> None:
    streams = Streams(9, 9)
    opened: list[Stream] = []
    running = asyncio.create_task(run(streams, opened))
    with capture_logs() as logs, streams.hold("download", "alice", "demo") as finite:
        await asyncio.sleep(0)
        streams.wind_up("reload")
        streams.wind_up("stop")
        assert await running == "reload"
        assert (finite.reason, finite.closing.is_set()) == ("", False)
        with pytest.raises(Unavailable), streams.hold("events", "alice", "demo", endless=True):
            pass
        with streams.hold("upload", "alice", "demo"):
            assert streams.taken == 2
    assert streams.ended["events", "reload"] == 1
    assert repr(opened[0]) == "<Stream events of alice on demo, closing for a reload>"
    told = [line for line in logs if line["event"] == "stream.end" and line["kind"] == "events"]
    assert [(line["log_level"], line["user"], line["outcome"]) for line in told] == [("info", "alice", "reload")]


async def test_a_stream_says_what_ended_it() -> None:
    streams = Streams(9, 9)

    async def broken() -> None:
        with streams.hold("download", "alice", "demo"):
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
    with before.hold("download", "alice", "demo"):
        after.follow(before)
    with after.hold("download", "alice", "demo"):
        assert (before.taken, after.taken) == (0, 1)
    assert after.ended == {("download", "done"): 2}
