"""The wire models of many jobs at a time."""

from typing import Annotated, ClassVar

from pydantic import Field, model_validator

from hpcgate.api.models.base import BodyParameters, Wire
from hpcgate.api.models.jobs import JobDescriptionModel

MAX_JOBS = 1000
"""Most jobs of one request."""

_JobId = Annotated[str, Field(min_length=1, max_length=4096)]


class BulkJob(BodyParameters):
    """One of the jobs to submit."""

    strict: ClassVar[bool] = True

    job: JobDescriptionModel
    idempotency_key: str | None = Field(
        None, description="As the header Idempotency-Key of a request for this job alone; each key once"
    )


class PostJobsBulkRequest(BodyParameters):
    """Jobs to submit."""

    strict: ClassVar[bool] = True

    jobs: list[BulkJob] = Field(min_length=1, max_length=MAX_JOBS)


class JobProblem(Wire):
    """Why something could not be done."""

    status: int = Field(description="The status that a request for this job alone would have had")
    message: str
    retry_after: int | None = Field(None, description="Seconds after which it may be tried again")


class BulkResult(Wire):
    """What became of one of the jobs: its id, or an error."""

    job_id: str | None = None
    replayed: bool = Field(False, description="Whether an earlier request with this key has submitted the job")
    warnings: list[str] | None = Field(None, description="What the scheduler has said beside the id")
    error: JobProblem | None = None


class PostJobsBulkResponse(Wire):
    """What became of each job, in order."""

    jobs: list[BulkResult]


class PostJobsCancelRequest(BodyParameters):
    """Jobs to cancel: those with these ids, or one's own with all of what else is said."""

    strict: ClassVar[bool] = True

    ids: list[_JobId] | None = Field(None, min_length=1, max_length=MAX_JOBS)
    name: Annotated[str, Field(min_length=1, max_length=1024)] | None = None
    state: Annotated[str, Field(min_length=1, max_length=64)] | None = Field(
        None, description="As the scheduler calls it: PENDING, RUNNING; Q, R"
    )
    account: Annotated[str, Field(min_length=1, max_length=256)] | None = None

    @model_validator(mode="after")
    def _either(self) -> "PostJobsCancelRequest":
        chosen = any(value is not None for value in (self.name, self.state, self.account))
        if (self.ids is None) != chosen:
            raise ValueError("either ids, or at least one of name, state and account")
        return self


class CancelResult(Wire):
    """What became of one cancellation; without an error the job is cancelled, or had ended."""

    job_id: str
    error: JobProblem | None = None


class PostJobsCancelResponse(Wire):
    """What became of each job."""

    jobs: list[CancelResult]
