"""Runs job scripts as an ordinary user, by each kind of sh."""

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from hpcgate.demo.processes import Identity
from hpcgate.transfers.base import Script
from hpcgate.transfers.script import job_script

NOBODY = 65534
"""Root may do anything, so scripts run as somebody else wherever the tests run as root."""


NO_CHOWN = ("setpriv", "--bounding-set", "-chown", "--inh-caps", "-chown")
"""Runs a command that cannot give files away, as no ordinary user can."""


@dataclass(frozen=True)
class Ended:
    """How a script ended."""

    status: int
    output: str
    errors: str

    @property
    def succeeded(self) -> bool:
        """Whether status, output log and error log agree that it did."""
        said = "Files were successfully" in self.output
        assert said == (self.status == 0), self
        return said


@dataclass(frozen=True)
class Sh:
    """A shell and a directory to work in."""

    program: str
    directory: Path
    ordinary: bool = True
    """Whether scripts run as an ordinary user, who may not be able to reach the Python of the tests."""

    def run(
        self, script: Script, *directives: str, timeout: float = 300, chown: bool = True, **environment: str
    ) -> Ended:
        """Run a script from a file, as schedulers do; root's without the right to give files to any group, if asked."""
        path = self.directory.parent / f"{self.directory.name}.sh"
        path.write_text(job_script(directives, script))
        argv = [*([] if chown or os.geteuid() != 0 else NO_CHOWN), self.program, str(path)]
        done = subprocess.run(
            Identity(NOBODY, NOBODY).command(argv) if self.ordinary else argv,
            capture_output=True,
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            env={"PATH": os.environ["PATH"], **environment},
            timeout=timeout,
            umask=0o022,
        )
        return Ended(done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))

    def left_over(self) -> list[str]:
        """Return the hidden names that a script should have taken away."""
        return [str(path) for path in self.directory.rglob(".hpcgate-*")]


def own(path: Path) -> Path:
    """Give a tree to the user that scripts run as."""
    if os.geteuid() == 0:
        for each in (path, *path.rglob("*")):
            os.chown(each, NOBODY, NOBODY, follow_symlinks=False)
    return path


SHELLS = ("dash", "bash")
"""What ``/bin/sh`` may be."""

either = pytest.mark.parametrize("sh", SHELLS, indirect=True)
"""Runs a test with each shell."""


def assert_group_kept(target: Path, member: bool) -> None:
    """See that what replaced a file of mode 664 has its group and mode, or opens nothing to the group that it has."""
    if os.geteuid() == 0:
        found = target.stat()
        assert (found.st_gid, found.st_mode & 0o777) == ((54322, 0o664) if member else (os.getegid(), 0o644))
