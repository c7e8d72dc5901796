"""The demo cluster: all parts put together, started and stopped as one.

::

    with Cluster() as cluster:
        alice = cluster.users[0]
        cluster.as_user(alice, ["sbatch", "--wrap", "hostname"])
        cluster.start_gateway(cluster.write_gateway_config(cluster.directory / "gateway.yaml"))
"""

from __future__ import annotations

import copy
import os
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from hpcgate.demo.idp import SCOPES, WEB_CLIENT, Idp, python_environment
from hpcgate.demo.keys import Key, write_private
from hpcgate.demo.munge import Munge
from hpcgate.demo.packages import Progress, ensure_installed, needed, require_libraries
from hpcgate.demo.ports import HOST, Ports
from hpcgate.demo.problems import DemoError
from hpcgate.demo.processes import SYSTEM_PATH, Daemon, Keeper
from hpcgate.demo.slurm import Slurm, SlurmOptions
from hpcgate.demo.sshd import Sshd, SshdFactory, SshdOptions
from hpcgate.demo.users import User, make_users
from hpcgate.schedulers.slurm.rest.versions import NEWEST, OLDEST


def silent(_: str) -> None:
    """Report progress to nobody."""


@dataclass(frozen=True, slots=True)
class Options:
    """What a demo cluster is made of."""

    roles: tuple[str, ...] = ("alice", "bob")
    """The users to make when run as root; an ordinary user is always alone."""
    slurm: SlurmOptions = field(default_factory=SlurmOptions)
    sshd: SshdOptions = field(default_factory=SshdOptions)
    token_lifetime: int = 3600
    """Seconds."""
    install: bool = True
    """Whether to install missing packages; if not, their lack is an error."""
    patience: float = 10
    """Seconds that the gateways wait for each thing that takes its time: a login, a command, a probe, a turn."""


class Gateway:
    """A running hpcgate server in front of the demo cluster."""

    def __init__(self, daemon: Daemon, url: str, configuration: Path) -> None:
        self.daemon = daemon
        self.url = url
        self.configuration = configuration

    @property
    def pid(self) -> int:
        """Process id of the server."""
        return self.daemon.pid

    @property
    def log(self) -> Path:
        """The file with all that it prints."""
        return self.daemon.log

    def stop(self, grace: float = 10.0) -> None:
        """End it, softly at first."""
        self.daemon.stop(grace)

    def restart(self) -> None:
        """Stop it and start it again at the same address."""
        self.daemon.restart()


class Cluster:
    """A demo cluster; a context manager that starts it and takes everything away again.

    Attributes that exist once it has started: ``directory``, ``users``, ``authority`` (the SSH user authority),
    ``munge``, ``slurm``, ``idp``, ``sshd`` (the login node), ``homes`` and ``scratch`` (directories).
    """

    directory: Path
    homes: Path
    scratch: Path
    users: tuple[User, ...]
    authority: Key
    munge: Munge
    slurm: Slurm
    idp: Idp
    sshd: Sshd

    def __init__(self, options: Options | None = None, progress: Progress = silent) -> None:
        self.options = options or Options()
        self.progress = progress
        self._ports = Ports()
        self._keeper: Keeper | None = None
        self._sshds: SshdFactory | None = None
        self._gateways: list[Gateway] = []
        self._counter = 0

    def __repr__(self) -> str:
        return f"<Cluster {self.directory}>" if self._keeper is not None else "<Cluster, not running>"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # --- life ---------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Install what is missing and start everything; on any failure take everything away and raise it."""
        require_libraries()
        programs = needed(accounting=self.options.slurm.accounting, rest=self.options.slurm.rest)
        if self.options.install:
            ensure_installed(programs, self.progress)
        # Not a context manager: when something fails, or Ctrl-C comes, what the other threads wait for must be killed
        # before they are waited for.
        pool = ThreadPoolExecutor(max_workers=4)
        try:
            self._prepare()
            parts = [pool.submit(part) for part in (self._start_slurm, self._start_login_node, self._start_idp)]
            for part in parts:
                part.result()
        except BaseException:
            self.stop()
            raise
        finally:
            pool.shutdown(cancel_futures=True)

    def stop(self) -> None:
        """Kill everything and remove all traces; raise DemoError if some could not be removed. Can be called twice."""
        keeper, self._keeper = self._keeper, None
        try:
            problems = keeper.stop() if keeper is not None else []
        finally:
            self._ports.close()
            self._gateways.clear()
        if problems:
            raise DemoError("the demo could not clear up: " + "; ".join(problems))

    @property
    def keeper(self) -> Keeper:
        """The process that owns all daemons; DemoError if the cluster is not running."""
        if self._keeper is None:
            raise DemoError("the demo cluster is not running")
        return self._keeper

    def _prepare(self) -> None:
        """Make the directory, users, keys and configurations: everything short of starting daemons."""
        self.progress("making users and keys")
        self._keeper = Keeper(_parent_directory())
        self.directory = self._keeper.directory
        self.homes = self._subdirectory("homes", 0o755)
        self.scratch = self._subdirectory("scratch", 0o1777)
        keys = self._subdirectory("keys", 0o700)
        ssh = self._subdirectory("ssh", 0o755)
        self.authority = Key.make("demo-user-ca")
        self.authority.write(keys / "user_ca")
        self.users = tuple(make_users(self._keeper, self.homes, keys, self.authority, self.options.roles))
        for user in self.users:
            write_private(keys / f"{user.name}.client_secret", user.client_secret.encode())
        self.idp = Idp(
            self._keeper,
            self.directory / "idp",
            self._ports.take,
            self.users,
            lifetime=self.options.token_lifetime,
            # libjwt, on which Slurm's auth/jwt stands, takes no header type but JWT.
            typ="JWT" if self.options.slurm.rest else "at+jwt",
        )
        write_private(keys / "service.client_secret", self.idp.service_client_secret.encode())
        self.munge = Munge(self._keeper, self.directory / "munge")
        self.slurm = self._make_slurm(self.options.slurm)
        self._sshds = SshdFactory(self._keeper, ssh, self._ports.take, self.users, self.authority)

    def _start_slurm(self) -> None:
        self.progress("starting munged")
        self.munge.daemon.start()
        self.slurm.start(self.progress)

    def _start_login_node(self) -> None:
        self.progress("starting sshd")
        self.sshd = self._start_sshd(self.options.sshd, self.slurm)

    def _start_idp(self) -> None:
        self.progress("starting the identity provider")
        self.idp.start()

    def _subdirectory(self, name: str, mode: int) -> Path:
        path = self.directory / name
        path.mkdir()
        path.chmod(mode)
        return path

    # --- more of everything -------------------------------------------------------------------------------------

    def start_sshd(
        self, *, slurm: Slurm | None = None, host_key: Key | None = None, port: int | None = None, **options: Any
    ) -> Sshd:
        """Start one more login node.

        ``options`` are fields of `SshdOptions` that differ from those of the first login node; ``slurm`` is the Slurm
        that its sessions find, by default the cluster's own.
        """
        _ = self.keeper
        return self._start_sshd(replace(self.options.sshd, **options), slurm or self.slurm, host_key, port)

    def start_jump_host(self, **options: Any) -> Sshd:
        """Start an sshd that forwards connections."""
        return self.start_sshd(allow_tcp_forwarding=True, **options)

    def start_slurm(self, options: SlurmOptions) -> Slurm:
        """Start one more Slurm, independent of the first but for munge and the users; its name must be new."""
        if self.options.install:
            ensure_installed(needed(accounting=options.accounting, rest=options.rest), self.progress)
        slurm = self._make_slurm(options)
        slurm.start(self.progress)
        return slurm

    def start_plain_slurm(self, name: str = "plain") -> tuple[Slurm, Sshd]:
        """Start a Slurm of one node without slurmdbd, and a login node for it."""
        slurm = self.start_slurm(SlurmOptions(name=name, accounting=False, nodes=1))
        return slurm, self.start_sshd(slurm=slurm)

    def take_port(self, count: int = 1) -> int:
        """Reserve one more free loopback port until the cluster stops, or the first of several in a row."""
        return self._ports.take(count)

    def _start_sshd(
        self, options: SshdOptions, slurm: Slurm, host_key: Key | None = None, port: int | None = None
    ) -> Sshd:
        if self._sshds is None:
            raise DemoError("the demo cluster is not running")
        return self._sshds.start(options, slurm.environment, host_key, port)

    def _make_slurm(self, options: SlurmOptions) -> Slurm:
        return Slurm(
            self.keeper,
            self.directory / f"slurm-{options.name}",
            self._ports.take,
            options,
            self.munge,
            [user.name for user in self.users],
            self.idp.keys.rsa_jwks_file,
        )

    # --- use ----------------------------------------------------------------------------------------------------

    def user(self, role: str) -> User:
        """Return the user with this name or role (``alice``)."""
        for user in self.users:
            if role in (user.role, user.name):
                return user
        raise DemoError(f"no demo user {role!r}")

    def token(self, user: User | str, **options: Any) -> str:
        """Get an access token for the user; see `Idp.token` for the options."""
        return self.idp.token(user, **options)

    def as_user(
        self,
        user: User | str,
        argv: Sequence[str | bytes | Path],
        *,
        input: str | bytes | None = None,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        check: bool = True,
        timeout: float = 300.0,
        slurm: Slurm | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on this machine as the user, in the home directory; the ground truth for tests.

        Output is decoded as UTF-8, other bytes as lone surrogates. With ``check`` a failure raises DemoError.
        """
        account = user if isinstance(user, User) else self.user(user)
        environment = {
            "PATH": SYSTEM_PATH,
            "HOME": str(account.home),
            "USER": account.name,
            "LOGNAME": account.name,
            "SHELL": "/bin/bash",
            "LC_ALL": "C.UTF-8",
            **(slurm or self.slurm).environment,
            **(env or {}),
        }
        done = subprocess.run(
            account.identity.command(argv),
            input=input.decode(errors="surrogateescape") if isinstance(input, bytes) else input or "",
            capture_output=True,
            encoding="utf-8",
            errors="surrogateescape",
            cwd=cwd or account.home,
            env=environment,
            check=False,
            timeout=timeout,
            umask=0o022,
        )
        if check and done.returncode != 0:
            raise DemoError(f"{argv} as {account.name} ended with {done.returncode}: {done.stderr or done.stdout}")
        return done

    def mount_tmpfs(self, size: str, name: str | None = None, user: User | None = None) -> Path:
        """Mount a small tmpfs below the scratch directory and return it; root only. ``size`` as mount(8): ``1M``."""
        if os.geteuid() != 0:
            raise DemoError("mounting a tmpfs takes root")
        self._counter += 1
        path = self.scratch / (name or f"tmpfs-{self._counter}")
        path.mkdir()
        owner = f",uid={user.uid},gid={user.gid},mode=0755" if user is not None else ",mode=1777"
        options = f"nosuid,nodev,size={size}{owner}"
        self.keeper.make("mount", str(path), ["mount", "-t", "tmpfs", "-o", options, "hpcgate-demo", str(path)])
        return path

    # --- the gateway --------------------------------------------------------------------------------------------

    def cluster_settings(
        self, name: str = "demo", *, sshd: Sshd | None = None, slurm: Slurm | None = None, **overrides: Any
    ) -> dict[str, Any]:
        """Return one entry for ``clusters`` of the gateway's configuration; ``overrides`` are merged into it."""
        login, scheduler = sshd or self.sshd, slurm or self.slurm
        patience = self.options.patience
        settings: dict[str, Any] = {
            "name": name,
            "ssh": {
                "host": login.host,
                "port": login.port,
                "max_clients": 100,
                "timeout": {
                    "connection": patience / 2,
                    "login": patience,
                    "command_execution": patience,
                    "idle_timeout": 60,
                    "keep_alive": 5,
                },
                "start_up_timeout": patience,
                "host_keys": [login.host_public_key],
            },
            "scheduler": {
                "type": "slurm",
                "version": scheduler.version,
                "connection_mode": "ssh",
                "timeout": patience,
            },
            "service_account": {
                "client_id": self.idp.service_client_id,
                "secret": f"secret_file:{self.directory / 'keys' / 'service.client_secret'}",
            },
            "probing": {
                # Once, at the start: what a test stops on purpose is not to be found unhealthy at a time of chance.
                "interval_check": 3600,
                "services": {kind: {"timeout": patience} for kind in ("ssh", "scheduler", "filesystem")},
            },
            "file_systems": [
                {"path": str(self.homes), "data_type": "users", "default_work_dir": True},
                {"path": str(self.scratch), "data_type": "scratch", "default_work_dir": False},
            ],
            "data_operation": {
                "max_ops_file_size": 5 * 1024 * 1024,
                "datatransfer_jobs_directives": [
                    "#SBATCH --nodes=1",
                    "#SBATCH --time=0-00:15:00",
                    *(["#SBATCH --account={account}"] if scheduler.options.accounting else []),
                ],
            },
        }
        if scheduler.rest_url is not None:
            known = [number for number in scheduler.rest_versions() if OLDEST <= number <= NEWEST]
            if not known:
                raise DemoError("the installed slurmrestd offers no version that hpcgate knows")
            settings["scheduler"] |= {"api_url": scheduler.rest_url, "api_version": f"0.0.{max(known)}"}
        return merged(settings, overrides)

    def gateway_settings(
        self, *, clusters: Sequence[Mapping[str, Any]] | None = None, **overrides: Any
    ) -> dict[str, Any]:
        """Return a whole configuration of the gateway; ``overrides`` are merged into its top level, key by key."""
        keys = self.directory / "keys"
        settings: dict[str, Any] = {
            "auth": {
                "authentication": {
                    "scopes": {scope: "" for scope in SCOPES[:2]},
                    "token_url": self.idp.token_url,
                    "authorization_url": self.idp.authorize_url,
                    "docs_client_id": WEB_CLIENT,
                    "public_certs": [self.idp.jwks_url],
                }
            },
            "ssh_credentials": {
                "type": "SSHStaticKeys",
                "keys": {user.name: {"private_key": f"secret_file:{keys / user.name}"} for user in self.users},
            },
            "clusters": [copy.deepcopy(dict(entry)) for entry in clusters or [self.cluster_settings()]],
            "http": {"max_delay": self.options.patience},
        }
        return merged(settings, overrides)

    def write_gateway_config(
        self, path: Path, *, clusters: Sequence[Mapping[str, Any]] | None = None, **overrides: Any
    ) -> Path:
        """Write `gateway_settings` as YAML and return the path."""
        path.write_text(yaml.safe_dump(self.gateway_settings(clusters=clusters, **overrides), sort_keys=False))
        return path

    def start_gateway(
        self, configuration: Path, env: Mapping[str, str] | None = None, python: str = sys.executable
    ) -> Gateway:
        """Start hpcgate with this configuration on a free port and wait until it says that it is alive.

        Args:
            configuration: Its file.
            env: Further variables.
            python: An interpreter that finds hpcgate: this one, or that of another version.
        """
        self._counter += 1
        port = self._ports.take()
        url = f"http://{HOST}:{port}"
        name = f"gateway-{self._counter}"
        daemon = Daemon(
            self.keeper,
            name,
            [
                python,
                "-m",
                "hpcgate.cli",
                "serve",
                "--config",
                str(configuration),
                "--host",
                HOST,
                "--port",
                str(port),
            ],
            log=self.directory / f"{name}.log",
            ready=_answers(f"{url}/status/liveness/"),
            env=python_environment() | dict(env or {}),
            interval=0.05,
        )
        daemon.start()
        gateway = Gateway(daemon, url, configuration)
        self._gateways.append(gateway)
        return gateway


def merged(settings: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``settings`` with ``overrides`` laid over, mapping by mapping; a value of None removes the key."""
    result = dict(settings)
    for key, value in overrides.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, Mapping) and isinstance(result.get(key), Mapping):
            result[key] = merged(result[key], value)
        else:
            result[key] = copy.deepcopy(value)
    return result


def _answers(url: str) -> Callable[[Daemon], bool]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def ready(_: Daemon) -> bool:
        try:
            with opener.open(url, timeout=5.0) as response:
                return int(response.status) == 200
        except urllib.error.HTTPError as error:
            error.close()
            return False
        except OSError:
            return False

    return ready


def _parent_directory() -> Path:
    """Return where temporary directories go, or the first of the usual places that other users can reach."""
    for candidate in (Path(tempfile.gettempdir()), Path("/tmp"), Path("/var/tmp")):  # noqa: S108
        resolved = candidate.resolve()
        if os.geteuid() != 0 or all(parent.stat().st_mode & 0o001 for parent in (resolved, *resolved.parents)):
            return resolved
    raise DemoError("no temporary directory that all users can reach")
