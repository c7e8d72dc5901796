"""A Python with the packages of transfer jobs that the users of the demo cluster can run."""

import os
import re
import shutil
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from hpcgate.demo.cluster import Cluster

NEEDED = ("firecrest-streamer", "magic-wormhole")
_UNUSED = shutil.ignore_patterns(
    "__pycache__", "site-packages", "test", "tests", "idlelib", "tkinter", "config-*", "*.a"
)


def node_python(cluster: Cluster) -> str:
    """Return the path of such a Python.

    The tests' own may lie in a home that only root can enter. What is needed of it is copied, never mounted: the
    cluster's directory is removed with all that is in it.
    """
    if os.geteuid() != 0:
        return sys.executable
    place = cluster.directory / "node-python"
    wrapper = place / "python"
    if wrapper.exists():
        return str(wrapper)
    place.mkdir()
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    base = Path(sys.base_prefix)
    shutil.copytree(base / "lib" / name, place / "lib" / name, ignore=_UNUSED)
    for library in base.glob("lib/libpython*.so*"):
        shutil.copy(library, place / "lib")
    (place / "bin").mkdir()
    shutil.copy(os.path.realpath(sys.executable), place / "bin" / name)
    for each in _closure(NEEDED):
        _copy(each, place / "packages")
    wrapper.write_text(
        f"#!/bin/sh\nPYTHONHOME={place} PYTHONPATH={place}/packages PYTHONDONTWRITEBYTECODE=1"
        f' LD_LIBRARY_PATH={place}/lib exec {place}/bin/{name} "$@"\n'
    )
    wrapper.chmod(0o755)
    return str(wrapper)


def _closure(names: tuple[str, ...]) -> set[str]:
    """Return the distributions and all that they require and that is installed."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in found:
            continue
        try:
            requirements = distribution(name).requires or ()
        except PackageNotFoundError:
            continue  # for another platform, or an extra that nobody asked for
        found.add(name)
        waiting += [match[0] for text in requirements if (match := re.match(r"[A-Za-z0-9._-]+", text))]
    return found


def _copy(name: str, place: Path) -> None:
    files = distribution(name).files
    assert files is not None, f"{name} does not list its files"
    for file in files:
        if ".." in file.parts or "__pycache__" in file.parts:
            continue  # commands, which lie outside
        target = place / file
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(str(file.locate()), target)
