"""What a job's fields are to sbatch: https://slurm.schedmd.com/sbatch.html

slurmrestd has no table of its own for them: they become options here, take the place of the script's directives as they
do on a command line, and what is left goes into the request (`hpcgate.schedulers.slurm.rest.submission`). So both ways
have the same precedence.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from hpcgate.errors import BadRequest, NotSupported, SubmissionRefused
from hpcgate.schedulers.job_spec import Dependency, JobAttributes, MailEvent, Option
from hpcgate.schedulers.slurm.job_ids import JobId
from hpcgate.schedulers.slurm.options import OPTIONS

Options = Mapping[str, str | None]
"""Options of sbatch by their long names; None for one without a value."""


@dataclass(frozen=True, slots=True)
class Row:
    """A field of a job.

    Attributes:
        field: Its name in a request.
        options: The options that it may become.
        write: Makes them of its value.
    """

    field: str
    options: tuple[str, ...]
    write: Callable[[Any], Options]

    @property
    def manual(self) -> str:
        """The place in the manual page."""
        return f"https://slurm.schedmd.com/sbatch.html#OPT_{self.options[0]}"


def _valued(field: str, option: str, write: Callable[[Any], str] = str) -> Row:
    return Row(field, (option,), lambda value: {option: write(value)})


def _flag(field: str, option: str) -> Row:
    return Row(field, (option,), lambda _: {option: None})


def _duration(seconds: int) -> str:
    return f"{seconds // 60}:{seconds % 60:02d}"


def dependency(dependencies: tuple[Dependency, ...]) -> str:
    """Return dependencies as ``--dependency`` takes them; empty for none.

    Raises:
        BadRequest: An id is not one that a job can wait for.
    """
    return ",".join(":".join((one.type, *map(_id, one.job_ids))) for one in dependencies)


def _id(text: str) -> str:
    parsed = JobId.read(text)
    if parsed is None or (parsed.tasks is not None and parsed.task is None):
        raise BadRequest(f"dependencies: {text!r} is not the id of a job or of one task of an array")
    return parsed.argument


def _mail(events: tuple[MailEvent, ...]) -> str:
    return ",".join(events).upper()


TABLE: tuple[Row, ...] = (
    _valued("resources.nodeCount", "nodes"),
    _valued("resources.processCount", "ntasks"),
    _valued("resources.processesPerNode", "ntasks-per-node"),
    _valued("resources.cpuCoresPerProcess", "cpus-per-task"),
    _valued("resources.gpuCoresPerProcess", "gpus-per-task"),
    # Rounded up: sbatch knows no smaller unit.
    _valued("resources.memory", "mem", lambda size: f"{-(-size // 1024)}K"),
    _flag("resources.exclusiveNodeUse", "exclusive"),
    _valued("duration", "time", _duration),
    _valued("qos", "qos"),
    _valued("array", "array"),
    _valued("dependencies", "dependency", dependency),
    _flag("hold", "hold"),
    # The login node's time zone is none of the client's business.
    _valued("begin", "begin", lambda time: f"uts{time}"),
    Row("requeue", ("requeue", "no-requeue"), lambda again: {"requeue" if again else "no-requeue": None}),
    _valued("mail.events", "mail-type", _mail),
    _valued("mail.address", "mail-user"),
)

EXTRA = "extra.slurm"

FIELDS: frozenset[str] = frozenset(row.field for row in TABLE) | {EXTRA}

OWNED: Mapping[str, str] = MappingProxyType(
    {
        "job-name": "the field name is for it",
        "account": "the field account is for it",
        "reservation": "the field reservation is for it",
        "partition": "the field partition is for it",
        "constraint": "the field constraints is for it",
        "chdir": "the field workingDirectory is for it",
        "workdir": "the field workingDirectory is for it",
        "input": "the field standardInput is for it",
        "output": "the field standardOutput is for it",
        "error": "the field standardError is for it",
        "export": "the field env is for it",
        "export-file": "the field env is for it",
        "wrap": "the field executable is for it",
        "get-user-env": "the gateway sees to the environment",
        "parsable": "the gateway reads what sbatch prints",
        "quiet": "the gateway reads what sbatch prints",
        "verbose": "the gateway reads what sbatch prints",
        "wait": "a submission is answered as soon as the job is in",
        "test-only": "the parameter dryRun is for it",
        "clusters": "a request goes to one cluster",
        "help": "it submits nothing",
        "usage": "it submits nothing",
        "version": "it submits nothing",
        "uid": "a job is its user's",
        "gid": "a job is its user's",
    }
)
"""Options that `extra.slurm` may not hold, and why. sbatch takes an option by the beginning of its name, too."""

_KNOWN = OPTIONS.flags | OPTIONS.harmless | OPTIONS.streams | OPTIONS.directories | OWNED.keys()

_OPTIONAL = frozenset({"exclusive", "nice", "oversubscribe", "propagate"})
"""Options whose value may be left out."""

_REPLACED: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "requeue": ("no-requeue",),
        "no-requeue": ("requeue",),
        "exclusive": ("oversubscribe",),
        "oversubscribe": ("exclusive",),
    }
)
"""Options that take each other's place: the one on the command line counts, the other in a directive does not."""

_MEMORY = frozenset({"mem", "mem-per-cpu", "mem-per-gpu"})
"""Options of which sbatch takes one only, wherever they stand."""


def options(attributes: JobAttributes) -> dict[str, str | None]:
    """Return the options that a job's fields become.

    Raises:
        BadRequest: A field that makes no option, or an option of `extra` that is a field's, or the gateway's own.
        NotSupported: Options of another scheduler.
    """
    asked = attributes.asked()
    own: Mapping[str, Option] = attributes.extra.get("slurm", {})
    for field in asked.keys() - FIELDS:
        raise NotSupported(f"{field} is not supported on Slurm")
    found: dict[str, str | None] = {}
    for row in TABLE:
        if row.field in asked:
            found |= row.write(asked[row.field])
    taken = {name: row.field for row in TABLE if row.field in asked for name in row.options}
    taken |= {other: field for name, field in list(taken.items()) for other in _REPLACED.get(name, ())}
    if "mem" in taken:
        taken |= dict.fromkeys(_MEMORY, taken["mem"])
    for name, value in own.items():
        _check(name, flag=value is True)
        if name in taken:
            raise BadRequest(f"{EXTRA}.{name}: the field {taken[name]} of the request is for the same")
        found[name] = None if value is True else str(value)
    return found


def _check(name: str, *, flag: bool) -> None:
    if name in OWNED:
        raise BadRequest(f"{EXTRA}.{name} is not taken: {OWNED[name]}")
    if name not in _KNOWN and any(known.startswith(name) for known in _KNOWN):
        raise BadRequest(f"{EXTRA}.{name}: options of sbatch are taken by their whole names only")
    if flag and name not in OPTIONS.flags | _OPTIONAL:
        # sbatch would take the next argument for its value.
        raise BadRequest(f"{EXTRA}.{name}: it needs a value")


def field_of(attributes: JobAttributes, option: str) -> str:
    """Return the name in a request of the field that became an option."""
    asked = attributes.asked()
    fields = (row.field for row in TABLE if option in row.options and row.field in asked)
    return next(fields, f"{EXTRA}.{option}")


_ADDED = frozenset({"mail-type", "profile"})
"""Options whose values sbatch adds up, wherever they stand."""


def added(directives: Mapping[str, str], asked: Options) -> Options:
    """Return options that were asked for, with what directives have beside them where sbatch takes both."""
    both = _ADDED & directives.keys() & asked.keys()
    return {name: f"{directives[name]},{value}" if name in both else value for name, value in asked.items()}


def outweighed(directives: Mapping[str, str], asked: Options) -> dict[str, str]:
    """Return directives as far as they count beside options that were asked for.

    Raises:
        SubmissionRefused: sbatch refuses the two together.
    """
    memory = _MEMORY & asked.keys()
    if memory and (others := _MEMORY & directives.keys() - memory):
        shown = ", ".join(f"--{name}" for name in sorted(memory | others))
        raise SubmissionRefused(f"{shown} are mutually exclusive: the request has one, and the script another")
    gone = {other for name in asked for other in (name, *_REPLACED.get(name, ()))}
    return {name: value for name, value in directives.items() if name not in gone}
