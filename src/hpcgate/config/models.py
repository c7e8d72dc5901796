"""The settings of hpcgate: a superset of a FirecREST v2 configuration file.

Every model is frozen and takes its keys in snake_case and in camelCase. Units stand in the descriptions.
"""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import AliasChoices, AliasGenerator, BaseModel, ConfigDict, Field, SecretStr, field_validator
from pydantic.alias_generators import to_camel

from hpcgate.config.plugins import plugin_settings
from hpcgate.config.secrets import Secret

Seconds = Annotated[float, Field(gt=0)]
Port = Annotated[int, Field(ge=1, le=65535)]


class Model(BaseModel):
    """The base of all settings: frozen, unknown keys refused, snake_case and camelCase accepted."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=AliasGenerator(validation_alias=lambda name: AliasChoices(name, to_camel(name))),
        populate_by_name=True,
        hide_input_in_errors=True,
    )


class PluginSettings(Model):
    """The base of the settings that a plug-in brings; its own `type` key chooses the plug-in."""


class SchedulerSettings(PluginSettings):
    """What every scheduler plug-in's settings hold."""

    type: str = Field(description="Which scheduler, by the name of its entry point.")
    version: str = Field(description="The version that is installed, such as 22.05.8.")
    timeout: Seconds = Field(10, description="Seconds that a scheduler command or request may take.")


class TransferSettings(PluginSettings):
    """What every transfer plug-in's settings hold."""

    service_type: str = Field(description="Which transfer method, by the name of its entry point.")


class OidcSettings(Model):
    """How tokens are verified."""

    scopes: dict[str, str] | None = Field(default_factory=dict, description="Scopes shown in the OpenAPI, with text.")
    token_url: str = Field(description="The token endpoint, for the service accounts and for the OpenAPI page.")
    token_endpoint_auth_method: Literal["client_secret_basic", "client_secret_post"] = Field(
        "client_secret_basic", description="How a service account shows its secret at the token endpoint."
    )
    public_certs: tuple[str, ...] = Field(
        (), description="Where the IdP's keys are: JWKS documents by file://, http:// or https:// URL."
    )
    jwk_algorithm: str | None = Field(
        None, description="The algorithm of keys that do not name theirs in `alg`; otherwise it follows from the key."
    )
    username_claim: str = Field("preferred_username", description="The claim that holds the user name.")
    min_token_ttl: float = Field(0, ge=0, description="Seconds that a token must still be valid.")
    leeway: float = Field(0, ge=0, description="Seconds of clock skew allowed for exp, nbf and iat.")
    require_expiry: bool = Field(True, description="Refuse tokens without an exp claim.")
    issuer: str | None = Field(None, description="The iss claim that tokens must carry; unchecked if unset.")
    audience: str | None = Field(None, description="A value that the aud claim must hold; unchecked if unset.")
    required_scopes: tuple[str, ...] = Field((), description="Scopes that a token must have, all of them.")
    username_pattern: str = Field(
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

    url: str = Field(description="The check endpoint.")
    timeout: Seconds | None = Field(1, description="Seconds to wait for an answer; null waits 60.")
    max_connections: int = Field(100, ge=0, description="Most connections to the service; 0 is no limit.")
    cache: float = Field(0, ge=0, description="Seconds that a decision is kept.")


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

    host: str = Field(description="The login node.")
    port: Port = Field(22, description="Its SSH port.")
    proxy_host: str | None = Field(None, description="A jump host to go through.")
    proxy_port: Port | None = Field(None, description="The jump host's SSH port, 22 if unset.")
    max_clients: int = Field(100, ge=1, description="Most connections at a time, all users together.")
    timeout: SshTimeouts = Field(default_factory=lambda: SshTimeouts(), description="Time-outs.")
    host_keys: tuple[str, ...] = Field((), description="Public host keys to accept, each an OpenSSH line.")
    known_hosts: str | None = Field(None, description="A known_hosts file; @cert-authority lines work too.")
    proxy_host_keys: tuple[str, ...] = Field((), description="Public host keys of the jump host to accept.")
    strict_host_keys: bool = Field(
        False, description="Refuse to connect where neither host_keys nor known_hosts says what to expect."
    )
    files: Literal["auto", "sftp", "commands"] = Field(
        "auto", description="How files are reached: SFTP, plain commands, or SFTP wherever the login node offers it."
    )
    max_sessions: int | None = Field(
        None, ge=1, description="Most channels on one connection; learned from the login node if unset."
    )
    max_logins: int = Field(8, ge=1, description="Most logins at a time, below sshd's MaxStartups (10 by default).")
    pool_wait: Seconds = Field(5, description="Seconds that a request waits for a connection when the pool is full.")
    failed_login_pause: float = Field(
        2, ge=0, description="Seconds for which a refused login of a user is not tried again."
    )
    max_output_size: int = Field(32 * 1024 * 1024, ge=1024, description="Most bytes taken from one command.")


class ServiceAccount(Model):
    """The client that the health checks of one system use."""

    client_id: str = Field(description="Its client id at the IdP.")
    secret: Secret = Field(description="Its secret.")


ServiceName = Literal["ssh", "scheduler", "filesystem", "s3"]


class ProbingService(Model):
    """One probed service."""

    timeout: Seconds | None = Field(10, description="Seconds that one probe may take.")


class ProbingSettings(Model):
    """What is probed, and how often."""

    interval_check: Seconds = Field(
        120,
        validation_alias=AliasChoices("interval_check", "intervalCheck", "interval"),
        description="Seconds between rounds of probes.",
    )
    startup_grace_period: float = Field(
        300, ge=0, description="Seconds after the start in which a failed probe makes no service unhealthy."
    )
    services: dict[ServiceName, ProbingService] | None = Field(None, description="The probed services.")
    timeout: Seconds | None = Field(None, description="For the oldest files: the time-out of every probe.")

    OLD_NAMES: ClassVar[dict[str, str]] = {"filesystems": "filesystem", "storage": "s3"}

    @field_validator("services", mode="before")
    @classmethod
    def _rename(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {cls.OLD_NAMES.get(str(name), name): {} if probe is None else probe for name, probe in value.items()}


class FileSystem(Model):
    """A file system of a system."""

    path: str = Field(pattern="^/", description="Where it is mounted.")
    data_type: Literal["users", "store", "archive", "apps", "scratch", "project"] = Field(description="Its purpose.")
    default_work_dir: bool = Field(False, description="Whether transfer jobs run here, in a directory of the user.")


class DataOperation(Model):
    """Files that pass through the gateway, and transfers that do not."""

    max_ops_file_size: int = Field(5 * 1024 * 1024, ge=0, description="Most bytes of an upload, download or output.")
    data_transfer: Any = Field(None, description="The transfer method, chosen by its key service_type.")
    datatransfer_jobs_directives: tuple[str, ...] = Field(
        (), description="Scheduler directives of transfer jobs; {account} is filled in."
    )

    @field_validator("data_transfer", mode="before")
    @classmethod
    def _transfer(cls, value: Any) -> Any:
        return value if value is None else plugin_settings("hpcgate.transfers", "service_type", value)


class Cluster(Model):
    """One HPC system."""

    name: str = Field(min_length=1, description="The name that requests use, in any case.")
    ssh: SshSettings = Field(description="Its login node.")
    scheduler: Any = Field(description="Its scheduler, chosen by the key type.")
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

    @field_validator("scheduler", mode="before")
    @classmethod
    def _scheduler(cls, value: Any) -> Any:
        return plugin_settings("hpcgate.schedulers", "type", value)


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


class Settings(Model):
    """A whole configuration file."""

    app_debug: bool = Field(False, description="Accepted for FirecREST's sake; errors never show internals.")
    app_version: str = Field("2.5.7", description="The FirecREST API version that responses name.")
    apis_root_path: str = Field("", description="A path that a proxy puts before every path of the API.")
    doc_servers: tuple[dict[str, Any], ...] | None = Field(None, description="The servers that the OpenAPI names.")
    auth: AuthSettings = Field(description="Authentication and authorisation.")
    ssh_credentials: Any = Field(description="Where SSH credentials come from, chosen by the key type.")
    clusters: tuple[Cluster, ...] = Field((), description="The systems; or path:DIRECTORY with one file each.")
    logger: LoggerSettings = Field(default_factory=lambda: LoggerSettings(), description="Logging.")

    @field_validator("ssh_credentials", mode="before")
    @classmethod
    def _credentials(cls, value: Any) -> Any:
        return plugin_settings("hpcgate.credentials", "type", value)


__all__ = [
    "AuthSettings",
    "Cluster",
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
    "TransferSettings",
]
