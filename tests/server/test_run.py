"""How log lines are written, and how many names can be looked up at a time."""

import asyncio
import json
import subprocess
import sys
import threading
from typing import Any, cast

import pytest
import structlog
import uvicorn

from hpcgate.config import LoggerSettings
from hpcgate.server.front import Front
from hpcgate.server.lifecycle import Server
from hpcgate.server.logs import configure_logging


@pytest.fixture(autouse=True)
def _as_it_was() -> object:
    yield
    structlog.reset_defaults()


def fail(token: str) -> None:
    raise RuntimeError("no details")


@pytest.mark.parametrize("form", ["json", "console"])
def test_tracebacks_show_no_values(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(LoggerSettings.model_validate({"format": form}))
    try:
        fail("secret" + "-token")
    except RuntimeError as error:
        structlog.get_logger().error("request.crashed", exc_info=error)
    written = capsys.readouterr().out
    assert "request.crashed" in written
    assert "no details" in written
    assert "secret-token" not in written


def test_one_json_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(LoggerSettings())
    structlog.get_logger().info("http.request", path="/a\nb", status=200)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1
    line = json.loads(lines[0])
    assert (line["event"], line["path"], line["status"], line["level"]) == ("http.request", "/a\nb", 200, "info")
    assert line["timestamp"].endswith("Z")


def test_level(capsys: pytest.CaptureFixture[str]) -> None:
    """Lines below the level are not written."""
    configure_logging(LoggerSettings.model_validate({"level": "warning"}))
    structlog.get_logger().info("quiet")
    structlog.get_logger().warning("loud")
    written = capsys.readouterr().out
    assert "quiet" not in written
    assert "loud" in written


def test_names_that_are_looked_up_slowly_leave_threads_for_others() -> None:
    """libuv has four by default, of which look-ups get two."""
    program = (
        "import asyncio, os, uvloop\n"
        "from hpcgate.server.look_ups import LOOK_UPS, make_room_for_look_ups\n"
        "make_room_for_look_ups()\n"
        "async def look_up():\n"
        "    await asyncio.get_running_loop().getaddrinfo('localhost', 22)\n"
        "    print(len(os.listdir('/proc/self/task')) > 2 * LOOK_UPS)\n"
        "uvloop.run(look_up())\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=600, check=True)
    assert done.stdout == "True\n"


async def test_a_certificate_on_a_file_system_that_hangs_holds_one_thread() -> None:
    """And not the event loop; once it answers, what is new is taken up."""
    hangs, begun = threading.Event(), threading.Semaphore(0)
    renewed = 0

    class Certificate:
        def changed(self) -> bool:
            begun.release()
            return hangs.wait()

        def renew(self, pair: Any) -> None:
            nonlocal renewed
            renewed += 1

    server, certificate = Server(uvicorn.Config("none"), Front()), cast("Any", Certificate())
    server._look_at_certificate(certificate)
    assert await asyncio.to_thread(begun.acquire)
    for _ in range(3):
        server._look_at_certificate(certificate)
    assert not begun.acquire(blocking=False)
    hangs.set()
    while not renewed:
        server._look_at_certificate(certificate)
        await asyncio.sleep(0.01)
