"""The wire models: names, fields and defaults as in the contract's schema.

The models of filesystem operations belong to the operations themselves (`hpcgate.filesystem`).
"""

from datetime import datetime
from enum import StrEnum

from pydantic import ConfigDict, Field

from hpcgate.api.models.base import Snake, Wire
from hpcgate.api.models.data_transfer import DataTransfer

# Errors


# Status


class GetLiveness(Wire):
    """The process is alive."""

    healthcheck_runs: dict[str, datetime] = Field(default_factory=dict)
    last_update: int = 0


class GetReadiness(Wire):
    """The gateway can serve: it has its configuration and the IdP's keys."""

    ready: bool = True


class BackendServiceType(StrEnum):
    """What is probed."""

    s3 = "s3"
    filesystem = "filesystem"
    ssh = "ssh"
    scheduler = "scheduler"
    exception = "exception"


class ServiceHealth(Wire):
    """What the last probe of a service found. `latency` is in seconds."""

    service_type: BackendServiceType | str
    last_checked: datetime | None = None
    latency: float | None = None
    healthy: bool = False
    message: str | None = None


class SchedulerServiceHealth(ServiceHealth):
    """The scheduler."""


class SSHServiceHealth(ServiceHealth):
    """The login node."""


class S3ServiceHealth(ServiceHealth):
    """What a transfer stands on: the object store, or what a plug-in names."""


class HealthCheckException(ServiceHealth):
    """The probing itself failed."""


class FilesystemServiceHealth(ServiceHealth):
    """One file system."""

    path: str | None = None


AnyServiceHealth = (
    SchedulerServiceHealth | FilesystemServiceHealth | SSHServiceHealth | S3ServiceHealth | HealthCheckException
)


class MaintenanceWindow(Wire):
    """A time in which a system is not served; without an end, until the operators say so."""

    start: datetime | None = None
    until: datetime | None = None
    reason: str = ""
    active: bool = False


class SSHTimeouts(Wire):
    """Seconds."""

    connection: int = 5
    login: int = 5
    command_execution: int = 5
    idle_timeout: int = 60
    keep_alive: int = 5


class SSHClientPool(Wire):
    """The login node."""

    host: str
    port: int
    proxy_host: str | None = None
    proxy_port: int | None = None
    max_clients: int = 100
    timeout: SSHTimeouts = Field(default_factory=SSHTimeouts)


class SchedulerType(StrEnum):
    """The schedulers that the contract names; a plug-in's own name is given as it is."""

    slurm = "slurm"
    pbs = "pbs"


class SchedulerConnectionMode(StrEnum):
    """How the scheduler is reached."""

    hybrid = "hybrid"
    rest = "rest"
    ssh = "ssh"


class SchedulerInfo(Wire):
    """The scheduler of a system."""

    model_config = ConfigDict(title="Scheduler")

    connection_mode: SchedulerConnectionMode | None = SchedulerConnectionMode.ssh
    type: SchedulerType | str
    version: str
    api_url: str | None = None
    api_version: str | None = None
    timeout: int = 10


class ProbingService(Wire):
    """One probed service."""

    timeout: int | None = 10


class ProbingServices(Wire):
    """What is probed, and every how many seconds."""

    interval_check: int = 120
    services: dict[BackendServiceType | str, ProbingService] | None = None


class FileSystemDataType(StrEnum):
    """What a file system is for."""

    users = "users"
    store = "store"
    archive = "archive"
    apps = "apps"
    scratch = "scratch"
    project = "project"


class FileSystem(Wire):
    """A file system of a system."""

    path: str
    data_type: FileSystemDataType
    default_work_dir: bool = False


class DataOperation(Snake):
    """Files in and out."""

    max_ops_file_size: int = 5242880
    data_transfer: DataTransfer | None = None
    transfer_methods: list[str] = Field(
        default_factory=list, description="All that a request's transferMethod may name; data_transfer is the first"
    )
    datatransfer_jobs_directives: list[str] = Field(default_factory=list)


class SubmissionPromise(Wire):
    """What is promised of submissions with an Idempotency-Key."""

    exactly_once: bool = Field(description="Whether the system takes an Idempotency-Key")
    required: bool = Field(False, description="Whether what submits a job must have one")
    lifetime: int = Field(0, description="Seconds for which a key stands for its submission")


class HPCCluster(Wire):
    """The public part of a system's configuration, and its health."""

    name: str
    ssh: SSHClientPool
    scheduler: SchedulerInfo
    services_health: list[AnyServiceHealth] | None = None
    probing: ProbingServices
    file_systems: list[FileSystem] = Field(default_factory=list)
    data_operation: DataOperation = DataOperation()
    last_health_check: datetime | None = None
    maintenance: list[MaintenanceWindow] = Field(default_factory=list)
    submissions: SubmissionPromise | None = Field(None, description="What an Idempotency-Key is good for here")


class GetSystemsResponse(Wire):
    """All systems."""

    systems: list[HPCCluster]


class NodeState(StrEnum):
    """The states of a compute node."""

    IDLE = "IDLE"
    ALLOCATED = "ALLOCATED"
    MIXED = "MIXED"
    DOWN = "DOWN"
    DRAIN = "DRAIN"
    OFFLINE = "OFFLINE"
    RESERVED = "RESERVED"
    COMPLETING = "COMPLETING"
    BUSY = "BUSY"
    POWERING_DOWN = "POWERING_DOWN"
    POWERING_UP = "POWERING_UP"
    UNKNOWN = "UNKNOWN"


class NodeModel(Wire):
    """A compute node. Memory in MiB."""

    sockets: int | None = None
    cores: int | None = None
    threads: int | None = None
    cpus: int
    cpu_load: float | None = None
    free_memory: int | None = None
    features: str | list[str] | None = None
    name: str
    address: str | None = None
    hostname: str | None = None
    state: list[NodeState]
    partitions: list[str] | None = None
    weight: int | None = None
    alloc_memory: int | None = None
    alloc_cpus: int | None = None
    idle_cpus: int | None = None


class GetNodesResponse(Wire):
    """All compute nodes."""

    nodes: list[NodeModel]


class PartitionModel(Wire):
    """A partition or queue; `partition` holds its state."""

    name: str
    cpus: int | None
    total_nodes: int | None
    partition: str | list[str]


class GetPartitionsResponse(Wire):
    """All partitions."""

    partitions: list[PartitionModel]


class ReservationModel(Wire):
    """A reservation. Times in Unix seconds."""

    name: str
    state: str | None = None
    node_list: str
    end_time: int
    start_time: int
    features: str | None = None


class GetReservationsResponse(Wire):
    """All reservations."""

    reservations: list[ReservationModel]


class PosixIdentified(Wire):
    """A user or a group."""

    id: str
    name: str


class Membership(PosixIdentified):
    """A group of the user's; `default` is the one that new files belong to."""

    default: bool


class AccountsModel(Wire):
    """An account that the user may charge."""

    name: str
    default: bool


class AllocatedResourceModel(Wire):
    """How much of a resource an account may use, in minutes of one of it."""

    resource: str = Field(description="The scheduler's name: cpu, node, gres/gpu, billing")
    scope: str = Field(description="Whose limit it is: account, of all its users together, or user")
    limit: int | None = Field(None, description="Null: there is none")
    used: int
    left: int | None = Field(None, description="Null: there is no limit")


class AllocationModel(Wire):
    """An account that the user may charge, with what is limited or has been used of it."""

    account: str
    default: bool
    resources: list[AllocatedResourceModel]


class QuotaModel(Wire):
    """How much of one thing may be used of a file system."""

    resource: str = Field(description="bytes, files, or a word of the site's own")
    scope: str = Field(description="Whose quota it is: user, group, project, fileset, or a word of the site's own")
    name: str | None = Field(None, description="The name of that, as far as it is told")
    source: str | None = Field(
        None, description="What of the file system, as the command calls it: a device, a directory"
    )
    used: int
    limit: int | None = Field(None, description="Null: there is none")
    soft_limit: int | None = Field(None, description="What may be passed for a while; null: there is none")
    left: int | None = Field(None, description="Null: there is no limit")


class QuotaProblem(Wire):
    """Why the quotas of a file system cannot be told."""

    status: int
    message: str


class FileSystemQuotas(Wire):
    """The caller's quotas on a file system."""

    path: str = Field(description="Where it is mounted")
    resources: list[QuotaModel] = Field(description="Empty: there is none, or there is an error")
    error: QuotaProblem | None = None


class GetAllocationsResponse(Wire):
    """The caller's accounts and quotas."""

    allocations: list[AllocationModel] | None = Field(
        description="Null: the scheduler does not tell, and there are quotas"
    )
    quotas: list[FileSystemQuotas] | None = Field(
        None, description="Of the file systems whose quotas the site tells; null where it tells of none"
    )


class UserInfoResponse(Wire):
    """Who the user is on the login node."""

    user: PosixIdentified
    group: PosixIdentified
    groups: list[Membership]
    accounts: list[AccountsModel] | None = None


# Compute
