"""The calls of the clients for files, held against the files themselves."""

import hashlib
import io
import os
import pwd
import stat
import subprocess
import tarfile
from collections.abc import Callable
from datetime import datetime
from grp import getgrgid
from pathlib import Path
from typing import Any, cast

import firecrest
import pytest

from tests.people import Person

Put = Callable[[Path, bytes], Path]
LINES = "".join(f"line {number}\n" for number in range(1, 21)).encode()
BELOW_DIRECT = firecrest.v2.Firecrest.MAX_DIRECT_UPLOAD_SIZE - 1
"""The largest file that the clients send and fetch without a transfer job, in bytes."""


def entry(path: Path, name: str, *, numeric: bool = False, dereference: bool = False) -> dict[str, Any]:
    """Return what a listing must say of a file."""
    found = path.stat() if dereference else path.lstat()
    mode = stat.filemode(found.st_mode)
    return {
        "name": name,
        "type": mode[0],
        "linkTarget": os.readlink(path) if mode[0] == "l" else None,
        "user": str(found.st_uid) if numeric else pwd.getpwuid(found.st_uid).pw_name,
        "group": str(found.st_gid) if numeric else getgrgid(found.st_gid).gr_name,
        "permissions": mode[1:],
        "lastModified": datetime.fromtimestamp(int(found.st_mtime)).isoformat(),
        "size": str(found.st_size),
    }


def told(*argv: str) -> str:
    """Return what a command of this machine prints."""
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


def by_name(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(entries, key=lambda item: str(item["name"]))


@pytest.fixture
def tree(place: Path, alice: Person, put: Put) -> Path:
    """A directory with a bit of everything in it."""
    tree = place / "tree"
    (tree / "sub").mkdir(parents=True)
    put(tree / "data.txt", LINES)
    put(tree / ".hidden", b"hidden")
    put(tree / 'it\'s a $(name) with "quotes"', b"")
    put(tree / "sub" / "inner.txt", b"inner")
    put(tree / "sub" / "inner.bin", bytes(range(256)))
    (tree / "link").symlink_to("data.txt")
    for path in (tree, tree / "sub", tree / "link"):
        os.chown(path, alice.user.uid, alice.user.gid, follow_symlinks=False)
    return tree


# Looking


@pytest.mark.parametrize(
    ("show_hidden", "numeric_uid", "dereference"),
    [(False, False, False), (True, False, False), (False, True, False), (False, False, True), (True, True, True)],
)
def test_list_files(
    client: Any, system: str, tree: Path, show_hidden: bool, numeric_uid: bool, dereference: bool
) -> None:
    """The client lists a directory."""
    listed = client.list_files(
        system, str(tree), show_hidden=show_hidden, numeric_uid=numeric_uid, dereference=dereference
    )
    wanted = [path for path in tree.iterdir() if show_hidden or not path.name.startswith(".")]
    assert by_name(listed) == by_name(
        [entry(path, path.name, numeric=numeric_uid, dereference=dereference) for path in wanted]
    )


@pytest.mark.parametrize("show_hidden", [False, True])
def test_list_files_recursively(client: Any, system: str, tree: Path, show_hidden: bool) -> None:
    """The client lists a tree."""
    listed = client.list_files(system, str(tree), recursive=True, show_hidden=show_hidden)
    wanted = [path for path in tree.rglob("*") if show_hidden or not path.name.startswith(".")]
    assert by_name(listed) == by_name([entry(path, str(path.relative_to(tree))) for path in wanted])


def test_list_one_file(client: Any, system: str, tree: Path) -> None:
    """The client lists a file as itself."""
    path = tree / "data.txt"
    assert client.list_files(system, str(path)) == [entry(path, str(path))]


@pytest.mark.parametrize("dereference", [False, True])
@pytest.mark.parametrize("name", ["data.txt", "link", "sub"])
def test_stat(client: Any, system: str, tree: Path, name: str, dereference: bool) -> None:
    """The client is told what stat tells."""
    answer = client.stat(system, str(tree / name), dereference=dereference)
    found = os.stat(tree / name, follow_symlinks=dereference)
    for field in ("mode", "ino", "dev", "nlink", "uid", "gid", "size", "mtime", "ctime"):
        assert answer[field] == int(getattr(found, f"st_{field}")), field
    assert isinstance(answer["atime"], int)


def test_file_type(client: Any, system: str, tree: Path) -> None:
    """The client is told the type of a file."""
    for path in (tree, tree / "data.txt", tree / "link"):
        assert client.file_type(system, str(path)) == told("file", "-b", str(path)).strip()


def test_checksum(client: Any, system: str, tree: Path) -> None:
    """The client is told the checksum of a file."""
    answer = client.checksum(system, str(tree / "sub" / "inner.bin"))
    assert answer == {"algorithm": "SHA256", "checksum": hashlib.sha256(bytes(range(256))).hexdigest()}


# Reading


def test_view(client: Any, system: str, place: Path, put: Put) -> None:
    """The client views the content of a file."""
    text = "grüezi\n$(id) 'quoted'\n\ttab\n" * 1000
    assert client.view(system, str(put(place / "text", text.encode()))) == text


@pytest.mark.parametrize(
    ("num_bytes", "num_lines", "exclude", "option", "end"),
    [
        (None, None, False, "-n10", 10),
        (None, 3, False, "-n3", 3),
        (None, 3, True, "-n-3", -3),
        (8, None, False, "-c8", 8),
        (8, None, True, "-c-8", -8),
        (None, 500, False, "-n500", 500),
    ],
)
def test_head(
    client: Any,
    system: str,
    place: Path,
    put: Put,
    num_bytes: int | None,
    num_lines: int | None,
    exclude: bool,
    option: str,
    end: int,
) -> None:
    """The client is given the beginning of a file."""
    path = str(put(place / "lines", LINES))
    answer = client.head(system, path, num_bytes=num_bytes, num_lines=num_lines, exclude_trailing=exclude)
    assert answer == {
        "content": told("head", option, path),
        "contentType": "bytes" if num_bytes else "lines",
        "startPosition": 0,
        "endPosition": end,
    }


@pytest.mark.parametrize(
    ("num_bytes", "num_lines", "exclude", "option", "start"),
    [
        (None, None, False, "-n10", 10),
        (None, 3, False, "-n3", -3),
        (None, 3, True, "-n+3", 3),
        (8, None, False, "-c8", -8),
        (8, None, True, "-c+8", 8),
        (None, 500, False, "-n500", -500),
    ],
)
def test_tail(
    client: Any,
    system: str,
    place: Path,
    put: Put,
    num_bytes: int | None,
    num_lines: int | None,
    exclude: bool,
    option: str,
    start: int,
) -> None:
    """The client is given the end of a file."""
    path = str(put(place / "lines", LINES))
    answer = client.tail(system, path, num_bytes=num_bytes, num_lines=num_lines, exclude_beginning=exclude)
    assert answer == {
        "content": told("tail", option, path),
        "contentType": "bytes" if num_bytes else "lines",
        "startPosition": start,
        "endPosition": -1,
    }


@pytest.mark.parametrize("size", [0, 4096, BELOW_DIRECT])
def test_download(client: Any, system: str, place: Path, put: Put, tmp_path: Path, size: int) -> None:
    """The client downloads a file."""
    content = os.urandom(size)
    source = put(place / "blank and 'quote'.bin", content)
    assert client.download(system, str(source), tmp_path / "fetched") is None
    assert (tmp_path / "fetched").read_bytes() == content


def test_download_to_a_path_as_text(client: Any, system: str, place: Path, put: Put, tmp_path: Path) -> None:
    client.download(system, str(put(place / "data", LINES)), str(tmp_path / "fetched"))
    assert (tmp_path / "fetched").read_bytes() == LINES


# Changing


@pytest.mark.parametrize("size", [0, 4096, BELOW_DIRECT])
def test_upload(client: Any, system: str, place: Path, alice: Person, tmp_path: Path, size: int) -> None:
    """The client uploads a file."""
    content = os.urandom(size)
    local = tmp_path / "local"
    local.write_bytes(content)
    assert client.upload(system, local, str(place), "blank and 'quote' é.bin") is None
    (target,) = place.iterdir()
    assert target.name == "blank and 'quote' é.bin"
    assert target.read_bytes() == content
    assert target.stat().st_uid == alice.user.uid


def test_upload_replaces_a_file(client: Any, system: str, place: Path, put: Put, tmp_path: Path) -> None:
    target = put(place / "data", b"old and longer than the new one")
    (tmp_path / "data").write_bytes(b"new")
    client.upload(system, str(tmp_path / "data"), str(place), "data")
    assert target.read_bytes() == b"new"
    assert list(place.iterdir()) == [target]


def test_upload_of_an_open_file(client: Any, system: str, place: Path, tmp_path: Path) -> None:
    if isinstance(client, firecrest.v2.Firecrest):
        client.upload(system, io.BytesIO(LINES), str(place), "data", file_size=len(LINES))
    else:
        # The asynchronous client takes paths alone.
        (tmp_path / "data").write_bytes(LINES)
        client.upload(system, tmp_path / "data", str(place), "data")
    assert (place / "data").read_bytes() == LINES


def test_chmod(client: Any, system: str, place: Path, put: Put) -> None:
    """The client changes the mode of a file."""
    path = put(place / "data", b"")
    answer = client.chmod(system, str(path), "640")
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert answer == entry(path, str(path))


def test_chown(client: Any, system: str, place: Path, put: Put, alice: Person) -> None:
    """The client changes the group of a file."""
    path = put(place / "data", b"")
    user = alice.user
    answer = client.chown(system, str(path), user.name, user.groups[1])
    assert (path.owner(), path.group()) == (user.name, user.groups[1])
    assert answer == entry(path, str(path))
    client.chown(system, str(path), owner=None, group=user.groups[0])
    assert path.group() == user.groups[0]


def test_mkdir(client: Any, system: str, place: Path, alice: Person) -> None:
    """The client makes a directory."""
    path = place / "new"
    answer = client.mkdir(system, str(path))
    assert path.is_dir()
    assert path.owner() == alice.user.name
    assert answer == entry(path, str(path))


def test_mkdir_with_parents(client: Any, system: str, place: Path) -> None:
    """The client makes a directory with those above it."""
    path = place / "a" / "b" / "c"
    with pytest.raises(firecrest.FirecrestException) as failure:
        client.mkdir(system, str(path))
    assert failure.value.responses[-1].status_code == 404
    client.mkdir(system, str(path), create_parents=True)
    client.mkdir(system, str(path), create_parents=True)
    assert path.is_dir()


def test_symlink(client: Any, system: str, place: Path, put: Put) -> None:
    """The client makes a symbolic link."""
    target, link = put(place / "data", LINES), place / "link"
    answer = client.symlink(system, str(target), str(link))
    assert os.readlink(link) == str(target)
    assert answer["output"] == entry(link, str(link))


def test_rm(client: Any, system: str, tree: Path) -> None:
    """The client removes files and trees."""
    assert client.rm(system, str(tree / "link")) is None
    assert not (tree / "link").is_symlink()
    assert (tree / "data.txt").exists()
    client.rm(system, str(tree))
    assert not tree.exists()


# Archives


@pytest.mark.parametrize(("compression", "form"), [("none", ""), ("gzip", "gz"), ("bzip2", "bz2"), ("xz", "xz")])
def test_compress_and_extract(
    client: Any, system: str, place: Path, tree: Path, alice: Person, compression: str, form: str
) -> None:
    """The client packs a tree and unpacks it elsewhere."""
    archive, target = place / "archive", place / "unpacked"
    client.compress(system, str(tree), str(archive), compression=compression)
    with tarfile.open(archive, cast("Any", f"r:{form}")) as contents:
        link = contents.getmember("tree/link")
        assert link.issym()
        assert link.linkname == "data.txt"
    client.mkdir(system, str(target))
    client.extract(system, str(archive), str(target), compression=compression)
    told("diff", "--recursive", "--no-dereference", str(tree), str(target / "tree"))
    assert (target / "tree" / "sub" / "inner.bin").read_bytes() == bytes(range(256))
    assert (target / "tree" / "data.txt").owner() == alice.user.name


def test_compress_follows_links(client: Any, system: str, place: Path, tree: Path, put: Put) -> None:
    """The client packs what links lead to if it asks for that."""
    (tree / "out").symlink_to(put(place / "elsewhere", b"from elsewhere"))
    client.compress(system, str(tree), str(place / "archive.tgz"), dereference=True)
    with tarfile.open(place / "archive.tgz", "r:gz") as contents:
        assert contents.getmember("tree/out").isreg()
        out = contents.extractfile("tree/out")
        assert out is not None
        assert out.read() == b"from elsewhere"


@pytest.mark.parametrize(("compression", "form"), [("none", ""), ("gzip", "gz"), ("bzip2", "bz2"), ("xz", "xz")])
def test_compress_what_matches(client: Any, system: str, place: Path, tree: Path, compression: str, form: str) -> None:
    """The client packs only the files that match a pattern."""
    archive = place / "archive"
    client.compress(system, str(tree), str(archive), match_pattern=r".*\.txt", compression=compression)
    with tarfile.open(archive, cast("Any", f"r:{form}")) as contents:
        files = [Path(member.name).name for member in contents if not member.isdir()]
    assert sorted(files) == ["data.txt", "inner.txt"]


def test_a_large_file_where_there_is_no_transfer_leads_to_the_request_that_takes_it(
    client: Any, system: str, place: Path, alice: Person, tmp_path: Path
) -> None:
    content = bytes(range(256)) * 24 * 1024  # more than max_ops_file_size
    (tmp_path / "large").write_bytes(content)
    with pytest.raises(firecrest.FirecrestException) as caught:
        client.upload(system, str(tmp_path / "large"), str(place), "large é&b", account="demo")
    answer = caught.value.responses[-1]
    assert answer.status_code == 400
    message = answer.json()["message"]
    assert message.startswith(f"Requested transfer method is not available. {system} offers none. ")
    method, _, url = message.rpartition(" as the body of ")[2].partition(" ")
    assert alice.http.request(method, url, content=content).status_code == 201
    assert (place / "large é&b").read_bytes() == content
    with pytest.raises(firecrest.FirecrestException) as caught:
        client.download(system, f"{place}/large é&b", str(tmp_path / "back"), account="demo")
    message = caught.value.responses[-1].json()["message"]
    method, _, url = message.rpartition(" as the body of ")[2].partition(" ")
    assert alice.http.request(method, url).content == content
