"""How a gateway process stops."""

import contextlib
import json
import os
import signal
import socket
import time
from pathlib import Path

import httpx

from tests.front import Front, serving

ALIVE = b"GET /status/liveness HTTP/1.1\r\nHost: x\r\n\r\n"


def connected(front: Front) -> socket.socket:
    return socket.create_connection(("127.0.0.1", front.port), timeout=600)


def received(connection: socket.socket) -> bytes:
    """Return all that comes until the other side closes the connection."""
    content = b""
    while block := connection.recv(65536):
        content += block
    return content


def answer_of(connection: socket.socket) -> bytes:
    """Return one small answer of a connection that stays."""
    content = b""
    while b"\r\n\r\n" not in content or not content.endswith(b"}"):
        block = connection.recv(65536)
        assert block
        content += block
    return content


def logged(front: Front, event: str) -> bool:
    return any(f'"event": "{event}"' in line for line in front.log.read_text().splitlines())


def wait_for(front: Front, event: str) -> None:
    deadline = time.monotonic() + 120
    while not logged(front, event):
        assert time.monotonic() < deadline, front.log.read_text()
        time.sleep(0.02)


def test_what_has_begun_is_answered_and_then_the_connection_ends(tmp_path: Path) -> None:
    with serving(tmp_path) as front, connected(front) as kept, connected(front) as begun, connected(front) as silent:
        kept.sendall(ALIVE)
        assert b"connection: close" not in answer_of(kept)
        begun.sendall(ALIVE[:20])
        time.sleep(0.2)
        front.process.terminate()
        wait_for(front, "server.draining")
        kept.sendall(ALIVE)
        time.sleep(0.3)
        begun.sendall(ALIVE[20:])
        for connection in (kept, begun):
            answer = received(connection)
            assert answer.startswith(b"HTTP/1.1 200 ")
            assert b"connection: close" in answer
        assert received(silent) == b""
        assert front.process.wait(120) == -signal.SIGTERM


def test_what_the_kernel_has_accepted_is_answered(tmp_path: Path) -> None:
    with serving(tmp_path) as front:
        os.kill(front.process.pid, signal.SIGSTOP)
        waiting = [connected(front) for _ in range(100)]
        for connection in waiting:
            connection.sendall(ALIVE)
        front.process.terminate()
        os.kill(front.process.pid, signal.SIGCONT)
        for connection in waiting:
            with connection:
                assert answer_of(connection).startswith(b"HTTP/1.1 200 ")
        front.process.wait(120)


def test_load_balancers_have_time_to_take_note(tmp_path: Path) -> None:
    with serving(tmp_path, http={"drain": 3}) as front:
        url = f"http://127.0.0.1:{front.port}/status"
        httpx.get(f"{url}/readiness")
        stopped = time.monotonic()
        front.process.terminate()
        wait_for(front, "server.draining")
        answer = httpx.get(f"{url}/readiness")
        assert answer.status_code == 503
        assert answer.json()["message"] == "The gateway is about to stop"
        assert answer.json()["data"] == {"ready": False}
        assert httpx.get(f"{url}/liveness").headers["connection"] == "close"
        with contextlib.suppress(httpx.TransportError):
            while True:
                assert httpx.get(f"{url}/liveness").status_code == 200
        # Nobody is turned away before that, whenever the machine lets us ask.
        assert time.monotonic() >= stopped + 3
        front.process.wait(120)
        assert time.monotonic() >= stopped + 3


def test_without_a_load_balancer_nobody_waits(tmp_path: Path) -> None:
    with serving(tmp_path, http={"drain": 1000}) as front:
        front.process.terminate()
        front.process.wait(120)
    with serving(tmp_path, http={"drain": 1000}) as front:
        httpx.get(f"http://127.0.0.1:{front.port}/status/readiness")
        front.process.send_signal(signal.SIGINT)
        front.process.wait(120)


def test_what_takes_too_long_is_cut_off(tmp_path: Path) -> None:
    with serving(tmp_path, http={"graceful_stop": 1}) as front, connected(front) as connection:
        # Its head never comes to an end.
        connection.sendall(ALIVE[:20])
        time.sleep(0.2)
        front.process.terminate()
        assert received(connection) == b""
        front.process.wait(120)
        cut = [line for line in front.log.read_text().splitlines() if "server.requests_cut_off" in line]
        assert len(cut) == 1
        assert json.loads(cut[0])["level"] == "warning"


def test_a_file_system_that_hangs_does_not_keep_the_process_from_ending(tmp_path: Path) -> None:
    """A FIFO in the place of a file hangs as one does whose server is gone."""
    notice = tmp_path / "state/maintenance/demo.json"
    notice.parent.mkdir(parents=True)
    system = {
        "name": "demo",
        "ssh": {"host": "127.0.0.1", "port": 9},
        "scheduler": {"type": "slurm", "version": "22.05.8"},
        "file_systems": [{"path": "/", "data_type": "scratch", "default_work_dir": True}],
    }
    with serving(tmp_path, clusters=[system], state_directory=str(tmp_path / "state"), http={"drain": 0}) as front:
        with connected(front) as connection:
            connection.sendall(ALIVE)
            assert answer_of(connection).startswith(b"HTTP/1.1 200 ")
        os.mkfifo(notice)
        deadline = time.monotonic() + 300
        while True:
            try:
                held = os.open(notice, os.O_WRONLY | os.O_NONBLOCK)
                break
            except OSError:  # nobody reads it yet
                assert time.monotonic() < deadline
                time.sleep(0.05)
        try:
            # After SIGTERM uvicorn has the signal end the process; this one is followed by the interpreter's own end.
            front.process.send_signal(signal.SIGINT)
            front.process.wait(300)
        finally:
            os.close(held)
