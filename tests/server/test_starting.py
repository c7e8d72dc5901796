"""A start that hangs: it has an end, SIGTERM is one, and both have words."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from structlog.testing import capture_logs

from hpcgate.config import LoggerSettings
from hpcgate.config.audit import AuditSettings
from hpcgate.server import starting
from hpcgate.server import tls as certificates
from hpcgate.server.logs import configure_logging
from hpcgate.server.starting import Opening
from hpcgate.server.tls import Tls, Unusable
from hpcgate.telemetry import audit
from tests.front import command, write_config


def taken(fifo: Path, process: "subprocess.Popen[str]") -> int:
    """Wait until somebody reads a FIFO, and return a descriptor that keeps him waiting."""
    deadline = time.monotonic() + 120
    while True:
        try:
            return os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)


def of_config(directory: Path, fifo: Path) -> list[str]:
    return command(fifo, 0)


def of_secret(directory: Path, fifo: Path) -> list[str]:
    path = write_config(directory)
    settings = yaml.safe_load(path.read_text())
    settings["ssh_credentials"] = {"type": "LocalCA", "ca_key": f"secret_file:{fifo}"}
    path.write_text(yaml.safe_dump(settings))
    return command(path, 0)


def of_certificate(directory: Path, fifo: Path) -> list[str]:
    return command(write_config(directory), 0, "--tls-cert", str(fifo))


@pytest.mark.parametrize(
    ("hanging", "doing"),
    [
        (of_config, "reading the configuration"),
        (of_secret, "reading the configuration"),
        (of_certificate, "reading the certificate"),
    ],
)
def test_sigterm_ends_a_start_that_hangs_and_says_where(
    hanging: Callable[[Path, Path], list[str]], doing: str, tmp_path: Path
) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    process = subprocess.Popen(hanging(tmp_path, fifo), stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    writer = -1
    try:
        writer = taken(fifo, process)
        process.send_signal(signal.SIGTERM)
        _, words = process.communicate(timeout=600)
        assert process.returncode == -signal.SIGTERM
        assert words == f"hpcgate: ended by SIGTERM while {doing}\n"
    finally:
        process.kill()
        process.communicate()
        if writer >= 0:
            os.close(writer)


HANGING = """
import asyncio, uvicorn
from hpcgate.server.front import Front
from hpcgate.server.lifecycle import Server

async def app(scope, receive, send):
    await receive()
    print("hangs", flush=True)
    await asyncio.Event().wait()

Server(uvicorn.Config(app, loop="uvloop", lifespan="on"), Front()).run()
"""


BLOCKING = HANGING.replace("await asyncio.Event().wait()", "blocking()").replace(
    "async def app",
    """
def blocking():
    import time
    while True:
        time.sleep(1000)

async def app""",
)


def test_sigterm_ends_what_blocks_the_loop_while_it_is_opened() -> None:
    """A plug-in that does so lets nobody see a signal: it is named, for whoever has to find it."""
    process = subprocess.Popen(
        [sys.executable, "-c", BLOCKING], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        assert process.stdout is not None
        while "hangs" not in process.stdout.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=600)
        assert process.returncode == -signal.SIGTERM
        assert "ended by a signal while opening the gateway, in <string>:10 (blocking) < " in said
    finally:
        process.kill()
        process.communicate()


def test_a_start_that_takes_long_says_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starting, "LONG", 0)
    with capture_logs() as logs, Opening(lambda: False):
        deadline = time.monotonic() + 120
        while not logs:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert logs[0]["event"] == "server.start_takes_long"
    assert "test_a_start_that_takes_long_says_where_it_is" in logs[0]["where"]


def test_sigterm_ends_what_hangs_while_it_is_opened() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", HANGING], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        assert process.stdout is not None
        while "hangs" not in process.stdout.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=600)
        assert process.returncode == -signal.SIGTERM
        assert "server.start_cut_off" in said
    finally:
        process.kill()
        process.communicate()


def test_a_certificate_that_hangs_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certificates, "READING", 0.1)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with pytest.raises(Unusable, match=r"they cannot be read within 0\.1 s"):
        Tls(fifo, None)
    os.close(os.open(fifo, os.O_RDWR))


def test_a_certificate_has_a_bound(tmp_path: Path) -> None:
    path = tmp_path / "endless"
    path.write_bytes(b"\n" * (1024 * 1024 + 1))
    with pytest.raises(Unusable, match="more than 1048576 bytes"):
        Tls(path, None)


def test_an_audit_log_that_hangs_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "OPENING", 0.1)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with pytest.raises(OSError, match=r"it cannot be opened within 0\.1 s"):
        configure_logging(LoggerSettings(), AuditSettings(to=str(fifo)))
    os.close(os.open(fifo, os.O_RDWR))
