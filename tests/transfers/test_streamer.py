"""The streamer's job: firecrest-streamer's server on one side, its client, as pyfirecrest has it, on the other."""

import asyncio
import base64
import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import websockets
import websockets.sync.client
from streamer import streamer_client

from hpcgate.auth import Principal
from hpcgate.demo.ports import listens
from hpcgate.errors import NotSupported
from hpcgate.transfers import streamer
from hpcgate.transfers.base import Download, JobLogs, Script, TransferContext, TransferJob, Upload
from hpcgate.transfers.streamer import StreamerSettings, StreamerTransfer
from tests.transfers import asked
from tests.transfers.servers import free_port
from tests.transfers.shells import Ended, Sh, assert_group_kept, either

ALICE = Principal("alice", "token")
CHUNK = 5 * 1024 * 1024
SIZES = [0, 1, CHUNK, CHUNK + 1]
LOOKS_LIKE_THE_END = b'{"type": "eof", "sha256_hash": "0"}'


@pytest.fixture
def here(sh: Sh) -> Sh:
    """A shell that runs scripts as the tests' own user, with the tests' own Python."""
    return Sh(sh.program, sh.directory, ordinary=False)


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Script, Any]]:
    """A function that starts a transfer and returns the job's script and what the user gets."""

    async def fine(*_: object) -> int:
        return 0

    monkeypatch.setattr(streamer, "check_target", fine)
    monkeypatch.setattr(streamer, "size_of_source", fine)
    scripts: list[Script] = []

    async def run(principal: Principal, script: Script, account: str | None) -> TransferJob:
        scripts.append(script)
        return TransferJob("1", "demo", "/w", JobLogs("/w/o", "/w/e"))

    def begin(request: Upload | Download, **settings: Any) -> tuple[Script, Any]:
        first = free_port(4)
        document = {
            "service_type": "streamer", "host": "127.0.0.1", "port_range": [first, first + 3],
            "connection_attempts": 1, "wait_timeout": 120, "python": sys.executable, "install": False, **settings,
        }  # fmt: skip
        around = TransferContext("demo", None, run)  # type: ignore[arg-type]
        method = StreamerTransfer(StreamerSettings.model_validate(document), around)
        call = method.upload(ALICE, request) if isinstance(request, Upload) else method.download(ALICE, request)
        started = asyncio.run(call)
        return scripts.pop(), started.directives

    return begin


class Running:
    """A job that runs while the test goes on."""

    def __init__(self, sh: Sh, script: Script, *, chown: bool = True) -> None:
        self.ended: list[Ended] = []
        self._thread = threading.Thread(target=lambda: self.ended.append(sh.run(script, chown=chown)))
        self._thread.start()

    def wait(self) -> Ended:
        self._thread.join(300)
        return self.ended[0]


def connected(directives: Any, call: Any, path: Path) -> None:
    """Call the client's own function until the job listens."""
    config = streamer_client.set_coordinates(directives.fields["coordinates"])
    config.target = str(path)
    deadline = time.monotonic() + 120
    reporter = Reporter()
    while True:
        reporter.errors.clear()
        asyncio.run(call(config, reporter))
        if not any("Unable to establish" in error for error in reporter.errors):
            return
        assert time.monotonic() < deadline, reporter.errors
        time.sleep(0.2)


class Reporter:
    """Keeps what the client says."""

    def __init__(self) -> None:
        self.errors: list[str] = []

    def info(self, message: str) -> None: ...

    def warning(self, message: str) -> None: ...

    def error(self, message: str) -> None:
        self.errors.append(message)

    def progress(self, *_: Any, **__: Any) -> None: ...


@pytest.mark.parametrize("content", [*map(os.urandom, SIZES), LOOKS_LIKE_THE_END], ids=[*map(str, SIZES), "nasty"])
def test_upload(here: Sh, start: Any, tmp_path: Path, content: bytes) -> None:
    """A file comes by the streamer and replaces the old one."""
    target = here.directory / "it's $(x) \"é\n.bin"
    target.write_text("old")
    target.chmod(0o640)
    (tmp_path / "file").write_bytes(content)
    script, directives = start(asked.upload(str(target)))
    job = Running(here, script)
    connected(directives, streamer_client.client_send, tmp_path / "file")
    done = job.wait()
    assert (done.status, done.errors) == (0, "")
    assert "File was successfully" in done.output
    assert "listening" in done.output
    assert not tells(done.output, coordinates(directives)["secret"])
    assert target.read_bytes() == content
    assert target.stat().st_mode & 0o777 == 0o640
    assert here.left_over() == []


SLOW = """\
import os, sys, time

while not os.path.exists({release!r}):
    time.sleep(0.05)
sys.path.remove({here!r})
del sys.modules["streamer"]
import streamer
"""
"""A package that takes its time to be loaded, and is firecrest-streamer then."""


def test_who_connects_while_the_packages_are_loaded_waits(here: Sh, start: Any, tmp_path: Path) -> None:
    packages, release, python = tmp_path / "packages", tmp_path / "release", tmp_path / "python"
    (packages / "streamer").mkdir(parents=True)
    (packages / "streamer/__init__.py").write_text(SLOW.format(release=str(release), here=str(packages)))
    python.write_text(f'#!/bin/sh\nPYTHONPATH={packages} exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    (tmp_path / "file").write_bytes(b"content")
    target = here.directory / "file"
    port = free_port()
    script, directives = start(
        asked.upload(str(target)), python=str(python), port_range=[port, port], connection_attempts=30, wait_timeout=300
    )
    job = Running(here, script)
    config = streamer_client.set_coordinates(directives.fields["coordinates"])
    config.target = str(tmp_path / "file")
    reporter = Reporter()
    client = threading.Thread(target=lambda: asyncio.run(streamer_client.client_send(config, reporter)))
    try:
        deadline = time.monotonic() + 120
        while not listens(port):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        client.start()
    finally:
        release.touch()
    client.join(120)
    assert reporter.errors == []
    assert job.wait().status == 0
    assert target.read_bytes() == b"content"


@pytest.mark.parametrize("content", [*map(os.urandom, SIZES), LOOKS_LIKE_THE_END], ids=[*map(str, SIZES), "nasty"])
def test_download(here: Sh, start: Any, tmp_path: Path, content: bytes) -> None:
    """A file goes by the streamer."""
    source = here.directory / "it's $(x) \"é\n.bin"
    source.write_bytes(content)
    script, directives = start(asked.download(str(source)))
    job = Running(here, script)
    connected(directives, streamer_client.client_receive, tmp_path / "back")
    done = job.wait()
    assert (done.status, done.errors) == (0, "")
    assert "File was successfully" in done.output
    assert not tells(done.output, coordinates(directives)["secret"])
    assert (tmp_path / "back").read_bytes() == content


def coordinates(directives: Any) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(base64.urlsafe_b64decode(directives.fields["coordinates"]))
    return document


def tells(log: str, secret: str) -> bool:
    """Whether a log, which others on the system may be able to read, holds the secret, as it is or encoded."""
    decoded = [base64.urlsafe_b64decode(word + "=" * (-len(word) % 4)) for word in re.findall(r"[\w=-]{16,}", log)]
    return secret in log or any(secret.encode() in each for each in decoded)


def test_secret_is_not_shown_by_ps(here: Sh, start: Any, tmp_path: Path) -> None:
    script, directives = start(asked.upload(f"{here.directory}/target"), wait_timeout=10)
    where = coordinates(directives)
    assert len(where["secret"]) > 30
    job = Running(here, script)
    listening_port(where)
    shown = subprocess.run(["ps", "-eww", "-o", "args"], capture_output=True, text=True, check=True).stdout
    assert "/dev/fd/3" in shown
    assert where["secret"] not in shown
    done = job.wait()
    assert done.status == 1
    assert "No file was transferred" in done.errors
    assert "successfully" not in done.output
    assert os.listdir(here.directory) == []


@either
def test_client_that_vanishes(here: Sh, start: Any) -> None:
    """A client that vanishes leaves the old file."""
    (here.directory / "target").write_text("old")
    script, directives = start(asked.upload(f"{here.directory}/target"))
    where = coordinates(directives)
    job = Running(here, script)

    async def vanish() -> None:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            for port in range(where["ports"][0], where["ports"][1] + 1):
                try:
                    headers = {"Authorization": f"Bearer {where['secret']}"}
                    async with websockets.connect(f"ws://127.0.0.1:{port}", additional_headers=headers) as connection:
                        await connection.send(json.dumps({"type": "init", "num_chunks": 2, "file_size": 9}).encode())
                        await connection.send(b"half")
                    return
                except OSError:
                    await asyncio.sleep(0.1)
        raise AssertionError("the job does not listen")

    asyncio.run(vanish())
    done = job.wait()
    assert done.status == 1
    assert "did not arrive whole" in done.errors
    assert "File was successfully" not in done.output
    assert (here.directory / "target").read_text() == "old"
    assert here.left_over() == []


@pytest.mark.parametrize("way", ["in", "out", "no websocket"])
def test_client_that_stalls(here: Sh, start: Any, way: str) -> None:
    """It has the secret, and connects, but then nothing moves: the job does not keep its allocation for it."""
    target = here.directory / "target"
    target.write_bytes(b"old")
    if way == "out":
        os.truncate(target, 200 * 1024**2)
    script, directives = start(
        asked.download(str(target)) if way == "out" else asked.upload(str(target)), wait_timeout=8
    )
    where = coordinates(directives)
    job = Running(here, script)
    headers = {"Authorization": f"Bearer {where['secret']}"}

    async def stall() -> None:
        port = await asyncio.to_thread(listening_port, where)
        if way == "no websocket":
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(f"GET / HTTP/1.1\r\nHost: x\r\nAuthorization: {headers['Authorization']}\r\n\r\n".encode())
            assert b"426" in await reader.readline()
            writer.close()
            await asyncio.to_thread(job.wait)
            return
        async with websockets.connect(
            f"ws://127.0.0.1:{port}",
            additional_headers=headers,
            max_size=None,
            max_queue=1,
            close_timeout=0,
            compression=None,
        ) as connection:
            if way == "in":
                await connection.send(json.dumps({"type": "init", "num_chunks": 2, "file_size": 9}).encode())
            await asyncio.to_thread(job.wait)

    asyncio.run(stall())
    done = job.wait()
    assert done.status == 75
    assert "Nothing has moved" in done.errors
    assert "successfully transferred" not in done.output
    assert os.listdir(here.directory) == ["target"]


def listening_port(where: dict[str, Any]) -> int:
    """Wait until the job listens at one of its ports."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        for port in range(where["ports"][0], where["ports"][1] + 1):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                return port
        time.sleep(0.05)
    raise AssertionError("the job does not listen")


def test_wrong_secret(here: Sh, start: Any, tmp_path: Path) -> None:
    """Strangers are sent away, and the job goes on to wait for the user."""
    (tmp_path / "file").write_text("content")
    script, directives = start(asked.upload(f"{here.directory}/target"))
    where = coordinates(directives)
    job = Running(here, script)
    port = listening_port(where)
    for headers in (
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Bearer {where['secret'][:-1]}"},
        {"Authorization": ""},
    ):
        with pytest.raises(websockets.exceptions.InvalidStatus):
            websockets.sync.client.connect(f"ws://127.0.0.1:{port}", additional_headers=headers)
    connected(directives, streamer_client.client_send, tmp_path / "file")
    assert job.wait().status == 0
    assert (here.directory / "target").read_text() == "content"


@pytest.mark.parametrize("limit", [CHUNK, CHUNK + 10, 10])
@pytest.mark.parametrize("over", [0, 1])
def test_limit(here: Sh, start: Any, tmp_path: Path, limit: int, over: int) -> None:
    """A file of exactly the limit comes, and one byte more does not."""
    (tmp_path / "file").write_bytes(bytes(limit + over))
    script, directives = start(asked.upload(f"{here.directory}/target"), inbound_transfer_limit=limit)
    job = Running(here, script)
    connected(directives, streamer_client.client_send, tmp_path / "file")
    done = job.wait()
    assert done.status == over
    assert (f"{limit} bytes" in done.errors) == bool(over)
    assert os.listdir(here.directory) == ([] if over else ["target"])


def test_limit_holds_for_what_is_not_announced(here: Sh, start: Any) -> None:
    script, directives = start(asked.upload(f"{here.directory}/target"), inbound_transfer_limit=10)
    where = coordinates(directives)
    job = Running(here, script)
    headers = {"Authorization": f"Bearer {where['secret']}"}
    address = f"ws://127.0.0.1:{listening_port(where)}"
    with websockets.sync.client.connect(address, additional_headers=headers) as connection:
        connection.send(json.dumps({"type": "init", "num_chunks": 2, "file_size": 9}).encode())
        connection.send(b"x" * 6)
        connection.send(b"x" * 6)
        with pytest.raises(websockets.exceptions.ConnectionClosed):
            connection.recv(timeout=600)
    assert job.wait().status == 1
    assert os.listdir(here.directory) == []


def test_addresses(start: Any) -> None:
    """The client is told the addresses and ports of the settings."""
    _, directives = start(asked.download("/x"), public_ips=["192.0.2.1", "192.0.2.2"])
    assert coordinates(directives)["ips"] == ["192.0.2.1", "192.0.2.2"]
    _, directives = start(
        asked.download("/x"), public_ips=["192.0.2.1", "192.0.2.2"], port_range=[1, 5], connection_attempts=29
    )
    assert coordinates(directives)["ips"] == ["192.0.2.1", "192.0.2.2"] * 2
    _, directives = start(asked.download("/x"))
    assert coordinates(directives)["ips"] == ["127.0.0.1"]
    _, directives = start(asked.download("/x"), port_range=[1, 1], connection_attempts=60_000)
    assert len(coordinates(directives)["ips"]) == streamer.MAX_ADDRESSES
    with pytest.raises(NotSupported, match="public_ips"):
        start(asked.download("/x"), host=None)


@pytest.mark.parametrize("size", [100, CHUNK])
def test_full_disk(here: Sh, small: Path, start: Any, tmp_path: Path, size: int) -> None:
    """Found by a write, or, as what is small is written at the end, only when the file is closed."""
    (small / "target").write_text("old")
    (tmp_path / "file").write_bytes(os.urandom(size))
    script, directives = start(asked.upload(f"{small}/target"))
    job = Running(here, script)
    wait_until_it_stages(small)
    with contextlib.suppress(OSError), (small / "filler").open("wb", buffering=0) as filler:
        while filler.write(bytes(4096)):
            pass
    connected(directives, streamer_client.client_send, tmp_path / "file")
    done = job.wait()
    assert (done.status, "File was successfully" in done.output) == (1, False)
    assert "No space left on device" in done.output + done.errors
    assert (small / "target").read_text() == "old"
    assert sorted(os.listdir(small)) == ["filler", "target"]


@pytest.mark.parametrize("member", [True, False])
def test_what_replaces_a_file_is_for_the_same_group(here: Sh, start: Any, tmp_path: Path, member: bool) -> None:
    target = here.directory / "target"
    target.write_text("old")
    if os.geteuid() == 0:
        os.chown(target, -1, 54322)
    target.chmod(0o664)
    (tmp_path / "file").write_text("new")
    script, directives = start(asked.upload(str(target)))
    job = Running(here, script, chown=member)
    connected(directives, streamer_client.client_send, tmp_path / "file")
    assert job.wait().status == 0
    assert target.read_text() == "new"
    assert_group_kept(target, member)


def wait_until_it_stages(directory: Path) -> None:
    deadline = time.monotonic() + 120
    while not list(directory.glob(".hpcgate-*")):
        assert time.monotonic() < deadline, "the job does not begin"
        time.sleep(0.05)
