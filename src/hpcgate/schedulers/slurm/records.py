"""Jobs as the controller and as the accounting history know them, and the two made one."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from hpcgate.schedulers.base import Job
from hpcgate.schedulers.slurm.job_ids import JobId
from hpcgate.schedulers.slurm.states import ENDED


@dataclass(frozen=True, slots=True)
class Selection:
    """Which jobs to ask Slurm for.

    Attributes:
        ids: These jobs whoever owns them, or None for all.
        user: Only this user's, or None for everybody's.
        account: Only of this account.
        window: Of jobs that have ended only those that did so within that many seconds; None is no limit.
    """

    ids: tuple[JobId, ...] | None = None
    user: str | None = None
    account: str | None = None
    window: int | None = None


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
    def ended(self) -> bool:
        """Whether the job has ended."""
        return self.job.status.state in ENDED


def merged(live: Iterable[Record], history: Iterable[Record]) -> list[Record]:
    """Return the jobs of both, each once, in the order of their ids.

    The live view wins until the job has ended; then the history does, once it says so too. What only the history
    knows (steps, suspended seconds) is added to the live view.
    """
    found: dict[str, Record] = {}
    for record in history:
        known = found.get(record.raw)
        if known is None or (record.submitted or 0) >= (known.submitted or 0):
            found[record.raw] = record
    for record in live:
        known = found.get(record.raw)
        if known is not None and record.ended and known.ended:
            continue
        found[record.raw] = record if known is None else _completed(record, known)
    return sorted(found.values(), key=_order)


def _completed(live: Record, known: Record) -> Record:
    job, past = live.job, known.job
    time = replace(job.time, suspended=past.time.suspended if job.time.suspended is None else job.time.suspended)
    return replace(live, job=replace(job, tasks=past.tasks, cluster=job.cluster or past.cluster, time=time))


def _order(record: Record) -> tuple[int, int]:
    parsed = JobId.read(record.job.job_id)
    return parsed.order if parsed else (0, 0)
