"""Whole files of any size into a real cluster: at once, on disk, under conditions, or not at all."""

import base64
import hashlib
import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from hpcgate.demo.cluster import Cluster, Gateway
from tests.cluster.streaming import LARGE, SYSTEMS, begun, etag_of, make, memory, names, place, token, wait_until
from tests.cluster.test_api_errors import assert_problem
from tests.people import Person

__all__ = ["place"]


def put(person: Person, path: Path | str, content: object, system: str = "demo", **headers: str) -> httpx.Response:
    return person.http.put(
        f"/filesystem/{system}/files/content",
        params={"path": str(path)},
        content=content,  # type: ignore[arg-type]
        headers={name.replace("_", "-"): value for name, value in headers.items()},
    )


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("size", [0, 1, 255 * 1024, len(LARGE)])
def test_whole_files(alice: Person, place: Path, system: str, size: int) -> None:
    """A file is uploaded whole, and its tag is in the answer."""
    path = place / "a file"
    made = put(alice, path, LARGE[:size], system)
    assert made.status_code == 201, made.text
    assert made.headers["etag"] == etag_of(path)
    assert path.read_bytes() == LARGE[:size]
    assert path.stat().st_uid == alice.user.uid
    path.chmod(0o751)
    replaced = put(alice, path, iter([LARGE[:100], b"", LARGE[100:1000]]), system)
    assert replaced.status_code == 204
    assert replaced.headers["etag"] == etag_of(path) != made.headers["etag"]
    assert path.read_bytes() == LARGE[:1000]
    assert path.stat().st_mode & 0o777 == 0o751
    assert names(place) == ["a file"]


@pytest.mark.parametrize("system", SYSTEMS)
def test_what_cannot_be_written(alice: Person, place: Path, system: str) -> None:
    assert_problem(put(alice, place, b"x", system), 400, "Is a directory")
    assert_problem(put(alice, place / "no/file", b"x", system), 404, "No such file or directory")
    make(alice, place / "file", b"x")
    assert_problem(put(alice, place / "file/below", b"x", system), 400, "Not a directory")
    alice.run("mkdir", "-m", "555", str(place / "closed"))
    assert_problem(put(alice, place / "closed/file", b"x", system), 403, "Permission denied")
    assert_problem(put(alice, "/etc/hpcgate-test", b"x", system), 400, "file system")
    assert_problem(put(alice, place / "x", b"x", system, content_encoding="gzip"), 415)
    assert_problem(put(alice, place / "x", b"x", system, content_range="bytes 0-0/10"), 400, "Content-Range")
    assert names(place) == ["closed", "file"]


@pytest.mark.parametrize("system", SYSTEMS)
def test_how_a_file_is_replaced(alice: Person, place: Path, system: str) -> None:
    make(alice, place / "file", b"old")
    os.link(place / "file", place / "other")
    content, upload = f"/filesystem/{system}/files/content", f"/filesystem/{system}/ops/upload"
    file = str(place / "file")
    new = alice.http.put(content, params={"path": file, "replace": "in-place"}, content=b"new")
    assert new.status_code == 204, new.text
    assert new.headers["etag"] == etag_of(place / "file")
    assert (place / "other").read_bytes() == b"new"
    params, files = {"path": str(place), "replace": "in-place"}, {"file": ("file", b"newer")}
    assert alice.http.post(upload, params=params, files=files).status_code == 204
    assert (place / "other").read_bytes() == b"newer"
    answer = alice.http.put(
        content, params={"path": file, "replace": "in-place"}, content=b"", headers={"If-Match": '"x"'}
    )
    assert_problem(answer, 412)
    alice.run("chmod", "555", str(place))
    assert alice.http.put(content, params={"path": file}, content=b"newest").status_code == 204
    assert_problem(alice.http.put(content, params={"path": file, "replace": "atomic"}, content=b"x"), 403, "Permission")
    alice.run("chmod", "755", str(place))
    assert (place / "other").read_bytes() == b"newest"
    assert names(place) == ["file", "other"]
    odd = alice.http.put(content, params={"path": file, "replace": "some"}, content=b"x")
    assert (odd.status_code, odd.json()["data"]["fields"][0]["name"]) == (400, "replace")


def test_a_refused_body_is_not_waited_for(gateway: Gateway, alice: Person, place: Path) -> None:
    target = f"/filesystem/demo/files/content?path={place}"
    with begun(gateway, alice, "PUT", target, "Content-Length: 3000000000\r\n") as raw:
        # The rest never comes.
        raw.sendall(LARGE[:1_000_000])
        answer = b""
        while b"Is a directory" not in answer:
            block = raw.recv(65536)
            assert block, answer
            answer += block
    assert answer.startswith(b"HTTP/1.1 400 ")


def test_refusals_come_before_the_body(gateway: Gateway, alice: Person, place: Path) -> None:
    for path, words in ((place, b"400"), (place / "no/file", b"404")):
        target = f"/filesystem/demo/files/content?path={path}"
        with begun(gateway, alice, "PUT", target, "Content-Length: 1000000000\r\nExpect: 100-continue\r\n") as raw:
            assert raw.recv(100).split()[1] == words
    target = f"/filesystem/demo/files/content?path={place}/file"
    with begun(gateway, alice, "PUT", target, "Content-Length: 1\r\nExpect: 100-continue\r\n") as raw:
        assert raw.recv(100).split()[1] == b"100"
        raw.sendall(b"x")
        assert raw.recv(100).split()[1] == b"201"


@pytest.mark.parametrize("system", SYSTEMS)
def test_conditions(alice: Person, place: Path, system: str) -> None:
    """An upload replaces only what the conditions of the request allow."""
    path = place / "file"
    assert_problem(put(alice, path, b"x", system, if_match="*"), 412)
    made = put(alice, path, b"first", system, if_none_match="*")
    assert made.status_code == 201
    assert_problem(put(alice, path, b"x", system, if_none_match="*"), 412)
    assert_problem(put(alice, path, b"x", system, if_match='"x"'), 412)
    assert_problem(put(alice, path, b"x", system, if_none_match=made.headers["etag"]), 412)
    assert_problem(put(alice, path, b"x", system, if_unmodified_since="Thu, 01 Jan 1970 00:00:00 GMT"), 412)
    assert path.read_bytes() == b"first"
    second = put(alice, path, b"second", system, if_match=made.headers["etag"])
    assert second.status_code == 204
    assert_problem(put(alice, path, b"x", system, if_match=made.headers["etag"]), 412)
    assert put(alice, path, b"third", system, if_match=second.headers["etag"]).status_code == 204
    assert names(place) == ["file"]


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("how", ["nothing", "tag", "new"])
def test_racing_uploads(gateway: Gateway, alice: Person, place: Path, system: str, how: str) -> None:
    """Of uploads under the same condition exactly one succeeds."""
    path = place / "file"
    headers: dict[str, str] = {}
    if how == "tag":
        make(alice, path, b"old")
        headers = {"If-Match": etag_of(path)}
    elif how == "new":
        headers = {"If-None-Match": "*"}
    contents = [bytes([65 + number]) * 3_000_000 for number in range(4)]
    together = threading.Barrier(4)
    statuses: list[int] = []

    def body(content: bytes) -> Iterator[bytes]:
        yield content[:1_000_000]
        together.wait(120)
        yield content[1_000_000:]

    def upload(content: bytes) -> None:
        answer = httpx.put(
            f"{gateway.url}/filesystem/{system}/files/content",
            params={"path": str(path)},
            content=body(content),
            headers={"Authorization": token(alice), **headers},
            timeout=600,
        )
        statuses.append(answer.status_code)

    threads = [threading.Thread(target=upload, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_bytes() in contents
    assert names(place) == ["file"]
    if how == "nothing":
        assert sorted(statuses) in ([201, 204, 204, 204], [204, 204, 204, 204], [201, 201, 204, 204])
    else:
        winner = 204 if how == "tag" else 201
        assert statuses.count(winner) == 1
        assert set(statuses) - {winner} == {412}


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_tag_names_one_state_only(alice: Person, place: Path, system: str) -> None:
    path = place / "file"
    seen: set[str] = set()
    # Inodes that come free are used again, and all this is done within a second or two.
    for number in range(10):
        seen.add(put(alice, path, b"%04d" % number, system).headers["etag"])
        assert len(seen) == number + 1
        time.sleep(0.005)
    assert put(alice, path, b"lost", system, if_match=min(seen - {etag_of(path)})).status_code == 412
    path.write_bytes(b"9998")
    assert put(alice, path, b"lost", system, if_match=min(seen)).status_code == 412


@pytest.mark.parametrize("system", SYSTEMS)
def test_racing_uploads_by_different_paths(
    gateway: Gateway, alice: Person, bob: Person, place: Path, system: str
) -> None:
    alice.run("ln", "-s", ".", str(place / "again"))
    alice.run("ln", "-s", "file", str(place / "link"))
    place.chmod(0o777)
    # Both ways to one file, and both users.
    asked = [
        (alice, f"{place}/file"), (alice, f"{place}//file"), (alice, f"{place}/again/file"), (alice, f"{place}/link"),
        (bob, f"{place}/file"),
    ]  # fmt: skip
    for number in range(8):
        tag = put(alice, place / "file", b"%d" % number, system).headers["etag"]
        together = threading.Barrier(len(asked))
        statuses: list[int] = []

        def write(person: Person, path: str, tag: str, together: threading.Barrier, said: list[int]) -> None:
            headers = {"Authorization": token(person), "If-Match": tag}
            url = f"{gateway.url}/filesystem/{system}/files/content"
            together.wait()
            said.append(httpx.put(url, params={"path": path}, headers=headers, content=b"new").status_code)

        threads = [threading.Thread(target=write, args=(*one, tag, together, statuses)) for one in asked]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(statuses) == [204, 412, 412, 412, 412]


@pytest.mark.parametrize("system", SYSTEMS)
def test_racing_for_a_new_file_by_different_paths(gateway: Gateway, alice: Person, place: Path, system: str) -> None:
    alice.run("ln", "-s", ".", str(place / "again"))
    for _ in range(10):
        together = threading.Barrier(4)
        statuses: list[int] = []

        def write(path: str, together: threading.Barrier, said: list[int]) -> None:
            headers = {"Authorization": token(alice), "If-None-Match": "*"}
            url = f"{gateway.url}/filesystem/{system}/files/content"
            together.wait()
            said.append(httpx.put(url, params={"path": path}, headers=headers, content=b"new").status_code)

        paths = [f"{place}/file", f"{place}//file", f"{place}/again/file", f"{place}/./file"]
        threads = [threading.Thread(target=write, args=(path, together, statuses)) for path in paths]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(statuses) == [201, 412, 412, 412]
        (place / "file").unlink()


def test_headers_in_several_lines(gateway: Gateway, alice: Person, place: Path) -> None:
    path = make(alice, place / "file", b"old")

    def send(method: str, *lines: tuple[str, str]) -> int:
        url = f"{gateway.url}/filesystem/demo/files/content"
        headers = [("Authorization", token(alice)), *lines]
        content = b"new" if method == "PUT" else None
        return httpx.request(method, url, params={"path": str(path)}, headers=headers, content=content).status_code

    none = ("If-None-Match", '"x"')
    assert send("GET", none, ("If-None-Match", etag_of(path))) == 304
    assert send("PUT", none, ("If-None-Match", etag_of(path))) == 412
    right, wrong = (f"=:{base64.b64encode(hashlib.sha256(text).digest()).decode()}:" for text in (b"new", b"other"))
    assert send("PUT", ("Content-Digest", f"sha-256{right}"), ("Content-Digest", f"sha-256{wrong}")) == 400
    assert path.read_bytes() == b"old"
    assert send("PUT", ("If-Match", '"x"'), ("If-Match", etag_of(path))) == 204


@pytest.mark.parametrize("header", ["Content-Digest", "Repr-Digest"])
def test_digests(alice: Person, place: Path, header: str) -> None:
    """An upload with a wrong digest leaves the old file."""
    path = make(alice, place / "file", b"old")

    def field(algorithm: str, content: bytes) -> str:
        value = base64.b64encode(hashlib.new(algorithm.replace("-", ""), content).digest()).decode()
        return f"{algorithm}=:{value}:"

    name = header.lower().replace("-", "_")
    wrong = put(alice, path, LARGE, **{name: field("sha-256", b"other")})
    assert_problem(wrong, 400, "sha-256")
    assert path.read_bytes() == b"old"
    both = f"{field('sha-256', LARGE)}, {field('sha-512', b'other')}"
    assert_problem(put(alice, path, LARGE, **{name: both}), 400, "sha-512")
    assert_problem(put(alice, path, LARGE, **{name: "sha-256=nonsense"}), 400)
    assert_problem(put(alice, path, LARGE, **{name: "sha-256=:AAAA:"}), 400)
    assert names(place) == ["file"]
    assert path.read_bytes() == b"old"
    right = f"{field('sha-256', LARGE)}, {field('sha-512', LARGE)}, md5=:AAAA:"
    assert put(alice, path, LARGE, **{name: right}).status_code == 204
    assert path.read_bytes() == LARGE


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("framing", ["Content-Length: 50000000", "Transfer-Encoding: chunked"])
def test_a_client_that_vanishes(gateway: Gateway, alice: Person, place: Path, system: str, framing: str) -> None:
    path = make(alice, place / "file", b"old")
    target = f"/filesystem/{system}/files/content?path={path}"
    with begun(gateway, alice, "PUT", target, f"{framing}\r\n") as raw:
        block = LARGE[:1_000_000]
        for _ in range(5):
            raw.sendall(block if "Length" in framing else b"%x\r\n%s\r\n" % (len(block), block))
        assert wait_until(lambda: len(names(place)) == 2)
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    assert wait_until(lambda: names(place) == ["file"])
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_full_disk(cluster: Cluster, alice: Person, system: str) -> None:
    """A full disk is 507, and the old file stays."""
    disk = cluster.mount_tmpfs("8M", user=alice.user)
    make(alice, disk / "file", b"old")
    assert_problem(put(alice, disk / "file", LARGE, system), 507, "No space left on device")
    assert (disk / "file").read_bytes() == b"old"
    assert names(disk) == ["file"]


def test_a_login_node_that_dies(cluster: Cluster, alice: Person, place: Path) -> None:
    sshd = cluster.start_sshd()
    settings = [cluster.cluster_settings("dying", sshd=sshd, probing=None)]
    gateway = cluster.start_gateway(cluster.write_gateway_config(cluster.directory / "dying2.yaml", clusters=settings))
    path = make(alice, place / "file", b"old")
    url = f"{gateway.url}/filesystem/dying/files/content?path={path}"

    def body() -> Iterator[bytes]:
        for number in range(3000):
            if number == 5:
                sshd.stop()
            yield LARGE[:1_000_000]

    try:
        answer = httpx.put(url, content=body(), headers={"Authorization": token(alice)}, timeout=600)
        assert_problem(answer, 424)
        assert path.read_bytes() == b"old"
        sshd.start()
        answer = httpx.put(url, content=b"new", headers={"Authorization": token(alice)}, timeout=600)
        assert answer.status_code == 204
        assert path.read_bytes() == b"new"
    finally:
        gateway.stop()
        sshd.stop()


def test_limits_and_stalls(cluster: Cluster, alice: Person, place: Path) -> None:
    """An upload that is too large, or does not go on, is refused."""
    config = cluster.write_gateway_config(
        cluster.directory / "uploads.yaml", streams={"max_upload_size": 1000, "stall_timeout": 1}
    )
    gateway = cluster.start_gateway(config)
    target = f"/filesystem/demo/files/content?path={place}/file"
    headers = {"Authorization": token(alice)}
    try:
        exact = httpx.put(gateway.url + target, content=iter([b"x" * 1000]), headers=headers)
        assert exact.status_code == 201
        for content in (b"x" * 1001, iter([b"x" * 1000, b"x"])):
            assert_problem(httpx.put(gateway.url + target, content=content, headers=headers), 413)
        with begun(gateway, alice, "PUT", target, "Content-Length: 100\r\n") as raw:
            raw.sendall(b"x" * 50)
            assert raw.recv(100).split()[1] == b"408"
        assert wait_until(lambda: names(place) == ["file"])
        assert (place / "file").stat().st_size == 1000
    finally:
        gateway.stop()


def test_memory_stays_flat(gateway: Gateway, alice: Person, place: Path) -> None:
    """The gateway's memory does not grow by the size of an upload."""
    put(alice, place / "file", LARGE)
    before = memory(gateway.pid)
    most: list[int] = []

    def body() -> Iterator[bytes]:
        for _ in range(30):
            yield LARGE[:10_000_000]
            most.append(memory(gateway.pid))

    assert put(alice, place / "file", body()).status_code == 204
    assert max(most) - before < 40_000_000
    assert os.path.getsize(place / "file") == 300_000_000


def test_curl_uploads(gateway: Gateway, alice: Person, place: Path, tmp_path: Path) -> None:
    """curl uploads a file."""
    (tmp_path / "local").write_bytes(LARGE)
    url = f"{gateway.url}/filesystem/demo/files/content?path={place}/file"
    argv = ["curl", "-sS", "-f", "-T", str(tmp_path / "local"), "-H", f"Authorization: {token(alice)}", url]
    done = subprocess.run(argv, capture_output=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert (place / "file").read_bytes() == LARGE
