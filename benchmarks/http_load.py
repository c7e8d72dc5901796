"""Load by HTTP: wrk where it is or can be installed, else a client in this process."""

import asyncio
import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import aiohttp
import uvloop

from benchmarks.measure import Measurement, hammer
from hpcgate.demo.packages import Progress, ensure_installed, program
from hpcgate.demo.problems import DemoError

TIMEOUT = 10
"""Seconds after which a request counts as failed."""

# Of the answers, wrk counts those over 399 as errors; the gateway gives no 1xx or 3xx.
MIX = """\
local asked = {}
local turn = 0
init = function()
  for path, token in string.gmatch(%s, "(%%S+) (%%S+)\\n") do
    asked[#asked + 1] = wrk.format("GET", path, {["Authorization"] = "Bearer " .. token})
  end
end
request = function()
  turn = turn + 1
  if turn > #asked then turn = 1 end
  return asked[turn]
end
"""
SCRIPT = """\
done = function(summary, latency, requests)
  local errors = summary.errors
  io.stderr:write(string.format(
    '{"requests": %d, "microseconds": %d, "refused": %d, "broken": %d, "p50": %d, "p99": %d}',
    summary.requests, summary.duration, errors.status,
    errors.connect + errors.read + errors.write + errors.timeout,
    latency:percentile(50), latency:percentile(99)))
end
"""


class Load(Protocol):
    """Something that asks for a URL as often as it can."""

    name: str

    def measure(self, url: str, headers: dict[str, str], clients: int, seconds: float) -> Measurement:
        """Ask by GET on as many connections as there are clients."""
        ...


class Wrk:
    """The load generator wrk, on one thread: two cores have the gateway and sshd to run, too."""

    name = "wrk"

    def __init__(self, directory: Path, progress: Progress, patience: int = TIMEOUT) -> None:
        """Install wrk if need be; raise DemoError if that cannot be. ``patience`` is seconds for one request."""
        self.patience = patience
        ensure_installed({"wrk": "wrk"}, progress)
        self._program = program("wrk")
        self._script = directory / "wrk.lua"

    def measure(self, url: str, headers: dict[str, str], clients: int, seconds: float) -> Measurement:
        """Run wrk; the headers go by its script, since a token on a command line can be seen by all."""
        lines = [f"wrk.headers[{json.dumps(name)}] = {json.dumps(value)}" for name, value in headers.items()]
        return self._run(url, "\n".join(lines) + "\n", clients, seconds)

    def measure_mix(self, url: str, asked: Sequence[tuple[str, str]], clients: int, seconds: float) -> Measurement:
        """Run wrk on pairs of a path and a token, one after the other, whichever connection is free."""
        pairs = "".join(f"{path} {token}\n" for path, token in asked)
        return self._run(url, MIX % f"[[\n{pairs}]]", clients, seconds)

    def _run(self, url: str, script: str, clients: int, seconds: float) -> Measurement:
        self._script.touch(0o600)
        self._script.write_text(script + SCRIPT)
        done = subprocess.run(
            [
                self._program,
                "--threads=1",
                f"--connections={clients}",
                f"--duration={max(1, round(seconds))}s",
                f"--timeout={self.patience}s",
                f"--script={self._script}",
                url,
            ],
            capture_output=True,
            text=True,
            check=True,
            timeout=seconds + 2 * self.patience,
        )
        found = json.loads(done.stderr)
        return Measurement(
            done=found["requests"] - found["refused"],
            errors=found["refused"] + found["broken"],
            seconds=found["microseconds"] / 1e6,
            p50=found["p50"] / 1000,
            p99=found["p99"] / 1000,
        )


class PythonLoad:
    """aiohttp's client, which takes about as much of a core as the gateway: its figures are too low."""

    name = "a Python client (wrk is not installed: rates are too low)"

    def measure(self, url: str, headers: dict[str, str], clients: int, seconds: float) -> Measurement:
        """Run as many tasks as there are clients."""

        async def run() -> Measurement:
            timeout = aiohttp.ClientTimeout(total=TIMEOUT)
            connector = aiohttp.TCPConnector(limit=clients)
            async with aiohttp.ClientSession(headers=headers, timeout=timeout, connector=connector) as session:

                async def ask() -> None:
                    async with session.get(url) as answer:
                        await answer.read()
                        if not 200 <= answer.status < 300:
                            raise RuntimeError(answer.status)

                return await hammer(ask, clients, seconds)

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(run())


def best_load(directory: Path, progress: Progress) -> Load:
    """Return wrk, or the client in Python where there is none."""
    try:
        return Wrk(directory, progress)
    except DemoError as error:
        progress(str(error))
        return PythonLoad()
