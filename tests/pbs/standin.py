"""Installs the stand-in for a PBS server on a demo cluster, with a login node that finds its commands."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpcgate.demo.cluster import Cluster
from hpcgate.demo.sshd import Sshd

COMMANDS = (
    "qsub", "qstat", "qselect", "qdel", "pbsnodes", "pbs_rstat", "qhold", "qrls", "qrerun", "qsig", "qalter", "qmove",
)  # fmt: skip
TIME_ZONE = "America/St_Johns"
"""The login node's: half an hour off, and with summer time, so that a time in the wrong zone shows."""


@dataclass(frozen=True, slots=True)
class Standin:
    """A PBS server that is none, and its login node."""

    directory: Path
    sshd: Sshd

    @classmethod
    def install(cls, cluster: Cluster, name: str) -> Standin:
        """Put the commands where the cluster's users find them, and start a login node for them."""
        directory = cluster.scratch / name
        commands = directory / "bin"
        commands.mkdir(parents=True)
        for place in (directory, commands):
            place.chmod(0o755)
        for place in ("state", "state/jobs", "state/locks", "state/spool"):
            (directory / place).mkdir()
            (directory / place).chmod(0o1777)
        program = Path(shutil.copy(Path(__file__).with_name("server.py"), commands / "server.py"))
        program.chmod(0o755)
        for command in COMMANDS:
            (commands / command).symlink_to("server.py")
        variables = {"PATH": f"{commands}:/usr/bin:/bin", "PBS_STANDIN": directory / "state", "TZ": TIME_ZONE}
        settings = " ".join(f"{name}={value}" for name, value in variables.items())
        return cls(directory, cluster.start_sshd(extra=f"SetEnv {settings}"))

    def switch(self, name: str, on: bool) -> None:
        """Switch one of the server's oddities on or off; they stand in its own description."""
        path = self.directory / "state" / name
        if on:
            path.touch()
        else:
            path.unlink(missing_ok=True)

    def record(self, job_id: str) -> dict[str, Any]:
        """Return what the server knows of a job."""
        number = job_id.partition(".")[0].partition("[")[0]
        found: dict[str, Any] = json.loads((self.directory / "state" / "jobs" / f"{number}.json").read_text())
        return found

    def altered(self, job_id: str) -> str:
        """Return what qalter was last told of a job, option by option."""
        path = self.directory / "state" / "jobs" / f"{job_id.partition('.')[0]}.json"
        return " ".join(f"{option} {value}" for option, value in json.loads(path.read_text())["changed"].items())

    def age(self, job_id: str, seconds: int) -> None:
        """Make a job that has ended one that did so earlier."""
        path = self.directory / "state" / "jobs" / f"{job_id.partition('.')[0]}.json"
        job = json.loads(path.read_text())
        for moment in ("submitted", "started", "ended"):
            job[moment] -= seconds
        path.write_text(json.dumps(job))

    def settings(self, **scheduler: Any) -> dict[str, Any]:
        """Return what to lay over the settings of a demo system to make it this one."""
        return {
            "sshd": self.sshd,
            "scheduler": {"type": "pbs", "version": "23.06.06", "api_url": None, "api_version": None, **scheduler},
            "data_operation": {"datatransfer_jobs_directives": ["#PBS -l select=1:ncpus=1,walltime=00:15:00"]},
        }
