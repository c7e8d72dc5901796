"""What the accounting database has said, kept while the queue shows that nothing has happened since.

sacct takes a tenth of a second at least (its exchanges with slurmdbd wait twice for a delayed acknowledgement), squeue
a twentieth of that. A job that begins, ends or is requeued changes what the queue shows, ended jobs being shown for a
while (slurm.conf(5), MinJobAge); so while the queue is the same, the database has nothing new to say of it.
"""

import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from hpcgate.auth import Principal
from hpcgate.schedulers.slurm.records import Record, Selection

MAX = 500
"""Answers that are kept."""
MAX_EACH = 50
"""Of one user: nobody pushes out those of others by asking for many lists."""

Queue = tuple[tuple[str, str, str], ...]


def queue_of(live: Sequence[Record]) -> Queue:
    """Return what a list of live jobs shows of what has happened to them."""
    return tuple((record.raw, record.job.job_id, record.job.status.state) for record in live)


def agree(live: Sequence[Record], past: Sequence[Record]) -> bool:
    """Return whether the database has caught up with the controller: each knows of every end that the other knows."""
    ended = {record.raw for record in past if record.ended and record.whole}
    alive = {record.raw for record in live if not record.ended}
    return all(record.raw in ended for record in live if record.ended) and all(
        record.raw in alive for record in past if not record.ended
    )


def who(principal: Principal) -> str:
    """Return for whom an answer is kept: a user, and what the token stands for, since other tokens may see less."""
    return f"{principal.username}\0{principal.standing}"


@dataclass(frozen=True, slots=True)
class _Kept:
    queue: Queue
    records: list[Record]
    since: float


class HistoryCache:
    """The answers that are kept, by who asks (`who`) and selection.

    Args:
        seconds: For how long at most.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._kept: OrderedDict[tuple[str, Selection], _Kept] = OrderedDict()

    def __repr__(self) -> str:
        return f"<Past of {len(self._kept)} lists, {self._seconds:g} s each>"

    def known(self, asker: str, selection: Selection) -> bool:
        """Return whether there is an answer, which may hold."""
        kept = self._kept.get((asker, selection))
        return kept is not None and time.monotonic() - kept.since < self._seconds

    def get(self, asker: str, selection: Selection, live: Sequence[Record]) -> tuple[list[Record], float] | None:
        """Return the answer and its age in seconds, if the queue is what it was; else forget it."""
        kept = self._kept.get((asker, selection))
        if kept is None:
            return None
        age = time.monotonic() - kept.since
        if age < self._seconds and kept.queue == queue_of(live):
            return kept.records, age
        del self._kept[asker, selection]
        return None

    def put(self, asker: str, selection: Selection, live: Sequence[Record], records: list[Record]) -> None:
        """Keep an answer that agrees with the queue. A selection of single jobs is not worth it."""
        if not self._seconds or selection.ids is not None or not agree(live, records):
            return
        now = time.monotonic()
        while self._kept and (len(self._kept) >= MAX or self._oldest() + self._seconds < now):
            self._kept.popitem(last=False)
        self._kept.pop((asker, selection), None)
        own = self._of(asker.partition("\0")[0])
        for key in own[: max(0, len(own) - MAX_EACH + 1)]:
            del self._kept[key]
        self._kept[asker, selection] = _Kept(queue_of(live), records, now)

    def forget(self, username: str) -> None:
        """Forget all of a user, who has just changed something."""
        for key in self._of(username):
            del self._kept[key]

    def _of(self, username: str) -> list[tuple[str, Selection]]:
        """Return what is kept of a user, the oldest first."""
        return [key for key in self._kept if key[0].partition("\0")[0] == username]

    def _oldest(self) -> float:
        return next(iter(self._kept.values())).since
