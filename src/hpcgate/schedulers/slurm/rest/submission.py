"""``POST /slurm/<version>/job/submit``: what is sent, and what the answer means.

Where sbatch would refuse a script by itself, slurmrestd takes it and the job fails later, if it fails; so what sbatch
looks at is looked at here: the first line, line ends, directives.
"""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from hpcgate.errors import BadRequest, CommandFailed, GatewayError, NotSupported, SubmissionRefused
from hpcgate.outbound.wording import clipped
from hpcgate.schedulers.base import JobDescription
from hpcgate.schedulers.once import Submitted
from hpcgate.schedulers.slurm import attributes
from hpcgate.schedulers.slurm.rest import values
from hpcgate.schedulers.slurm.rest.directives import directives
from hpcgate.schedulers.slurm.rest.problems import Unclear, failure, numbers, problems, words
from hpcgate.schedulers.slurm.rest.versions import ApiVersion
from hpcgate.schedulers.variables import check_variable

DEFAULT_PATH = "/usr/local/bin:/usr/bin:/bin"

_TEXTS: Mapping[str, str] = MappingProxyType(
    {
        "account": "account",
        "array": "array",
        "comment": "comment",
        "constraint": "constraints",
        "dependency": "dependency",
        "error": "standard_error",
        "input": "standard_input",
        "job-name": "name",
        "licenses": "licenses",
        "mail-user": "mail_user",
        "output": "standard_output",
        "partition": "partition",
        "qos": "qos",
        "reservation": "reservation",
        "wckey": "wckey",
    }
)
"""Options of sbatch and the fields that carry them as they are."""

_NUMBERS: Mapping[str, str] = MappingProxyType(
    {"cpus-per-task": "cpus_per_task", "ntasks": "tasks", "ntasks-per-node": "tasks_per_node"}
)

_ASKED: Mapping[str, str] = MappingProxyType(
    {
        "name": "name",
        "account": "account",
        "reservation": "reservation",
        "partition": "partition",
        "constraints": "constraints",
        "standard_input": "standard_input",
        "standard_output": "standard_output",
        "standard_error": "standard_error",
    }
)
"""Attributes of a `JobDescription` and fields of a request. They outweigh the script's directives."""


_NO_EXPORT = ("NONE", "NIL")


def body(job: JobDescription, username: str, version: ApiVersion) -> dict[str, Any]:
    """Return the body of a submission.

    The environment is what the job asks for, with USER, LOGNAME and a PATH if it names none: slurmrestd has no session
    to take an environment from, and refuses a job without one. That the working directory exists is not looked at.

    Raises:
        NotSupported: The script is to be read from the cluster, or has a directive that a request cannot carry.
        SubmissionRefused: sbatch would refuse the script.
        BadRequest: A value cannot be carried.
    """
    if job.script is None:
        raise NotSupported("Submitting a script from a path (scriptPath) is not supported over slurmrestd")
    script = job.script
    _check_script(script)
    stated = directives(script)
    asked = attributes.added(stated, attributes.options(job.attributes))
    options = attributes.outweighed(stated, asked)
    fields: dict[str, Any] = {"name": "sbatch"} | _fields(options, version) | _asked(job, asked, version)
    for attribute, field in _ASKED.items():
        value = getattr(job, attribute)
        if value:
            fields[field] = value
    fields["current_working_directory"] = job.working_directory.text
    default = {} if options.get("export", "").upper() in _NO_EXPORT else job.default_environment
    fields["environment"] = environment({**default, **job.environment}, username, version)
    for name, value in fields.items():
        if isinstance(value, str) and "\0" in value:
            raise BadRequest(f"A NUL character cannot be submitted: {name}")
    return {"script": script, "job": fields}


def _asked(job: JobDescription, asked: attributes.Options, version: ApiVersion) -> dict[str, Any]:
    """Return the fields for what is asked for by the request's own.

    Raises:
        NotSupported: This version cannot carry one of them; by its name in the request.
    """
    fields: dict[str, Any] = {}
    for option, value in asked.items():
        try:
            fields |= _fields({option: value or ""}, version)
        except NotSupported:
            field = attributes.field_of(job.attributes, option)
            shown = f"--{option}" if value is None else f"--{option}={clipped(value, 200)}"
            raise NotSupported(f"{field} ({shown}) is not supported over slurmrestd {version.name}") from None
    return fields


def _check_script(script: str) -> None:
    if not script.startswith("#!"):
        raise SubmissionRefused(
            "This does not look like a batch script: its first line must start with #! and the path to an interpreter"
        )
    if "\r\n" in script:
        raise SubmissionRefused("Batch script contains DOS line breaks (\\r\\n) instead of UNIX line breaks (\\n)")
    if "\0" in script:
        raise SubmissionRefused("The script contains a NUL character")
    try:
        script.encode()
    except UnicodeEncodeError as error:
        raise SubmissionRefused(f"The script is not valid Unicode: {error.reason}") from error


def environment(asked: Mapping[str, str], username: str, version: ApiVersion) -> dict[str, str] | list[str]:
    """Return the environment of a job as the version wants it.

    Raises:
        BadRequest: A job cannot have one of the variables.
    """
    for name, value in asked.items():
        check_variable(name, value)
    whole = {"PATH": DEFAULT_PATH, "USER": username, "LOGNAME": username, **asked}
    return [f"{name}={value}" for name, value in whole.items()] if version.environment_list else whole


def _fields(options: Mapping[str, str], version: ApiVersion) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for option, value in options.items():
        if option in _TEXTS:
            fields[_TEXTS[option]] = value
        elif option in _NUMBERS:
            fields[_NUMBERS[option]] = _whole(option, value)
        elif option != "chdir":
            # --chdir is outweighed: the working directory is always asked for.
            fields.update((_as_sbatch if version.sbatch_values else _typed)(option, value, version))
    return fields


def _either(option: str, value: str) -> dict[str, Any] | None:
    """Return the fields of an option that are the same in all versions, or None."""
    match option:
        case "hold":
            return {"hold": True}
        case "requeue" | "no-requeue":
            return {"requeue": option == "requeue"}
        case "nice":
            return {"nice": _whole(option, value or "100")}
        case "export":
            if value.upper() not in ("ALL", *_NO_EXPORT):
                raise NotSupported(f"The directive #SBATCH --export={value} is not supported over slurmrestd")
            return {}
    return None


_AS_SBATCH: Mapping[str, str] = MappingProxyType(
    {
        "begin": "begin_time",
        "gpus": "gpus",
        "gpus-per-node": "gpus_per_node",
        "gpus-per-task": "gpus_per_task",
        "gres": "gres",
        "mail-type": "mail_type",
        "mem": "memory_per_node",
        "mem-per-cpu": "memory_per_cpu",
        "nodes": "nodes",
        "open-mode": "open_mode",
        "time": "time_limit",
        "time-min": "time_minimum",
    }
)


def _as_sbatch(option: str, value: str, version: ApiVersion) -> dict[str, Any]:
    if option == "exclusive":
        return {"exclusive": value or "exclusive"}
    if option == "no-requeue":
        # It takes no notice of ``"requeue": false``.
        return {"no_requeue": True}
    fields = _either(option, value)
    if fields is not None:
        return fields
    if option not in _AS_SBATCH:
        raise NotSupported(f"The directive #SBATCH --{option} is not supported over slurmrestd {version.name}")
    return {_AS_SBATCH[option]: value}


def _typed(option: str, value: str, version: ApiVersion) -> dict[str, Any]:
    fields = _either(option, value)
    if fields is not None:
        return fields
    match option:
        case "begin" if _UNIX_TIME.fullmatch(value):
            # An object from v0.0.40 on.
            time = int(value.removeprefix("uts"))
            return {"begin_time": time if version.number < 40 else _limited(time)}
        case "time":
            return {"time_limit": _minutes(option, value)}
        case "time-min":
            return {"time_minimum": _minutes(option, value)}
        case "nodes":
            first, _, last = value.partition("-")
            return {"minimum_nodes": _whole(option, first), "maximum_nodes": _whole(option, last or first)}
        case "mem":
            return {"memory_per_node": _limited(_mebibytes(option, value))}
        case "mem-per-cpu":
            return {"memory_per_cpu": _limited(_mebibytes(option, value))}
        case "gpus":
            return {"tres_per_job": f"gres/gpu:{value}"}
        case "gpus-per-node":
            return {"tres_per_node": f"gres/gpu:{value}"}
        case "gpus-per-task":
            return {"tres_per_task": f"gres/gpu:{value}"}
        case "gres":
            return {"tres_per_node": ",".join(f"gres/{item.removeprefix('gres/')}" for item in value.split(","))}
        case "mail-type":
            return {"mail_type": _mail_types(value)}
        case "open-mode":
            if value not in ("append", "truncate"):
                raise SubmissionRefused(f"Invalid --open-mode specification: {value}")
            return {"open_mode": [value.upper()]}
        case "exclusive" if version.shared_list and value in ("", "exclusive", "user", "mcs"):
            return {"shared": ["none" if value in ("", "exclusive") else value]}
    shown = f"--{option}={value}" if value else f"--{option}"
    raise NotSupported(f"The directive #SBATCH {shown} is not supported over slurmrestd {version.name}")


_UNIX_TIME = re.compile(r"uts[0-9]{1,12}")


def _limited(number: int) -> dict[str, Any]:
    return {"set": True, "infinite": False, "number": number}


def _whole(option: str, value: str) -> int:
    if not re.fullmatch(r"-?[0-9]{1,9}", value.strip()):
        raise SubmissionRefused(f"Invalid --{option} specification: {value}")
    return int(value)


_TIME = re.compile(r"(?:(\d{1,6})-(\d{1,4})(?::(\d{1,4})(?::(\d{1,4}))?)?|(\d{1,8})(?::(\d{1,4})(?::(\d{1,4}))?)?)")


def _minutes(option: str, value: str) -> dict[str, Any]:
    """Return a limit in minutes, rounded up: ``M``, ``M:S``, ``H:M:S``, ``D-H``, ``D-H:M``, ``D-H:M:S``."""
    if value.upper() in ("UNLIMITED", "INFINITE", "-1"):
        return {"set": True, "infinite": True, "number": 0}
    match = _TIME.fullmatch(value.strip())
    if match is None:
        raise SubmissionRefused(f"Invalid --{option} specification: {value}")
    days, hours, minutes, seconds, *others = (int(part or 0) for part in match.groups())
    if match[1] is None:
        first, second, third = others
        hours, minutes, seconds = (0, first, second) if match[7] is None else (first, second, third)
    return _limited(-(-(((days * 24 + hours) * 60 + minutes) * 60 + seconds) // 60))


_UNITS: Mapping[str, int] = MappingProxyType({"K": 1, "M": 1024, "G": 1024**2, "T": 1024**3})


def _mebibytes(option: str, value: str) -> int:
    match = re.fullmatch(r"(\d{1,12})([KMGT]?)B?", value.strip().upper())
    if match is None:
        raise SubmissionRefused(f"Invalid --{option} specification: {value}")
    return -(-int(match[1]) * _UNITS[match[2] or "M"] // 1024)


_MAIL_TYPES = frozenset({"BEGIN", "END", "FAIL", "REQUEUE", "STAGE_OUT", "ARRAY_TASKS"})
_MAIL_ALL = ("BEGIN", "END", "FAIL", "REQUEUE", "STAGE_OUT")


def _mail_types(value: str) -> list[str]:
    found: dict[str, None] = {}
    for name in value.upper().split(","):
        if name == "ALL":
            found |= dict.fromkeys(_MAIL_ALL)
        elif name in _MAIL_TYPES:
            found[name] = None
        elif name != "NONE":
            raise NotSupported(f"The directive #SBATCH --mail-type={name} is not supported over slurmrestd")
    return list(found)


def submitted(status: int, answer: object) -> Submitted:
    """Return the submitted job, with what is said beside its id.

    Warnings, and errors beside a job's id (code 2042 of v0.0.38: the job is held), are not failures, and are passed on;
    so is what a site's job_submit plug-in tells the user.

    Raises:
        SubmissionRefused: With Slurm's own words; warnings are all that is said of a field of a wrong type.
        Forbidden: A limit is reached, or the token is refused.
        SchedulerUnavailable: The controller does not answer.
        Unclear: The one or the other.
    """
    found = values.number(values.row(answer).get("job_id")) if status == 200 else None
    if found:
        plugin = values.string(values.row(answer).get("job_submit_user_msg"))
        said = (*(one.words for one in (*problems(answer), *problems(answer, "warnings"))), *plugin.split("\n"))
        return Submitted(str(found), warnings=tuple(clipped(line, 1000) for line in dict.fromkeys(said) if line)[:20])
    raise refusal(status, answer)


_UNREADABLE = frozenset({9000, 9001, 9202, 9209})
"""A field of the request is unknown, or of the wrong type."""


def refusal(status: int, answer: object) -> GatewayError:
    """Return the error for a submission that gave no job."""
    error = failure(status, answer)
    errors = problems(answer)
    said = words(errors) or words(problems(answer, "warnings"))
    if isinstance(error, Unclear) and not numbers(errors) & _UNREADABLE:
        return error
    return SubmissionRefused(said) if said and isinstance(error, CommandFailed) else error
