"""A job in fields rather than in directives, in the terms of PSI/J: https://exaworks.org/psij-python/docs/

Each backend maps these to its own by a table with a row a field, and refuses by name what it cannot do: no field is
ever passed over.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

Option = str | int | Literal[True]
"""A value of a scheduler's own option; True for an option without a value."""

DependencyType = Literal["after", "afterany", "afterburstbuffer", "aftercorr", "afternotok", "afterok", "singleton"]
MailEvent = Literal["begin", "end", "fail", "requeue"]

NO_LAUNCHER = "none"
"""The launcher that is none: the job's shell starts the program, once."""


@dataclass(frozen=True, slots=True)
class Program:
    """What a job without a script of its own runs (`hpcgate.schedulers.rendering` writes the script).

    Attributes:
        executable: A path, or a name that the compute node looks up in PATH.
        arguments: Its arguments.
        launcher: The name of what starts it, None for the site's default.
        pre_launch: Path of a script that is sourced before.
        post_launch: Path of a script that is sourced after.
    """

    executable: str
    arguments: tuple[str, ...] = ()
    launcher: str | None = None
    pre_launch: str | None = None
    post_launch: str | None = None


@dataclass(frozen=True, slots=True)
class Resources:
    """What a job takes up. None: not asked for.

    Attributes:
        node_count: Nodes.
        process_count: Processes (Slurm's tasks, MPI's ranks) in all.
        processes_per_node: Processes on each node.
        cpu_cores_per_process: CPUs of each process.
        gpu_cores_per_process: GPUs of each process.
        memory: Bytes on each node.
        exclusive_node_use: Whether no other job may run on the nodes; False asks for nothing.
    """

    node_count: int | None = None
    process_count: int | None = None
    processes_per_node: int | None = None
    cpu_cores_per_process: int | None = None
    gpu_cores_per_process: int | None = None
    memory: int | None = None
    exclusive_node_use: bool = False

    @property
    def processes(self) -> int | None:
        """Processes in all, worked out where only those of a node are given; None if they are not known."""
        if self.process_count is None and self.node_count and self.processes_per_node:
            return self.node_count * self.processes_per_node
        return self.process_count


@dataclass(frozen=True, slots=True)
class Dependency:
    """What must have happened to other jobs before this one may start; a singleton names none."""

    type: DependencyType
    job_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Mail:
    """Which events are mailed, and to whom; None is the user."""

    events: tuple[MailEvent, ...] = ()
    address: str | None = None


@dataclass(frozen=True, slots=True)
class JobAttributes:
    """What is asked of the scheduler beside name, account, partition and streams.

    Attributes:
        resources: What the job takes up.
        duration: The most seconds that it may run.
        qos: Quality of service.
        array: Indices, as ``0-99%10``.
        dependencies: All of them must be met.
        hold: Whether it waits until it is released.
        begin: Unix seconds before which it does not start.
        requeue: Whether it may be started again after a failed node; None is the scheduler's default.
        mail: What is mailed.
        extra: Options of the scheduler's own, by the names of scheduler and option.
    """

    resources: Resources = field(default_factory=Resources)
    duration: int | None = None
    qos: str | None = None
    array: str | None = None
    dependencies: tuple[Dependency, ...] = ()
    hold: bool = False
    begin: int | None = None
    requeue: bool | None = None
    mail: Mail = field(default_factory=Mail)
    extra: Mapping[str, Mapping[str, Option]] = field(default_factory=lambda: MappingProxyType({}))

    def asked(self) -> dict[str, object]:
        """Return what is asked for, by the names of the fields in a request; `extra` by its scheduler's name."""
        resources, mail = self.resources, self.mail
        values: dict[str, object] = {
            "resources.nodeCount": resources.node_count,
            "resources.processCount": resources.processes,
            "resources.processesPerNode": resources.processes_per_node,
            "resources.cpuCoresPerProcess": resources.cpu_cores_per_process,
            "resources.gpuCoresPerProcess": resources.gpu_cores_per_process,
            "resources.memory": resources.memory,
            "resources.exclusiveNodeUse": resources.exclusive_node_use or None,
            "duration": self.duration,
            "qos": self.qos,
            "array": self.array,
            "dependencies": self.dependencies or None,
            "hold": self.hold or None,
            "begin": self.begin,
            "requeue": self.requeue,
            "mail.events": mail.events or None,
            "mail.address": mail.address,
            **{f"extra.{scheduler}": options or None for scheduler, options in self.extra.items()},
        }
        return {name: value for name, value in values.items() if value is not None}


FIELDS: tuple[str, ...] = (
    "resources.nodeCount",
    "resources.processCount",
    "resources.processesPerNode",
    "resources.cpuCoresPerProcess",
    "resources.gpuCoresPerProcess",
    "resources.memory",
    "resources.exclusiveNodeUse",
    "duration",
    "qos",
    "array",
    "dependencies",
    "hold",
    "begin",
    "requeue",
    "mail.events",
    "mail.address",
    "extra.slurm",
    "extra.pbs",
)
"""The fields that a backend's table must have a row for, or refuse."""
