"""The wire models of the events of jobs."""

from pydantic import Field

from hpcgate.api.models.base import Wire
from hpcgate.api.models.jobs import JobModel


class JobEventModel(JobModel):
    """A job, as it is known when it is told of, and what has become of it."""

    changed_at: int | None = Field(None, description="When, in Unix seconds by the scheduler's clock")
    by_requeue: bool | None = Field(None, description="With job.ended: whether the job was requeued and goes on")


class JobsEventModel(Wire):
    """The jobs as they are when a client begins."""

    jobs: list[JobModel]
