"""The jobs of a system as one query finds them, for all who wait for something to become of one."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hpcgate.schedulers.base import Job

Mark = tuple[object, ...]
"""What of a job differs once something has happened to it."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A job, an array task or tasks that wait together, as it was found.

    Attributes:
        job: The job.
        raw: Another id that names it: of an array task that of its own record.
        submitted: When it was submitted or requeued; None if that is not told.
        restarts: How often it was requeued; None if that was not asked for.
        finished: Of a run before a requeue, whether it had ended by itself before.
        between: Whether it is in a state from which the next one is told with a time that has passed by then.
    """

    job: "Job"
    raw: str
    submitted: int | None = None
    restarts: int | None = None
    between: bool = False
    finished: bool = False

    @property
    def mark(self) -> Mark:
        """What differs once something has happened to it; it does not while it merely runs on."""
        status, times = self.job.status, self.job.time
        return status.state, status.state_reason, self.submitted, times.start, times.end


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What one query has found.

    Attributes:
        jobs: By user and id.
        marks: Of each, in the same way.
        families: Those whose ids begin with the same number, as the tasks of an array do: by user and number.
    """

    jobs: Mapping[str, Mapping[str, Seen]]
    marks: Mapping[str, Mapping[str, Mark]]
    families: Mapping[str, Mapping[str, Sequence[Seen]]]

    @classmethod
    def of(cls, found: Iterable[Seen]) -> "Snapshot":
        """Return the snapshot of what was found."""
        jobs: dict[str, dict[str, Seen]] = {}
        for seen in found:
            jobs.setdefault(seen.job.user or "", {})[seen.job.job_id] = seen
        marks = {user: {job_id: seen.mark for job_id, seen in own.items()} for user, own in jobs.items()}
        families: dict[str, dict[str, list[Seen]]] = {}
        for user, own in jobs.items():
            for job_id, seen in own.items():
                families.setdefault(user, {}).setdefault(number_of(job_id), []).append(seen)
        return cls(jobs, marks, families)


def number_of(job_id: str) -> str:
    """Return the number that an id begins with, which those of an array's tasks have in common; empty if with none."""
    found = _NUMBER.match(job_id)
    return "" if found is None else found[0]


_NUMBER = re.compile(r"[0-9]+")
