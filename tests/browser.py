"""A real browser without a screen, by Chromium's own DevTools protocol."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import re
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp

from hpcgate.demo.cluster import silent
from hpcgate.demo.packages import ensure_installed, program

PROGRAM = "chromium-headless-shell"


class Page:
    """One window."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.requests: list[str] = []
        self.errors: list[str] = []
        self._socket = socket
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async for message in self._socket:
            event = json.loads(message.data)
            if "id" in event:
                self._answers.pop(event["id"]).set_result(event)
            elif event["method"] == "Network.requestWillBeSent":
                self.requests.append(event["params"]["request"]["url"])
            elif event["method"] == "Runtime.exceptionThrown":
                self.errors.append(json.dumps(event["params"]["exceptionDetails"]))
            elif event["method"] == "Log.entryAdded" and event["params"]["entry"]["level"] == "error":
                self.errors.append(json.dumps(event["params"]["entry"]))

    async def call(self, method: str, **parameters: Any) -> Any:
        """Send a command and return its result."""
        number = next(self._numbers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        found = await asyncio.wait_for(answer, 120)
        assert "error" not in found, found
        return found["result"]

    async def run(self, script: str) -> Any:
        """Evaluate JavaScript, as if a person had clicked."""
        found = await self.call("Runtime.evaluate", expression=script, userGesture=True, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    async def until(self, script: str, seconds: float = 120) -> Any:
        """Wait until an expression is true, and return it."""
        deadline = asyncio.get_running_loop().time() + seconds
        # An element cannot be handed over; that it is there is enough.
        wanted = f"(found => found instanceof Node ? true : found)({script})"
        while not (value := await self.run(wanted)):
            if asyncio.get_running_loop().time() > deadline:
                raise AssertionError(f"{script}\n{self.errors}\n{await self.run('document.body.innerText')}")
            await asyncio.sleep(0.1)
        return value

    async def open(self, url: str) -> None:
        """Go to an address."""
        for domain in ("Network", "Runtime", "Log", "Page"):
            await self.call(f"{domain}.enable")
        await self.call("Page.navigate", url=url)

    async def close(self) -> None:
        """Let go of it."""
        self._reader.cancel()
        await asyncio.gather(self._reader, return_exceptions=True)
        await self._socket.close()


class Browser:
    """Chromium, which finds no host but this one."""

    def __init__(self, http: aiohttp.ClientSession, port: str) -> None:
        self._http = http
        self._port = port

    async def page(self, part: str, seconds: float = 120) -> Page:
        """Return the window whose address holds a part, once there is one."""
        deadline = asyncio.get_running_loop().time() + seconds
        while True:
            async with self._http.get(f"http://127.0.0.1:{self._port}/json/list") as answer:
                targets = await answer.json()
            for target in targets:
                if target["type"] == "page" and part in target["url"]:
                    return Page(await self._http.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=0))
            assert asyncio.get_running_loop().time() < deadline, targets
            await asyncio.sleep(0.1)


@contextlib.asynccontextmanager
async def browser(directory: Path) -> AsyncIterator[Browser]:
    """Start Chromium with a profile of its own, and end it."""
    ensure_installed({PROGRAM: PROGRAM}, silent)
    options = [
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--disable-popup-blocking",
        "--disable-background-networking",
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        "--remote-debugging-port=0",
        f"--user-data-dir={directory}",
        "about:blank",
    ]
    log = directory / "chromium.log"
    with log.open("w") as output:
        process = subprocess.Popen([program(PROGRAM), *options], stdout=output, stderr=output)
    try:
        async with asyncio.timeout(300):
            while (found := re.search(r"DevTools listening on ws://127\.0\.0\.1:(\d+)/", log.read_text())) is None:
                assert process.poll() is None, log.read_text()
                await asyncio.sleep(0.1)
        async with aiohttp.ClientSession() as http:
            yield Browser(http, found[1])
    finally:
        process.terminate()
        try:
            await asyncio.to_thread(process.wait, 10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
