"""The long-lived processes of one connection: started by the first request, shared, and ended where room is wanted."""

import asyncio
from collections.abc import Sequence

from hpcgate.errors import BadRequest, TimedOut
from hpcgate.ssh.commands.quoting import new_word, shell_line
from hpcgate.ssh.commands.resident import Worker
from hpcgate.ssh.connection import Connection


class Residents:
    """The long-lived processes of one connection.

    Args:
        connection: The connection.
    """

    __slots__ = ("_connection", "_workers")

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._workers: dict[tuple[str, ...], asyncio.Task[Worker]] = {}

    def __repr__(self) -> str:
        return f"<Residents {[argv[0] for argv in self._workers]}>"

    async def ask(self, argv: Sequence[str], request: bytes, *, limit: int | None = None) -> bytes:
        """Send one request to a process, as `hpcgate.ssh.session.Session.ask` says."""
        if 0 in request:
            raise BadRequest("A request holds a NUL byte")
        key = tuple(argv)
        worker = self._working(key) or await self._worker(key, limit)
        while worker.leaving and worker.refusal is None:
            worker = await self._worker(key, limit)
        with self._connection.telemetry.stage("resident", self._connection.system, argv[0]):
            return await worker.ask(request)

    def dismiss(self, argv: Sequence[str]) -> None:
        """End a long-lived process, whatever is under way."""
        starting = self._workers.pop(tuple(argv), None)
        if starting is not None and starting.done() and not starting.cancelled() and starting.exception() is None:
            starting.result().abandon()

    def leave(self) -> None:
        """Somebody waits for a channel: end the processes, each once it has answered."""
        for key, starting in list(self._workers.items()):
            if starting.done():
                del self._workers[key]
                if not starting.cancelled() and starting.exception() is None:
                    starting.result().leave()

    def _working(self, key: tuple[str, ...]) -> Worker | None:
        """Return a long-lived process that can be asked."""
        starting = self._workers.get(key)
        if starting is None or not starting.done() or starting.cancelled() or starting.exception() is not None:
            return None
        worker = starting.result()
        return None if worker.closed or worker.leaving else worker

    async def _worker(self, key: tuple[str, ...], most: int | None) -> Worker:
        if (worker := self._working(key)) is not None:
            return worker
        starting = self._workers.get(key)
        if starting is None or starting.done():
            starting = self._workers[key] = self._connection.spawn(self._start_worker(key, most))
        return await asyncio.shield(starting)

    async def _start_worker(self, key: tuple[str, ...], most: int | None) -> Worker:
        connection = self._connection
        settings, channels = connection.settings, connection.channels
        word = new_word()
        line = shell_line(key, word=word, fed=True, thorough=not connection.input_works, path=settings.path)
        slot = await channels.acquire()
        seconds = settings.timeout.command_execution
        limit = settings.max_output_size if most is None else most
        worker = Worker(
            slot,
            key[0],
            limit,
            seconds,
            start_up=settings.start_up_timeout,
            word=word,
            crowded=lambda: channels.waiting > 0,
            began=self._began,
            kill=connection.kill,
            refused=lambda error: connection.distrust("resident", error.message),
        )
        try:
            await connection.open_channel(slot, worker, seconds, command=line)
        except TimeoutError:
            raise TimedOut(f"Command {key[0]} timed out after {seconds:g} s") from None
        return worker

    def _began(self) -> None:
        connection = self._connection
        connection.shell_works = connection.shell_waits = connection.input_works = True
