"""The settings of login nodes and of the connections to them."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from hpcgate.config.base import NARROWS, Model
from hpcgate.config.values import HostKey, Pause, Port, ReadableFile, SearchedDirectory, Seconds, node_address, nodes


class SshTimeouts(Model):
    """The time-outs of SSH, in seconds."""

    connection: Seconds = Field(5, description="To open the TCP connection and exchange keys.")
    login: Seconds = Field(5, description="To log in.")
    command_execution: Seconds = Field(5, description="For one command or file operation.")
    idle_timeout: Seconds = Field(60, description="After which an unused connection is closed.")
    keep_alive: Seconds = Field(5, description="Between keep-alive messages; three lost ones end a connection.")


class SshSettings(Model):
    """The login node and the pool of connections to it."""

    host: Annotated[str | tuple[str, ...], BeforeValidator(nodes)] = Field(
        description="The login node, or a list of several, each perhaps with :port; users are spread over them."
    )
    port: Port = Field(22, description="Its SSH port, or theirs.")
    proxy_host: str | None = Field(None, description="A jump host to go through.")
    proxy_port: Port | None = Field(None, description="The jump host's SSH port, 22 if unset; needs proxy_host.")
    max_clients: int = Field(100, ge=1, description="Most connections at a time, all users together.")
    timeout: SshTimeouts = Field(default_factory=lambda: SshTimeouts(), description="Time-outs.")
    start_up_timeout: Seconds = Field(
        10,
        description="Seconds for a user's login shell to come through its start-up files to a command or SFTP; then "
        "the time-out of the command begins.",
    )
    host_keys: Annotated[tuple[HostKey, ...], NARROWS] = Field(
        (), description="Public host keys of the login node to accept, each a line as in a .pub file."
    )
    known_hosts: ReadableFile | None = Field(None, description="A known_hosts file; @cert-authority lines work too.")
    proxy_host_keys: Annotated[tuple[HostKey, ...], NARROWS] = Field(
        (), description="Public host keys of the jump host to accept; needs proxy_host."
    )
    strict_host_keys: bool = Field(
        False,
        description="Refuse to connect where neither host_keys nor known_hosts says what to expect.",
    )
    files: Literal["auto", "sftp", "commands"] = Field(
        "auto", description="How files are reached: SFTP, plain commands, or SFTP wherever the login node offers it."
    )
    path: tuple[SearchedDirectory, ...] = Field(
        (),
        description="Directories on the login node in which programs are looked for before the user's PATH, for sites "
        "whose tools are found by login shells only (/etc/profile.d, modules).",
    )
    helper: bool = Field(
        True,
        description="Keep a small perl process on each connection that answers stat, listings and short reads at once.",
    )
    max_sessions: int | None = Field(
        None, ge=1, description="Most channels on one connection; learned from the login node if unset."
    )
    bulk_from: int | None = Field(
        64 * 1024 * 1024,
        ge=0,
        description="Bytes from which on a file streams by a second connection of its user, so that small requests do "
        "not wait behind it; null for no second connections.",
    )
    max_logins: int = Field(8, ge=1, description="Most logins at a time, below sshd's MaxStartups (10 by default).")
    pool_wait: Seconds = Field(5, description="Seconds that a request waits for a connection when the pool is full.")
    dead_node_pause: Seconds = Field(
        30, description="Seconds for which a login node that cannot be reached is the last one to be tried."
    )
    failed_login_pause: Pause = Field(
        2, description="Seconds for which a refused login of a user is not tried again; doubled each time."
    )
    failed_login_pause_most: Pause = Field(60, description="The longest of these pauses, in seconds.")
    refused_logins: float | None = Field(
        10,
        gt=0,
        description="Refused logins a minute after which a login node is left alone by those who may be refused again, "
        "so that sshd's PerSourcePenalties do not shut out everybody; null to turn off.",
    )
    max_output_size: int = Field(32 * 1024 * 1024, ge=1024, description="Most bytes taken from one command.")

    @property
    def nodes(self) -> tuple[tuple[str, int], ...]:
        """The host and the port of each login node."""
        entries = (self.host,) if isinstance(self.host, str) else self.host
        return tuple((host, port or self.port) for host, port in map(node_address, entries))

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
