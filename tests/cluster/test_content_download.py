"""Files of any size out of a real cluster, by HTTP's own means and by clients that people use."""

import contextlib
import email
import email.policy
import os
import re
import subprocess
import threading
from email.utils import formatdate
from pathlib import Path
from typing import Any

import httpx
import pytest

from hpcgate.demo.cluster import Cluster, Gateway
from tests.cluster.streaming import LARGE, SYSTEMS, aria2c, begun, etag_of, make, memory, place, token, wait_until
from tests.cluster.test_api_errors import assert_problem
from tests.people import Person

__all__ = ["aria2c", "place"]


def content(person: Person, path: Path | str, system: str = "demo", **options: Any) -> httpx.Response:
    return person.http.get(f"/filesystem/{system}/files/content", params={"path": str(path)}, **options)


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("size", [0, 1, 255 * 1024, 1_000_000, len(LARGE)])
def test_whole_files(alice: Person, place: Path, system: str, size: int) -> None:
    """A file is downloaded whole, with its length, type and name."""
    path = make(alice, place / 'fïle "x".dat', LARGE[:size])
    answer = content(alice, path, system)
    assert answer.status_code == 200
    assert answer.content == LARGE[:size]
    assert answer.headers["content-length"] == str(size)
    assert answer.headers["accept-ranges"] == "bytes"
    assert answer.headers["content-type"] == "application/octet-stream"
    found = path.stat()
    assert answer.headers["etag"] == etag_of(path)
    assert answer.headers["last-modified"] == formatdate(int(found.st_mtime), usegmt=True)
    disposition = answer.headers["content-disposition"]
    assert disposition == "attachment; filename=\"f_le _x_.dat\"; filename*=UTF-8''f%C3%AFle%20%22x%22.dat"
    head = alice.http.head(f"/filesystem/{system}/files/content", params={"path": str(path)})
    assert head.status_code == 200
    assert head.content == b""
    for name in ("content-length", "etag", "last-modified", "content-disposition"):
        assert head.headers[name] == answer.headers[name]


@pytest.mark.parametrize("system", SYSTEMS)
def test_one_range(alice: Person, place: Path, system: str) -> None:
    """One range of a file is 206 with that part of it."""
    path = make(alice, place / "file", LARGE)
    total = len(LARGE)
    for asked, start, end in (
        ("0-0", 0, 1),
        ("5-1048580", 5, 1_048_581),
        ("19000000-", 19_000_000, total),
        ("-7", total - 7, total),
        (f"-{total * 2}", 0, total),
        (f"{total - 1}-{total + 100}", total - 1, total),
    ):
        answer = content(alice, path, system, headers={"Range": f"bytes={asked}"})
        assert answer.status_code == 206, asked
        assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/{total}"
        assert answer.content == LARGE[start:end]
    for passed_over in ("lines=1-2", "bytes=5-2", "bytes=x", "bytes="):
        assert content(alice, path, system, headers={"Range": passed_over}).status_code == 200
    answer = content(alice, path, system, headers={"Range": f"bytes={total}-"})
    assert_problem(answer, 416)
    assert answer.headers["content-range"] == f"bytes */{total}"


@pytest.mark.parametrize("system", SYSTEMS)
def test_several_ranges(alice: Person, place: Path, system: str) -> None:
    """Several ranges of a file are one answer in parts."""
    path = make(alice, place / "file", LARGE)
    asked = "bytes=0-99,5000000-6000000,-10"
    answer = content(alice, path, system, headers={"Range": asked})
    assert answer.status_code == 206
    head = f"Content-Type: {answer.headers['content-type']}\r\n\r\n".encode()
    message = email.message_from_bytes(head + answer.content, policy=email.policy.HTTP)
    parts = list(message.iter_parts())
    assert [part["content-range"] for part in parts] == [
        f"bytes 0-99/{len(LARGE)}",
        f"bytes 5000000-6000000/{len(LARGE)}",
        f"bytes {len(LARGE) - 10}-{len(LARGE) - 1}/{len(LARGE)}",
    ]
    boundary = re.search("boundary=(.*)", answer.headers["content-type"])
    assert boundary is not None
    pieces = answer.content.split(b"\r\n--" + boundary[1].encode())
    contents = [piece.partition(b"\r\n\r\n")[2] for piece in pieces[1:-1]]
    assert contents == [LARGE[:100], LARGE[5_000_000:6_000_001], LARGE[-10:]]
    assert int(answer.headers["content-length"]) == len(answer.content)
    # Overlapping parts become one.
    answer = content(alice, path, system, headers={"Range": "bytes=0-99,50-149,100-199"})
    assert answer.headers["content-range"] == f"bytes 0-199/{len(LARGE)}"


def test_conditions(alice: Person, place: Path) -> None:
    """A download is made only under the conditions of the request."""
    path = make(alice, place / "file", b"content")
    answer = content(alice, path)
    etag, modified = answer.headers["etag"], answer.headers["last-modified"]
    old = formatdate(0, usegmt=True)

    def status(**headers: str) -> int:
        return content(
            alice, path, headers={name.replace("_", "-"): value for name, value in headers.items()}
        ).status_code

    assert status(if_none_match=etag) == 304
    assert status(if_none_match=f'"x", W/{etag}') == 304
    assert status(if_none_match="*") == 304
    assert status(if_none_match='"x"') == 200
    assert status(if_none_match='"x"', if_modified_since=modified) == 200
    assert status(if_modified_since=modified) == 304
    assert status(if_modified_since=old) == 200
    assert status(if_match=etag) == 200
    assert status(if_match="*") == 200
    assert status(if_match=f"W/{etag}") == 412
    assert status(if_match='"x"') == 412
    assert status(if_unmodified_since=old) == 412
    assert status(if_unmodified_since=modified) == 200
    assert status(range="bytes=1-2", if_range=etag) == 206
    assert status(range="bytes=1-2", if_range=modified) == 206
    assert status(range="bytes=1-2", if_range='"x"') == 200
    assert status(range="bytes=1-2", if_range=old) == 200
    assert status(range="bytes=100-", if_range='"x"') == 200
    not_modified = content(alice, path, headers={"If-None-Match": etag})
    assert not_modified.content == b""
    assert not_modified.headers["etag"] == etag
    make(alice, path, b"changed")
    os.utime(path, (1, 1))
    assert status(if_match=etag) == 412
    assert status(if_none_match=etag) == 200


@pytest.mark.parametrize("system", SYSTEMS)
def test_what_cannot_be_read(alice: Person, bob: Person, place: Path, system: str) -> None:
    assert_problem(content(alice, place / "missing", system), 404, "No such file or directory")
    assert_problem(content(alice, place, system), 400, "Is a directory")
    alice.run("mkfifo", str(place / "fifo"))
    assert_problem(content(alice, place / "fifo", system), 400, "Not a regular file")
    make(alice, place / "closed", b"x").chmod(0)
    assert_problem(content(alice, place / "closed", system), 403, "Permission denied")
    assert_problem(content(alice, "/etc/passwd", system), 400, "file system")
    assert_problem(content(alice, "relative", system), 400, "absolute")
    assert alice.http.head("/filesystem/demo/files/content", params={"path": f"{place}/no"}).status_code == 404
    assert_problem(alice.http.get("/filesystem/demo/files/content"), 400, kind="validation")
    assert_problem(httpx.get(f"{alice.http.base_url}/filesystem/demo/files/content?path=/"), 401)


def test_memory_stays_flat_and_a_client_that_does_not_read_holds_the_login_node_back(
    gateway: Gateway, alice: Person, place: Path
) -> None:
    alice.run("truncate", "-s", "3G", str(place / "huge"))
    content(alice, place / "huge", headers={"Range": "bytes=0-20000000"})
    before = memory(gateway.pid)
    with begun(gateway, alice, "GET", f"/filesystem/demo/files/content?path={place}/huge") as raw:
        taken = 0
        while taken < 200_000_000:
            taken += len(raw.recv(1 << 20))
        wait_until(lambda: False, 0.7)
        assert memory(gateway.pid) - before < 40_000_000
    # The client has gone: its stream is over, and the next one works.
    assert content(alice, place / "huge", headers={"Range": "bytes=0-9"}).content == bytes(10)


def test_a_file_that_becomes_shorter_cuts_the_answer(gateway: Gateway, alice: Person, place: Path) -> None:
    alice.run("truncate", "-s", "500M", str(place / "file"))
    with alice.http.stream("GET", "/filesystem/demo/files/content", params={"path": f"{place}/file"}) as answer:
        assert answer.status_code == 200
        blocks = answer.iter_raw()
        next(blocks)
        os.truncate(place / "file", 1000)
        with pytest.raises(httpx.RemoteProtocolError):
            list(blocks)
    assert content(alice, place / "file").content == bytes(1000)


def claims_too_much(path: Path) -> bool:
    """Say whether a file says that it is longer than what can be read of it."""
    try:
        return 0 < len(path.read_bytes()) < path.stat().st_size
    except OSError:
        return False


PAGES = ("/sys/kernel/mm/transparent_hugepage/enabled", "/sys/kernel/profiling", "/sys/kernel/notes")
CLAIMING = [path for path in map(Path, PAGES) if claims_too_much(path)]
"""Files of the kernel that say that they hold a page, and hold less (python/cpython 93296, commaai/openpilot 21325)."""


@pytest.mark.skipif(os.geteuid() != 0 or not CLAIMING, reason="takes root, and sysfs")
@pytest.mark.parametrize("system", SYSTEMS)
def test_a_file_that_claims_to_be_longer_is_what_it_holds(alice: Person, place: Path, system: str) -> None:
    held = CLAIMING[0].read_bytes()
    path = make(alice, place / "file", b"")
    subprocess.run(["mount", "--bind", CLAIMING[0], path], check=True)
    try:
        for wanted, part in ((None, held), ("bytes=0-3", held[:4]), ("bytes=-3", held[-3:]), ("bytes=2-", held[2:])):
            answer = content(alice, path, system, headers={"Range": wanted} if wanted else {})
            assert (answer.status_code, answer.content) == (206 if wanted else 200, part)
            assert "etag" not in answer.headers
        head = alice.http.head(f"/filesystem/{system}/files/content", params={"path": str(path)})
        assert head.headers["content-length"] == str(len(held))
    finally:
        # At once: the gateway may close it a moment after the answer.
        subprocess.run(["umount", "--lazy", path], check=True)


def test_a_login_node_that_dies_cuts_the_answer(cluster: Cluster, alice: Person, place: Path) -> None:
    sshd = cluster.start_sshd()
    settings = [cluster.cluster_settings("dying", sshd=sshd, probing=None)]
    gateway = cluster.start_gateway(cluster.write_gateway_config(cluster.directory / "dying.yaml", clusters=settings))
    alice.run("truncate", "-s", "2G", str(place / "file"))
    target = f"/filesystem/dying/files/content?path={place}/file"
    try:
        with begun(gateway, alice, "GET", target) as raw:
            taken = len(raw.recv(1 << 16))
            sshd.stop()
            while block := raw.recv(1 << 20):
                taken += len(block)
            assert 0 < taken < 2 << 30
        headers = {"Authorization": token(alice), "Range": "bytes=0-9"}
        assert_problem(httpx.get(gateway.url + target, headers=headers), 424)
        sshd.start()
        assert httpx.get(gateway.url + target, headers=headers).content == bytes(10)
    finally:
        gateway.stop()
        sshd.stop()


def curl(person: Person, gateway: Gateway, path: Path, *options: str) -> subprocess.CompletedProcess[bytes]:
    url = f"{gateway.url}/filesystem/demo/files/content"
    argv = ["curl", "-sS", "-G", "-H", f"Authorization: {token(person)}", "--data-urlencode", f"path={path}"]
    return subprocess.run([*argv, *options, url], capture_output=True, timeout=300, check=False)


def test_curl_resumes(gateway: Gateway, alice: Person, place: Path, tmp_path: Path) -> None:
    """curl resumes a download that was cut."""
    path = make(alice, place / "a file", LARGE)
    partial = tmp_path / "partial"
    partial.write_bytes(LARGE[:7_000_000])
    done = curl(alice, gateway, path, "-f", "-C", "-", "-o", str(partial))
    assert done.returncode == 0, done.stderr
    assert partial.read_bytes() == LARGE
    done = curl(alice, gateway, path, "-J", "-O", "--output-dir", str(tmp_path))
    assert (tmp_path / "a file").read_bytes() == LARGE
    done = curl(alice, gateway, path, "-r", "3-5,10-12", "-D", "-")
    assert b"multipart/byteranges" in done.stdout


def test_parallel_ranges_by_a_download_manager(
    gateway: Gateway, alice: Person, place: Path, tmp_path: Path, aria2c: str
) -> None:
    path = make(alice, place / "file", LARGE)
    url = str(httpx.URL(f"{gateway.url}/filesystem/demo/files/content", params={"path": str(path)}))
    argv = [aria2c, "-q", "--no-conf", "-x4", "-s4", "-k1M", f"--header=Authorization: {token(alice)}"]
    argv += ["-d", str(tmp_path), "-o", "got", url]
    done = subprocess.run(argv, capture_output=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout
    assert (tmp_path / "got").read_bytes() == LARGE


def test_the_caps(cluster: Cluster, alice: Person, bob: Person, place: Path) -> None:
    """Streams over the limits of a user, or of all, are refused."""
    alice.run("truncate", "-s", "1G", str(place / "huge"))
    config = cluster.write_gateway_config(
        cluster.directory / "caps.yaml", streams={"max_streams": 3, "max_streams_per_user": 2, "stall_timeout": 2}
    )
    gateway = cluster.start_gateway(config)
    target = f"/filesystem/demo/files/content?path={place}/huge"
    try:
        with contextlib.ExitStack() as stack:
            for _ in range(2):
                raw = stack.enter_context(begun(gateway, alice, "GET", target))
                assert raw.recv(100).startswith(b"HTTP/1.1 200")
            refused = httpx.get(gateway.url + target, headers={"Authorization": token(alice)})
            assert_problem(refused, 429)
            assert int(refused.headers["retry-after"]) > 0
            mine = f"/filesystem/demo/files/content?path={bob.user.home}/.missing"
            assert httpx.get(gateway.url + mine, headers={"Authorization": token(bob)}).status_code == 404

            # Clients that take nothing for longer than stall_timeout are cut off, and their slots come free.
            def free() -> bool:
                headers = {"Authorization": token(alice), "Range": "bytes=0-1"}
                return httpx.get(gateway.url + target, headers=headers).status_code == 206

            assert wait_until(free)
    finally:
        gateway.stop()


def test_concurrent_streams_of_one_user(alice: Person, place: Path) -> None:
    paths = [make(alice, place / f"file{number}", LARGE[number:]) for number in range(4)]
    got: dict[int, bytes] = {}

    def fetch(number: int) -> None:
        got[number] = content(alice, paths[number]).content

    threads = [threading.Thread(target=fetch, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(got[number] == LARGE[number:] for number in range(4))
