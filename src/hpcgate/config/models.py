"""The settings of hpcgate: a superset of a FirecREST v2 configuration file.

Every model is frozen and takes its keys in snake_case and in camelCase. Units stand in the descriptions.
"""

from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, Field, SecretStr, field_validator
from pydantic_core import PydanticCustomError

from hpcgate.config.api_keys import ApiKeySettings
from hpcgate.config.audit import AuditSettings
from hpcgate.config.auth import AuthSettings, OidcSettings, OpenFgaSettings
from hpcgate.config.base import CredentialSettings, Model, PluginSettings, SchedulerSettings, TransferSettings
from hpcgate.config.events import EventSettings
from hpcgate.config.http import HttpSettings
from hpcgate.config.idempotency import IdempotencySettings
from hpcgate.config.introspection import IntrospectionSettings
from hpcgate.config.logger import LoggerSettings
from hpcgate.config.maintenance import MaintenanceWindow
from hpcgate.config.monitoring import MetricsSettings, TracingSettings
from hpcgate.config.plugins import Plugin
from hpcgate.config.policy import PolicyRule, PolicySettings
from hpcgate.config.probing import ProbingSettings, ServiceAccount
from hpcgate.config.quotas import QuotaSettings
from hpcgate.config.rates import RateLimitSettings
from hpcgate.config.secrets import Secret
from hpcgate.config.ssh import SshSettings, SshTimeouts
from hpcgate.config.values import AbsolutePath, Seconds

NEWEST = "2.6.0"
"""The FirecREST API version that is served. pyfirecrest 3.10 asks for what is new in it only where it is named."""


class FileSystem(Model):
    """A file system of a system."""

    path: AbsolutePath = Field(description="Where it is mounted.")
    data_type: Literal["users", "store", "archive", "apps", "scratch", "project"] = Field(description="Its purpose.")
    default_work_dir: bool = Field(False, description="Whether transfer jobs run here, in a directory of the user.")
    quota: QuotaSettings | None = Field(None, description="How a user's quotas on it are asked for. Unset: not at all.")


class DataOperation(Model):
    """Files that pass through the gateway, and transfers that do not."""

    max_ops_file_size: int = Field(5 * 1024 * 1024, ge=0, description="Most bytes of an upload, download or output.")
    data_transfer: Annotated[tuple[TransferSettings, ...], Plugin("hpcgate.transfers", "service_type", many=True)] = (
        Field((), description="The transfer method, chosen by its key service_type, or a list of several.")
    )
    datatransfer_jobs_directives: tuple[str, ...] = Field(
        (), description="Scheduler directives of transfer jobs; {account} is filled in."
    )
    transfer_log_lifetime: Seconds | None = Field(
        7 * 24 * 3600,
        description="Seconds after which a later transfer job of the user removes the logs of one. More than any "
        "transfer takes; null keeps them.",
    )


class Cluster(Model):
    """One HPC system."""

    name: str = Field(
        min_length=1, pattern=r"^[^/\\%\x00-\x1f\x7f]+$", description="The name that requests use, in any case."
    )
    ssh: SshSettings = Field(description="Its login node.")
    scheduler: Annotated[SchedulerSettings, Plugin("hpcgate.schedulers", "type")] = Field(
        description="Its scheduler, chosen by the key type."
    )
    service_account: ServiceAccount | None = Field(None, description="The client of the health checks.")
    probing: ProbingSettings = Field(
        default_factory=lambda: ProbingSettings(),
        validation_alias=AliasChoices("probing", "probing_services", "probingServices"),
        description="The health checks.",
    )
    events: EventSettings = Field(default_factory=lambda: EventSettings(), description="How its jobs are watched.")
    file_systems: tuple[FileSystem, ...] = Field((), description="Its file systems.")
    data_operation: DataOperation = Field(default_factory=lambda: DataOperation(), description="Files in and out.")
    maintenance: tuple[MaintenanceWindow, ...] = Field((), description="Planned times in which it is not served.")
    restrict_paths: bool = Field(
        False, description="Refuse paths outside file_systems always, not only when probing services are configured."
    )

    @field_validator("file_systems")
    @classmethod
    def _one_default(cls, value: tuple[FileSystem, ...]) -> tuple[FileSystem, ...]:
        defaults = [system.path for system in value if system.default_work_dir]
        if len(defaults) > 1:
            raise ValueError(f"only one may have default_work_dir, but {' and '.join(defaults)} have it")
        return value


class StreamSettings(Model):
    """Files and archives that stream through the gateway."""

    max_streams: int = Field(64, ge=1, description="Most streams at a time, all users together; more are told 429.")
    max_streams_per_user: int = Field(8, ge=1, description="Most streams of one user at a time.")
    stall_timeout: Seconds = Field(60, description="Seconds that a client may neither send nor take anything.")
    max_follow: Seconds = Field(
        24 * 3600, description="Seconds after which one that follows a file is told to end; its client may come back."
    )
    max_followers: int = Field(
        1000, ge=1, description="Most who follow files at a time, all users together; more are told 429."
    )
    max_followers_per_user: int = Field(32, ge=1, description="Most files that one user follows at a time.")
    max_follow_rate: int = Field(
        4 * 1024 * 1024, ge=1024, description="Most bytes a second that one who follows a file is sent."
    )
    max_upload_size: int | None = Field(None, ge=0, description="Most bytes of a streamed upload. Unset: no limit.")
    upload_lifetime: Seconds = Field(
        7 * 24 * 3600, description="Seconds that a resumable upload may rest before it expires."
    )
    max_after_reload: Seconds = Field(
        3600,
        description="Seconds that requests which began before a reload may take to end, streams included; then they "
        "are cut off, and what only they still used is closed.",
    )


class Settings(Model):
    """A whole configuration file."""

    app_debug: bool = Field(False, description="Accepted for FirecREST's sake; errors never show internals.")
    app_version: str = Field(NEWEST, description=f"The FirecREST API version that responses name; 2.x.x is {NEWEST}.")
    apis_root_path: str = Field("", description="A path that a proxy puts before every path of the API.")
    doc_servers: tuple[dict[str, Any], ...] | None = Field(
        None, description="The servers that the OpenAPI names; apis_root_path if unset."
    )
    auth: AuthSettings = Field(description="Authentication and authorisation.")
    ssh_credentials: Annotated[CredentialSettings, Plugin("hpcgate.credentials", "type")] = Field(
        description="Where SSH credentials come from, chosen by the key type."
    )
    clusters: tuple[Cluster, ...] = Field((), description="The systems; or path:DIRECTORY with one file each.")
    logger: LoggerSettings = Field(default_factory=lambda: LoggerSettings(), description="Logging.")
    streams: StreamSettings = Field(
        default_factory=lambda: StreamSettings(), description="Files and archives that stream through the gateway."
    )

    audit: AuditSettings = Field(default_factory=lambda: AuditSettings(), description="The audit log.")
    rate_limits: RateLimitSettings = Field(
        default_factory=lambda: RateLimitSettings(), description="How many requests users and clients may send."
    )
    idempotency: IdempotencySettings = Field(
        default_factory=lambda: IdempotencySettings(), description="Submissions that happen once (Idempotency-Key)."
    )
    http: HttpSettings = Field(default_factory=lambda: HttpSettings(), description="How HTTP is served.")
    metrics: MetricsSettings = Field(default_factory=lambda: MetricsSettings(), description="Metrics for Prometheus.")
    tracing: TracingSettings = Field(default_factory=lambda: TracingSettings(), description="Traces by OpenTelemetry.")
    state_directory: AbsolutePath | None = Field(
        None,
        description="A directory, shared by all replicas, in which `hpcgate maintenance` leaves word for them.",
    )

    @field_validator("app_version")
    @classmethod
    def _version(cls, value: str) -> str:
        if value == "2.x.x":
            return NEWEST
        numbers = value.split(".")
        # Clients compare it with versions that they support, the lowest of which is this one.
        if len(numbers) != 3 or not all(number.isdecimal() for number in numbers):
            raise ValueError("must be three numbers, such as 2.6.0")
        if tuple(map(int, numbers)) < (2, 2, 8):
            raise ValueError("must be 2.2.8 or later, or clients refuse to talk")
        return value

    @field_validator("apis_root_path")
    @classmethod
    def _root(cls, value: str) -> str:
        path = value.rstrip("/")
        if path and not path.startswith("/"):
            raise ValueError("must begin with /")
        return path

    @field_validator("clusters")
    @classmethod
    def _names(cls, value: tuple[Cluster, ...]) -> tuple[Cluster, ...]:
        for index, name in repeated_names(cluster.name for cluster in value):
            raise PydanticCustomError(
                "repeated_name", "number {index} has the name {name} of an earlier one", {"index": index, "name": name}
            )
        return value


def repeated_names(names: Iterable[Any]) -> Iterator[tuple[int, str]]:
    """Yield the index and name of each system that has an earlier one's name, whatever its case."""
    seen: set[str] = set()
    for index, name in enumerate(names):
        if isinstance(name, str):
            if name.lower() in seen:
                yield index, name
            seen.add(name.lower())


def unknown_systems(settings: Settings) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Yield the place and name of each system that the policy names and that is not configured."""
    known = {cluster.name.casefold() for cluster in settings.clusters}
    policy = settings.auth.policy
    for index, rule in enumerate(policy.rules if policy is not None else ()):
        for which, name in enumerate(rule.systems):
            if name.casefold() not in known:
                yield ("auth", "policy", "rules", index, "systems", which), name


__all__ = [
    "ApiKeySettings",
    "AuthSettings",
    "Cluster",
    "CredentialSettings",
    "DataOperation",
    "EventSettings",
    "FileSystem",
    "IdempotencySettings",
    "IntrospectionSettings",
    "LoggerSettings",
    "MaintenanceWindow",
    "MetricsSettings",
    "Model",
    "OidcSettings",
    "OpenFgaSettings",
    "PluginSettings",
    "PolicyRule",
    "PolicySettings",
    "ProbingSettings",
    "SchedulerSettings",
    "Secret",
    "SecretStr",
    "ServiceAccount",
    "Settings",
    "SshSettings",
    "SshTimeouts",
    "StreamSettings",
    "TracingSettings",
    "TransferSettings",
]
