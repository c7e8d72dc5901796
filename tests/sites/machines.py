"""Login nodes that are other machines than this one: an sshd in a mount namespace of its own, with other files."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from hpcgate.demo import sshd as demo
from hpcgate.demo.packages import program
from hpcgate.demo.sshd import Sshd
from tests.ssh.nodes import LoginNodes


@contextmanager
def machine(nodes: LoginNodes, files: Mapping[str, str | Path]) -> Iterator[Sshd]:
    """Start an sshd that finds other files in some places: what is there, and what it finds instead."""
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode:
        pytest.skip("no right to make a mount namespace")
    binds = "".join(f"mount --bind {shlex.quote(str(file))} {shlex.quote(place)}\n" for place, file in files.items())
    inside = nodes.directory / "inside"
    inside.write_text(f'#!/bin/dash\nset -e\n{binds}exec {program("sshd")} "$@"\n')
    starter = nodes.directory / "elsewhere"
    starter.write_text(f'#!/bin/dash\nexec unshare --mount --propagation private /bin/dash {inside} "$@"\n')
    starter.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "program", lambda name: str(starter) if name == "sshd" else program(name))
        node = nodes.start()
    try:
        yield node
    finally:
        node.stop()
