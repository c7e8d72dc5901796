"""The wire models of /compute: names, fields and defaults as in the contract's schema."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, ClassVar, Literal

from pydantic import Field, create_model, field_validator
from pydantic_core import PydanticCustomError

from hpcgate.api.models.base import BodyParameters, Wire
from hpcgate.api.models.job_spec import LONGEST_PATH, JobSpecModel


class JobsTimeWindow(StrEnum):
    """How far back finished jobs are listed."""

    h1 = "1h"
    h8 = "8h"
    h24 = "24h"
    d3 = "3d"
    d7 = "7d"


class JobStatus(Wire):
    """The state of a job or a step."""

    state: str
    state_reason: str | None = None
    exit_code: int | None = None
    interrupt_signal: int | None = None


class JobTime(Wire):
    """Seconds and Unix seconds."""

    elapsed: int | None = None
    start: int | None = None
    end: int | None = None
    suspended: int | None = None
    limit: int | None = None


class JobTask(Wire):
    """A step of a job."""

    id: str
    name: str
    status: JobStatus
    time: JobTime


class JobModel(Wire):
    """A job."""

    job_id: str
    name: str
    status: JobStatus
    tasks: list[JobTask] | None = None
    time: JobTime
    account: str | None = None
    allocation_nodes: int
    cluster: str
    group: str | None = None
    nodes: str
    partition: str
    kill_request_user: str | None = None
    user: str | None
    working_directory: str
    priority: int | None = None


class JobUsage(Wire):
    """What a job has cost so far; null what is not recorded."""

    cpu_seconds: float | None = Field(None, description="Seconds of processors, of all processes")
    memory_peak: int | None = Field(
        None, description="Bytes: on Slurm of the task that held most, on PBS of the whole job"
    )
    node_hours: float | None = Field(None, description="Hours of the nodes that the job had, whole or in part")
    energy: int | None = Field(None, description="Joules, where the site measures them")


class JobWithUsageModel(JobModel):
    """A job, and what it has cost."""

    usage: JobUsage | None = Field(None, description="Not there where nothing is recorded, or the job has not begun")


class GetJobResponse(Wire):
    """Jobs."""

    jobs: list[JobModel] | None = None


class GetOneJobResponse(Wire):
    """One job, the tasks of an array or the components of a heterogeneous job."""

    jobs: list[JobWithUsageModel] | None = None


class JobNotShown(Wire):
    """A job that was asked for by its id, and is not among the answer."""

    job_id: str
    status: int = Field(description="The status that asking for this job alone would have had: 404 for an unknown one")
    message: str


class GetJobsResponse(GetJobResponse):
    """Jobs, those that were asked for by their ids and are not there, and where the next page begins."""

    not_shown: list[JobNotShown] | None = Field(None, description="With ids: those that are not among the jobs")
    next_cursor: str | None = Field(None, description="With limit: the cursor of the next page, null on the last one")


_OPTIONAL: Any = {name: (field.annotation, None) for name, field in JobModel.model_fields.items()}
JobPartModel = create_model("JobPartModel", __base__=Wire, __doc__="Some fields of a job.", **_OPTIONAL)


class GetJobPartsResponse(Wire):
    """With `fields`: as GetJobsResponse, with these fields of each job."""

    jobs: list[JobPartModel] | None = None
    not_shown: list[JobNotShown] | None = Field(None, description="With ids: those that are not among the jobs")
    next_cursor: str | None = Field(None, description="With limit: the cursor of the next page, null on the last one")


class JobMetadataModel(Wire):
    """What was submitted, with absolute, expanded paths."""

    job_id: str
    script: str | None = None
    standard_input: str | None = None
    standard_output: str | None = None
    standard_error: str | None = None


class GetJobMetadataResponse(Wire):
    """Metadata of a job."""

    jobs: list[JobMetadataModel] | None = None


class JobDescriptionModel(JobSpecModel):
    """What to submit: exactly one of `script`, `scriptPath` and `executable`.

    Fields outweigh the script's directives.
    """

    unused: ClassVar[Mapping[str, str]] = {"environment": "the job's variables are job.env"}

    name: str | None = Field(None, description="Name for the job")
    account: str | None = Field(None, description="Account to charge")
    reservation: str | None = Field(None, description="Reservation to run in")
    working_directory: str = Field(description="Directory of the job, absolute")
    standard_input: str | None = Field(None, description="File that the job reads")
    standard_output: str | None = Field(None, description="File for the job's output")
    standard_error: str | None = Field(None, description="File for the job's errors")
    env: dict[str, str] | list[str] = Field(
        default={"F7T_version": "v2.0.0"}, description="Environment, as an object or as a list of NAME=value"
    )
    environment: Any = Field(None, description="Not used: firecrest-ui sends it. `env` is the environment")
    constraints: str | None = Field(None, description="Node features required")
    partition: str | None = Field(None, description="Partition or queue")
    script: str | None = Field(None, description="The batch script itself")
    script_path: str | None = Field(None, description="Path of the batch script on the system, absolute")

    @field_validator(
        "name", "account", "reservation", "working_directory", "standard_input", "standard_output", "standard_error",
        "constraints", "partition", "script_path", "queue_name",
    )  # fmt: skip
    @classmethod
    def _within_limits(cls, value: str | None) -> str | None:
        if value is not None and "\0" in value:
            raise PydanticCustomError("nul", "holds a NUL character")
        if value is not None and len(value) > LONGEST_PATH:
            raise PydanticCustomError("too_long", "has more than {most} characters", {"most": LONGEST_PATH})
        return value


class PostJobSubmitRequest(BodyParameters):
    """A job to submit."""

    strict: ClassVar[bool] = True

    job: JobDescriptionModel


class PostJobSubmissionResponse(Wire):
    """The submitted job."""

    job_id: str | None = None
    warnings: list[str] | None = Field(None, description="What the scheduler has said beside the job's id")


class PolicyVerdict(Wire):
    """What the centre's policy says of a submission."""

    allowed: bool
    rule: str | None = Field(None, description="The rule that says so, where there are rules")
    reason: str | None = Field(None, description="Why it is not allowed")


class DryRunResponse(Wire):
    """A submission that was not made."""

    script: str | None = Field(None, description="The script that would be submitted; null for one on the system")
    options: list[str] = Field(description="What would be asked of the scheduler besides, in its own words")
    tested: bool = Field(description="Whether the scheduler has looked at it; else the gateway alone has")
    start: int | None = Field(None, description="When the job is expected to start, in Unix seconds")
    nodes: str | None = Field(None, description="The nodes that are expected")
    partition: str | None = Field(None, description="The partition")
    processors: int | None = Field(None, description="Processors in all")
    warnings: list[str] = Field(description="What the scheduler has said besides")
    policy: PolicyVerdict


class GetSubmissionResponse(Wire):
    """What has become of a submission."""

    state: Literal["submitted", "not_submitted", "under_way", "unknown"] = Field(
        description="under_way and unknown: ask again, or send the request again with the same key"
    )
    job_id: str | None = Field(None, description="The job's id, if it was submitted")
    reason: str | None = Field(None, description="Why it is not known, or what the scheduler has refused it for")


class PostJobAttachRequest(BodyParameters):
    """A command to run inside a job's allocation."""

    command: str = Field("", description="Shell command, required all the same")
