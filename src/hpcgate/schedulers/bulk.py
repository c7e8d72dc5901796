"""Many submissions, or other commands about jobs, in one go: what is begun together, and what becomes of each."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from hpcgate.auth import Principal
from hpcgate.errors import ConnectionLost, GatewayError, TimedOut
from hpcgate.schedulers import receipts
from hpcgate.schedulers.keeper import Direct
from hpcgate.schedulers.many import UNKNOWN, Command, each, not_begun, run_many
from hpcgate.schedulers.once import Claim, Claimed, Submissions, Submitted
from hpcgate.schedulers.receipts import Once
from hpcgate.schedulers.scripts import Scripts
from hpcgate.schedulers.submitting import Printed
from hpcgate.ssh.commands.quoting import Argv, Steering
from hpcgate.ssh.pool import Pool
from hpcgate.ssh.session import Session

TRIES = 5
"""How often those are begun that were not, since one before them took too long."""


@dataclass(frozen=True, slots=True)
class Plain:
    """A submission without a key.

    Attributes:
        argv: The command.
        stdin: What it reads.
        conclude: Returns the job from what was printed, or raises what a submission by itself would.
    """

    argv: Argv
    stdin: bytes
    conclude: Callable[[Printed], Awaitable[Submitted]]


Job_ = TypeVar("Job_", contravariant=True)


class Backend(Protocol[Job_]):
    """What a scheduler's commands must tell."""

    async def plain(self, principal: Principal, job: Job_, scripts: Scripts) -> Plain | None:
        """Return the submission of a job; None if its command may wait for the job, so that it goes by itself.

        Args:
            principal: Whose.
            job: The job.
            scripts: What has been read of scripts at paths for the others.
        """


class Commands:
    """Runs many commands of a system's scheduler.

    Args:
        pool: The connections to its login node.
        seconds: How long each may take.
        environment: Variables for them.
        at_once: How many run at a time.
    """

    def __init__(self, pool: Pool, seconds: float, environment: Mapping[str, str], at_once: int) -> None:
        self._pool = pool
        self._seconds = seconds
        self._environment = environment
        self.at_once = at_once

    async def run(
        self, principal: Principal, commands: Sequence[Command], without: Steering | None = None, prelude: str = ""
    ) -> list[Printed | None]:
        """Run commands, each at most once, and return what became of each; None of one that certainly has not begun.

        Raises:
            ConnectionLost, TimedOut: They may have been begun, and nothing is known of any.
            GatewayError: None was begun.
        """
        found: list[Printed | None] = [None] * len(commands)
        for _ in range(TRIES):
            left = [number for number, printed in enumerate(found) if printed is None]
            if not left:
                break
            chosen = [commands[number] for number in left]

            async def work(session: Session, chosen: Sequence[Command] = chosen) -> list[Printed | None]:
                return await run_many(
                    session,
                    chosen,
                    at_once=self.at_once,
                    seconds=self._seconds,
                    env=self._environment,
                    without=without,
                    prelude=prelude,
                )

            try:
                printed = await self._pool.perform(principal, work, retry=False)
            except GatewayError as error:
                if len(left) == len(commands):
                    raise
                if isinstance(error, ConnectionLost | TimedOut):
                    found = [UNKNOWN if one is None else one for one in found]
                break
            for number, one in zip(left, printed, strict=True):
                found[number] = one
            if not any(printed):
                break
        return found


class Bulk(Generic[Job_]):
    """Submits many jobs of one system.

    Args:
        commands: Runs the commands.
        backend: Says what they are.
        submissions: Submits what has a key.
        alone: Submits a job by itself.
        prelude: Lines of shell that stand before the commands, which may be functions of its own.
        direct: How the keeper of receipts runs such commands.
    """

    def __init__(
        self,
        commands: Commands,
        backend: Backend[Job_],
        submissions: Submissions[Job_],
        alone: Callable[[Principal, Job_], Awaitable[Submitted]],
        prelude: str = "",
        direct: Direct | None = None,
    ) -> None:
        self._commands = commands
        self._backend = backend
        self._submissions = submissions
        self._alone = alone
        self._prelude = prelude
        self._direct = direct or Direct()

    async def submit(
        self, principal: Principal, wanted: Sequence[tuple[Job_, Once | None]]
    ) -> list[Submitted | GatewayError]:
        """Submit jobs, and return what became of each, in order."""
        scripts = Scripts()

        async def prepared(one: tuple[Job_, Once | None]) -> Plain | Claim | None:
            job, once = one
            if once is None:
                return await self._backend.plain(principal, job, scripts)
            if once.memo:
                return None
            return await self._submissions.claim_of(principal, job, once, scripts)

        ready = await each(wanted, self._commands.at_once, prepared)
        begun = [number for number, one in enumerate(ready) if isinstance(one, Plain | Claim)]
        commands = [_command(one) for one in ready if isinstance(one, Plain | Claim)]
        onces = [wanted[number][1] for number in begun if isinstance(ready[number], Claim)]
        kept = receipts.many([once for once in onces if once is not None], self._direct) if onces else ""
        printed: dict[int, Printed | None] = {}
        if commands:
            try:
                told = await self._commands.run(principal, commands, prelude=f"{self._prelude}\n{kept}")
                printed = dict(zip(begun, told, strict=True))
            except GatewayError as error:
                ready = [error if isinstance(one, Plain | Claim) else one for one in ready]

        async def concluded(number: int) -> Submitted:
            (job, once), one = wanted[number], ready[number]
            if isinstance(one, GatewayError):
                raise one
            if one is None and once is not None:
                return await self._submissions.submit(principal, job, once)
            if one is None:
                return await self._alone(principal, job)
            said = printed[number]
            if said is None:
                raise not_begun()
            if isinstance(one, Plain):
                return await one.conclude(said)
            if once is None:
                raise not_begun()
            return await self._submissions.submit(principal, job, once, Claimed(one.header, one.token, one.mark, said))

        return await each(range(len(wanted)), self._commands.at_once, concluded)


def _command(one: Plain | Claim) -> Command:
    return Command(one.argv, one.stdin, one.by) if isinstance(one, Claim) else Command(one.argv, one.stdin)
