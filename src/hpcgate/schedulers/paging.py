"""Pages of a list of jobs, in an order that the jobs' ids alone make.

Where a page ends is told by the id of its last job, so nothing is kept between two pages, and any replica may make the
next one. A job that ends or begins meanwhile moves no other to another page.
"""

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from dataclasses import dataclass

from hpcgate.errors import BadRequest
from hpcgate.schedulers.base import Job

MAX_LIMIT = 10_000
"""Most jobs of a page."""
MAX_CURSOR = 2048
"""Characters of a cursor that are looked at; more than the longest one has."""
_TELLING = 200
"""Characters of an id that order jobs; of an array whose waiting tasks are scattered it may have thousands."""
_NUMBER = re.compile(r"[0-9]+")

Place = tuple[tuple[int, ...], str]


def place(job_id: str) -> Place:
    """Return what orders jobs: the numbers of the job and of its (first) task, then the id.

    >>> sorted(["10", "9", "9_[2-5]", "9_1", "8[3].pbs"], key=place)
    ['8[3].pbs', '9', '9_1', '9_[2-5]', '10']
    """
    telling = job_id[:_TELLING]
    return tuple(int(found[0]) for _, found in zip(range(2), _NUMBER.finditer(telling), strict=False)), telling


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where a page ends.

    Attributes:
        job_id: The id of the last job, as much of it as `place` looks at.
        shown: How many of the jobs at this place have been shown: more than one where ids have been used again.
    """

    job_id: str
    shown: int = 1

    def __str__(self) -> str:
        return urlsafe_b64encode(f"{self.shown} {self.job_id}".encode()).decode().rstrip("=")

    @classmethod
    def read(cls, text: str) -> "Cursor":
        """Return the cursor that was given out as this text.

        Raises:
            BadRequest: None was.
        """
        try:
            if len(text) > MAX_CURSOR:
                raise ValueError("too long")
            raw = text.encode("ascii")
            shown, space, job_id = urlsafe_b64decode(raw + b"=" * (-len(raw) % 4)).decode().partition(" ")
            cursor = cls(job_id, int(shown))
            if not space or str(cursor) != text or cursor.shown < 1:
                raise ValueError("not as it was written")
        except ValueError:
            raise BadRequest("cursor: it is not the nextCursor of an earlier answer") from None
        return cursor


@dataclass(frozen=True, slots=True)
class Page:
    """Some of a list of jobs.

    Attributes:
        after: Where the next page begins; None if there is no more.
    """

    jobs: tuple[Job, ...]
    after: Cursor | None


def page(jobs: Sequence[Job], limit: int, cursor: Cursor | None = None) -> Page:
    """Return the next jobs after the cursor, at most `limit`."""
    placed = [(place(job.job_id), job) for job in jobs]
    if cursor is not None:
        start = place(cursor.job_id)
        placed = [pair for pair in placed if pair[0] >= start]
    placed.sort(key=lambda pair: pair[0])
    begin = 0
    if cursor is not None:
        while begin < min(len(placed), cursor.shown) and placed[begin][0] == start:
            begin += 1
    end = begin + limit
    chosen = tuple(job for _, job in placed[begin:end])
    if end >= len(placed):
        return Page(chosen, None)
    last = placed[end - 1][0]
    shown = sum(1 for at, _ in placed[:end] if at == last)
    return Page(chosen, Cursor(last[1], shown))
