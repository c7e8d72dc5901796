"""The wormhole's job, with a real mailbox server and transit relay, and magic-wormhole's command at the other end."""

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from hpcgate.auth import Principal
from hpcgate.errors import BadRequest
from hpcgate.transfers import wormhole
from hpcgate.transfers.base import Download, JobLogs, Script, TransferContext, TransferJob, Upload
from hpcgate.transfers.wormhole import WormholeSettings, WormholeTransfer
from tests.transfers import asked
from tests.transfers.servers import WormholeServers
from tests.transfers.shells import Sh, assert_group_kept

ALICE = Principal("alice", "token")
COMMAND = Path(sys.executable).with_name("wormhole")
SIZES = [0, 1, 3_000_000]


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WormholeServers]:
    with WormholeServers(tmp_path_factory.mktemp("wormhole")) as running:
        yield running


@pytest.fixture
def here(workspace: Path) -> Sh:
    """A shell that runs scripts as the tests' own user, with the tests' own Python."""
    (workspace / "work").mkdir()
    return Sh("dash", workspace / "work", ordinary=False)


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch, servers: WormholeServers) -> Callable[..., tuple[Script, str]]:
    """A function that starts a transfer and returns the job's script and the code."""

    async def fine(*_: object) -> int:
        return 0

    monkeypatch.setattr(wormhole, "check_target", fine)
    monkeypatch.setattr(wormhole, "size_of_source", fine)
    scripts: list[Script] = []

    async def run(principal: Principal, script: Script, account: str | None) -> TransferJob:
        scripts.append(script)
        return TransferJob("1", "demo", "/w", JobLogs("/w/o", "/w/e"))

    def begin(request: Upload | Download, **settings: Any) -> tuple[Script, str]:
        document = {
            "service_type": "wormhole", "relay_url": servers.relay_url, "transit_helper": servers.transit_helper,
            "wait_timeout": 120, "python": sys.executable, "install": False, **settings,
        }  # fmt: skip
        around = TransferContext("demo", None, run)  # type: ignore[arg-type]
        method = WormholeTransfer(WormholeSettings.model_validate(document), around)
        call = method.upload(ALICE, request) if isinstance(request, Upload) else method.download(ALICE, request)
        started = asyncio.run(call)
        assert started.directives.fields["wormhole_code"] is not None
        return scripts.pop(), started.directives.fields["wormhole_code"]

    return begin


@pytest.fixture
def send(servers: WormholeServers, tmp_path: Path) -> Iterator[Any]:
    """A function that begins to send something as pyfirecrest does, and returns the code."""
    begun: list[subprocess.Popen[str]] = []

    def begin(path: Path) -> str:
        process = subprocess.Popen(
            [COMMAND, "send", str(path), "--code-length", "4"],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=os.environ | servers.environment,
        )  # fmt: skip
        begun.append(process)
        assert process.stderr is not None
        for line in process.stderr:
            if "Wormhole code is:" in line:
                return line.split(":")[-1].strip()
        raise AssertionError("no code")

    begin.begun = begun  # type: ignore[attr-defined]
    yield begin
    for process in begun:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("size", SIZES)
def test_upload(here: Sh, start: Any, send: Any, tmp_path: Path, size: int) -> None:
    """A file comes by magic-wormhole and replaces the old one."""
    target = here.directory / "it's $(x) \"é\n.bin"
    target.write_text("old")
    target.chmod(0o640)
    content = os.urandom(size)
    (tmp_path / "file").write_bytes(content)
    script, code = start(asked.upload(str(target), fields={"wormhole_code": send(tmp_path / "file")}))
    done = here.run(script)
    assert done.status == 0, done.errors
    assert code not in done.output + done.errors
    assert "File was successfully" in done.output
    assert target.read_bytes() == content
    assert target.stat().st_mode & 0o777 == 0o640
    assert here.left_over() == []


@pytest.mark.parametrize("size", SIZES)
def test_download(here: Sh, start: Any, servers: WormholeServers, tmp_path: Path, size: int) -> None:
    """A file goes by magic-wormhole."""
    source = here.directory / "-it's $(x) \"é.bin"
    content = os.urandom(size)
    source.write_bytes(content)
    script, code = start(asked.download(str(source)))
    ended: list[Any] = []
    job = threading.Thread(target=lambda: ended.append(here.run(script)))
    job.start()
    wait_for_process(f"HPCGATE_CODE={code}")
    shown = subprocess.run(["ps", "-eww", "-o", "args"], capture_output=True, text=True, check=True).stdout
    assert "/dev/fd/3" in shown
    assert code not in shown
    command = [COMMAND, "receive", "--accept-file", "-o", str(tmp_path / "back"), code]
    subprocess.run(command, check=True, capture_output=True, timeout=300, env=os.environ | servers.environment)
    job.join(300)
    assert ended[0].status == 0, ended[0].errors
    assert "File was successfully" in ended[0].output
    assert code not in ended[0].output + ended[0].errors
    assert (tmp_path / "back").read_bytes() == content


def wait_for_process(variable: str) -> None:
    """Wait until a process has begun with something in its environment."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        for path in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                if variable.encode() in path.read_bytes().split(b"\0"):
                    return
        time.sleep(0.05)
    raise AssertionError("the job does not begin")


def test_directory_is_refused(here: Sh, start: Any, send: Any, tmp_path: Path) -> None:
    """A directory that is sent is refused, and the old file stays."""
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "leaf").write_text("x")
    (here.directory / "target").write_text("old")
    script, _ = start(asked.upload(f"{here.directory}/target", fields={"wormhole_code": send(tmp_path / "tree")}))
    done = here.run(script)
    assert done.status != 0
    assert "successfully" not in done.output
    assert (here.directory / "target").read_text() == "old"
    assert os.listdir(here.directory) == ["target"]


@pytest.mark.parametrize("member", [True, False])
def test_what_replaces_a_file_is_for_the_same_group(
    here: Sh, start: Any, send: Any, tmp_path: Path, member: bool
) -> None:
    target = here.directory / "target"
    target.write_text("old")
    if os.geteuid() == 0:
        os.chown(target, -1, 54322)
    target.chmod(0o664)
    (tmp_path / "file").write_text("new")
    script, _ = start(asked.upload(str(target), fields={"wormhole_code": send(tmp_path / "file")}))
    assert here.run(script, chown=member).status == 0
    assert target.read_text() == "new"
    assert_group_kept(target, member)


@pytest.mark.parametrize("size", [100, 3_000_000])
def test_full_disk(here: Sh, small: Path, start: Any, send: Any, tmp_path: Path, size: int) -> None:
    """A full disk fails the job, and the old file stays."""
    (small / "target").write_text("old")
    (tmp_path / "file").write_bytes(os.urandom(size))
    script, _ = start(asked.upload(f"{small}/target", fields={"wormhole_code": send(tmp_path / "file")}))
    # Its own look at the room that is left is not what is tried here: others may take it meanwhile.
    begin = 'if __name__ == "__main__":'
    blind = script.body.replace(begin, f"cmd_receive.estimate_free_space = lambda _: None\n\n{begin}")
    with contextlib.suppress(OSError), (small / "filler").open("wb", buffering=0) as filler:
        while filler.write(bytes(4096)):
            pass
    done = here.run(replace(script, body=blind))
    assert done.status != 0
    assert "No space left on device" in done.errors
    assert "successfully" not in done.output
    assert (small / "target").read_text() == "old"
    assert sorted(os.listdir(small)) == ["filler", "target"]


@pytest.mark.parametrize("verb", ["in", "out"])
def test_nobody_comes(here: Sh, start: Any, verb: str) -> None:
    """A job to which nobody comes ends in time."""
    (here.directory / "file").write_text("old")
    path = f"{here.directory}/file"
    nobody = {"wormhole_code": "987654-nobody-has-it"}
    request = asked.upload(path, fields=nobody) if verb == "in" else asked.download(path)
    done = here.run(start(request, wait_timeout=2)[0])
    assert done.status == 75
    assert "Nobody was at the other end" in done.errors
    assert "successfully" not in done.output
    assert os.listdir(here.directory) == ["file"]


@pytest.mark.parametrize("verb", ["in", "out"])
def test_the_other_end_stalls(
    here: Sh, start: Any, send: Any, servers: WormholeServers, tmp_path: Path, verb: str
) -> None:
    """Bytes flow, and then no more: the job does not keep its allocation for that."""
    (here.directory / "file").write_text("old")
    huge = tmp_path / "huge"
    if verb == "out":
        huge = here.directory / "file"
    huge.touch()
    os.truncate(huge, 20 * 1024**3)
    if verb == "in":
        request: Upload | Download = asked.upload(f"{here.directory}/file", fields={"wormhole_code": send(huge)})
        other = send.begun[-1]
    else:
        request = asked.download(str(huge))
    script, code = start(request, wait_timeout=15)
    ended: list[Any] = []
    job = threading.Thread(target=lambda: ended.append(here.run(script)))
    arriving = here.directory if verb == "in" else tmp_path
    if verb == "out":
        # The other end is there first: it has no limit to its waiting.
        command = [COMMAND, "receive", "--accept-file", "-o", str(tmp_path / "back"), code]
        other = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ | servers.environment
        )
    try:
        job.start()
        deadline = time.monotonic() + 120
        while not any(path.stat().st_size for path in arriving.rglob("*.tmp")):
            assert time.monotonic() < deadline, "nothing arrives"
            time.sleep(0.05)
        other.send_signal(signal.SIGSTOP)
        job.join(120)
        assert ended, "the job goes on"
    finally:
        other.kill()
        other.wait()
        job.join(120)
    assert ended[0].status == 75
    assert "Nothing has moved" in ended[0].errors
    assert "successfully" not in ended[0].output
    assert os.listdir(here.directory) == ["file"]


def test_wrong_code(here: Sh, start: Any, send: Any, tmp_path: Path) -> None:
    """A wrong code moves nothing."""
    (tmp_path / "file").write_text("x")
    number = send(tmp_path / "file").partition("-")[0]
    done = here.run(start(asked.upload(f"{here.directory}/target", fields={"wormhole_code": f"{number}-not-this"}))[0])
    assert done.status == 1
    assert os.listdir(here.directory) == []


def test_no_code(start: Any) -> None:
    """An upload without a code is refused."""
    with pytest.raises(BadRequest, match="wormholeCode is required"):
        start(asked.upload("/x"))


def test_codes() -> None:
    """Codes are long, and no two are the same."""
    codes = {wormhole.new_code() for _ in range(100)}
    assert len(codes) == 100
    assert all(re.fullmatch(r"[1-9][0-9]{8}-[0-9a-f]{16}", code) for code in codes)


@pytest.mark.parametrize("key", ["relay_url", "transit_helper"])
def test_addresses_are_checked(key: str) -> None:
    """An address of a server that is not one is a mistake in the settings."""
    with pytest.raises(ValidationError, match=key):
        WormholeSettings.model_validate({"service_type": "wormhole", key: "nowhere"})
