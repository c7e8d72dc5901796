"""Sites whose tools come by /etc/profile.d or modules: `check --connect` says so, and ``ssh.path`` finds them."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpcgate.checking import tools
from hpcgate.demo.sshd import Sshd
from tests.sites.test_start_up import Account
from tests.ssh.conftest import MakePool, make_pool, nodes, sshd
from tests.ssh.nodes import LoginNodes, principal

__all__ = ["make_pool", "nodes", "sshd"]

PROFILES = {
    "quiet": 'PATH="$PATH:{directory}"\n',
    "chatty": 'echo hpcgate-tools; echo /usr/bin/wrong-tool; echo Welcome >&2; export PATH="{directory}:$PATH"\n',
}


@pytest.mark.parametrize("profile", PROFILES)
async def test_tools_that_only_a_login_shell_finds(
    make_pool: MakePool, sshd: Sshd, nodes: LoginNodes, profile: str
) -> None:
    with Account(nodes) as account:
        directory = Path(account.place) / "slurm 24" / "bin"
        directory.mkdir(parents=True)
        tool = directory / "far-tool"
        tool.write_text("#!/bin/sh\necho from afar\n")
        tool.chmod(0o755)
        (account.home / ".profile").write_text(PROFILES[profile].format(directory=directory))
        try:
            async with make_pool(sshd).lease(principal(account.user)) as session:
                _, far, lost = await tools.look_for(session, ["sh", "far-tool", "no-such-tool"])
                assert (far.good, lost.good) == (False, False)
                assert "far-tool: found by a login shell only" in far.text
                assert far.advice == f"set ssh.path to [{directory}]"
                assert "no-such-tool: not found" in lost.text
                assert (await session.run(["far-tool"])).exit_status == 127
        finally:
            (account.home / ".profile").unlink()
        async with make_pool(sshd, path=[str(directory)]).lease(principal(account.user)) as session:
            assert (await session.run(["far-tool"])).stdout == b"from afar\n"
            _, found = await tools.look_for(session, ["sh", "far-tool"])
            assert found.good
            async with session.process(["far-tool"], stall=60) as process:
                assert b"".join([block async for block in process.output()]) == b"from afar\n"
