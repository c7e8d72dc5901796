"""Slurm clusters of the demo: real daemons with configuration, ports and spool directories of their own."""

from __future__ import annotations

import os
import pwd
import re
import socket
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hpcgate.demo.keys import write_private
from hpcgate.demo.mariadb import MariaDb
from hpcgate.demo.munge import Munge
from hpcgate.demo.packages import Progress, program
from hpcgate.demo.ports import HOST, listens, own_address
from hpcgate.demo.problems import DemoError
from hpcgate.demo.processes import SYSTEM_PATH, Daemon, Identity, Keeper, wait_until

DEFAULT_ACCOUNT = "demo"
OTHER_ACCOUNT = "extra"
LIMITED_QOS = "single"
"""A quality of service that refuses a user's second job."""
_DATABASE = "slurm_acct"
_UP = {"idle", "mixed", "allocated", "completing"}
"""States of nodes that answer slurmctld (sinfo(1)); one that does not has a star behind it."""


@dataclass(frozen=True, slots=True)
class SlurmOptions:
    """What a Slurm of the demo is like."""

    name: str = "demo"
    """ClusterName."""
    accounting: bool = True
    """Whether there is a slurmdbd with its MariaDB."""
    rest: bool = False
    """Whether there is a slurmrestd that takes the identity provider's tokens; it insists on accounting."""
    nodes: int = 2
    cpus_per_node: int = 4
    memory_per_node: int = 4000
    """MiB; made up, as are the CPUs."""
    gpus_per_node: int = 0
    """Made up, too: each is an empty file."""
    min_job_age: int = 300
    """Seconds that slurmctld remembers a finished job (Slurm's default)."""
    extra: str = ""
    """Lines at the end of slurm.conf."""


class Slurm:
    """One Slurm cluster: slurmctld, a slurmd a node, and if wanted slurmdbd and slurmrestd.

    Partitions: ``normal`` (default, no time limit), ``debug`` (at most 30 minutes), ``hidden``. Accounts: ``demo``
    (default) and ``extra``. Quality of service besides ``normal``: ``single``, one job a user.
    """

    def __init__(
        self,
        keeper: Keeper,
        directory: Path,
        take_port: Callable[[], int],
        options: SlurmOptions,
        munge: Munge,
        user_names: Sequence[str],
        jwks: Path | None = None,
    ) -> None:
        """Write the configuration to ``directory``, a new directory. ``jwks`` holds the keys of accepted tokens."""
        if options.rest and not options.accounting:
            raise DemoError("slurmrestd does not start without accounting")
        self.directory = directory
        self.options = options
        self.munge = munge
        self.configuration = directory / "slurm.conf"
        self.nodes = tuple(f"{options.name}-n{number + 1}" for number in range(options.nodes))
        self.mariadb: MariaDb | None = None
        self.slurmdbd: Daemon | None = None
        self.slurmrestd: Daemon | None = None
        self.rest_url: str | None = None
        self._user_names = tuple(user_names)
        self._jwks = jwks if options.rest else None
        self._ports = {name: take_port() for name in ("slurmctld", "slurmdbd", *self.nodes)}
        self._environment = {"PATH": SYSTEM_PATH, **self.environment}
        directory.mkdir(mode=0o755)
        for private in ("state", *(f"spool-{node}" for node in self.nodes)):
            (directory / private).mkdir(mode=0o755)
        if options.accounting:
            self.mariadb = MariaDb(keeper, directory / "mariadb", _DATABASE)
            self.slurmdbd = self._daemon(
                keeper,
                "slurmdbd",
                ["-D"],
                lambda _: listens(self._ports["slurmdbd"]),
                MYSQL_UNIX_PORT=str(self.mariadb.socket),
            )
            write_private(directory / "slurmdbd.conf", self._slurmdbd_conf(self.mariadb).encode())
        self.configuration.write_text(self._slurm_conf())
        (directory / "cgroup.conf").write_text(self._cgroup_conf())
        if options.gpus_per_node:
            self._make_gpus(options.gpus_per_node)
        self.slurmctld = self._daemon(keeper, "slurmctld", ["-D"], lambda _: self._controller_answers())
        self.slurmds = tuple(self._node_daemon(keeper, node) for node in self.nodes)
        if options.rest:
            port = take_port()
            self.rest_url = f"http://{HOST}:{port}"
            self.slurmrestd = self._rest_daemon(keeper, port)

    @property
    def environment(self) -> dict[str, str]:
        """What Slurm's commands need in their environment to find this cluster."""
        return {"SLURM_CONF": str(self.configuration)}

    @property
    def version(self) -> str:
        """The version of the installed Slurm, for instance ``22.05.8``."""
        return self.run(["slurmd", "-V"]).split()[-1]

    def start(self, progress: Progress) -> None:
        """Start everything (munged must run) and wait until all nodes are idle."""
        if self.slurmdbd is not None and self.mariadb is not None:
            progress("making the accounting database")
            self.mariadb.install()
            progress("starting mariadbd")
            self.mariadb.daemon.start()
            progress("starting slurmdbd")
            self.slurmdbd.start()
            self._add_associations()
        progress("starting slurmctld")
        self.slurmctld.start()
        progress(f"starting {len(self.slurmds)} slurmd")
        for slurmd in self.slurmds:
            slurmd.start()
        self.wait_for_nodes()
        if self.slurmrestd is not None:
            progress("starting slurmrestd")
            self.slurmrestd.start()

    def stop(self) -> None:
        """Kill all daemons of this Slurm for good."""
        database = self.mariadb.daemon if self.mariadb is not None else None
        for daemon in (self.slurmrestd, *self.slurmds, self.slurmctld, self.slurmdbd, database):
            if daemon is not None:
                daemon.kill()

    def wait_for_nodes(self, timeout: float = 300.0) -> None:
        """Wait until all nodes take jobs, whatever runs on them."""
        wait_until(self._nodes_up, "all Slurm nodes are up", timeout, interval=0.1, detail=self._describe_nodes)

    def run(self, argv: Sequence[str], timeout: float = 300.0) -> str:
        """Run one of Slurm's commands as this demo's own user and return its output; DemoError if it fails."""
        done = subprocess.run(
            [program(argv[0]), *argv[1:]],
            capture_output=True,
            text=True,
            errors="surrogateescape",
            timeout=timeout,
            check=False,
            env=self._environment | {"LC_ALL": "C.UTF-8"},
            stdin=subprocess.DEVNULL,
        )
        if done.returncode != 0:
            raise DemoError(f"{' '.join(argv)}: {(done.stderr or done.stdout).strip()}")
        return done.stdout

    def rest_versions(self) -> tuple[int, ...]:
        """The data versions that the installed slurmrestd offers, ascending; 38 stands for ``v0.0.38``.

        Raises DemoError if it names none.
        """
        identity = _rest_identity()
        said = ""
        # Data versions are plugins of their own from 23.02 on, before that they belong to those of the interface.
        for option in ("-d", "-s"):
            done = subprocess.run(
                [program("slurmrestd"), option, "list"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="surrogateescape",
                timeout=120.0,
                check=False,
                env=self._environment,
                user=identity.uid if identity else None,
                group=identity.gid if identity else None,
                extra_groups=[] if identity else None,
            )
            found = {int(number) for number in re.findall(r"/v0\.0\.(\d+)\b", done.stdout)}
            if found:
                return tuple(sorted(found))
            said += done.stdout
        raise DemoError(f"slurmrestd names no version of its interface: {said.strip()}")

    def scontrol(self, *arguments: str) -> str:
        """Run scontrol with Slurm's administrator rights and return its output; DemoError if it fails."""
        return self.run(["scontrol", *arguments])

    def sacctmgr(self, *arguments: str) -> str:
        """Run sacctmgr, its questions answered by yes, and return its output; DemoError if it fails."""
        return self.run(["sacctmgr", "--immediate", *arguments])

    def reserve(self, name: str, users: Sequence[str], *, minutes: int = 60, start: str = "now", nodes: int = 1) -> str:
        """Make a reservation of whole nodes for the users and return its name. ``start`` is as scontrol takes it."""
        self.scontrol(
            "create",
            "reservation",
            f"ReservationName={name}",
            f"StartTime={start}",
            f"Duration={minutes}",
            f"NodeCnt={nodes}",
            "Flags=IGNORE_JOBS",
            f"Users={','.join(users)}",
        )
        return name

    def release(self, reservation: str) -> None:
        """Delete a reservation."""
        self.scontrol("delete", f"ReservationName={reservation}")

    def _daemon(
        self,
        keeper: Keeper,
        name: str,
        arguments: Sequence[str],
        ready: Callable[[Daemon], bool],
        log: str | None = None,
        identity: Identity | None = None,
        **environment: str,
    ) -> Daemon:
        return Daemon(
            keeper,
            log or name,
            [program(name), *arguments],
            log=self.directory / f"{log or name}.log",
            ready=ready,
            env=self._environment | environment,
            identity=identity,
        )

    def _node_daemon(self, keeper: Keeper, node: str) -> Daemon:
        return self._daemon(
            keeper, "slurmd", ["-D", "-N", node], lambda _: listens(self._ports[node]), log=f"slurmd-{node}"
        )

    def _rest_daemon(self, keeper: Keeper, port: int) -> Daemon:
        return self._daemon(
            keeper,
            "slurmrestd",
            ["-a", "rest_auth/jwt", f"{HOST}:{port}"],
            lambda _: listens(port),
            identity=_rest_identity(),
            SLURM_JWT="daemon",
        )

    def _controller_answers(self) -> bool:
        try:
            return "is UP" in self.run(["scontrol", "ping"])
        except DemoError:
            return False

    def _nodes_up(self) -> bool:
        states = self.run(["sinfo", "--noheader", "--Node", "--partition=normal", "--format=%T"]).split()
        return len(states) == len(self.nodes) and set(states) <= _UP

    def _describe_nodes(self) -> str:
        return "\n" + self.run(["sinfo", "--long", "--Node"])

    def _add_associations(self) -> None:
        self.sacctmgr("add", "cluster", self.options.name)
        self.sacctmgr("add", "qos", LIMITED_QOS, "MaxSubmitJobsPerUser=1", "Flags=DenyOnLimit")
        self.sacctmgr("add", "account", f"{DEFAULT_ACCOUNT},{OTHER_ACCOUNT}", "Description=demo", "Organization=demo")
        self.sacctmgr(
            "add",
            "user",
            ",".join(self._user_names),
            f"Account={DEFAULT_ACCOUNT},{OTHER_ACCOUNT}",
            f"DefaultAccount={DEFAULT_ACCOUNT}",
            f"QOS=normal,{LIMITED_QOS}",
            "DefaultQOS=normal",
        )

    def _authentication(self) -> str:
        lines = f"AuthType=auth/munge\nAuthInfo=socket={self.munge.socket}\n"
        if self._jwks is not None:
            lines += f"AuthAltTypes=auth/jwt\nAuthAltParameters=jwks={self._jwks},userclaimfield=preferred_username\n"
        return lines

    def _slurmdbd_conf(self, mariadb: MariaDb) -> str:
        return f"""\
{self._authentication()}
DbdHost=localhost
DbdAddr=127.0.0.1
DbdAddr={HOST}
DbdPort={self._ports["slurmdbd"]}
SlurmUser={_user_name()}
PidFile={self.directory / "slurmdbd.pid"}
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser={mariadb.user}
StorageLoc={_DATABASE}
DebugLevel=info
"""

    def _cgroup_conf(self) -> str:
        # slurmd loads a cgroup plugin even if nothing uses it. Before 23.11 that of the first version is the one which
        # starts anywhere, be cgroups of another version there, or none at all, as in some containers.
        version = tuple(int(part) for part in self.version.split(".")[:2])
        return f"CgroupPlugin={'disabled' if version >= (23, 11) else 'cgroup/v1'}\n"

    def _make_gpus(self, count: int) -> None:
        for number in range(count):
            (self.directory / f"gpu{number}").touch()
        (self.directory / "gres.conf").write_text(f"Name=gpu File={self.directory}/gpu[0-{count - 1}]\n")

    def _slurm_conf(self) -> str:
        directory, options = self.directory, self.options
        host, own = socket.gethostname().partition(".")[0], own_address()
        if options.accounting:
            accounting = f"""\
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePass={self.munge.socket}
AccountingStoragePort={self._ports["slurmdbd"]}
AccountingStorageEnforce=associations,limits,qos
AccountingStoreFlags=job_comment,job_env,job_script
JobAcctGatherType=jobacct_gather/linux
"""
        else:
            accounting = "AccountingStorageType=accounting_storage/none\nJobAcctGatherType=jobacct_gather/none\n"
        features = ("fast", "large")
        gpus = f" Gres=gpu:{options.gpus_per_node}" if options.gpus_per_node else ""
        nodes = "".join(
            f"NodeName={node} NodeHostname={host} NodeAddr={own or HOST} Port={self._ports[node]}"
            f" CPUs={options.cpus_per_node} RealMemory={options.memory_per_node}"
            f" Feature=demo,{features[number % len(features)]}{gpus} State=UNKNOWN\n"
            for number, node in enumerate(self.nodes)
        )
        return f"""\
ClusterName={options.name}
SlurmctldHost={host}({own or HOST})
SlurmctldPort={self._ports["slurmctld"]}
{self._authentication()}
SlurmUser={_user_name()}
SlurmdUser={_user_name()}
StateSaveLocation={directory / "state"}
SlurmdSpoolDir={directory / "spool-%n"}
SlurmctldPidFile={directory / "slurmctld.pid"}
SlurmdPidFile={directory / "slurmd-%n.pid"}
SlurmctldDebug=info
SlurmdDebug=info
{"CommunicationParameters=NoCtldInAddrAny,NoInAddrAny" if own else ""}
# No cgroups: the demo must run in a container, and beside a Slurm of the machine.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
PropagateResourceLimits=NONE
MailProg=/bin/true
# The nodes' CPUs and memory are made up.
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=100
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0,bf_interval=1,bf_continue
PriorityType=priority/basic
ReturnToService=2
KillWait=15
CompleteWait=0
MinJobAge={options.min_job_age}
MessageTimeout=10
{accounting}
{"GresTypes=gpu" if gpus else ""}
{"AccountingStorageTRES=gres/gpu" if gpus and options.accounting else ""}
{nodes}
PartitionName=normal Nodes=ALL Default=YES MaxTime=UNLIMITED State=UP
PartitionName=debug Nodes=ALL MaxTime=00:30:00 DefaultTime=00:05:00 State=UP
PartitionName=hidden Nodes=ALL Hidden=YES MaxTime=UNLIMITED State=UP
{options.extra}
"""


def _rest_identity() -> Identity | None:
    # slurmrestd refuses to be root or SlurmUser.
    if os.geteuid() != 0:
        return None
    nobody = pwd.getpwnam("nobody")
    return Identity(nobody.pw_uid, nobody.pw_gid)


def _user_name() -> str:
    return pwd.getpwuid(os.geteuid()).pw_name
