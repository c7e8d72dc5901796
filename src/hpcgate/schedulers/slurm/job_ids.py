"""Slurm's job ids: ``123``, array tasks ``123_4`` and ``123_[1-3]``, components ``123+1`` of heterogeneous jobs.

https://slurm.schedmd.com/squeue.html (JOBID), https://slurm.schedmd.com/job_array.html,
https://slurm.schedmd.com/heterogeneous_jobs.html
"""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

from hpcgate.errors import JobNotFound

_ID = re.compile(
    r"(?P<base>[0-9]{1,10})(?:_(?P<task>[0-9]{1,10})|_\[(?P<tasks>[0-9,:%-]+)\]|\+(?P<offset>[0-9]{1,5}))?"
)
_NO_NUMBER = 0xFFFFFFFE
"""From here on numbers are Slurm's words for none and infinite, and no job or task has them."""
_LONGEST = 4096
"""Characters of an id that a client may ask for; Slurm itself shows longer ones, for arrays of scattered tasks."""
_LIMIT = re.compile(r"%[0-9]*\]")
_RANGE = re.compile(r"([0-9]{1,10})(?:-([0-9]{1,10})(?::([0-9]{1,10}))?)?")


def task_ranges(text: str) -> tuple[range, ...]:
    """Return the array tasks that an expression such as ``1,4-10:3%2`` names; what cannot be read names none."""
    ranges = []
    for part in text.partition("%")[0].split(","):
        match = _RANGE.fullmatch(part)
        if match is not None:
            first, last, step = (int(number) if number else None for number in match.groups())
            if first is not None:
                ranges.append(range(first, (first if last is None else last) + 1, step or 1))
    return tuple(ranges)


def addressable(shown: str) -> str:
    """Return an id as Slurm shows it in a form that a URL's path may hold: ``5_[1-9%2]`` without its limit.

    How many tasks may run at a time names no job, and an encoded percent sign in a path names nothing here.
    """
    return _LIMIT.sub("]", shown)


def _common(one: range, other: range) -> bool:
    """Return whether two ranges, neither of them empty, share a number; by arithmetic, for they may be huge."""
    common = math.gcd(one.step, other.step)
    steps, rest = divmod(other.start - one.start, common)
    if rest:
        return False
    others = other.step // common
    shared = one.start + one.step * (steps * pow(one.step // common, -1, others) % others)
    period = one.step * others
    shared += -(-(max(one.start, other.start) - shared) // period) * period
    return shared <= min(one[-1], other[-1])


def arguments(ids: Iterable["JobId"]) -> str:
    """Return ids for the option of a command, each once; of an array and tasks of it the array alone.

    Of an array whose tasks wait together squeue shows only those that were asked for, even if the array was, too.
    """
    wanted = dict.fromkeys((job_id.argument, job_id.base) for job_id in ids)
    whole = {base for argument, base in wanted if argument == base}
    return ",".join(argument for argument, base in wanted if argument == base or base not in whole)


_OF_CLUSTER = 26
"""Bits of a number within its cluster; those above say which cluster of a federation it is."""


def given_out(job_id: "JobId", upcoming: int) -> bool:
    """Return whether a job may have had an id, where the next one is `upcoming`.

    Nothing is said of ids that another cluster of a federation gives out: https://slurm.schedmd.com/federation.html
    """
    number = int(job_id.base)
    elsewhere = upcoming >> _OF_CLUSTER and number >> _OF_CLUSTER != upcoming >> _OF_CLUSTER
    return bool(elsewhere) or number < upcoming


@dataclass(frozen=True, slots=True)
class JobId:
    """A job id, taken apart.

    Attributes:
        base: The id of the job, of the whole array or of the leader of a heterogeneous job.
        tasks: The array tasks that it names, or None if it names no task.
        offset: The component of a heterogeneous job, or None.
    """

    base: str
    tasks: tuple[range, ...] | None = None
    offset: int | None = None

    @classmethod
    def parse(cls, text: str) -> "JobId":
        """Take a job id apart.

        Raises:
            JobNotFound: It is none.
        """
        found = cls.read(text) if len(text) <= _LONGEST else None
        if found is None:
            raise JobNotFound(text)
        return found

    @classmethod
    def read(cls, text: str) -> "JobId | None":
        """Take a job id apart, or return None if it is none."""
        match = _ID.fullmatch(text)
        if match is None:
            return None
        base = match["base"].lstrip("0")
        # Slurm counts from 1, and scancel refuses 0 in words of its own.
        if not base or int(base) >= _NO_NUMBER:
            return None
        if match["offset"] is not None:
            return cls(base, offset=int(match["offset"]))
        expression = match["task"] if match["task"] is not None else match["tasks"]
        if expression is None:
            return cls(base)
        tasks = task_ranges(expression)
        return None if any(named.start >= _NO_NUMBER for named in tasks) else cls(base, tasks)

    @property
    def task(self) -> int | None:
        """The one array task that it names, if it names exactly one."""
        if self.tasks is not None and len(self.tasks) == 1 and len(self.tasks[0]) == 1:
            return self.tasks[0][0]
        return None

    @property
    def argument(self) -> str:
        """The id for a command line; of several array tasks the whole array, whose rows `matches` then sorts out."""
        if self.offset is not None:
            return f"{self.base}+{self.offset}"
        return self.base if self.task is None else f"{self.base}_{self.task}"

    def matches(self, shown: str, raw: str) -> bool:
        """Return whether a job is one that this id names.

        Args:
            shown: The job's id as Slurm shows it, ``25_[0-3]``.
            raw: Its record's own number, ``26``.
        """
        if self.tasks is None and self.offset is None and raw == self.base:
            return True
        other = JobId.read(shown)
        if other is None or other.base != self.base:
            return False
        if self.offset is not None:
            return other.offset == self.offset
        if self.tasks is None:
            return True
        return any(_common(one, two) for one in self.tasks for two in other.tasks or () if one and two)

    @property
    def order(self) -> tuple[int, int]:
        """A key that sorts jobs by id, and array tasks and components within."""
        if self.offset is not None:
            return int(self.base), self.offset
        return int(self.base), self.tasks[0][0] if self.tasks and self.tasks[0] else -1
