"""A shell for each test of a job script, in a directory of its own."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.transfers.shells import Sh, own


@pytest.fixture
def workspace() -> Iterator[Path]:
    """A directory that the user of the scripts can reach, unlike pytest's own."""
    with tempfile.TemporaryDirectory(prefix="hpcgate-transfers-", dir="/tmp") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture
def sh(request: pytest.FixtureRequest, workspace: Path) -> Sh:
    """A shell in an empty directory: dash, or the one that a test asks for."""
    directory = workspace / "work"
    directory.mkdir()
    return Sh(getattr(request, "param", "dash"), own(directory))


@pytest.fixture
def elsewhere(workspace: Path) -> Iterator[Path]:
    """A directory on another file system than the shell's."""
    shm = Path("/dev/shm")
    if shm.stat().st_dev == workspace.stat().st_dev or not os.access(shm, os.W_OK):
        raise RuntimeError("/dev/shm is no file system of its own")
    directory = Path(tempfile.mkdtemp(prefix="hpcgate-transfers-", dir=shm))
    directory.chmod(0o755)
    yield own(directory)
    shutil.rmtree(directory)


@pytest.fixture
def small() -> Iterator[Path]:
    """A file system of 64 KiB of its own, outside of every directory that a test removes; mounting it takes root."""
    directory = Path(tempfile.mkdtemp(prefix="hpcgate-small-", dir="/tmp"))
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k,mode=1777", "none", str(directory)], check=True)
    yield directory
    subprocess.run(["umount", str(directory)], check=True)
    directory.rmdir()
