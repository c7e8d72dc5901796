"""What was submitted, of jobs that may have ended: the script, and where the standard streams went."""

import asyncio
from collections.abc import Sequence

from hpcgate.auth import Principal
from hpcgate.errors import SchedulerUnavailable, TimedOut
from hpcgate.schedulers.base import JobMetadata
from hpcgate.schedulers.slurm import sacct, scontrol, squeue
from hpcgate.schedulers.slurm.delimiters import new_mark
from hpcgate.schedulers.slurm.failures import NO_ACCOUNTING, UNREACHABLE, failure, says
from hpcgate.schedulers.slurm.job_ids import JobId
from hpcgate.schedulers.slurm.records import Record, portions
from hpcgate.schedulers.slurm.streams import StreamNames, expanded, first_node
from hpcgate.schedulers.slurm.tools import Tools, text_of
from hpcgate.ssh.runner import Completed


class Submissions:
    """Asks the controller for what it still knows of a job, and the database for the rest."""

    def __init__(self, tools: Tools, version: tuple[int, int]) -> None:
        self._tools = tools
        self._version = version

    async def metadata(self, principal: Principal, records: Sequence[Record]) -> tuple[JobMetadata, ...]:
        """Return what was submitted, of the jobs given.

        Raises:
            SchedulerUnavailable: The one source that could know the script did not answer.
        """
        streams, alive = await self._streams(principal, records)
        scripts: dict[str, str | None] = {}
        found = []
        for record in records:
            job = record.job
            parsed = JobId.read(job.job_id) or JobId(record.raw)
            if parsed.base not in scripts:
                scripts[parsed.base] = await self._script(principal, record, alive=record.raw in alive)
            batch = batch_of(record)
            names = StreamNames(
                raw=batch,
                array=parsed.base if parsed.tasks is not None else None,
                task=parsed.task,
                user=job.user or "",
                name=job.name,
                node=first_node(job.nodes) if job.allocation_nodes else None,
                directory=job.working_directory,
            )
            known = streams.get(batch, (None, None, None))
            found.append(JobMetadata(job.job_id, scripts[parsed.base], *(expanded(path, names) for path in known)))
        return tuple(found)

    async def _streams(
        self, principal: Principal, records: Sequence[Record]
    ) -> tuple[dict[str, tuple[str | None, str | None, str | None]], frozenset[str]]:
        """Return the paths of the standard streams by raw id, and of which jobs the controller knows.

        They are the controller's; the database is asked only for those that it does not know.
        """
        mark = new_mark()
        streams: dict[str, tuple[str | None, str | None, str | None]] = {}
        asked = tuple(dict.fromkeys(raw for record in records for raw in (record.raw, batch_of(record))))
        for some in portions(asked):
            done = await self._tools.run(principal, squeue.streams_command(some, mark))
            if says(done.words, UNREACHABLE):
                break
            if not done.ok:
                # It knows none of these.
                continue
            for live in await self._tools.reader.read(
                principal, "squeue", done.stdout, lambda output: squeue.parse_streams(text_of(output), mark)
            ):
                streams[live.raw] = (live.stdin, live.stdout, live.stderr or live.stdout)
        alive = frozenset(streams)
        rest = [raw for raw in asked if raw not in alive]
        fields = sacct.stream_fields(self._version)
        for some in portions(rest) if fields else ():
            argv = sacct.command(some, mark, fields, steps=False)
            done_past = await self._ask_database(principal, argv)
            if done_past is not None and done_past.ok:
                for row in await self._tools.reader.read(
                    principal, "sacct", done_past.stdout, lambda output: sacct.parse_streams(text_of(output), mark)
                ):
                    streams[row.raw] = (row.stdin, row.stdout, row.stderr or row.stdout)
        return streams, alive

    async def _script(self, principal: Principal, record: Record, *, alive: bool) -> str | None:
        """Return a job's script, None if there is none to be had.

        Raises:
            SchedulerUnavailable: Somebody who could have it did not answer.
        """
        done = await self._tools.run(principal, scontrol.script_command(record.raw))
        if done.ok and done.stdout:
            return done.stdout.decode("utf-8", "replace")
        silent = says(done.words, UNREACHABLE)
        past = await self._ask_database(principal, sacct.script_command(_one(record)))
        script = sacct.parse_script(past.stdout, self._version) if past is not None and past.ok else None
        if script is not None:
            return script.decode("utf-8", "replace")
        # The controller has the script of each batch job that it knows.
        if silent:
            raise failure(done)
        if past is not None and not past.ok and not alive and not says(past.words, NO_ACCOUNTING):
            raise SchedulerUnavailable(f"The script cannot be looked up now: {past.words}")
        return None

    async def _ask_database(self, principal: Principal, argv: Sequence[str]) -> Completed | None:
        """Run a command that asks the database; None where there is none."""
        if asyncio.get_running_loop().time() < self._tools.findings.of(principal).no_history_until:
            return None
        try:
            return await self._tools.run(principal, argv, controller=False)
        except TimedOut as error:
            return Completed(tuple(argv), -1, b"", error.message.encode())


def batch_of(record: Record) -> str:
    """Return the raw id of the job whose batch script writes: of a heterogeneous job its leader's alone does."""
    parsed = JobId.read(record.job.job_id)
    return record.raw if parsed is None or parsed.offset is None else parsed.base


def _one(record: Record) -> str:
    """Return the id by which the database knows this job alone: a number may be that of a whole array, too."""
    parsed = JobId.read(record.job.job_id)
    return record.raw if parsed is None or (parsed.task is None and parsed.offset is None) else parsed.argument
