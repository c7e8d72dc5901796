"""Submitting exactly once: what becomes of a receipt (`hpcgate.schedulers.receipts`), and of what it leaves in doubt.

An attempt is over if the scheduler has refused the job in so many words, or if its command is gone and the scheduler,
asked for the job's mark, knows none. Only then may there be another one. Whoever cannot answer that question keeps the
key as it is: a submission in doubt is never made again.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Generic, Literal, Protocol, TypeVar

import structlog

from hpcgate.auth import Principal
from hpcgate.errors import BadAnswer, Conflict, GatewayError, KeyReused, SchedulerUnavailable, UnderWay
from hpcgate.schedulers import receipts
from hpcgate.schedulers.receipts import Once, Receipt
from hpcgate.schedulers.scripts import Scripts
from hpcgate.schedulers.submitting import Printed, run_submission
from hpcgate.ssh.commands.quoting import Argv
from hpcgate.ssh.pool import Pool
from hpcgate.ssh.session import Session

_log = structlog.get_logger(__name__)

TRIES: Final = 4
"""How often attempts may turn out to be over, before it is somebody else's turn."""

PAUSE = 2.0
"""Seconds after which a scheduler that knows no job is asked once more: what its command has sent may be on its way."""

RETRY_AFTER: Final = 2
"""Seconds after which to ask again for a submission that is under way."""

Job_ = TypeVar("Job_", contravariant=True)


@dataclass(frozen=True, slots=True)
class Submitted:
    """A job that was submitted.

    Attributes:
        job_id: Its id.
        replayed: Whether an earlier request did it.
        memo: What the answer needs besides, as it was then.
        warnings: What the scheduler has said beside the id.
    """

    job_id: str
    replayed: bool = False
    memo: str = ""
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Fate:
    """What has become of a submission.

    Attributes:
        state: The word for it.
        job_id: The job's id, if it was submitted.
        error: Why it is not known, or what it was refused for.
        digest: Of the request.
        memo: What its answer needs besides the job's id.
    """

    state: Literal["submitted", "not_submitted", "under_way", "unknown"]
    job_id: str | None = None
    error: GatewayError | None = None
    digest: str = ""
    memo: str = ""

    @property
    def reason(self) -> str | None:
        """The error's own words."""
        return None if self.error is None else self.error.message


@dataclass(frozen=True, slots=True)
class Doubt:
    """What a scheduler's command has printed does not tell whether there is a job.

    Attributes:
        words: What it has printed.
        claims: Whether it says that there is one: then there is, though the scheduler may not know its mark.
        printed_id: What looks like its id, for when the mark is not known.
    """

    words: str
    claims: bool = False
    printed_id: str | None = None


class Backend(Protocol[Job_]):
    """What a scheduler's commands must tell."""

    async def prepared(self, principal: Principal, job: Job_, mark: str) -> tuple[Argv, bytes]:
        """Return the command that submits a job with a mark, and its input."""

    async def prepared_among_many(
        self, principal: Principal, job: Job_, mark: str, scripts: Scripts
    ) -> tuple[Argv, bytes]:
        """Return what does the same in a program of `hpcgate.schedulers.many`.

        Args:
            principal: Whose.
            job: The job.
            mark: The mark.
            scripts: What has been read of scripts at paths for the others.
        """

    async def judged(self, principal: Principal, mark: str, printed: Printed) -> str | GatewayError | Doubt:
        """Return the job's id, the refusal that is certain to have left no job, or what is in doubt.

        A status of None means that nobody knows how the command ended, or that it runs.
        """

    def remarks(self, mark: str, text: str) -> tuple[str, ...]:
        """Return what a command that has submitted a job has said beside its id."""

    async def marked(self, principal: Principal, mark: str, began: float) -> str | None:
        """Return the id of the job with a mark, None if there is certain to be none.

        Args:
            principal: Whose.
            mark: The mark.
            began: When the attempt was made, by the event loop's clock.

        Raises:
            GatewayError: It cannot be told now.
            Conflict: It cannot be told, now or later.
        """


@dataclass(frozen=True, slots=True)
class Claim:
    """The first attempt to submit a job.

    Attributes:
        argv: The scheduler's command.
        stdin: What that reads.
        by: What makes the attempt, as of `hpcgate.schedulers.many.Command`.
        header: Stands before what it says of the receipt.
        token: The attempt's own.
        mark: What the job is marked with.
    """

    argv: Argv
    stdin: bytes
    by: Sequence[str]
    header: str
    token: str
    mark: str


@dataclass(frozen=True, slots=True)
class Claimed:
    """What became of a `Claim`: as there, and what was printed."""

    header: str
    token: str
    mark: str
    printed: Printed


class Submissions(Generic[Job_]):
    """Submits jobs of one system exactly once. `Job_` is what the scheduler calls a job.

    Args:
        pool: The connections to its login node.
        backend: Its scheduler's commands.
        timeout: Seconds that a command may take.
        environment: Variables for it.
    """

    def __init__(self, pool: Pool, backend: Backend[Job_], timeout: float, environment: dict[str, str]) -> None:
        self._pool = pool
        self._backend = backend
        self._timeout = timeout
        self._environment = environment

    async def submit(self, principal: Principal, job: Job_, once: Once, claimed: "Claimed | None" = None) -> Submitted:
        """Submit a job, unless the key's submission has been made.

        Args:
            principal: Whose.
            job: The job.
            once: What its key stands for.
            claimed: The first attempt, if that was made together with others.

        Raises:
            KeyReused: The key stands for something else.
            UnderWay: It is being made.
            Conflict: It was made, and the job's id cannot be told.
            SchedulerUnavailable: It may have been made, and whoever would know does not answer; or nothing was
                submitted, and it may be tried again.
            GatewayError: What the scheduler has refused it for, or why there can be no receipt.
        """
        seen, mark = "", receipts.new_mark(once.name)
        for _ in range(TRIES):
            if claimed is not None:
                mark, tokens = claimed.mark, {claimed.token}
                receipt = await self._claimed(principal, once, claimed.printed, claimed.header)
                claimed = None
            else:
                argv, stdin = await self._backend.prepared(principal, job, mark)
                tokens, receipt = await self._claim(principal, once, mark, seen, argv, stdin)
            if receipt.state in ("none", "swept"):
                raise UnderWay(RETRY_AFTER)
            mine = receipt.token in tokens
            if not mine and receipt.state != "held" and receipt.age > once.receipts.lifetime:
                seen, mark = receipt.seen, receipts.new_mark(once.name)
                continue
            outcome = await self._outcome(principal, once, receipt)
            if isinstance(outcome, UnderWay | str) and receipt.digest != once.digest:
                raise KeyReused("This Idempotency-Key was used for another request")
            if isinstance(outcome, str):
                return Submitted(outcome, not mine, receipt.memo, self._backend.remarks(receipt.mark, receipt.printed))
            if isinstance(outcome, UnderWay):
                raise outcome
            if mine:
                raise outcome or SchedulerUnavailable("The submission was broken off, and nothing was submitted")
            seen = receipt.seen
            # A job that nobody expected any more could still be found by the mark.
            mark = receipt.mark if outcome is None else receipts.new_mark(once.name)
        raise UnderWay(RETRY_AFTER)

    async def find(self, principal: Principal, once: Once) -> Fate:
        """Return what has become of a key's submission; nothing is submitted."""
        receipt = await self._look(principal, once)
        expired = receipt.state != "held" and receipt.age > once.receipts.lifetime
        if receipt.state in ("none", "swept") or expired:
            return Fate("not_submitted")
        try:
            outcome = await self._outcome(principal, once, receipt)
        except GatewayError as error:
            return Fate("unknown", error=error, digest=receipt.digest)
        match outcome:
            case str():
                return Fate("submitted", outcome, digest=receipt.digest, memo=receipt.memo)
            case UnderWay():
                return Fate("under_way", error=outcome, digest=receipt.digest)
            case _:
                return Fate("not_submitted", error=outcome)

    async def _outcome(self, principal: Principal, once: Once, receipt: Receipt) -> str | GatewayError | None:
        """Return the job's id, the refusal, `UnderWay`, or None if the attempt is over and has left no job.

        Raises:
            SchedulerUnavailable: It cannot be told now.
            Conflict: There is a job, and its id cannot be told; or nobody will ever know.
        """
        if receipt.job_id is not None:
            return receipt.job_id
        began = asyncio.get_running_loop().time() - receipt.age
        judged = await self._backend.judged(principal, receipt.mark, Printed(receipt.printed, receipt.status))
        if not isinstance(judged, Doubt):
            return UnderWay(RETRY_AFTER) if receipt.state == "held" and not isinstance(judged, str) else judged
        if receipt.state == "held":
            return UnderWay(RETRY_AFTER, judged.words)
        try:
            job_id = await self._search(principal, receipt.mark, began)
        except Conflict:
            raise
        except GatewayError as error:
            raise SchedulerUnavailable(
                f"It cannot be told now whether the job was submitted: {error.message}"
            ) from error
        job_id = job_id or judged.printed_id
        if job_id is None and judged.claims:
            raise Conflict(
                f"The job may have been submitted, but its id cannot be told; look at your jobs: {judged.words}"
            )
        if job_id is not None:
            await self._settle(principal, once, receipt, job_id)
        return job_id

    async def _search(self, principal: Principal, mark: str, began: float) -> str | None:
        job_id = await self._backend.marked(principal, mark, began)
        if job_id is None:
            await asyncio.sleep(PAUSE)
            job_id = await self._backend.marked(principal, mark, began)
        return job_id

    async def _claim(
        self, principal: Principal, once: Once, mark: str, seen: str, argv: Argv, stdin: bytes
    ) -> tuple[set[str], Receipt]:
        """Make an attempt if nobody else has. Return the tokens that are ours, and what the receipt says then."""
        tokens: set[str] = set()
        header = receipts.new_header()
        memo = once.memo.encode() + b"\n" if once.memo else b""

        async def work(session: Session) -> Printed:
            # If the connection was lost with the first one, whatever it has done is found by the second.
            token = receipts.new_token()
            tokens.add(token)
            command = receipts.claim(once, header, token, mark, seen, argv, memo_size=len(memo))
            return await run_submission(
                session, command, memo + stdin, env=self._environment, seconds=self._timeout, patience=lambda _: None
            )

        printed = await self._pool.perform(principal, work, retry=True)
        return tokens, await self._claimed(principal, once, printed, header)

    async def claim_of(self, principal: Principal, job: Job_, once: Once, scripts: Scripts) -> "Claim":
        """Return the first attempt to submit a job, to be made together with others."""
        header, token, mark = receipts.new_header(), receipts.new_token(), receipts.new_mark(once.name)
        argv, stdin = await self._backend.prepared_among_many(principal, job, mark, scripts)
        return Claim(argv, stdin, receipts.claim_of_many(once, header, token, mark), header, token, mark)

    async def _claimed(self, principal: Principal, once: Once, printed: Printed, header: str) -> Receipt:
        """Return what the receipt says behind an attempt."""
        try:
            return receipts.parse(printed.text, header)
        except BadAnswer:
            if printed.exit_status == 1 and "The input came short" in printed.text:
                raise
        # The scheduler's command takes its time, or the script that waits for it was ended.
        receipt = await self._look(principal, once)
        if receipt.state == "none":
            raise SchedulerUnavailable("The submission was broken off before it began; nothing was submitted")
        return receipt

    async def _look(self, principal: Principal, once: Once) -> Receipt:
        return await self._ask(principal, receipts.look(once, header := receipts.new_header()), header)

    async def _settle(self, principal: Principal, once: Once, receipt: Receipt, job_id: str) -> None:
        """Write down what was found out. Without it, it has to be found out again."""
        header = receipts.new_header()
        try:
            await self._ask(principal, receipts.settle(once, header, receipt, job_id), header)
        except GatewayError as error:
            _log.warning("submission.unsettled", user=principal.username, error=error.message)

    async def _ask(self, principal: Principal, argv: Argv, header: str) -> Receipt:
        async def work(session: Session) -> str:
            done = await session.run(argv, timeout=self._timeout, env=self._environment)
            return done.stdout.decode("utf-8", "replace")

        return receipts.parse(await self._pool.perform(principal, work, retry=True), header)
