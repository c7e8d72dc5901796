"""qsub: submission. OpenPBS 23.06 Reference Guide, "qsub".

The script goes through standard input. ``-f`` keeps qsub from leaving a process behind, which would serve the next
submissions for a minute with the environment of this one.

What is called qsub may be a site's wrapper, which prints what it likes around the job's id, or instead of it. So the
job gets a tag by which the server itself can say what its id is. It stands in the command line, which the server keeps
as ``Submit_arguments``, as a prefix of directives that the next one overrides: the last of several counts (OpenPBS,
qsub.c, process_opts). The environment would not be the place for it, as ``-v`` overrides a script's own.
"""

import re
import secrets
from collections.abc import Mapping

from hpcgate.errors import BadRequest
from hpcgate.schedulers.base import JobDescription
from hpcgate.schedulers.pbs import attributes, script
from hpcgate.schedulers.pbs.variables import STEERING
from hpcgate.schedulers.submitting import uncoloured
from hpcgate.schedulers.variables import LOGIN
from hpcgate.ssh.commands.quoting import KEEPING_FUNCTIONS, WHOLE_PATH

NO_DIRECTORY = 66
"""Exit status if the working directory cannot be entered."""

_READER = (
    f'cd -- "$1" >/dev/null || exit {NO_DIRECTORY}; _hpcgate_path=$PATH;{WHOLE_PATH}'
    '_hpcgate_tool=$(command -v "$2") || _hpcgate_tool=$2; shift 2; PATH=$_hpcgate_path; '
    f'unset LC_ALL LANGUAGE {" ".join(LOGIN)}; exec "$_hpcgate_tool" "$@"'
)
"""LC_ALL and LANGUAGE are the gateway's own, for messages that can be matched. They are none of the job's business, and
neither is what the login has left: ``#PBS -V`` gives a job all of the environment."""

_SUBMITTER = f"{KEEPING_FUNCTIONS}cd qsub; exec 2>&1; {STEERING.unsetting()} {_READER}"


def _later(time: int) -> str:
    """Return the submitter of a job that begins at a Unix time: qsub takes it in the login node's own time zone."""
    return (
        f"{KEEPING_FUNCTIONS}date; _hpcgate_begin=$(date -d @{time} +%Y%m%d%H%M.%S) || exit; "
        f'set -- "$@" -a "$_hpcgate_begin"; {_SUBMITTER}'
    )


_OPTIONS: Mapping[str, str] = {
    "account": "-A",
    "constraints": "-l",
    "standard_output": "-o",
    "standard_error": "-e",
}

_JOB_NAME = re.compile(r"[A-Za-z0-9+_.-]{1,230}")
# A number with a point in it is a price.
_JOB_ID = re.compile(
    r"^[^\S\n]*([0-9]{1,12}(?:\[\])?\.(?![0-9.]+[^\S\n]*$)[A-Za-z0-9._-]{1,255})[^\S\n]*$", re.MULTILINE
)
_WITHIN = re.compile(r"(?<![\w.\[\]-])([0-9]{1,12}(?:\[\])?\.[A-Za-z][A-Za-z0-9_-]*(?:\.[A-Za-z0-9_-]+)*)(?![\w\[])")
_LONGEST_ID = 300
"""Characters: a number, brackets, and the name of a host."""
_DIRECTIVES = "#PBS"
_SHELL = re.compile(r"^(?:qsub|cat): (?:line )?\d+: ", re.MULTILINE)


def new_tag() -> str:
    """Return what a submission is known by, and none was before; qsub takes prefixes of up to 32 characters."""
    return f"hpcgate:{secrets.token_hex(8)}"


def command(job: JobDescription, content: bytes, tag: str | None = None, *, gpus: str = "ngpus") -> list[str | bytes]:
    """Return the command that submits a job; its standard input is what `script.composed` makes.

    A reservation is named by its queue, which goes before the partition: PBS knows only one of them. Constraints are a
    resource list as ``-l`` takes it.

    Args:
        job: The job.
        content: Its script.
        tag: What it is to be known by.
        gpus: The site's name for GPUs as a resource.

    Raises:
        BadRequest: A value holds a NUL.
    """
    begin = job.attributes.begin
    submitter = _SUBMITTER if begin is None else _later(begin)
    arguments: list[str | bytes] = ["sh", "-c", submitter, "qsub", job.working_directory, "qsub", "-f"]
    if tag is not None:
        arguments += ["-C", tag, "-C", _DIRECTIVES]
    name = job.name or _file_name(job, content)
    queue = job.reservation.partition(".")[0] if job.reservation else job.partition
    for option, value in (("-N", name), ("-q", queue)):
        if value:
            arguments += [option, value]
    for attribute, option in _OPTIONS.items():
        value = getattr(job, attribute)
        if value:
            arguments += [option, value]
    attributes.check_constraints(job.attributes, job.constraints or "")
    arguments += attributes.arguments(job.attributes, script.resources(content), gpus=gpus)
    for argument in arguments:
        if isinstance(argument, str) and "\0" in argument:
            raise BadRequest(f"A NUL character cannot be submitted: {argument!r}")
    return arguments


def _file_name(job: JobDescription, content: bytes) -> str | None:
    """Return the name that qsub would give a job after its file."""
    if job.script_path is None or script.names_itself(content):
        return None
    name = job.script_path.name.text
    return name if _JOB_NAME.fullmatch(name) else None


def file_command(job: JobDescription) -> list[str | bytes]:
    """Return the command that prints the script at ``script_path``."""
    return ["sh", "-c", _READER, "cat", job.working_directory, "cat", "--", job.script_path or b""]


def parse(output: str) -> str | None:
    """Return the job id that was printed, or None. With ``-W block=true`` the exit status is the job's own.

    A site's wrapper may print more, or a sentence around the id: then it counts if there is only one.
    """
    text = uncoloured(output)
    found = _JOB_ID.findall(text)
    if found:
        return str(found[-1])
    within = set(_WITHIN.findall(text))
    only = str(within.pop()) if len(within) == 1 else ""
    return only if 0 < len(only) <= _LONGEST_ID else None


def is_plain(output: str) -> bool:
    """Return whether an id stands on a line of its own, and there is nothing else that could be one."""
    text = uncoloured(output)
    alone = set(_JOB_ID.findall(text))
    return len(alone) == 1 and alone.issuperset(_WITHIN.findall(text))


def refusal(words: str) -> str:
    """Return qsub's own words about a refused submission, without its usage."""
    return _SHELL.sub("", uncoloured(words)).partition("\nusage:")[0].strip()
