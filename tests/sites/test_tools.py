"""Tools that a site has elsewhere, or not at all.

Sites whose tools come by /etc/profile.d or modules: `check --connect` says so, and ``ssh.path`` finds them. What
is on no PATH is named, with the operation that needs it.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from hpcgate.demo.packages import ensure_installed
from hpcgate.demo.sshd import Sshd
from hpcgate.diagnosis import tools
from hpcgate.errors import PathNotFound, ToolMissing
from hpcgate.filesystem.archive import archive_error
from hpcgate.filesystem.base import Limits, naming
from hpcgate.filesystem.file_type import FileType
from hpcgate.ssh.files.coreutils_errors import error_from_stderr
from hpcgate.ssh.runner import Completed
from tests.sites.shells import shell_program
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


STARTS = {
    # How a program is started that is not there; each shell has words of its own.
    "dash": ("dash", "-c"),
    "bash": ("bash", "-c"),
    "zsh": ("zsh", "-c"),
    "mksh": ("mksh", "-c"),
    "ksh93": ("ksh93", "-c"),
    "busybox": ("busybox", "sh", "-c"),
}


@pytest.mark.parametrize("shell", STARTS)
@pytest.mark.parametrize("script", ["no-such-tool -x", "exec no-such-tool -x", "env no-such-tool"])
def test_the_words_of_each_shell_about_a_tool_that_is_missing(shell: str, script: str) -> None:
    program, *options = STARTS[shell]
    argv = [shell_program(program), *options, script]
    done = subprocess.run(argv, capture_output=True, env={"LC_ALL": "C.UTF-8", "PATH": "/usr/bin:/bin"})
    assert done.returncode == 127
    error = error_from_stderr(done.stderr, "no-such-tool")
    assert isinstance(error, ToolMissing), done.stderr
    assert error.tool == "no-such-tool"


@pytest.mark.parametrize("tar", ["tar", "busybox tar"])
def test_the_words_of_tar_about_what_compresses_for_it(tar: str, tmp_path: Path) -> None:
    ensure_installed({"xz": "xz-utils", "busybox": "busybox"}, lambda _: None)
    archive = tmp_path / "a.tar.xz"
    subprocess.run(["tar", "-cJf", archive, "-C", tmp_path, "--files-from", "/dev/null"], check=True)
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "tar").symlink_to("/bin/tar")
    argv = ["/bin/busybox", "tar"] if tar != "tar" else ["/bin/tar"]
    done = subprocess.run([*argv, "-cJf", tmp_path / "b", programs], capture_output=True, env={"PATH": str(programs)})
    assert done.returncode != 0
    completed = Completed(("tar",), done.returncode, b"", done.stderr)
    error = archive_error(completed, b"/b", PathNotFound)
    assert isinstance(error, ToolMissing), done.stderr
    assert error.tool == "xz"


async def test_a_tool_that_is_missing_is_named_with_the_operation(
    make_pool: MakePool, sshd: Sshd, nodes: LoginNodes
) -> None:
    with Account(nodes) as account:
        directory = Path(account.place) / "bin"
        directory.mkdir()
        shim = directory / "file"
        shim.write_text("#!/bin/sh\nexec no-such-tool\n")
        shim.chmod(0o755)
        asked = FileType(FileType.Parameters(path=str(account.place)), Limits(1024))
        async with make_pool(sshd, path=[str(directory)]).lease(principal(account.user)) as session:
            words = re.escape("ops/file needs no-such-tool, which")
            with pytest.raises(ToolMissing, match=words) as caught, naming(asked):
                await asked.run(session)
            assert caught.value.status == 501
