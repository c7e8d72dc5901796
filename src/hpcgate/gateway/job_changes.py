"""What happens to jobs, as events that a client is told of once, and the cursor of a client that comes back.

A run is a job and the second of its submission; a requeue begins another one. What happens to a run is told by the
scheduler's own records with times in whole seconds, the same from whichever it is read (docs/decisions/job_events.md).
"""

import base64
import binascii
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from types import MappingProxyType

from hpcgate.errors import BadRequest
from hpcgate.schedulers.base import Job
from hpcgate.schedulers.snapshot import Seen

Step = tuple[int, int]
"""A run, by the second of its submission, and what has happened to it: so far has a job come."""
Key = tuple[int, str, int, int]
"""The place of a change among all: its time, the job's id, the run, the kind."""

NOTHING: Step = (0, -1)
"""The step of a job of which nothing has been told."""
MAX_TEXT = 760
"""Most characters of a position before it is encoded: three become four."""


class Kind(IntEnum):
    """What can happen to a run, in this order, each once."""

    SUBMITTED = 0
    STARTED = 1
    ENDED = 2


@dataclass(frozen=True, slots=True)
class Change:
    """Something that has happened to a run.

    Attributes:
        time: When, in Unix seconds by the scheduler's clock; not before what has happened to the run before.
        job: As it is known, or was of an earlier run.
        run: When the run was submitted or requeued.
        first: Whether it is the job's first run.
        cut: Whether the run ended because the job was requeued.
    """

    time: int
    job: Job
    run: int
    kind: Kind
    first: bool = True
    cut: bool = False

    @property
    def key(self) -> Key:
        """Its place among all changes."""
        return self.time, self.job.job_id, self.run, self.kind

    @property
    def step(self) -> Step:
        """How far the job has come by it."""
        return self.run, self.kind

    @property
    def name(self) -> str:
        """The name of the event."""
        match self.kind:
            case Kind.SUBMITTED:
                return "job.submitted" if self.first else "job.requeued"
            case Kind.STARTED:
                return "job.started"
            case _:
                return "job.ended"


def changes_of(runs: Sequence[Seen], *, first: bool = True) -> Iterator[Change]:
    """Yield all that has happened to one job.

    Args:
        runs: Its runs, in order; all but the last one have ended by a requeue.
        first: Whether the first of them is the job's first.
    """
    for place, run in enumerate(runs):
        submitted, job = run.submitted or 0, run.job
        yield Change(submitted, job, submitted, Kind.SUBMITTED, first and place == 0)
        if (start := started(run)) is not None:
            start = max(start, submitted)
            yield Change(start, job, submitted, Kind.STARTED, first and place == 0)
        following = runs[place + 1] if place + 1 < len(runs) else None
        end = job.time.end if following is None or job.time.end is not None else following.submitted
        if end is not None:
            # A run may be given the next second for its submission, and end before.
            end = max(end, submitted, start or 0)
            cut = following is not None and not run.finished
            yield Change(end, job, submitted, Kind.ENDED, first and place == 0, cut)


def started(run: Seen) -> int | None:
    """Return when a run has started; one without nodes has not, whatever it has for a start."""
    return run.job.time.start if run.job.allocation_nodes else None


@dataclass(frozen=True, slots=True)
class Position:
    """What a client has been told: all up to a place, and of a few jobs less, or more.

    Attributes:
        place: Of the changes of all other jobs those up to here have been told.
        apart: Of these jobs what has been told ends with this step.
    """

    place: Key
    apart: Mapping[str, Step] = field(default_factory=lambda: MappingProxyType({}))

    @classmethod
    def at(cls, time: int) -> "Position":
        """Return the position behind a second."""
        return cls((time, _LAST, 0, 0))

    def covers(self, change: Change) -> bool:
        """Return whether a change has been told."""
        apart = self.apart.get(change.job.job_id)
        return change.key <= self.place if apart is None else change.step <= apart

    def __str__(self) -> str:
        text = "|".join([_joined(self.place), *(_joined((job_id, *step)) for job_id, step in self.apart.items())])
        return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")

    @property
    def fits(self) -> bool:
        """Whether it can be sent as the id of an event."""
        return sum(len(job_id) + _STEP_LENGTH for job_id in self.apart) + _PLACE_LENGTH <= MAX_TEXT

    @classmethod
    def parse(cls, text: str) -> "Position":
        """Return the position that was sent as `text`.

        Raises:
            BadRequest: None was.
        """
        try:
            place, *apart = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode("ascii").split("|")
        except (ValueError, binascii.Error):
            raise BadRequest(NO_CURSOR) from None
        steps = [_STEP.fullmatch(one) for one in apart]
        found = _PLACE.fullmatch(place)
        if found is None or not all(steps):
            raise BadRequest(NO_CURSOR)
        return cls(
            (int(found[1]), found[2], int(found[3]), int(found[4])),
            {one[1]: (int(one[2]), int(one[3])) for one in steps if one is not None},
        )


_STEP_LENGTH = len("|,1234567890,-1")
_PLACE_LENGTH = len("1234567890,,1234567890,1") + 64
NO_CURSOR = "The cursor is not the id of an event of this stream"
_LAST = "~"
"""Behind all ids of jobs."""
_PLACE = re.compile(r"([0-9]{1,12}),([0-9A-Za-z_.+\[\]-]{1,64}|~),([0-9]{1,12}),([0-2])")
_STEP = re.compile(r"([0-9A-Za-z_.+\[\]-]{1,64}),([0-9]{1,12}),(-1|[0-2])")


def _joined(parts: Sequence[object]) -> str:
    return ",".join(str(int(part)) if isinstance(part, int) else str(part) for part in parts)
