"""The bodies that jobs are answered with, each encoded once for all who share a query."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from hpcgate.api.models import jobs as models
from hpcgate.api.responses import encoded, encoded_in_part
from hpcgate.schedulers.base import Job
from hpcgate.threads import off_loop


class Encodings:
    """The encoded lists of late. Those who share a query share its encoding too, which costs more than all the rest.

    Args:
        most: Bytes of them that are kept.
        encode: Encodes jobs.
    """

    def __init__(self, most: int, encode: Callable[[tuple[Job, ...]], bytes]) -> None:
        self._most = most
        self._encode = encode
        self._size = 0
        self._kept: OrderedDict[int, tuple[tuple[Job, ...], bytes]] = OrderedDict()

    async def of(self, jobs: tuple[Job, ...]) -> bytes:
        """Return the body for these very jobs."""
        body = self._of(jobs)
        if body is not None:
            return body
        body = await off_loop(len(jobs), lambda: self._encode(jobs))
        # Others may have had it encoded meanwhile.
        if len(body) <= self._most and self._of(jobs) is None:
            self._kept[id(jobs)] = (jobs, body)
            self._size += len(body)
        while self._size > self._most:
            self._size -= len(self._kept.popitem(last=False)[1][1])
        return body

    def _of(self, jobs: tuple[Job, ...]) -> bytes | None:
        kept = self._kept.get(id(jobs))
        return kept[1] if kept is not None and kept[0] is jobs else None


def listed(jobs: tuple[Job, ...]) -> bytes:
    """Return the body of a list of jobs."""
    return encoded(models.GetJobResponse(jobs=[models.JobModel.model_validate(job) for job in jobs]))


def with_usage(jobs: tuple[Job, ...]) -> bytes:
    """Return the body of jobs with what they have cost, which is not there where it is not recorded."""
    shown = [models.JobWithUsageModel.model_validate(job) for job in jobs]
    for job in shown:
        if job.usage is None:
            job.model_fields_set.discard("usage")
    return encoded_in_part(models.GetOneJobResponse(jobs=shown), None)


@dataclass(frozen=True, slots=True)
class JobBodies:
    """What one application has encoded of late.

    Attributes:
        lists: Of lists of jobs.
        singles: Of single jobs, with what they have cost.
    """

    lists: Encodings = field(default_factory=lambda: Encodings(8 * 1024 * 1024, listed))
    singles: Encodings = field(default_factory=lambda: Encodings(1024 * 1024, with_usage))
