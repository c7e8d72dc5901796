"""sbatch: submission.

The script and the environment go through standard input: ``--export`` cannot carry a comma, and a command line shows in
the process list and has a limit of 128 KiB. So a line of bash reads the variables, sets them for sbatch alone, and
leaves the rest of the input, the script, to it. https://slurm.schedmd.com/sbatch.html
"""

import re
from collections.abc import Mapping

from hpcgate.errors import BadRequest
from hpcgate.schedulers.base import JobDescription

_OPTIONS: Mapping[str, str] = {
    "name": "job-name",
    "account": "account",
    "reservation": "reservation",
    "partition": "partition",
    "constraints": "constraint",
    "working_directory": "chdir",
    "standard_input": "input",
    "standard_output": "output",
    "standard_error": "error",
}

_READER = (
    '(cd -- "$1" >/dev/null) || exit 66; shift; tool=$(type -P sbatch) || tool=sbatch; pairs=(); '
    'while IFS= read -r -d "" pair && [ -n "$pair" ]; do pairs+=("$pair"); done; '
    'exec env -u LC_ALL "${pairs[@]}" "$tool" "$@"'
)
"""sbatch itself takes a working directory that does not exist, and the job then dies without a word.

LC_ALL is the gateway's own, for messages that can be matched, and none of the job's business. ``sbatch`` is looked up
before a PATH of the job can hide it.
"""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_JOB_ID = re.compile(r"^(\d{1,10})(?:;\S*)?$", re.MULTILINE)
_SHELL = re.compile(r"^sbatch: line \d+: ", re.MULTILINE)


def command(job: JobDescription) -> list[str]:
    """Return the command that submits a job; its standard input is `stdin`.

    Each value is one argument together with its option's name, so that none can become an option.

    Raises:
        BadRequest: A value holds a NUL.
    """
    arguments = ["bash", "-c", _READER, "sbatch", job.working_directory, "--parsable"]
    for attribute, option in _OPTIONS.items():
        value = getattr(job, attribute)
        if value:
            arguments.append(f"--{option}={value}")
    if job.environment:
        # The default, said so that no directive or SBATCH_EXPORT takes the variables away that were asked for.
        arguments.append("--export=ALL")
    if job.script_path is not None:
        arguments += ["--", job.script_path]
    for argument in arguments:
        if "\0" in argument:
            raise BadRequest(f"A NUL character cannot be submitted: {argument!r}")
    return arguments


def stdin(job: JobDescription) -> bytes:
    """Return what `command` reads: the variables, each ended by NUL, an empty one, the script.

    Raises:
        BadRequest: A variable's name is no identifier, its value holds a NUL, or a text is not Unicode.
    """
    parts = []
    for name, value in job.environment.items():
        if not _NAME.fullmatch(name):
            raise BadRequest(f"Not a valid name of an environment variable: {name!r}")
        if "\0" in value:
            raise BadRequest(f"The value of the environment variable {name} contains a NUL character")
        parts.append(f"{name}={value}\0")
    try:
        return "".join([*parts, "\0", job.script or ""]).encode()
    except UnicodeEncodeError as error:
        raise BadRequest(f"The script or a variable is not valid Unicode: {error.reason}") from error


def parse(output: str) -> str | None:
    """Return the job id that ``--parsable`` printed, without the cluster's name, or None if there is none."""
    found = _JOB_ID.findall(output)
    return found[-1] if found else None


def refusal(words: str) -> str:
    """Return sbatch's own words about a refused submission."""
    return _SHELL.sub("", words)
