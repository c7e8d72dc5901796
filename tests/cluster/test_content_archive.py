"""Directories out of a real cluster as archives, and archives into it."""

import io
import os
import socket
import stat
import subprocess
import tarfile
import zipfile
from pathlib import Path

import httpx
import pytest

from hpcgate.demo.cluster import Cluster, Gateway
from tests.cluster.streaming import LARGE, SYSTEMS, begun, make, memory, names, place, token, wait_until
from tests.cluster.test_api_errors import assert_problem
from tests.filesystem.test_tar_stream import archive
from tests.people import Person

__all__ = ["place"]


def get(person: Person, path: Path | str, format: str = "tar", system: str = "demo", **more: str) -> httpx.Response:
    parameters = {"path": str(path), "format": format, **more}
    return person.http.get(f"/filesystem/{system}/files/archive", params=parameters)


def put(person: Person, path: Path | str, content: object, system: str = "demo") -> httpx.Response:
    parameters = {"path": str(path)}
    return person.http.put(f"/filesystem/{system}/files/archive", params=parameters, content=content)  # type: ignore[arg-type]


@pytest.fixture
def tree(alice: Person, place: Path) -> Path:
    """A directory with a little of everything."""
    top = place / "-a tree'"
    alice.run("mkdir", "-p", str(top / "dir/empty"))
    make(alice, top / "dir/large", LARGE)
    make(alice, top / "script $(id)\n", b"#!/bin/sh\n").chmod(0o755)
    make(alice, top / "empty", b"")
    alice.run("ln", "-s", "dir/large", str(top / "link"))
    alice.run("ln", str(top / "dir/large"), str(top / "hard"))
    return top


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("format", ["tar", "tar.gz"])
def test_tar(alice: Person, tree: Path, system: str, format: str) -> None:
    """A directory is downloaded as a tar archive."""
    answer = get(alice, tree, format, system)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == {"tar": "application/x-tar", "tar.gz": "application/gzip"}[format]
    assert f'filename="-a tree\'.{format}"' in answer.headers["content-disposition"]
    with tarfile.open(fileobj=io.BytesIO(answer.content)) as packed:
        found = {info.name.removeprefix("-a tree'").removeprefix("/"): info for info in packed}
        assert set(found) == {"", "dir", "dir/empty", "dir/large", "script $(id)\n", "empty", "link", "hard"}
        member = packed.extractfile(found["dir/large"])
        assert member is not None
        assert member.read() == LARGE
        assert found["script $(id)\n"].mode == 0o755
        assert found["link"].linkname == "dir/large"


@pytest.mark.parametrize("system", SYSTEMS)
def test_zip(alice: Person, tree: Path, system: str, tmp_path: Path) -> None:
    """A directory is downloaded as a zip archive, without what is neither file, directory nor link."""
    alice.run("mkfifo", str(tree / "fifo"))
    answer = get(alice, tree, "zip", system)
    assert answer.headers["content-type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(answer.content)) as packed:
        assert packed.testzip() is None
        assert packed.read("-a tree'/dir/large") == LARGE
        assert packed.read("-a tree'/hard") == LARGE
        assert packed.getinfo("-a tree'/script $(id)\n").external_attr >> 16 == stat.S_IFREG | 0o755
        assert "-a tree'/dir/empty/" in packed.namelist()


def test_one_file_and_a_link_to_a_directory(alice: Person, place: Path, tree: Path) -> None:
    alice.run("ln", "-s", str(tree), str(place / "latest"))
    with tarfile.open(fileobj=io.BytesIO(get(alice, place / "latest").content)) as packed:
        assert "-a tree'/dir/large" in packed.getnames()
    with tarfile.open(fileobj=io.BytesIO(get(alice, tree / "empty").content)) as packed:
        assert packed.getnames() == ["empty"]


@pytest.mark.parametrize("system", SYSTEMS)
def test_what_cannot_be_packed(alice: Person, place: Path, tree: Path, system: str) -> None:
    assert_problem(get(alice, place / "missing", system=system), 404, "No such file or directory")
    assert_problem(get(alice, "/etc", system=system), 400, "file system")
    assert_problem(get(alice, tree, "rar", system=system), 400, kind="validation")
    (tree / "empty").chmod(0)
    for format in ("tar", "tar.gz", "zip"):
        # Something is missing: the answer is cut, not ended as if whole.
        with pytest.raises(httpx.RemoteProtocolError):
            get(alice, tree, format, system)
    with tarfile.open(fileobj=io.BytesIO(get(alice, tree, system=system, skipUnreadable="true").content)) as packed:
        assert "-a tree'/hard" in packed.getnames()
        assert "-a tree'/empty" not in packed.getnames()


@pytest.mark.parametrize("words", ["few", "many"])
def test_a_file_that_shrinks_meanwhile(gateway: Gateway, alice: Person, place: Path, words: str) -> None:
    for number in range(400 if words == "many" else 1):
        make(alice, place / f"{'x' * 200}{number}", b"").chmod(0)
    alice.run("mkdir", str(place / "below"))
    alice.run("truncate", "-s", "200M", str(place / "below/large"))
    target = f"/filesystem/demo/files/archive?path={place}&skipUnreadable=true"
    with begun(gateway, alice, "GET", target, "Connection: close\r\n") as raw:
        received = b""
        taken = 0
        while taken < 2_000_000:
            taken += len(raw.recv(1 << 16))
        alice.run("truncate", "-s", "1M", str(place / "below/large"))
        while block := raw.recv(1 << 20):
            received = (received + block)[-100:]
    assert not received.endswith(b"0\r\n\r\n")


def test_memory_stays_flat_and_the_client_may_leave(gateway: Gateway, alice: Person, place: Path) -> None:
    alice.run("truncate", "-s", "3G", str(place / "huge"))
    before = memory(gateway.pid)
    for format in ("tar", "zip"):
        with begun(gateway, alice, "GET", f"/filesystem/demo/files/archive?path={place}&format={format}") as raw:
            taken, most = 0, 100_000_000 if format == "tar" else 300_000
            while taken < most:
                taken += len(raw.recv(1 << 20))
            wait_until(lambda: False, 0.5)
            assert memory(gateway.pid) - before < 50_000_000

        def running() -> bool:
            argv = ["pgrep", "-u", alice.user.name, "-x", "tar"]
            return alice.cluster.as_user(alice.user, argv, check=False).returncode == 0

        assert wait_until(lambda: not running())


def test_a_login_node_that_dies(cluster: Cluster, alice: Person, place: Path) -> None:
    sshd = cluster.start_sshd()
    settings = [cluster.cluster_settings("dying", sshd=sshd, probing=None)]
    gateway = cluster.start_gateway(cluster.write_gateway_config(cluster.directory / "dying3.yaml", clusters=settings))
    alice.run("truncate", "-s", "3G", str(place / "huge"))
    try:
        with begun(gateway, alice, "GET", f"/filesystem/dying/files/archive?path={place}") as raw:
            received = raw.recv(1 << 16)
            sshd.stop()
            while block := raw.recv(1 << 20):
                received = block
            assert not received.endswith(b"0\r\n\r\n")
    finally:
        gateway.stop()
        sshd.stop()


# Into the cluster


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("format", ["tar", "tar.gz"])
def test_there_and_back(alice: Person, place: Path, tree: Path, system: str, format: str) -> None:
    """A directory that is downloaded and uploaded is the same."""
    packed = get(alice, tree, format, system).content
    made = put(alice, place / "new", packed, system)
    assert made.status_code == 201, made.text
    again = place / "new" / tree.name
    assert (again / "dir/large").read_bytes() == LARGE
    assert (again / "hard").stat().st_ino == (again / "dir/large").stat().st_ino
    assert os.readlink(again / "link") == "dir/large"
    assert (again / "script $(id)\n").stat().st_mode & 0o777 == 0o755
    assert (again / "dir/empty").is_dir()
    assert (again / "dir").stat().st_uid == alice.user.uid
    assert names(place) == sorted([tree.name, "new"])


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("name", ["a\\tb", "c\\101", "d\\\\", "\\n"])
def test_a_backslash_is_no_escape(alice: Person, place: Path, system: str, name: str) -> None:
    twin = place / name.encode().decode("unicode_escape")
    alice.run("mkdir", str(place / name), str(twin))
    make(alice, place / name / "file", b"right")
    make(alice, twin / "file", b"wrong")
    with tarfile.open(fileobj=io.BytesIO(get(alice, place / name, system=system).content)) as packed:
        member = packed.extractfile(f"{name}/file")
        assert member is not None
        assert member.read() == b"right"
    assert put(alice, place / name, archive(("file", "new", b"new")), system).status_code == 204
    assert (names(place / name), names(twin)) == (["file", "new"], ["file"])


@pytest.mark.parametrize("system", SYSTEMS)
def test_what_cannot_be_merged_in_one_place_is_not_merged_in_others(alice: Person, place: Path, system: str) -> None:
    alice.run("mkdir", "-p", str(place / "n/directory/full"), str(place / "n/shut"))
    alice.run("ln", "-s", "directory", str(place / "n/link"))
    (place / "n/shut").chmod(0o555)
    for name in ("a", "z", "n/a", "n/file"):
        make(alice, place / name, b"old")
    rest = [("file", name, b"new") for name in ("a", "m", "z", "n/a", "n/m", "n/z", "0/new")]
    before = {str(path): path.lstat().st_ino for path in place.rglob("*")}
    for name in ("n/directory", "n/shut/x", "n/file/x", "n/link/x"):
        assert put(alice, place, archive(*rest, ("file", name, b"new")), system).status_code in (400, 403)
        assert {str(path): path.lstat().st_ino for path in place.rglob("*")} == before, name
    harmless = [("directory", "n/shut", b""), ("file", "n/link", b"new")]
    assert put(alice, place, archive(*rest, *harmless), system).status_code == 204
    assert {(place / name).read_bytes() for name in ("a", "m", "z", "n/a", "n/m", "n/z", "0/new", "n/link")} == {b"new"}
    alice.run("chmod", "755", str(place / "n/shut"))


@pytest.mark.parametrize("system", SYSTEMS)
def test_merging(alice: Person, place: Path, system: str) -> None:
    """An uploaded archive is merged into the directory that is there."""
    top = place / "top"
    alice.run("mkdir", "-p", str(top / "dir/kept"))
    make(alice, top / "dir/old", b"old")
    make(alice, top / "dir/both", b"old")
    make(alice, top / "both", b"old")
    alice.run("chmod", "751", str(top))
    content = archive(
        ("directory", "./", b""), ("file", "./both", b"new"), ("directory", "dir", b""),
        ("file", "dir/both", b"new"), ("file", "dir/new", b"new"), ("file", "sub/dir/new", b"new"),
    )  # fmt: skip
    assert put(alice, top, content, system).status_code == 204
    assert {str(path.relative_to(top)): path.read_bytes() for path in top.rglob("*") if path.is_file()} == {
        "both": b"new",
        "dir/both": b"new",
        "dir/new": b"new",
        "dir/old": b"old",
        "sub/dir/new": b"new",
    }
    assert (top / "dir/kept").is_dir()
    assert top.stat().st_mode & 0o777 == 0o751
    # A link in the place of a directory is not followed.
    alice.run("mkdir", str(place / "elsewhere"))
    alice.run("ln", "-s", "../elsewhere", str(top / "trap"))
    refused = put(alice, top, archive(("file", "trap/x", b"x")), system)
    assert refused.status_code == 400, refused.text
    assert names(place / "elsewhere") == []
    assert names(place) == ["elsewhere", "top"]
    assert names(top) == ["both", "dir", "sub", "trap"]


def zipped() -> bytes:
    """Return a zip archive, which gateways make but do not take: what tells what it holds comes last."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("file", b"x" * 2000)
    return content.getvalue()


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize(
    "bad",
    [
        archive(("file", "fine", b"x"), ("file", "../escaped", b"x")),
        archive(("file", "fine", b"x"), ("file", "/tmp/hpcgate-escaped", b"x")),
        archive(("file", "fine", b"x"), ("symlink", "l", "/etc"), ("file", "l/x", b"x")),
        archive(("file", "fine", b"x"), ("fifo", "pipe", b"")),
        archive(("file", "fine", b"x" * 100_000))[:50_000],
        archive(("file", "fine", b"x"))[:1024],
        b"no archive at all" * 100,
        b"\x1f\x8b no gzip at all" * 100,
        b"",
        zipped(),
    ],
    ids=["dots", "absolute", "link", "fifo", "cut", "no end", "noise", "gzip noise", "empty", "zip"],
)
def test_archives_that_are_refused(alice: Person, place: Path, bad: bytes, system: str) -> None:
    alice.run("mkdir", str(place / "old"))
    for target in (place / "old", place / "new"):
        answer = put(alice, target, bad, system)
        assert_problem(answer, 400)
    assert names(place) == ["old"]
    assert names(place / "old") == []
    assert not Path("/tmp/hpcgate-escaped").exists()


@pytest.mark.parametrize("system", SYSTEMS)
def test_where_nothing_can_be_unpacked(alice: Person, cluster: Cluster, place: Path, system: str) -> None:
    content = archive(("file", "large", LARGE))
    assert_problem(put(alice, place / "no/where", content, system), 404, "No such file or directory")
    assert_problem(put(alice, "/etc/x", content, system), 400, "file system")
    make(alice, place / "file", b"x")
    assert_problem(put(alice, place / "file", content, system), 400, "Not a directory")
    alice.run("mkdir", "-m", "555", str(place / "closed"))
    assert_problem(put(alice, place / "closed", content, system), 403, "Permission denied")
    disk = cluster.mount_tmpfs("8M", user=alice.user)
    assert_problem(put(alice, disk, content, system), 507, "No space left on device")
    assert names(disk) == []
    assert names(place) == ["closed", "file"]


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_client_that_vanishes(gateway: Gateway, alice: Person, place: Path, system: str) -> None:
    content = archive(*[("file", f"file{number}", bytes(100_000)) for number in range(100)])
    target = f"/filesystem/{system}/files/archive?path={place}/new"
    with begun(gateway, alice, "PUT", target, f"Content-Length: {len(content)}\r\n") as raw:
        raw.sendall(content[:5_000_000])
        assert wait_until(lambda: len(names(place)) == 1)
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    assert wait_until(lambda: names(place) == [])


def test_curl_and_tar(gateway: Gateway, alice: Person, place: Path, tree: Path, tmp_path: Path) -> None:
    """The two lines that the documentation gives."""
    (tmp_path / "local").mkdir()
    (tmp_path / "local/file").write_bytes(LARGE)
    url = f"{gateway.url}/filesystem/demo/files/archive"
    header = f"Authorization: {token(alice)}"
    up = f"tar -cz local | curl -sSf -T - -H '{header}' '{url}?path={place}/up'"
    subprocess.run(["sh", "-c", up], cwd=tmp_path, check=True, timeout=300)
    assert (place / "up/local/file").read_bytes() == LARGE
    down = f"curl -sSf -H '{header}' '{url}?path={place}/up&format=tar.gz' | tar -xz"
    subprocess.run(["sh", "-c", down], cwd=tmp_path, check=True, timeout=300)
    assert (tmp_path / "up/local/file").read_bytes() == LARGE
