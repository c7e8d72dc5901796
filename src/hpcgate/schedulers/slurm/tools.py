"""Slurm's commands on a login node, run as the user, and what each user's have said of the cluster."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from hpcgate.auth import Principal
from hpcgate.errors import BadAnswer, CommandFailed, SchedulerUnavailable, TimedOut
from hpcgate.schedulers.reading import Findings, Reader
from hpcgate.schedulers.slurm import sbatch, scontrol, squeue
from hpcgate.schedulers.slurm.doubts import Doubts
from hpcgate.schedulers.slurm.failures import UNREACHABLE, broken_off, failure, no_list, says
from hpcgate.schedulers.slurm.settings import SlurmSettings
from hpcgate.schedulers.slurm.variables import ASKING
from hpcgate.schedulers.submitting import Printed
from hpcgate.ssh.commands.quoting import Argv, called
from hpcgate.ssh.pool import Pool
from hpcgate.ssh.runner import Completed
from hpcgate.ssh.session import Session

DOUBT = 30.0
"""Seconds for which a controller that did not answer is first asked by ping, which says so at once.

Other commands try for as long as slurm.conf's MessageTimeout, 10 s by default, before they give up.
"""

Ran = TypeVar("Ran", Completed, Printed)
Parsed = TypeVar("Parsed")


@dataclass(slots=True)
class Cluster:
    """What one user's commands have said of the cluster.

    Attributes:
        name: The name of the cluster, empty until it is known.
        no_history_until: Until when there is no accounting to be asked, on the event loop's clock.
    """

    name: str = ""
    no_history_until: float = 0.0


class Tools:
    """The commands of one system. While slurmctld is silent for somebody, `ping` is asked first.

    Attributes:
        reader: Reads what they print, large answers in a thread.
        findings: What they have said of the cluster, to each user by itself.
    """

    def __init__(self, system: str, settings: SlurmSettings, pool: Pool) -> None:
        self.system = system
        self.settings = settings
        self.reader = Reader()
        self.findings = Findings(Cluster)
        self._pool = pool
        self._doubts = Doubts(DOUBT)

    async def run(
        self,
        principal: Principal,
        argv: Argv,
        *,
        stdin: bytes = b"",
        env: Mapping[str, str] | None = None,
        retry: bool = True,
        controller: bool = True,
    ) -> Completed:
        """Run a command.

        Args:
            principal: Whose.
            argv: The command.
            stdin: What it reads.
            env: Environment variables for it.
            retry: For one that only reads: run it again if the connection was found dead.
            controller: Whether it asks slurmctld, whose silence is then remembered for `DOUBT`.

        Raises:
            SchedulerUnavailable: The controller was silent a moment ago and still is.
        """

        variables = {**self.settings.environment, **(env or {})}

        async def work(session: Session) -> Completed:
            return await session.run(argv, stdin=stdin, timeout=self.settings.timeout, env=variables, without=ASKING)

        return await self.perform(principal, work, retry=retry, controller=controller)

    async def perform(
        self,
        principal: Principal,
        work: Callable[[Session], Awaitable[Ran]],
        *,
        retry: bool,
        controller: bool = True,
    ) -> Ran:
        """Do the work on a session, and remember for `DOUBT` that slurmctld was silent."""
        if controller and self._doubts.hold(principal.username):
            await self.ping(principal)
        try:
            done = await self._pool.perform(principal, work, retry=retry)
        except TimedOut:
            if controller:
                self._doubts.begin(principal.username)
            raise
        if controller:
            words = done.words if isinstance(done, Completed) else done.text
            timed_out = isinstance(done, Printed) and done.timed_out
            silent = timed_out or (done.exit_status != 0 and says(words, UNREACHABLE))
            (self._doubts.begin if silent else self._doubts.end)(principal.username)
        return done

    async def queue(self, principal: Principal, mark: str) -> str:
        """Return the user's jobs as `sbatch.parse_queue` reads them."""
        done = await self.run(principal, sbatch.queue_command(principal.username, mark), env=squeue.ENVIRONMENT)
        if not done.ok:
            raise failure(done, mark)
        if not squeue.answers(done.stdout, mark):
            raise no_list(done)
        if not squeue.whole(done.stdout, mark):
            raise broken_off(done)
        return text_of(done.stdout)

    async def parsed(
        self,
        principal: Principal,
        argv: Argv,
        parse: Callable[[str], Parsed],
        *,
        env: Mapping[str, str] | None = None,
    ) -> Parsed:
        """Run a command that only reads, and return what `parse` makes of what it printed."""
        done = await self.run(principal, argv, env=env)
        if not done.ok:
            raise failure(done)
        return await self.reader.read(principal, called(argv), done.stdout, lambda output: parse(text_of(output)))

    async def cluster(self, principal: Principal) -> str:
        """Return the cluster's name, asked for once; the system's name if it cannot be had."""
        known = self.findings.of(principal)
        if not known.name:
            try:
                known.name = await self.parsed(principal, scontrol.CONFIG, scontrol.parse_cluster)
            except (BadAnswer, CommandFailed, SchedulerUnavailable, TimedOut):
                return self.system
        return known.name or self.system

    async def ping(self, principal: Principal) -> None:
        """Return if at least one controller is up."""
        done = await self.run(principal, scontrol.PING, controller=False)
        answer = done.stdout.decode("utf-8", "replace")
        if not scontrol.parse_ping(answer):
            raise SchedulerUnavailable(answer.strip() or done.words or "scontrol ping said nothing")


def text_of(output: bytes) -> str:
    """Return what was printed as text; bytes that are none are replaced."""
    return output.decode("utf-8", "replace")
