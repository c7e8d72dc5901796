"""The programs that a demo cluster needs, and their installation from Debian's archive."""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from hpcgate.demo.problems import DemoError
from hpcgate.demo.processes import SYSTEM_PATH

Progress = Callable[[str], None]

BASE: dict[str, str] = {
    "sshd": "openssh-server",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "munged": "munge",
    "slurmctld": "slurm-wlm",
    "slurmd": "slurm-wlm",
    "sbatch": "slurm-wlm",
    "scontrol": "slurm-wlm",
    "squeue": "slurm-wlm",
    "sacct": "slurm-wlm",
    "file": "file",
    "xz": "xz-utils",
    "bzip2": "bzip2",
    "gzip": "gzip",
    "tar": "tar",
    "find": "findutils",
    "curl": "curl",
    "ps": "procps",
}
"""Which Debian package each program comes from."""

ACCOUNTING: dict[str, str] = {
    "slurmdbd": "slurmdbd",
    "sacctmgr": "slurm-wlm",
    "mariadbd": "mariadb-server",
    "mariadb-install-db": "mariadb-server",
}

REST: dict[str, str] = {"slurmrestd": "slurmrestd", "auth_jwt.so": "slurm-wlm-jwt-plugin"}
"""A name with .so is a plugin of Slurm's."""

LIBRARIES = ("authlib", "flask")
"""What the identity provider is made of; hpcgate's extra ``demo`` has them."""

_LIBRARIES = Path("/usr/lib")
_POLICY = Path("/usr/sbin/policy-rc.d")


def find_program(name: str) -> str | None:
    """Return the absolute path of a program in the system's directories, or of a plugin of Slurm's, or None."""
    if name.endswith(".so"):
        return next(map(str, _LIBRARIES.glob(f"*/slurm*/{name}")), None)
    return shutil.which(name, path=SYSTEM_PATH)


def program(name: str) -> str:
    """Return the absolute path of a program; raise DemoError if it is not installed."""
    path = find_program(name)
    if path is None:
        package = (BASE | ACCOUNTING | REST).get(name, name)
        raise DemoError(f"{name} is not installed; on Debian: apt-get install {package}")
    return path


def needed(*, accounting: bool, rest: bool) -> dict[str, str]:
    """Return the programs that a cluster of this kind needs, each with its package."""
    return BASE | (ACCOUNTING if accounting else {}) | (REST if rest else {})


def missing_packages(programs: dict[str, str]) -> list[str]:
    """Return the packages of those programs that are not installed, sorted."""
    return sorted({package for name, package in programs.items() if find_program(name) is None})


def require_libraries() -> None:
    """Raise DemoError if the extra ``demo`` of hpcgate is not installed."""
    missing = [name for name in LIBRARIES if importlib.util.find_spec(name) is None]
    if missing:
        raise DemoError(
            f"the demo's identity provider needs {' and '.join(missing)}. Please install hpcgate with its extra demo: "
            f"{shlex.join([sys.executable, '-m', 'pip', 'install', 'hpcgate[demo]'])}"
        )


def ensure_installed(programs: dict[str, str], progress: Progress) -> list[str]:
    """Install the packages of the programs that are missing and return their names.

    Works as root or through sudo without a password; else raises DemoError with the one command to run. The services
    of the packages are not started.
    """
    packages = missing_packages(programs)
    if not packages:
        return []
    prefix = _privileged()
    if prefix is None:
        raise DemoError(
            "missing packages, and no right to install them. Please run: sudo " + shlex.join(_install_command(packages))
        )
    if find_program("apt-get") is None:
        raise DemoError(f"no apt-get here; please install what contains these Debian packages: {' '.join(packages)}")
    with _one_at_a_time(), _no_service_starts(prefix):
        packages = missing_packages(programs)
        if not packages:
            return []
        progress(f"installing {' '.join(packages)}")
        try:
            _run([*prefix, *_install_command(packages)], progress)
        except DemoError:
            progress("refreshing the list of packages")
            _run([*prefix, "apt-get", "update", "-q"], progress)
            progress(f"installing {' '.join(packages)}")
            _run([*prefix, *_install_command(packages)], progress)
    if still_missing := missing_packages(programs):
        raise DemoError(f"installed {' '.join(packages)}, but programs of {' '.join(still_missing)} are still missing")
    return packages


@contextlib.contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Wait for other demos of this user that are installing: apt-get gives up where another holds its locks."""
    with (Path(tempfile.gettempdir()) / f"hpcgate-install-{os.geteuid()}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _install_command(packages: Iterable[str]) -> list[str]:
    return ["apt-get", "install", "-y", "-q", "--no-install-recommends", *packages]


def _privileged() -> list[str] | None:
    """Return what to put before a command so that it runs as root, or None if that cannot be."""
    if os.geteuid() == 0:
        return []
    sudo = find_program("sudo")
    if sudo is None:
        return None
    allowed = subprocess.run([sudo, "-n", "true"], capture_output=True, check=False).returncode == 0
    return [sudo, "-n"] if allowed else None


@contextlib.contextmanager
def _no_service_starts(prefix: list[str]) -> Iterator[None]:
    """Forbid package scripts to start services, by invoke-rc.d's policy, unless the machine has a policy of its own."""
    if _POLICY.exists():
        yield
        return
    script = "#!/bin/sh\n# Put here for a moment by hpcgate's demo.\nexit 101\n"
    write = ["sh", "-c", f"printf %s {shlex.quote(script)} > {_POLICY} && chmod 755 {_POLICY}"]
    subprocess.run([*prefix, *write], check=True)
    try:
        yield
    finally:
        subprocess.run([*prefix, "rm", "-f", str(_POLICY)], check=False)


def _run(argv: list[str], progress: Progress) -> None:
    """Run apt-get, its steps handed to ``progress``; raise DemoError with its last lines if it fails."""
    environment = {
        "PATH": SYSTEM_PATH,
        "LC_ALL": "C.UTF-8",
        "DEBIAN_FRONTEND": "noninteractive",
        **{name: value for name, value in os.environ.items() if name.lower().endswith("_proxy")},
    }
    if argv[:1] != ["apt-get"]:
        # sudo forgets the environment.
        position = argv.index("apt-get")
        argv = [*argv[:position], "env", "DEBIAN_FRONTEND=noninteractive", *argv[position:]]
    lines: list[str] = []
    with subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
        text=True,
        errors="replace",
    ) as process:
        assert process.stdout is not None  # noqa: S101 - PIPE was asked for
        shown = time.monotonic()
        for line in process.stdout:
            lines.append(line.rstrip())
            if line.startswith(("Setting up", "Unpacking", "Get:")) and time.monotonic() - shown > 0.2:
                progress(line.strip())
                shown = time.monotonic()
    if process.returncode != 0:
        raise DemoError(f"{shlex.join(argv)} failed:\n  " + "\n  ".join(lines[-10:]))
