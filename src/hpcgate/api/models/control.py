"""The wire models of what users do to jobs that they have."""

from typing import Annotated, ClassVar

from pydantic import Field

from hpcgate.api.models.base import BodyParameters
from hpcgate.api.models.job_spec import DependencyModel


class PostJobSignalRequest(BodyParameters):
    """A signal for all processes of a job."""

    strict: ClassVar[bool] = True

    signal: Annotated[str, Field(max_length=40)] = Field(description="By name (`USR1`, `SIGUSR1`) or number")


class PatchJobRequest(BodyParameters):
    """What is to be changed of a job; what is not there stays as it is."""

    strict: ClassVar[bool] = True

    time_limit: int | None = Field(
        None, ge=1, le=10 * 366 * 86400, description="Seconds; Slurm counts minutes, and rounds them up"
    )
    partition: Annotated[str, Field(min_length=1, max_length=1024)] | None = Field(
        None, description="Partition or queue"
    )
    priority: int | None = Field(
        None, ge=-1024, lt=4294967294, description="As the scheduler counts it; most let users lower it only"
    )
    name: Annotated[str, Field(min_length=1, max_length=1024)] | None = Field(None, description="Name of the job")
    comment: Annotated[str, Field(max_length=4096)] | None = Field(
        None, description="Comment; the mark of a submission is kept behind it"
    )
    dependencies: list[DependencyModel] | None = Field(
        None, max_length=100, description="All that it waits for from now on; an empty list for nothing"
    )
