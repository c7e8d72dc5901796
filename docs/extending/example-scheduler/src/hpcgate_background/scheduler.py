"""The scheduler: a thin client that runs the commands as the user and hands their output to the parsers."""

import time
from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from hpcgate.auth import Principal
from hpcgate.config import SchedulerSettings
from hpcgate.errors import CommandFailed, JobNotFound, NotSupported, SchedulerUnavailable, SubmissionRefused
from hpcgate.schedulers.base import (
    WINDOW_SECONDS,
    Account,
    JobDescription,
    JobMetadata,
    JobQuery,
    Jobs,
    Node,
    Partition,
    Reservation,
    Scheduler,
)
from hpcgate.ssh.pool import Pool
from hpcgate.ssh.runner import Completed
from hpcgate.ssh.session import Session
from hpcgate_background import commands


class BackgroundSettings(SchedulerSettings):
    """How jobs run in the background."""

    type: Literal["background"] = Field(description="Processes on the login node.")
    version: str = Field("1", description="Without meaning here.")
    nice: int = Field(10, ge=0, le=19, description="How far jobs stand back behind other processes, see nice(1).")


class Background(Scheduler):
    """Jobs as background processes on the login node."""

    Settings = BackgroundSettings

    def __init__(self, system: str, settings: BackgroundSettings, pool: Pool) -> None:
        self.system = system
        self.settings = settings
        self.pool = pool

    async def _run(
        self, principal: Principal, argv: Sequence[str], *, stdin: bytes = b"", writes: bool = False
    ) -> Completed:
        """Run a command as the user. Only what changes nothing may be run again if the connection was lost."""

        async def work(session: Session) -> Completed:
            return await session.run(argv, stdin=stdin, timeout=self.settings.timeout)

        return await self.pool.perform(principal, work, retry=not writes)

    async def _read(self, principal: Principal, argv: Sequence[str]) -> str:
        done = await self._run(principal, argv)
        if not done.ok:
            raise CommandFailed(done.words or f"exit status {done.exit_status}")
        return done.stdout.decode("utf-8", "replace")

    async def submit(self, principal: Principal, job: JobDescription) -> str:
        """Start a job."""
        if job.script is None:
            raise NotSupported("A job in the background takes its script from the request only.")
        argv = commands.submit_command(job, self.settings.nice)
        done = await self._run(principal, argv, stdin=job.script.encode(), writes=True)
        if not done.ok:
            raise SubmissionRefused(done.words or f"exit status {done.exit_status}")
        return done.stdout.decode().strip()

    async def jobs(self, principal: Principal, query: JobQuery) -> Jobs:
        """List the user's jobs; nobody sees those of others."""
        found = await self._jobs(principal)
        since = time.time() - WINDOW_SECONDS[query.window]
        return Jobs(
            tuple(
                job
                for job in found.jobs
                if query.name in (None, job.name)
                and query.account in (None, job.account)
                and (job.time.end is None or job.time.end >= since)
            )
        )

    async def _jobs(self, principal: Principal, ids: Sequence[str] = ()) -> Jobs:
        rows = commands.parse_list(await self._read(principal, commands.list_command(ids)))
        now = time.time()
        return Jobs(tuple(row.job(self.system, principal.username, now) for row in rows))

    async def job(self, principal: Principal, job_id: str) -> Jobs:
        """Return one job."""
        found = await self._jobs(principal, [commands.job_id(job_id)])
        if not found.jobs:
            raise JobNotFound(job_id)
        return found

    async def metadata(self, principal: Principal, job_id: str) -> tuple[JobMetadata, ...]:
        """Return script and standard streams."""
        rows = list(commands.parse_list(await self._read(principal, commands.list_command([commands.job_id(job_id)]))))
        if not rows:
            raise JobNotFound(job_id)
        script = await self._read(principal, commands.script_command(job_id))
        return tuple(row.metadata(script) for row in rows)

    async def cancel(self, principal: Principal, job_id: str) -> None:
        """End a job and all that it started; one that has ended is a success."""
        done = await self._run(principal, commands.cancel_command(commands.job_id(job_id)), writes=True)
        if done.exit_status == commands.UNKNOWN:
            raise JobNotFound(job_id)
        if not done.ok:
            raise CommandFailed(done.words or f"exit status {done.exit_status}")

    async def attach(self, principal: Principal, job_id: str, command: str) -> None:
        """Not to be had: a background process has no allocation."""
        raise NotSupported("There is no allocation to run a command in.")

    async def nodes(self, principal: Principal) -> tuple[Node, ...]:
        """Return the login node."""
        return commands.parse_node(await self._read(principal, commands.NODE))

    async def partitions(self, principal: Principal, *, show_hidden: bool = False) -> tuple[Partition, ...]:
        """Return the one partition that there is."""
        return (Partition(name="background", state="UP", total_nodes=1),)

    async def reservations(self, principal: Principal) -> tuple[Reservation, ...]:
        """There are none."""
        return ()

    async def accounts(self, principal: Principal) -> tuple[Account, ...] | None:
        """Jobs are charged to nobody."""
        return None

    async def ping(self, principal: Principal) -> None:
        """See whether the login node has what jobs need."""
        done = await self._run(principal, commands.PING)
        if not done.ok:
            raise SchedulerUnavailable("The login node has no setsid.")
