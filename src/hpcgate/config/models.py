"""The settings of hpcgate: a superset of a FirecREST v2 configuration file.

Every model is frozen and takes its keys in snake_case and in camelCase. Units stand in the descriptions.
"""

from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType, NoneType
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    AliasChoices,
    AliasGenerator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    SecretStr,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError

from hpcgate.config.plugins import Plugin
from hpcgate.config.secrets import Secret
from hpcgate.config.values import (
    AbsolutePath,
    HostKey,
    HttpUrl,
    KeyUrl,
    Pause,
    Port,
    ReadableFile,
    RegularExpression,
    Seconds,
    Signature,
)

_Frozen = (AfterValidator(lambda value: MappingProxyType(dict(value))), PlainSerializer(dict))


class Model(BaseModel):
    """The base of all settings: frozen, unknown keys refused, snake_case and camelCase accepted.

    A null where null means nothing else leaves the default, as a key without a value does in a Helm chart.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=AliasGenerator(validation_alias=lambda name: AliasChoices(name, to_camel(name))),
        populate_by_name=True,
        hide_input_in_errors=True,
    )

    @classmethod
    def accepted_names(cls) -> dict[str, str]:
        """Return each key that a file may use, and the field that it sets."""
        accepted: dict[str, str] = {}
        for name, field in cls.model_fields.items():
            alias = field.validation_alias
            choices = alias.choices if isinstance(alias, AliasChoices) else [alias or name]
            accepted |= {choice: name for choice in (name, *choices) if isinstance(choice, str)}
        return accepted

    @model_validator(mode="before")
    @classmethod
    def _null_is_unset(cls, data: Any) -> Any:
        if not isinstance(data, dict) or None not in data.values():
            return data
        accepted = cls.accepted_names()
        return {key: value for key, value in data.items() if value is not None or not cls._has_default(accepted, key)}

    @classmethod
    def _has_default(cls, accepted: Mapping[str, str], key: Any) -> bool:
        if key not in accepted:
            return False
        field = cls.model_fields[accepted[key]]
        return not field.is_required() and NoneType not in get_args(field.annotation)


class PluginSettings(Model):
    """The base of the settings that a plug-in brings; its own `type` key chooses the plug-in."""


class CredentialSettings(PluginSettings):
    """What every credential plug-in's settings hold."""

    type: str = Field(description="Which source of credentials, by the name of its entry point.")


class SchedulerSettings(PluginSettings):
    """What every scheduler plug-in's settings hold."""

    type: str = Field(description="Which scheduler, by the name of its entry point.")
    version: str = Field(description="The version that is installed, such as 22.05.8.")
    timeout: Seconds = Field(10, description="Seconds that a scheduler command or request may take.")
    read_cache: Pause = Field(
        0, description="Seconds for which answers about jobs may be given out again; 0 shares only those under way."
    )


class TransferSettings(PluginSettings):
    """What every transfer plug-in's settings hold."""

    service_type: str = Field(description="Which transfer method, by the name of its entry point.")


class OidcSettings(Model):
    """How tokens are verified."""

    scopes: Annotated[Mapping[str, str], *_Frozen] = Field(
        default_factory=lambda: MappingProxyType({}), description="Scopes shown in the OpenAPI, with text."
    )
    token_url: HttpUrl = Field(description="The token endpoint, for the service accounts and for the OpenAPI page.")
    token_endpoint_auth_method: Literal["client_secret_basic", "client_secret_post"] = Field(
        "client_secret_basic", description="How a service account shows its secret at the token endpoint."
    )
    public_certs: tuple[KeyUrl, ...] = Field(
        (), description="Where the IdP's keys are: JWKS documents by file://, http:// or https:// URL."
    )
    jwk_algorithm: Signature | None = Field(
        None, description="The algorithm of keys that do not name theirs in `alg`; otherwise it follows from the key."
    )
    username_claim: str = Field("preferred_username", min_length=1, description="The claim that holds the user name.")
    min_token_ttl: Pause = Field(0, description="Seconds that a token must still be valid.")
    leeway: Pause = Field(0, description="Seconds of clock skew allowed for exp, nbf and iat.")
    require_expiry: bool = Field(True, description="Refuse tokens without an exp claim.")
    issuer: str | None = Field(None, description="The iss claim that tokens must carry; unchecked if unset.")
    audience: str | None = Field(None, description="A value that the aud claim must hold; unchecked if unset.")
    required_scopes: tuple[str, ...] = Field((), description="Scopes that a token must have, all of them.")
    username_pattern: RegularExpression = Field(
        r"[a-z_][a-z0-9_.-]{0,62}\$?",
        description="The regular expression that a whole user name must match.",
    )
    denied_users: tuple[str, ...] = Field(
        (
            "root", "bin", "daemon", "adm", "lp", "sync", "shutdown", "halt", "mail", "operator", "games", "ftp",
            "nobody", "sys", "sshd", "slurm", "munge", "mysql", "postgres", "systemd-network", "dbus", "polkitd",
        ),
        description="User names that are never served, whatever the token says.",
    )  # fmt: skip
    jwks_refresh: Seconds = Field(300, description="Seconds between refreshes of the IdP's keys in the background.")
    jwks_cooldown: Seconds = Field(5, description="Least seconds between refreshes for an unknown key id.")
    jwks_timeout: Seconds = Field(5, description="Seconds that fetching one key document may take.")


class OpenFgaSettings(Model):
    """Authorisation by an OpenFGA service."""

    url: HttpUrl = Field(description="The check endpoint.")
    timeout: Seconds | None = Field(1, description="Seconds to wait for an answer; null waits 60.")
    max_connections: int = Field(100, ge=0, description="Most connections to the service; 0 is no limit.")
    cache: Pause = Field(0, description="Seconds that a decision is kept.")


class AuthSettings(Model):
    """Authentication, and authorisation where it is wanted."""

    authentication: OidcSettings = Field(description="How tokens are verified.")
    authorization: OpenFgaSettings | None = Field(None, description="Who may use which system; anyone if unset.")


class SshTimeouts(Model):
    """The time-outs of SSH, in seconds."""

    connection: Seconds = Field(5, description="To open the TCP connection and exchange keys.")
    login: Seconds = Field(5, description="To log in.")
    command_execution: Seconds = Field(5, description="For one command or file operation.")
    idle_timeout: Seconds = Field(60, description="After which an unused connection is closed.")
    keep_alive: Seconds = Field(5, description="Between keep-alive messages; three lost ones end a connection.")


class SshSettings(Model):
    """The login node and the pool of connections to it."""

    host: str = Field(min_length=1, description="The login node.")
    port: Port = Field(22, description="Its SSH port.")
    proxy_host: str | None = Field(None, description="A jump host to go through.")
    proxy_port: Port | None = Field(None, description="The jump host's SSH port, 22 if unset; needs proxy_host.")
    max_clients: int = Field(100, ge=1, description="Most connections at a time, all users together.")
    timeout: SshTimeouts = Field(default_factory=lambda: SshTimeouts(), description="Time-outs.")
    host_keys: tuple[HostKey, ...] = Field(
        (), description="Public host keys of the login node to accept, each a line as in a .pub file."
    )
    known_hosts: ReadableFile | None = Field(None, description="A known_hosts file; @cert-authority lines work too.")
    proxy_host_keys: tuple[HostKey, ...] = Field(
        (), description="Public host keys of the jump host to accept; needs proxy_host."
    )
    strict_host_keys: bool = Field(
        False,
        description="Refuse to connect where neither host_keys nor known_hosts says what to expect.",
    )
    files: Literal["auto", "sftp", "commands"] = Field(
        "auto", description="How files are reached: SFTP, plain commands, or SFTP wherever the login node offers it."
    )
    max_sessions: int | None = Field(
        None, ge=1, description="Most channels on one connection; learned from the login node if unset."
    )
    max_logins: int = Field(8, ge=1, description="Most logins at a time, below sshd's MaxStartups (10 by default).")
    pool_wait: Seconds = Field(5, description="Seconds that a request waits for a connection when the pool is full.")
    failed_login_pause: Pause = Field(2, description="Seconds for which a refused login of a user is not tried again.")
    max_output_size: int = Field(32 * 1024 * 1024, ge=1024, description="Most bytes taken from one command.")

    # These see only the fields above theirs that are right, so that one mistake does not become two.
    @field_validator("proxy_port", "proxy_host_keys")
    @classmethod
    def _needs_proxy(cls, value: Any, info: ValidationInfo) -> Any:
        if value and info.data.get("proxy_host", "unknown") is None:
            raise ValueError("has no meaning without proxy_host")
        return value

    @field_validator("strict_host_keys")
    @classmethod
    def _needs_keys(cls, value: bool, info: ValidationInfo) -> bool:
        host_keys = info.data.get("host_keys", "unknown")
        proxy_host_keys = info.data.get("proxy_host_keys", "unknown")
        if not value or info.data.get("known_hosts", "unknown") is not None:
            return value
        if not host_keys:
            raise ValueError("there is nothing to verify against: set host_keys or known_hosts")
        if info.data.get("proxy_host") is not None and not proxy_host_keys:
            raise ValueError("there is nothing to verify the jump host against: set proxy_host_keys or known_hosts")
        return value


class ServiceAccount(Model):
    """The client that the health checks of one system use."""

    client_id: str = Field(description="Its client id at the IdP.")
    secret: Secret = Field(description="Its secret.")


OLD_SERVICE_NAMES: Mapping[str, str] = MappingProxyType({"filesystems": "filesystem", "storage": "s3"})
"""What FirecREST has called, or will call, a probed service, and its name on the wire."""

ServiceName = Literal["ssh", "scheduler", "filesystem", "s3"]


class ProbingService(Model):
    """One probed service."""

    timeout: Seconds | None = Field(10, description="Seconds that one probe may take.")


_Name = Annotated[
    ServiceName,
    BeforeValidator(lambda name: OLD_SERVICE_NAMES.get(name, name) if isinstance(name, str) else name),
]
_Probe = Annotated[ProbingService, BeforeValidator(lambda probe: {} if probe is None else probe)]


class ProbingSettings(Model):
    """What is probed, and how often."""

    interval_check: Seconds = Field(
        120,
        validation_alias=AliasChoices("interval_check", "intervalCheck", "interval"),
        description="Seconds between rounds of probes.",
    )
    startup_grace_period: Pause = Field(
        300, description="Seconds after the start in which a failed probe makes no service unhealthy."
    )
    services: Annotated[Mapping[_Name, _Probe], *_Frozen] | None = Field(None, description="The probed services.")


class FileSystem(Model):
    """A file system of a system."""

    path: AbsolutePath = Field(description="Where it is mounted.")
    data_type: Literal["users", "store", "archive", "apps", "scratch", "project"] = Field(description="Its purpose.")
    default_work_dir: bool = Field(False, description="Whether transfer jobs run here, in a directory of the user.")


class DataOperation(Model):
    """Files that pass through the gateway, and transfers that do not."""

    max_ops_file_size: int = Field(5 * 1024 * 1024, ge=0, description="Most bytes of an upload, download or output.")
    data_transfer: Annotated[tuple[TransferSettings, ...], Plugin("hpcgate.transfers", "service_type", many=True)] = (
        Field((), description="The transfer method, chosen by its key service_type, or a list of several.")
    )
    datatransfer_jobs_directives: tuple[str, ...] = Field(
        (), description="Scheduler directives of transfer jobs; {account} is filled in."
    )


class Cluster(Model):
    """One HPC system."""

    name: str = Field(min_length=1, pattern=r"^[^/]+$", description="The name that requests use, in any case.")
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
    file_systems: tuple[FileSystem, ...] = Field((), description="Its file systems.")
    data_operation: DataOperation = Field(default_factory=lambda: DataOperation(), description="Files in and out.")
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


class LoggedHeader(Model):
    """A request header that goes into the tracing log."""

    input: str = Field(description="The header's name.")
    output: str = Field(description="The key in the log.")


class LoggerSettings(Model):
    """What is logged."""

    enable_tracing_log: bool = Field(False, description="Write one tracing line for each request.")
    loggable_request_headers: tuple[LoggedHeader, ...] = Field((), description="Headers in the tracing log.")
    format: Literal["json", "console"] = Field("json", description="How log lines are written.")
    level: Literal["debug", "info", "warning", "error"] = Field("info", description="The least severe line written.")


class StreamSettings(Model):
    """Files and archives that stream through the gateway."""

    max_streams: int = Field(64, ge=1, description="Most streams at a time, all users together; more are told 429.")
    max_streams_per_user: int = Field(8, ge=1, description="Most streams of one user at a time.")
    stall_timeout: Seconds = Field(60, description="Seconds that a client may neither send nor take anything.")
    max_upload_size: int | None = Field(None, ge=0, description="Most bytes of a streamed upload; unset is no limit.")
    upload_lifetime: Seconds = Field(
        7 * 24 * 3600, description="Seconds that a resumable upload may rest before it expires."
    )


class Settings(Model):
    """A whole configuration file."""

    app_debug: bool = Field(False, description="Accepted for FirecREST's sake; errors never show internals.")
    app_version: str = Field("2.5.7", description="The FirecREST API version that responses name; 2.x.x is 2.5.7.")
    apis_root_path: str = Field("", description="A path that a proxy puts before every path of the API.")
    doc_servers: tuple[dict[str, Any], ...] | None = Field(None, description="The servers that the OpenAPI names.")
    auth: AuthSettings = Field(description="Authentication and authorisation.")
    ssh_credentials: Annotated[CredentialSettings, Plugin("hpcgate.credentials", "type")] = Field(
        description="Where SSH credentials come from, chosen by the key type."
    )
    clusters: tuple[Cluster, ...] = Field((), description="The systems; or path:DIRECTORY with one file each.")
    logger: LoggerSettings = Field(default_factory=lambda: LoggerSettings(), description="Logging.")
    streams: StreamSettings = Field(
        default_factory=lambda: StreamSettings(), description="Files and archives that stream through the gateway."
    )

    @field_validator("app_version")
    @classmethod
    def _version(cls, value: str) -> str:
        if value == "2.x.x":
            return "2.5.7"
        numbers = value.split(".")
        # Clients compare it with versions that they support, the lowest of which is this one.
        if len(numbers) != 3 or not all(number.isdecimal() for number in numbers):
            raise ValueError("must be three numbers, such as 2.5.7")
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


__all__ = [
    "AuthSettings",
    "Cluster",
    "CredentialSettings",
    "DataOperation",
    "FileSystem",
    "LoggerSettings",
    "Model",
    "OidcSettings",
    "OpenFgaSettings",
    "PluginSettings",
    "ProbingSettings",
    "SchedulerSettings",
    "Secret",
    "SecretStr",
    "ServiceAccount",
    "Settings",
    "SshSettings",
    "SshTimeouts",
    "StreamSettings",
    "TransferSettings",
]
