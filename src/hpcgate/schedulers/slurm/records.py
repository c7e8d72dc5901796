"""Jobs as the controller and as the accounting history know them, and the two made one."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from hpcgate.schedulers.base import Job
from hpcgate.schedulers.slurm.job_ids import JobId
from hpcgate.schedulers.slurm.states import ENDED

MAX_IDS = 1000
"""Ids on one command line: of 11 characters at most with a comma, where `hpcgate.ssh.commands.quoting` has 120 KiB."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which jobs to ask Slurm for.

    Attributes:
        ids: These jobs whoever owns them, or None for all.
        user: Only this user's, or None for everybody's.
        account: Only of this account.
        window: Of jobs that have ended only those that did so within that many seconds; None means no limit.
        steps: Whether the database is asked for steps, too.
        duplicates: Whether the database is asked for runs before a requeue, too.
    """

    ids: tuple[JobId, ...] | None = None
    user: str | None = None
    account: str | None = None
    window: int | None = None
    steps: bool = True
    duplicates: bool = False


def portions(raws: Sequence[str]) -> Iterator[Selection]:
    """Yield selections of the jobs with these raw ids, each of as many as one command line has room for."""
    for start in range(0, len(raws), MAX_IDS):
        yield Selection(ids=tuple(map(JobId, raws[start : start + MAX_IDS])))


@dataclass(frozen=True, slots=True)
class Record:
    """A job, and what is needed to find the same job elsewhere.

    Attributes:
        raw: The number of Slurm's own record (``JobIDRaw``): array tasks and components have their own.
        submitted: Unix seconds; differs between a job and its requeued self.
    """

    job: Job
    raw: str
    submitted: int | None = None

    @property
    def whole(self) -> bool:
        """Whether this is all of the job, and not the end of one whose start the database has not been told yet."""
        return bool(self.job.partition)

    @property
    def ended(self) -> bool:
        """Whether the job has ended."""
        return self.job.status.state in ENDED


def merged(live: Iterable[Record], history: Iterable[Record]) -> list[Record]:
    """Return the jobs of both, each once, in the order of their ids.

    The live view wins until the job has ended; then how it ended is the history's to say, once it says so. What the job
    is stays the live view's: the database changes quotes in names.
    """
    found: dict[str, Record] = {}
    for record in map(_without_old_reason, history):
        known = found.get(record.raw)
        if known is None or (record.submitted or 0) >= (known.submitted or 0):
            found[record.raw] = record
    for record in live:
        known = found.get(record.raw)
        found[record.raw] = record if known is None else _completed(record, known)
    return sorted(found.values(), key=_order)


def _without_old_reason(record: Record) -> Record:
    """Return a job of the history without what it once waited for, if it has ended after it had started.

    The database keeps why a job waited last (sacct(1), Reason); the controller's reason says how it ended.
    """
    job = record.job
    if not record.ended or job.time.start is None or job.status.state_reason is None:
        return record
    return replace(record, job=replace(job, status=replace(job.status, state_reason=None)))


def _completed(live: Record, known: Record) -> Record:
    if live.submitted is not None and known.submitted is not None and known.submitted < live.submitted:
        # An earlier run of a job that was requeued.
        return replace(live, job=replace(live.job, cluster=live.job.cluster or known.job.cluster))
    job, past = live.job, known.job
    time = job.time
    job = replace(
        job,
        cluster=job.cluster or past.cluster,
        tasks=past.tasks,
        usage=past.usage,
        time=replace(time, suspended=past.time.suspended if time.suspended is None else time.suspended),
    )
    if live.ended and known.ended and known.whole:
        known_exit = past.status if past.status.exit_code is not None else job.status
        status = replace(
            past.status,
            state_reason=job.status.state_reason,
            exit_code=known_exit.exit_code,
            interrupt_signal=known_exit.interrupt_signal,
        )
        job = replace(job, status=status, kill_request_user=past.kill_request_user)
    return replace(live, job=job)


def _order(record: Record) -> tuple[int, int]:
    parsed = JobId.read(record.job.job_id)
    return parsed.order if parsed else (0, 0)
