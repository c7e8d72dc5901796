"""Tools as old or as small as sites have them: the same comes of every operation.

Each line of the table is a set of tools that lies before the system's own on the user's PATH; each is crossed with the
operations that use commands, and with both ways to reach files. The tar is this machine's behind a script that takes
no option that GNU tar 1.26 does not know, and says so as that one does; those of busybox are busybox's.
"""

from __future__ import annotations

import os
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
from hpcgate.transfers import jobs
from tests.sites.operations import OLD, OPERATIONS
from tests.sites.test_start_up import Account
from tests.ssh.conftest import MakePool, make_pool, nodes, sshd
from tests.ssh.nodes import LoginNodes, principal
from tests.transfers.shells import Sh

__all__ = ["make_pool", "nodes", "sshd"]

# Options that came later (NEWS of GNU tar, 1.27 to 1.35).
NEWER = (
    "--acls|--no-acls|--selinux|--no-selinux|--xattrs*|--no-xattrs|--skip-old-files|--keep-directory-symlink|"
    "--one-top-level*|--sort=*|--owner-map=*|--group-map=*|--clamp-mtime|--hole-detection=*|--verbatim-files-from|"
    "--no-verbatim-files-from|--ignore-failed-read=*|--exclude-ignore*|--exclude-vcs-ignores|--zstd|--set-mtime-command=*"
)
TAR_1_26 = f"""\
#!/bin/sh
for option; do
  case $option in
    --) break ;;
    {NEWER})
      echo "tar: unrecognized option '$option'" >&2
      echo "Try \\`tar --help' or \\`tar --usage' for more information." >&2
      exit 64 ;;
  esac
done
exec /bin/tar "$@"
"""
BUSYBOX = ("find", "stat", "sha256sum")
ODD = ("plain", "-rf", "--help", "-C", "a\\n", "back\\\\slash", "new\nline", "a b", "[x]*", "caf\u00e9")


def install(tools: str, directory: Path) -> None:
    """Put a set of tools into a directory."""
    directory.mkdir()
    if tools == "tar 1.26":
        (directory / "tar").write_text(TAR_1_26)
        (directory / "tar").chmod(0o755)
    else:
        ensure_installed({"busybox": "busybox"}, lambda _: None)
        for tool in BUSYBOX:
            (directory / tool).symlink_to(program("busybox"))


TOOLS = ("tar 1.26", "busybox")


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
    pool = make_pool(sshd, files=files, helper=False, path=[str(directory)], timeout=timeout)
    with Account(nodes) as account:
        account.place.chmod(0o777)
        async with pool.lease(principal(account.user)) as session:
            for operation in (*OPERATIONS.values(), *MORE):
                await operation(session, account.place)


def test_a_job_packs_by_tar_1_26(tmp_path: Path) -> None:
    install("tar 1.26", tmp_path / "bin")
    place = tmp_path / "place"
    (place / "tree").mkdir(parents=True)
    for name in ODD:
        (place / "tree" / name).write_text(name)
    sh = Sh("sh", place, ordinary=False)
    path = f"{tmp_path}/bin:{os.environ['PATH']}"
    for name in ("tree", *(f"tree/{name}" for name in ODD)):
        ended = sh.run(jobs.compress(f"{place}/{name}", f"{place}/archive"), PATH=path)
        assert ended.succeeded, ended
        assert {f"tree/{found}" for found in names(place / "archive")} >= {name} or name in names(place / "archive")
    ended = sh.run(jobs.extract(f"{place}/archive", str(place)), PATH=path)
    assert ended.succeeded, ended
