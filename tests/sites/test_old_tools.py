"""Tools as old or as small as sites have them: the same comes of every operation.

Each line of the table is a set of tools that lies before the system's own on the user's PATH; each is crossed with the
operations that use commands, and with both ways to reach files. Those of 2014 are this machine's behind scripts that
take no option which came later, and say so as the old ones do; those of busybox are busybox's.
"""

from __future__ import annotations

import os
import shlex
import shutil
import tarfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from hpcgate.auth import Principal
from hpcgate.demo.packages import ensure_installed, program
from hpcgate.demo.sshd import Sshd
from hpcgate.errors import BadRequest, PathNotFound
from hpcgate.filesystem.base import Limits, Operation
from hpcgate.filesystem.checksum import Checksum
from hpcgate.filesystem.compress import Compress
from hpcgate.filesystem.extract import Extract
from hpcgate.filesystem.packing import Format, packed
from hpcgate.filesystem.stat import Stat
from hpcgate.filesystem.unpacking import unpack
from hpcgate.ssh.session import Session
from tests.sites.operations import OLD, VERBS
from tests.sites.test_start_up import Account
from tests.ssh.conftest import MakePool, make_pool, nodes, sshd
from tests.ssh.nodes import LoginNodes, principal
from tests.transfers import asked
from tests.transfers.shells import Sh

__all__ = ["make_pool", "nodes", "sshd"]

# What came after GNU tar 1.26, findutils 4.5.11, grep 2.20 and coreutils 8.22, those of 2011 to 2014, and with which
# version (their NEWS): as the patterns of a shell's `case`, an option with the value behind it as one word, or dd's.
SINCE: dict[str, dict[str, str]] = {
    "tar": {
        "1.27": "--acls|--no-acls|--selinux|--no-selinux|--xattrs*|--no-xattrs|--skip-old-files",
        "1.28": "--keep-directory-symlink|--one-top-level*|--sort=*|--exclude-ignore*|--exclude-vcs-ignores",
        "1.29": "--clamp-mtime|--verbatim-files-from|--no-verbatim-files-from|--hole-detection=*|--set-mtime-command=*",
        "1.31": "--zstd|--owner-map=*|--group-map=*|--ignore-failed-read=*",
    },
    "find": {"4.9": "-files0-from"},
    "grep": {"3.5": "--no-ignore-case"},
    "sha256sum": {"8.25": "--ignore-missing", "8.30": "-z|--zero"},
    "md5sum": {"8.25": "--ignore-missing", "8.30": "-z|--zero"},
    "cksum": {"9.0": "-a*|--algorithm*|--check|--debug"},
    "head": {"8.25": "-z|--zero-terminated"},
    "tail": {"8.25": "-z|--zero-terminated", "9.5": "--debug"},
    "cut": {"8.25": "-z|--zero-terminated"},
    "comm": {"8.25": "-z|--zero-terminated", "8.26": "--total"},
    "paste": {"8.25": "-z|--zero-terminated"},
    "wc": {"9.1": "--total*"},
    "tee": {"8.24": "-p|--output-error*"},
    "od": {"8.23": "--endian=*"},
    "split": {"8.24": "-t|--separator=*", "8.28": "-x|--hex-suffixes*"},
    "date": {"8.26": "--debug|+*%q*", "9.1": "--resolution"},
    "dd": {
        "8.24": "status=progress", "9.1": "iseek=*|oseek=*|count=*B|skip=*B|seek=*B|bs=*B",
    },
    "sync": {"8.24": "-*|./*|/*"},
    "env": {
        "8.28": "-C*|--chdir*", "8.30": "-S*|--split-string*|-v|--debug",
        "8.31": "--default-signal*|--ignore-signal*|--block-signal*|--list-signal-handling", "9.5": "-a|--argv0*",
    },
    "id": {},
    "stat": {"8.32": "--cached=*"},
    "ls": {"8.28": "--hyperlink*", "8.32": "--time=birth|--time=creation", "9.0": "--zero|--sort=width|--classify=*"},
    "timeout": {"8.29": "-v|--verbose", "9.6": "-f|-p"},
    "rm": {"8.30": "--preserve-root=*"},
    "cp": {"8.30": "--reflink=never", "9.2": "--debug", "9.3": "--update=*", "9.5": "--keep-directory-symlink"},
    "mv": {"9.2": "--debug", "9.3": "--update=*", "9.5": "--no-copy|--exchange"},
    "chmod": {"9.5": "-h|--no-dereference|--dereference"},
    "chown": {},
    "chgrp": {"9.4": "--from=*"},
    "readlink": {"9.7": "-E"},
    "base64": {}, "mktemp": {}, "mkdir": {}, "truncate": {}, "touch": {}, "ln": {}, "rmdir": {},
}  # fmt: skip
GONE = ("basenc", "b2sum", "python3")
"""Programs that were not there: of coreutils 8.31 and 8.26, and one that CentOS 7 did not come with."""


def older(tool: str) -> str:
    """Return a script that is this machine's tool, but for what came later, which it refuses as the old one did."""
    patterns = "|".join(patterns for patterns in SINCE[tool].values() if patterns)
    refusing = f"""\
for option; do
  case $option in
    --) break ;;
    {patterns})
      case $option in
        -?) echo "{tool}: invalid option -- '${{option#-}}'" >&2 ;;
        *) echo "{tool}: unrecognized option '$option'" >&2 ;;
      esac
      echo "Try '{tool} --help' for more information." >&2
      exit {64 if tool == "tar" else 1} ;;
  esac
done
"""
    # Up to 8.23 sync had no operands: it said so, and wrote everything back.
    ignoring = 'if [ $# -gt 0 ]; then echo "sync: ignoring all arguments" >&2; fi\nexec {real}\n'
    body = ignoring if tool == "sync" else (refusing if patterns else "") + 'exec {real} "$@"\n'
    return "#!/bin/sh\n" + body.replace("{real}", str(shutil.which(tool, path="/usr/bin:/bin")))


BUSYBOX = ("find", "stat", "sha256sum")
ODD = ("plain", "-rf", "--help", "-C", "a\\n", "back\\\\slash", "new\nline", "a b", "[x]*", "caf\u00e9")


def put(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def install(tools: str, directory: Path) -> None:
    """Put a set of tools into a directory."""
    directory.mkdir()
    if tools == "tar 1.26":
        put(directory / "tar", older("tar"))
    elif tools == "2014":
        for tool in SINCE:
            put(directory / tool, older(tool))
        for tool in GONE:
            put(directory / tool, f'#!/bin/sh\necho "sh: {tool}: command not found" >&2\nexit 127\n')
    else:
        ensure_installed({"busybox": "busybox"}, lambda _: None)
        for tool in BUSYBOX:
            (directory / tool).symlink_to(program("busybox"))


TOOLS = ("tar 1.26", "2014", "busybox")


async def do(session: Session, operation: type[Operation], **given: Any) -> Any:
    given = {name: os.fsdecode(value) if isinstance(value, Path) else value for name, value in given.items()}
    return await operation(operation.Parameters.model_validate(given), Limits(1024 * 1024)).run(session)


def names(archive: Path) -> set[str]:
    with tarfile.open(archive) as opened:
        return {name.removeprefix("./") for name in opened.getnames()}


async def looking(session: Session, place: Path) -> None:
    found, real = await do(session, Stat, path=place / "old"), os.stat(place / "old")
    assert (found.size, found.ino, found.mtime) == (len(OLD), real.st_ino, int(real.st_mtime))
    assert len((await do(session, Checksum, path=place / "old")).checksum) == 64
    for operation in (Stat, Checksum):
        with pytest.raises(PathNotFound, match="No such file or directory"):
            await do(session, operation, path=place / "none")


async def packing(session: Session, place: Path) -> None:
    tree = place / "tree"
    tree.mkdir()
    for name in ODD:
        (tree / name).write_text(name)
    await do(session, Compress, path=tree, targetPath=place / "all.tar.gz")
    assert names(place / "all.tar.gz") == {"tree", *(f"tree/{name}" for name in ODD)}
    await do(session, Compress, path=tree, targetPath=place / "some.tar.gz", matchPattern=r"\./[ab].*")
    assert names(place / "some.tar.gz") == {"a\\n", "back\\\\slash", "a b"}
    for name in ODD:
        await do(session, Compress, path=tree / name, targetPath=place / "one.tar.gz")
        assert names(place / "one.tar.gz") == {name}
    with pytest.raises(BadRequest):
        await do(session, Compress, path=tree, targetPath=place / "bad.tar.gz", matchPattern=r"\(")
    (place / "to").mkdir()
    (place / "to").chmod(0o777)
    await do(session, Extract, path=place / "all.tar.gz", targetPath=place / "to")
    assert {path.name for path in (place / "to/tree").iterdir()} == set(ODD)


class Lent:
    """Lends one session."""

    def __init__(self, session: Session) -> None:
        self._session = session

    @asynccontextmanager
    async def lease_bulk(self, principal: Principal, size: int | None = None) -> AsyncIterator[Session]:
        yield self._session


async def streaming(session: Session, place: Path) -> None:
    who = principal(place.owner())
    for kind in (Format.tar, Format.zip):
        async with packed(Lent(session), who, os.fsencode(place / "tree"), kind, skip_unreadable=False) as archive:  # type: ignore[arg-type]
            content = b"".join([block async for block in archive])
        assert content
        if kind is Format.tar:
            (place / "stream.tar").write_bytes(content)
    assert names(place / "stream.tar") == {"tree", *(f"tree/{name}" for name in ODD)}

    async def blocks() -> AsyncIterator[bytes]:
        yield (place / "stream.tar").read_bytes()

    for _ in range(2):  # into a new directory, and into one that is there
        await unpack(session, os.fsencode(place / "unpacked"), blocks(), limit=None)
    assert {path.name for path in (place / "unpacked/tree").iterdir()} == set(ODD)


MORE: Iterable[Callable[[Session, Path], Awaitable[None]]] = (looking, packing, streaming)


@pytest.mark.parametrize("files", ["sftp", "commands"])
@pytest.mark.parametrize("tools", TOOLS)
async def test_tools_of_another_time(
    make_pool: MakePool, sshd: Sshd, nodes: LoginNodes, tools: str, files: str, tmp_path: Path
) -> None:
    directory = nodes.directory / f"old tools {tools} {files}"
    install(tools, directory)
    timeout = {"command_execution": 60}
    pool = make_pool(sshd, files=files, helper=False, start_up_timeout=60, timeout=timeout)
    with Account(nodes) as account:
        account.starts_with(f"PATH={shlex.quote(str(directory))}:$PATH")
        account.place.chmod(0o777)
        async with pool.lease(principal(account.user)) as session:
            for operation in (*VERBS.values(), *MORE):
                await operation(session, account.place)
            # They are what was used.
            where = await session.run(["sh", "-c", f"command -v {min(os.listdir(directory))}"])
            assert str(directory).encode() in where.stdout


def test_a_job_packs_by_tar_1_26(tmp_path: Path) -> None:
    install("tar 1.26", tmp_path / "bin")
    place = tmp_path / "place"
    (place / "tree").mkdir(parents=True)
    for name in ODD:
        (place / "tree" / name).write_text(name)
    sh = Sh("sh", place, ordinary=False)
    path = f"{tmp_path}/bin:{os.environ['PATH']}"
    for name in ("tree", *(f"tree/{name}" for name in ODD)):
        ended = sh.run(asked.compress(f"{place}/{name}", f"{place}/archive"), PATH=path)
        assert ended.succeeded, ended
        assert {f"tree/{found}" for found in names(place / "archive")} >= {name} or name in names(place / "archive")
    ended = sh.run(asked.extract(f"{place}/archive", str(place)), PATH=path)
    assert ended.succeeded, ended
