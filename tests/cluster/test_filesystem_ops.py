"""Files over HTTP on the real cluster, by SFTP and by commands: what only the whole way shows."""

import itertools
import json
import os
import shutil
from collections.abc import Iterator
from operator import itemgetter
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.people import Person

SYSTEMS = ("demo", "commands")
_numbers = itertools.count()


@pytest.fixture
def place(alice: Person) -> Iterator[Path]:
    path = alice.user.home / f"ops-{next(_numbers)}"
    alice.run("mkdir", str(path))
    yield path
    shutil.rmtree(os.fsencode(path))


@pytest.fixture(params=SYSTEMS)
def ops(request: pytest.FixtureRequest) -> str:
    return f"/filesystem/{request.param}/ops"


def test_a_file_s_life(alice: Person, place: Path, ops: str) -> None:
    http = alice.http
    name = "it's $(id) `x` \\n\n-é"
    path = f"{place}/{name}"
    assert http.post(f"{ops}/mkdir", json={"path": f"{place}/a/b", "parent": True}).status_code == 201
    answer = http.post(f"{ops}/upload", params={"path": str(place)}, files={"file": ("plain", b"one\ntwo\n")})
    assert answer.status_code == 204
    os.rename(place / "plain", path)
    answer = http.get(f"{ops}/ls", params={"path": str(place)})
    (listed,) = [file for file in answer.json()["output"] if file["type"] == "-"]
    assert (listed["name"], listed["size"], listed["user"]) == (name, "8", alice.user.name)
    assert http.get(f"{ops}/stat", params={"path": path}).json()["output"]["ino"] == os.stat(path).st_ino
    assert http.get(f"{ops}/head", params={"path": path, "lines": 1}).json()["output"] == {
        "content": "one\n",
        "contentType": "lines",
        "startPosition": 0,
        "endPosition": 1,
    }
    assert http.get(f"{ops}/tail", params={"path": path, "bytes": 4}).json()["output"]["content"] == "two\n"
    assert http.get(f"{ops}/view", params={"path": path}).json() == {"output": "one\ntwo\n"}
    assert http.get(f"{ops}/download", params={"path": path}).content == b"one\ntwo\n"
    assert len(http.get(f"{ops}/checksum", params={"path": path}).json()["output"]["checksum"]) == 64
    assert http.get(f"{ops}/file", params={"path": path}).json()["output"] == "ASCII text"
    answer = http.put(f"{ops}/chmod", json={"sourcePath": path, "mode": "u+x,g-r"})
    assert answer.json()["output"]["permissions"] == "rwx---r--"
    answer = http.put(f"{ops}/chown", json={"source_path": path, "group": alice.user.groups[-1]})
    assert answer.json()["output"]["group"] == alice.user.groups[-1]
    answer = http.post(f"{ops}/symlink", json={"path": path, "linkPath": f"{place}/link"})
    assert (answer.status_code, answer.json()["output"]["linkTarget"]) == (201, path)
    for suffix, compression in (("gz", "gzip"), ("xz", "xz"), ("bz2", "bzip2"), ("tar", "none")):
        body = {"path": path, "targetPath": f"{place}/archive.{suffix}", "compression": compression}
        assert http.post(f"{ops}/compress", json=body).status_code == 204
        body = {"path": f"{place}/archive.{suffix}", "targetPath": f"{place}/a/b", "compression": compression}
        assert http.post(f"{ops}/extract", json=body).status_code == 204
        assert Path(f"{place}/a/b/{name}").read_bytes() == b"one\ntwo\n"
    answer = http.get(f"{ops}/ls", params={"path": f"{place}/a", "recursive": True})
    names = [file["name"] for file in answer.json()["output"]]
    assert names == ["b", f"b/{name}"]
    answer = http.delete(f"{ops}/rm", params={"path": str(place / "a")})
    assert (answer.status_code, answer.content) == (204, b"")
    assert not (place / "a").exists()


def test_a_large_listing_in_pages_and_in_lines(alice: Person, place: Path, ops: str) -> None:
    alice.run("touch", *(str(place / f"file {number:02}") for number in range(25)))
    whole = alice.http.get(f"{ops}/ls", params={"path": str(place)}).json()
    assert set(whole) == {"output"}
    found: list[str] = []
    cursor: dict[str, str | None] = {}
    for expected in (10, 10, 5):
        page = alice.http.get(f"{ops}/ls", params={"path": str(place), "limit": 10, **cursor}).json()
        assert len(page["output"]) == expected
        found += page["output"]
        cursor = {"cursor": page["nextCursor"]}
    assert (found, cursor) == (whole["output"], {"cursor": None})
    accept = {"Accept": "text/plain;q=0.5, application/x-ndjson"}
    answer = alice.http.get(f"{ops}/ls", params={"path": str(place)}, headers=accept)
    assert answer.headers["content-type"] == "application/x-ndjson"
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert sorted(lines, key=itemgetter("name")) == whole["output"]
    missing = alice.http.get(f"{ops}/ls", params={"path": f"{place}/none"}, headers=accept)
    assert (missing.status_code, "No such file" in missing.json()["message"]) == (404, True)
    mistakes: list[dict[str, str | int]] = [{"limit": 0}, {"cursor": "?"}, {"limit": 5, "cursor": "?"}]
    for wrong in mistakes:
        assert alice.http.get(f"{ops}/ls", params={"path": str(place), **wrong}).status_code == 400
    both = alice.http.get(f"{ops}/ls", params={"path": str(place), "limit": 5}, headers=accept)
    assert both.status_code == 400


def test_a_name_that_is_no_utf_8(alice: Person, place: Path, ops: str) -> None:
    path = os.fsencode(place) + b"/\xff\xfe"
    alice.run("touch", path)
    (file,) = alice.http.get(f"{ops}/ls", params={"path": str(place)}).json()["output"]
    assert file["name"] == "\ufffd\ufffd"
    answer = alice.http.get(f"{ops}/stat?path={quote(path)}")
    assert answer.json()["output"]["ino"] == os.stat(path).st_ino
    body = b'{"path": "%s/\\udcff\\udcfe", "mode": "600"}' % os.fsencode(place)
    answer = alice.http.put(f"{ops}/chmod", content=body, headers={"Content-Type": "application/json"})
    assert answer.json()["output"]["permissions"] == "rw-------"
    assert alice.http.get(f"{ops}/download?path={quote(path)}").status_code == 200
    directory = path + b".d"
    alice.run("mkdir", directory)
    answer = alice.http.post(f"{ops}/upload?path={quote(directory)}", files={"file": ("x", b"x")})
    assert answer.status_code == 204
    assert os.listdir(directory) == [b"x"]
    missing = alice.http.get(f"{ops}/stat?path={quote(path)}x")
    assert (missing.status_code, "'$'\\377\\376''x': No such file" in missing.json()["message"]) == (404, True)
    assert alice.http.delete(f"{ops}/rm?path={quote(directory)}").status_code == 204
    assert alice.http.delete(f"{ops}/rm?path={quote(path)}").status_code == 204
    assert os.listdir(place) == []
