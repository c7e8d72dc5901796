"""Files that are followed over HTTP: each byte is compared with the file, whatever happens meanwhile."""

import contextlib
import json
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from hpcgate.demo.cluster import Cluster, Gateway
from tests.cluster.following import Event, Reading, events_in, following, meanwhile
from tests.cluster.streaming import SYSTEMS, begun, make, place, token, wait_until
from tests.cluster.test_api_errors import assert_problem
from tests.people import Person

__all__ = ["place"]

TEXT = 'plain, é, €, 😀, \\, ", \t, \r\n, \u2028\n' * 300


def address(gateway: Gateway | str, system: str = "demo") -> str:
    base = gateway if isinstance(gateway, str) else gateway.url
    return f"{base}/filesystem/{system}/files/follow"


def authorized(person: Person) -> dict[str, str]:
    return {"Authorization": token(person)}


def append(path: Path, content: bytes) -> None:
    with path.open("ab") as file:
        file.write(content)


@pytest.mark.parametrize("system", SYSTEMS)
def test_text_comes_as_it_is_written(gateway: Gateway, alice: Person, place: Path, system: str) -> None:
    """Whatever pieces it is written in: no sequence of UTF-8 is cut, and each event's id is where the next begins."""
    path = make(alice, place / "log", b"")
    content = TEXT.encode()

    def write() -> None:
        dice = random.Random(1)
        at = 0
        while at < len(content):
            step = dice.choice((1, 2, 3, 1000))
            append(path, content[at : at + step])
            at += step
            if step == 1000:
                time.sleep(0.01)

    reading = Reading()
    with (
        meanwhile(write),
        following(address(gateway, system), authorized(alice), path=str(path)) as events,
    ):
        reading.until(events, lambda: reading.position == len(content))
    assert reading.content == TEXT
    assert set(reading.names) == {"output"}


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_client_that_comes_back_loses_and_doubles_nothing(
    gateway: Gateway, alice: Person, place: Path, system: str
) -> None:
    """It breaks the connection at every few events while the file grows, and goes on by Last-Event-ID or offset."""
    path = make(alice, place / "log", b"")
    content = TEXT.encode()
    reading, connections = Reading(), 0

    def write() -> None:
        for start in range(0, len(content), 997):
            # Never so far ahead that all of it comes as one event.
            assert wait_until(lambda start=start: start - (reading.position or 0) < 3000, 600)  # type: ignore[misc]
            append(path, content[start : start + 997])

    dice = random.Random(2)
    with meanwhile(write):
        while reading.position != len(content):
            connections += 1
            last, params = None, {"path": str(path)}
            if reading.position is not None:
                if connections % 2:
                    last = str(reading.position)
                else:
                    params |= {"offset": str(reading.position), "mark": str(reading.mark)}
            with following(address(gateway, system), authorized(alice), last, **params) as events:
                for _ in range(dice.choice((1, 2, 3))):
                    if reading.position != len(content):
                        reading.take(next(events))
    assert connections > 1
    assert reading.content == TEXT
    assert set(reading.names) == {"output"}


def test_a_client_goes_on_over_the_death_of_the_gateway(cluster: Cluster, alice: Person, place: Path) -> None:
    """The gateway is killed while a file grows; at another one the client goes on with what it has."""
    path = make(alice, place / "log", b"")
    content = TEXT.encode()
    config = cluster.write_gateway_config(cluster.directory / "killed.yaml")
    reading = Reading()
    half = len(content) // 2
    append(path, content[:half])
    gateway = cluster.start_gateway(config)
    with following(address(gateway), authorized(alice), path=str(path)) as events:
        reading.until(events, lambda: (reading.position or 0) > half - 4)
        os.kill(gateway.pid, signal.SIGKILL)
        with contextlib.suppress(httpx.HTTPError):
            for event in events:
                reading.take(event)
    append(path, content[half:])
    gateway.stop()
    gateway = cluster.start_gateway(config)
    try:
        with following(address(gateway), authorized(alice), str(reading.position), path=str(path)) as events:
            reading.until(events, lambda: reading.position == len(content))
    finally:
        gateway.stop()
    assert reading.content == TEXT


@pytest.mark.parametrize("system", SYSTEMS)
def test_bytes_come_as_they_are(gateway: Gateway, alice: Person, place: Path, system: str) -> None:
    """By Accept: application/octet-stream, from the offset on; at another file the answer ends."""
    content = random.Random(3).randbytes(100_000)
    path = make(alice, place / "log", content[:1000])
    headers = authorized(alice) | {"Accept": "application/octet-stream"}
    params = {"path": str(path), "offset": "10"}
    with httpx.stream("GET", address(gateway, system), params=params, headers=headers, timeout=600) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "application/octet-stream"
        blocks, got = answer.iter_bytes(), b""
        while len(got) < 990:
            got += next(blocks)
        append(path, content[1000:])
        while len(got) < len(content) - 10:
            got += next(blocks)
        assert got == content[10:]
        path.write_bytes(b"shorter")
        assert b"".join(blocks) == b""
    refused = httpx.get(address(gateway, system), params=params, headers=headers, timeout=600)
    assert_problem(refused, 416)


def test_an_answer_of_bytes_begins_before_there_are_any(gateway: Gateway, alice: Person, place: Path) -> None:
    headers = authorized(alice) | {"Accept": "application/octet-stream"}
    params = {"path": str(place / "not yet")}
    with httpx.stream("GET", address(gateway), params=params, headers=headers, timeout=600) as answer:
        assert answer.status_code == 200
        make(alice, place / "not yet", b"now")
        assert next(answer.iter_bytes()) == b"now"


def test_lines_of_json_for_scripts(gateway: Gateway, alice: Person, place: Path) -> None:
    path = make(alice, place / "log", b"one\ntwo\nthree\n")
    headers = authorized(alice) | {"Accept": "application/x-ndjson"}
    params = {"path": str(path), "lines": "2"}
    with httpx.stream("GET", address(gateway), params=params, headers=headers, timeout=600) as answer:
        events = (json.loads(line) for line in answer.iter_lines())
        told = next(event for event in events if event["event"] == "output")
    assert told["id"] == "14"
    assert (told["data"]["offset"], told["data"]["text"]) == (4, "two\nthree\n")


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_file_that_comes_late_and_becomes_another_one(
    gateway: Gateway, alice: Person, place: Path, system: str
) -> None:
    path = place / "log"
    reading = Reading()
    with following(address(gateway, system), authorized(alice), path=str(path)) as events:
        reading.take(next(events))
        make(alice, path, "the first é".encode())
        reading.until(events, lambda: reading.content == "the first é")
        path.rename(place / "log.1")
        make(alice, path, b"the second, which is longer")
        reading.until(events, lambda: reading.content == "the second, which is longer")
        path.write_bytes(b"third")
        reading.until(events, lambda: reading.content == "third")
    assert [name for name in reading.names if name not in ("output", "waiting")] == ["truncated"] * 2
    assert reading.names[0] == "waiting"
    # Who comes back with what it had of another file is told so: by the mark, or as that was longer.
    mark = {"offset": 5, "mark": str(reading.mark)}
    path.write_bytes(b"fourth")
    for params in (mark, {"offset": 10}):
        again = Reading()
        with following(address(gateway, system), authorized(alice), path=str(path), **params) as events:
            again.until(events, lambda again=again: again.content == "fourth")  # type: ignore[misc]
        assert again.names == ["truncated", "output"]


CUT = "é€😀"


@pytest.mark.parametrize("back", range(1, len(CUT.encode()) + 1))
def test_the_last_bytes_begin_with_a_whole_sequence(gateway: Gateway, alice: Person, place: Path, back: int) -> None:
    """From so many bytes before the end, the rest of a sequence that begins before is left out."""
    path = make(alice, place / "log", CUT.encode())
    reading = Reading()
    with following(address(gateway), authorized(alice), path=str(path), offset=-back) as events:
        append(path, b"|")
        reading.until(events, lambda: reading.content.endswith("|"))
    assert reading.content == CUT.encode()[-back:].decode("utf-8", "ignore") + "|"


def test_what_is_not_utf_8_is_shown_as_such_and_counted(gateway: Gateway, alice: Person, place: Path) -> None:
    path = make(alice, place / "log", b"caf\xe9 \xff\xfe \x00\x80\x80 end")
    reading = Reading()
    with following(address(gateway), authorized(alice), path=str(path)) as events:
        reading.until(events, lambda: reading.content.endswith("end"))
    assert reading.content == path.read_bytes().decode("utf-8", "replace")
    assert reading.position == path.stat().st_size


REFUSED: dict[str, tuple[dict[str, Any], dict[str, str], int]] = {
    "a directory": ({"path": "."}, {}, 400),
    "a FIFO": ({"path": "fifo"}, {}, 400),
    "a device": ({"path": "/dev/null"}, {}, 400),
    "a file that may not be read": ({"path": "closed"}, {}, 403),
    "a relative path": ({"path": "../log"}, {}, 400),
    "an offset that is none": ({"path": "log", "offset": "x"}, {}, 400),
    "an offset without end": ({"path": "log", "offset": "9" * 30}, {}, 400),
    "offset and lines": ({"path": "log", "offset": "0", "lines": "1"}, {}, 400),
    "fewer lines than none": ({"path": "log", "lines": "-1"}, {}, 400),
    "a mark that is none": ({"path": "log", "offset": "0", "mark": "x"}, {}, 400),
    "a mark without an offset": ({"path": "log", "mark": "1.0.0"}, {}, 400),
    "an id that no event had": ({"path": "log"}, {"Last-Event-ID": "-1"}, 400),
    "an id that is a name": ({"path": "log"}, {"Last-Event-ID": "٣"}, 400),
    "an id without end": ({"path": "log"}, {"Last-Event-ID": "9" * 2000}, 400),
    "no path": ({}, {}, 400),
}


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_followed_is_refused_before_the_stream(
    gateway: Gateway, alice: Person, place: Path, system: str, name: str
) -> None:
    params, headers, status = REFUSED[name]
    alice.run("mkfifo", str(place / "fifo"))
    make(alice, place / "log", b"x")
    make(alice, place / "closed", b"x").chmod(0)
    if "path" in params and not params["path"].startswith(("..", "/")):
        params = params | {"path": str(place / params["path"])}
    given = httpx.Headers({**authorized(alice), **headers}, encoding="utf-8")
    answer = httpx.get(address(gateway, system), params=params, headers=given, timeout=600)
    assert_problem(answer, status, kind=answer.json()["errorType"])


def status(person: Person, url: str, **headers: str) -> int:
    """Return the status of an answer that may have no end, and hang up."""
    with httpx.stream("GET", url, headers=authorized(person) | headers, timeout=600) as answer:
        return answer.status_code


def test_followers_are_bounded_by_user_and_in_all(cluster: Cluster, alice: Person, bob: Person, place: Path) -> None:
    """More are told 429; other streams have bounds of their own."""
    streams = {"max_followers_per_user": 2, "max_followers": 3, "max_streams_per_user": 1}
    gateway = cluster.start_gateway(cluster.write_gateway_config(cluster.directory / "bounded.yaml", streams=streams))
    path = make(alice, place / "log", b"x")
    his = make(bob, bob.user.home / ".follow", b"x")
    url, other = (f"{address(gateway)}?path={each}" for each in (path, his))
    try:
        with contextlib.ExitStack() as stack:
            # Those that nobody refers to any more are closed.
            streams_of = [
                stack.enter_context(following(address(gateway), authorized(person), path=str(file)))
                for person, file in ((alice, path), (alice, path), (bob, his))
            ]
            assert [next(events).name for events in streams_of] == ["output"] * 3
            assert [status(alice, url), status(bob, other)] == [429, 429]
            assert status(alice, f"{gateway.url}/filesystem/demo/files/content?path={path}") == 200
        assert wait_until(lambda: status(alice, url) == 200)
    finally:
        gateway.stop()


def test_a_follower_that_takes_nothing_is_dropped_and_comes_back(cluster: Cluster, alice: Person, place: Path) -> None:
    """Its place is free again after streams.stall_timeout, and what it has not had is there from its offset on."""
    streams = {"max_followers_per_user": 1, "stall_timeout": 2}
    gateway = cluster.start_gateway(cluster.write_gateway_config(cluster.directory / "stalled.yaml", streams=streams))
    alice.run("truncate", "-s", "1G", str(place / "huge"))
    target = f"/filesystem/demo/files/follow?path={place}/huge"
    try:
        with begun(gateway, alice, "GET", target) as raw:
            assert raw.recv(12) == b"HTTP/1.1 200"
            assert wait_until(lambda: status(alice, gateway.url + target) == 200, 600)
        with following(address(gateway), authorized(alice), "1000", path=f"{place}/huge") as events:
            assert next(events).data["offset"] == 1000
    finally:
        gateway.stop()


def test_a_follower_is_told_to_end(cluster: Cluster, alice: Person, place: Path) -> None:
    """After streams.max_follow, and when the gateway stops; it says when to come back."""
    path = make(alice, place / "log", b"x")
    streams = {"max_follow": 3}
    config = cluster.write_gateway_config(cluster.directory / "ending.yaml", streams=streams)
    gateway = cluster.start_gateway(config)
    with following(address(gateway), authorized(alice), path=str(path)) as events:
        told = list(events)
    assert [event.name for event in told] == ["output", "stream.closing"]
    assert told[-1].data == {"reason": "longest"}
    with following(address(gateway), authorized(alice), path=str(path)) as events:
        assert next(events).name == "output"
        os.kill(gateway.pid, signal.SIGTERM)
        told = list(events)
    gateway.stop()
    assert [event.data for event in told] in ([{"reason": "stop"}], [{"reason": "longest"}])


def test_a_file_that_becomes_a_directory_ends_the_stream_with_the_reason(
    gateway: Gateway, alice: Person, place: Path
) -> None:
    path = make(alice, place / "log", b"x")
    with following(address(gateway), authorized(alice), path=str(path)) as events:
        assert next(events).name == "output"
        path.unlink()
        alice.run("mkdir", str(path))
        last: Event = list(events)[-1]
    assert (last.name, last.data["status"]) == ("failed", 400)
    assert "Is a directory" in last.data["message"]


def test_events_are_parsed_as_they_come() -> None:
    """The client of these tests reads events whatever pieces they come in."""
    text = b': heartbeat\n\nevent: a\nid: 1\ndata: {"x":\ndata: 1}\n\nevent: cut'
    for size in (1, 7, 100):
        blocks = (text[at : at + size] for at in range(0, len(text), size))
        assert list(events_in(blocks)) == [Event("a", "1", {"x": 1})]
