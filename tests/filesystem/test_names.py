"""Any file name goes through everything and comes back as it was."""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from hpcgate.demo.sshd import Sshd
from hpcgate.filesystem.base import Limits
from hpcgate.filesystem.checksum import Checksum
from hpcgate.filesystem.chmod import Chmod
from hpcgate.filesystem.chown import Chown
from hpcgate.filesystem.compress import Compress
from hpcgate.filesystem.extract import Extract
from hpcgate.filesystem.file_type import FileType
from hpcgate.filesystem.head import Head
from hpcgate.filesystem.ls import Ls
from hpcgate.filesystem.mkdir import Mkdir
from hpcgate.filesystem.rm import Rm
from hpcgate.filesystem.stat import Stat
from hpcgate.filesystem.symlink import Symlink
from hpcgate.filesystem.view import View
from hpcgate.ssh.files.coreutils_errors import shown
from hpcgate.ssh.files.remote_path import encode_path
from hpcgate.ssh.pool import Pool
from hpcgate.ssh.session import Session
from tests.filesystem.remote import WAYS, Place
from tests.ssh.nodes import Keys, LoginNodes, principal, settings

LIMITS = Limits(1024 * 1024)
PIECES = (b"'", b'"', b" ", b"$(id)", b"`", b"\\", b"\n", b"-", b"\xff", b"*", b"~", b"!", b":", "é".encode(), b"a")
NAMES = st.one_of(
    st.lists(st.sampled_from(PIECES), min_size=1, max_size=8).map(b"".join),
    st.binary(min_size=1, max_size=255).map(lambda name: name.replace(b"\0", b"0").replace(b"/", b"_")),
).filter(lambda name: name not in (b".", b".."))


async def through_everything(session: Session, place: Place, name: bytes) -> None:
    async def do(operation: Any, **given: Any) -> Any:
        text = {key: os.fsdecode(value) if isinstance(value, bytes) else value for key, value in given.items()}
        asked = operation(operation.Parameters.model_validate(text), LIMITS)
        return await asked.run(session)

    async def content() -> AsyncIterator[bytes]:
        yield b"#!/bin/sh\n"

    path, other = place / name, place / "other"
    files = await session.files()
    assert await files.write(path, content()) == 10
    assert place.names() == sorted([name, b"other"])
    assert [entry.name for entry in await files.listing(path)] == [path]
    assert shown(name) in [file.name for file in await do(Ls, path=place / "", showHidden=True)]
    assert (await do(Stat, path=path)).ino == os.stat(path).st_ino
    assert await do(View, path=path) == "#!/bin/sh\n"
    assert (await do(Head, path=path, bytes=2)).content == "#!"
    assert (await do(FileType, path=path)).startswith("POSIX shell script")
    assert (await do(Checksum, path=path)).checksum
    assert (await do(Chmod, path=path, mode="640")).name == shown(path)
    assert (await do(Chmod, path=path, mode="u+x")).permissions == "rwxr-----"
    assert (await do(Chown, path=path, group=str(place.user.gid))).name == shown(path)
    assert (await do(Symlink, path=path, linkPath=other + b"/" + name)).link_target == shown(path)
    assert os.readlink(other + b"/" + name) == path
    assert (await do(Rm, path=other + b"/" + name)) is None
    assert (await do(Compress, path=path, targetPath=other + b"/" + name)) is None
    assert (await do(Rm, path=path)) is None
    assert (await do(Extract, path=other + b"/" + name, targetPath=place / "")) is None
    assert place.names() == sorted([name, b"other"])
    assert (await do(Rm, path=path)) is None
    assert (await do(Mkdir, path=path)).type == "d"
    assert (await do(Rm, path=other + b"/" + name)) is None
    inside = path + b"/" + name
    assert await files.write(inside, content()) == 10
    assert (await do(Compress, path=path, targetPath=other + b"/x", matchPattern=r"\./.*")) is None
    assert await do(Rm, path=inside) is None
    assert (await do(Extract, path=other + b"/x", targetPath=path)) is None
    # A dot of find's regular expressions matches a character: no newline, and no byte that is none in UTF-8.
    matched = b"\n" not in name and "\ufffd" not in shown(name)
    assert os.listdir(path) == ([name] if matched else [])
    names = {entry.name for entry in await files.listing(path + b"/", recursive=True)}
    assert names == ({name} if matched else set())
    assert encode_path(os.fsdecode(inside)) == inside
    assert await do(Rm, path=path) is None
    assert await do(Rm, path=other + b"/x") is None
    assert place.names() == [b"other"]


@pytest.mark.parametrize("way", WAYS)
def test_any_name(nodes: LoginNodes, sshd: Sshd, keys: Keys, way: Any) -> None:
    """Each operation takes any file name."""
    number = 0
    with asyncio.Runner() as runner:
        pool = Pool("demo", settings(sshd, **WAYS[way]), keys)

        async def one(name: bytes) -> None:
            nonlocal number
            number += 1
            path = Path(nodes.alice.home) / f"names-{way}-{number}"
            (path / "other").mkdir(parents=True)
            for made in (path, path / "other"):
                os.chown(made, nodes.alice.uid, nodes.alice.gid)
            try:
                async with asyncio.timeout(300), pool.lease(principal(nodes.alice)) as session:
                    await through_everything(session, Place(nodes.alice, path), name)
            finally:
                shutil.rmtree(os.fsencode(path))

        @hypothesis_settings(
            max_examples=8, deadline=None, database=None, suppress_health_check=list(HealthCheck), derandomize=True
        )
        @example(b'it\'s "$(id)" `id` \\n\n\xff')
        @example(b"-" * 255)
        @example(b"\xff" * 255)
        @example(b"\n")
        @given(NAMES.filter(lambda name: name != b"other"))
        def check(name: bytes) -> None:
            runner.run(one(name))

        try:
            check()
        finally:
            runner.run(pool.close())
