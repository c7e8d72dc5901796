"""A login node whose squeue and sacct count how often they are run, and can be held up once."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hpcgate.demo.cluster import Cluster
from hpcgate.demo.packages import program
from hpcgate.demo.sshd import Sshd

COMMANDS = ("squeue", "sacct")
_PROGRAM = """\
#!/bin/sh
printf . >> {directory}/{name}.count
if rmdir {directory}/{name}.next 2>/dev/null; then while [ -e {directory}/{name}.held ]; do sleep 0.05; done; fi
exec {program} "$@"
"""


class CountedSlurm:
    """The login node, and what was counted."""

    def __init__(self, cluster: Cluster) -> None:
        self.directory = cluster.scratch / f"counted-{cluster.take_port()}"
        self.directory.mkdir()
        self.directory.chmod(0o777)
        for name in COMMANDS:
            path = self.directory / name
            path.write_text(_PROGRAM.format(directory=self.directory, name=name, program=program(name)))
            path.chmod(0o755)
            self._count(name).touch()
            self._count(name).chmod(0o666)
        variables = dict(cluster.slurm.environment) | {"PATH": f"{self.directory}:/usr/bin:/bin"}
        settings = " ".join(f"{name}={value}" for name, value in variables.items())
        self.sshd: Sshd = cluster.start_sshd(extra=f"SetEnv {settings}")

    def _count(self, name: str) -> Path:
        return self.directory / f"{name}.count"

    def queries(self, *names: str) -> int:
        """Return how often the commands were run, all of them by default."""
        return sum(self._count(name).stat().st_size for name in names or COMMANDS)

    @contextmanager
    def holding(self, name: str) -> Iterator[None]:
        """Have the next run of a command wait until this is left."""
        held, following = (self.directory / f"{name}.{kind}" for kind in ("held", "next"))
        held.touch()
        following.mkdir()
        following.chmod(0o777)
        try:
            yield
        finally:
            held.unlink()
            with suppress(FileNotFoundError):
                following.rmdir()

    def holds(self, name: str) -> bool:
        """Say whether a run of a command waits."""
        return (self.directory / f"{name}.held").exists() and not (self.directory / f"{name}.next").exists()
