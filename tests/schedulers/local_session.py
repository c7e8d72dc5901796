"""A login node that is this machine: what a pool's sessions do, by a shell of one's choice, without SSH."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

from hpcgate.auth import Principal
from hpcgate.ssh.runner import Completed

T = TypeVar("T")


class LocalProcess:
    """A command under way, as far as `hpcgate.schedulers.submitting` and `hpcgate.schedulers.many` use one."""

    error: Exception | None = None

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @property
    def exit_status(self) -> int | None:
        return self._process.returncode

    @property
    def closed(self) -> bool:
        return self._process.returncode is not None

    async def output(self) -> AsyncGenerator[bytes]:
        assert self._process.stdout is not None
        while block := await self._process.stdout.read(65536):
            yield block

    async def feed_block(self, block: bytes) -> bool:
        assert self._process.stdin is not None
        self._process.stdin.write(block)
        with contextlib.suppress(ConnectionError):
            await self._process.stdin.drain()
        return True

    def feed_end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()

    async def ended(self) -> int:
        return await self._process.wait()


class LocalPool:
    """Runs all commands by a shell, each in a session of its own, as sshd does."""

    def __init__(self, shell: Sequence[str], env: Mapping[str, str]) -> None:
        self.shell = list(shell)
        self.env = dict(env)

    async def perform(self, principal: Principal, work: Callable[[Any], Awaitable[T]], *, retry: bool) -> T:
        return await work(self)

    async def _start(self, argv: Sequence[str | bytes]) -> asyncio.subprocess.Process:
        assert argv[0] == "sh"
        pipe = asyncio.subprocess.PIPE
        words = ["dash", "-c", 'export MAIN=$$; exec "$@"', "sh", *self.shell, *argv[1:]]
        return await asyncio.create_subprocess_exec(
            *words, stdin=pipe, stdout=pipe, stderr=asyncio.subprocess.STDOUT, env=self.env, start_new_session=True
        )

    async def run(self, argv: Sequence[str | bytes], **_: Any) -> Completed:
        process = await self._start(argv)
        output, _nothing = await process.communicate()
        return Completed(tuple(argv), process.returncode or 0, output, b"")

    @contextlib.asynccontextmanager
    async def process(self, argv: Sequence[str | bytes], **_: Any) -> AsyncIterator[LocalProcess]:
        process = await self._start(argv)
        try:
            yield LocalProcess(process)
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()
