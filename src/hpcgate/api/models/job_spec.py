"""The wire models of a job in fields, in the terms of PSI/J; each field has its limits, and a 400 names it."""

import re
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from hpcgate.api.models.base import BodyParameters
from hpcgate.schedulers.job_spec import DependencyType, MailEvent

LONGEST_PATH = 4096
"""Characters of a path: PATH_MAX of Linux is as many bytes."""
LONGEST_ARGUMENT = 128 * 1024 - 1
"""Characters of an argument of a program: execve(2), MAX_ARG_STRLEN."""
MOST_ARGUMENTS = 4096
LONGEST_RUN = 10 * 366 * 86400
"""Seconds of a duration: ten years, which Slurm can count in minutes."""
LAST_TIME = 4102444800
"""Unix seconds: the year 2100."""
MOST_MEMORY = 2**50
"""Bytes of a node."""

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_ANY_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def _wrong(text: str) -> PydanticCustomError:
    return PydanticCustomError("job_field", "{text}", {"text": text})


def _readable(value: Any, forbidden: re.Pattern[str], what: str) -> Any:
    if isinstance(value, str):
        if forbidden.search(value):
            raise _wrong(f"holds a control character, and {what}")
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise _wrong(f"is not valid Unicode: {error.reason}") from None
    return value


def _line(value: Any) -> Any:
    return _readable(value, _ANY_CONTROL, "must be one line of text")


def _text(value: Any) -> Any:
    return _readable(value, _CONTROL, "only tabs and line ends are taken")


def _path(value: Any) -> Any:
    value = _line(value)
    if isinstance(value, str) and not value.startswith("/"):
        raise _wrong("must be an absolute path")
    return value


def _program(value: Any) -> Any:
    value = _line(value)
    if isinstance(value, str) and value.startswith("-"):
        raise _wrong("must not begin with a dash")
    return value


Line = Annotated[str, BeforeValidator(_line)]
AbsolutePath = Annotated[str, BeforeValidator(_path), Field(max_length=LONGEST_PATH)]
Argument = Annotated[str, BeforeValidator(_text), Field(max_length=LONGEST_ARGUMENT)]
Count = Annotated[int, Field(ge=1, le=10_000_000, strict=True)]

_ISO_DURATION = re.compile(
    r"P(?:(?P<weeks>\d{1,9})W|(?:(?P<days>\d{1,9})D)?"
    r"(?:T(?=\d)(?:(?P<hours>\d{1,9})H)?(?:(?P<minutes>\d{1,9})M)?(?:(?P<seconds>\d{1,9})S)?)?)",
    re.ASCII,
)
_UNITS = {"weeks": 7 * 86400, "days": 86400, "hours": 3600, "minutes": 60, "seconds": 1}


def _duration(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    match = _ISO_DURATION.fullmatch(value)
    if match is None or not any(match.groupdict().values()):
        raise _wrong("must be a whole number of seconds, or a duration of ISO 8601 in whole numbers, such as PT1H30M")
    return sum(int(number) * _UNITS[unit] for unit, number in match.groupdict().items() if number)


_SIZE = re.compile(r"(\d{1,15})(?:([KMGT])(?:i?B)?|B)?", re.ASCII)


def _size(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    match = _SIZE.fullmatch(value)
    if match is None:
        raise _wrong("must be a whole number of bytes, or a text such as 512M or 16GiB, both in powers of 1024")
    return int(match[1]) * 1024 ** (" KMGT".index(match[2]) if match[2] else 0)


def _time(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        read = datetime.fromisoformat(value)
    except ValueError:
        read = None
    if read is None or read.tzinfo is None:
        raise _wrong("must be Unix seconds, or a time of ISO 8601 with its zone, such as 2026-12-24T18:00:00+01:00")
    return int(read.timestamp())


def _number_or(text: dict[str, Any], **limits: Any) -> WithJsonSchema:
    return WithJsonSchema({"anyOf": [{"type": "integer", **limits}, {"type": "string", **text}]})


Duration = Annotated[
    int,
    BeforeValidator(_duration),
    Field(ge=1, le=LONGEST_RUN, strict=True),
    _number_or({"examples": ["PT1H30M"]}, minimum=1, maximum=LONGEST_RUN),
]
Time = Annotated[
    int,
    BeforeValidator(_time),
    Field(ge=0, le=LAST_TIME, strict=True),
    _number_or({"examples": ["2026-12-24T18:00:00+01:00"]}, minimum=0, maximum=LAST_TIME),
]
Size = Annotated[
    int,
    BeforeValidator(_size),
    Field(ge=1, le=MOST_MEMORY, strict=True),
    _number_or({"examples": ["16GiB"]}, minimum=1, maximum=MOST_MEMORY),
]

_INDICES = r"[0-9]{1,9}(-[0-9]{1,9}(:[1-9][0-9]{0,8})?)?"
Array = Annotated[str, Field(max_length=1024, pattern=rf"^{_INDICES}(,{_INDICES})*(%[0-9]{{1,9}})?$")]
Address = Annotated[str, Field(max_length=254, pattern=r"^[A-Za-z0-9_][A-Za-z0-9._%+-]*(@[A-Za-z0-9.-]+)?$")]


class ResourcesModel(BodyParameters):
    """What the job takes up."""

    node_count: Count | None = Field(None, description="Nodes")
    process_count: Count | None = Field(
        None, description="Processes in all; with processesPerNode and nodeCount their product"
    )
    processes_per_node: Count | None = Field(None, description="Processes on each node")
    cpu_cores_per_process: Count | None = Field(None, description="CPUs of each process")
    gpu_cores_per_process: Count | None = Field(None, description="GPUs of each process")
    memory: Size | None = Field(None, description="Memory on each node, in bytes or as 16GiB")
    exclusive_node_use: bool | None = Field(
        None, strict=True, description="True: no other job runs on the nodes. False says nothing"
    )

    @model_validator(mode="after")
    def _consistent(self) -> "ResourcesModel":
        nodes, count, each = self.node_count, self.process_count, self.processes_per_node
        if nodes and count and each and nodes * each != count:
            raise _wrong(f"processCount is {count}, and nodeCount times processesPerNode is {nodes * each}")
        return self


class DependencyModel(BodyParameters):
    """What must have happened to other jobs."""

    type: DependencyType = Field(
        description="What must have happened to the jobs; a singleton waits for all of its name"
    )
    job_ids: list[Annotated[Line, Field(min_length=1, max_length=256)]] = Field(
        default=[], max_length=1000, description="The jobs; none for a singleton"
    )

    @model_validator(mode="after")
    def _named(self) -> "DependencyModel":
        if (self.type == "singleton") == bool(self.job_ids):
            raise _wrong("jobIds must name jobs, except for a singleton")
        return self


class MailModel(BodyParameters):
    """What is mailed, and to whom."""

    events: list[MailEvent] = Field(min_length=1, max_length=4, description="What is told of")
    address: Address | None = Field(
        None, description="To whom: an address, or a user's name; by default the job's user"
    )


_Word = Annotated[str, BeforeValidator(_line), Field(max_length=4096)]
_Value = _Word | Annotated[int, Field(strict=True)] | Literal[True]


class ExtraModel(BodyParameters):
    """Options that are the scheduler's own, for which there is no field."""

    slurm: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{1,63}$")], _Value] = Field(
        default={}, max_length=64, description="Options of sbatch by their long names; true for one without a value"
    )
    pbs: dict[Annotated[str, Field(pattern=r"^[A-Za-z]$")], _Value] = Field(
        default={}, max_length=64, description="Options of qsub by their letters; true for one without a value"
    )


class JobSpecModel(BodyParameters):
    """The fields of a job beside those of FirecREST's."""

    executable: Annotated[str, BeforeValidator(_program), Field(min_length=1, max_length=LONGEST_PATH)] | None = Field(
        None, description="The program to run, in the place of script and scriptPath: a path, or a name in PATH"
    )
    arguments: list[Argument] | None = Field(
        None, max_length=MOST_ARGUMENTS, description="The program's arguments, each as it is"
    )
    launcher: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")] | None = Field(
        None, description="What starts the program: none, srun, mpirun, or as the site has it"
    )
    pre_launch: AbsolutePath | None = Field(
        None, description="Script that the job's shell sources before the program; if it fails, the job does"
    )
    post_launch: AbsolutePath | None = Field(
        None, description="Script that the job's shell sources after the program, whose exit status is the job's"
    )
    resources: ResourcesModel | None = Field(None, description="What the job takes up")
    duration: Duration | None = Field(
        None, description="The longest that it may run: seconds, or as PT1H30M (ISO 8601)"
    )
    queue_name: Line | None = Field(None, max_length=256, description="PSI/J's name for the partition")
    qos: Line | None = Field(None, min_length=1, max_length=256, description="Quality of service")
    array: Array | None = Field(None, description="Indices of a job array, such as 0-99%10")
    dependencies: list[DependencyModel] | None = Field(
        None, max_length=100, description="What must have happened before it starts: all of it"
    )
    hold: bool | None = Field(None, strict=True, description="True: it waits until it is released. False says nothing")
    begin: Time | None = Field(
        None, description="Not to start before: Unix seconds, or a time with its zone (ISO 8601)"
    )
    requeue: bool | None = Field(None, strict=True, description="Whether it may start again, as after a node's failure")
    mail: MailModel | None = Field(None, description="What is mailed, and to whom")
    extra: ExtraModel | None = Field(None, description="Options that are the scheduler's own")
