"""Resumable uploads on a real cluster, by the tus protocol and by a client that people use."""

import base64
import hashlib
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from tusclient.client import TusClient

from hpcgate.demo.cluster import Cluster, Gateway
from tests.cluster.streaming import LARGE, SYSTEMS, begun, make, names, place, token, wait_until
from tests.cluster.test_api_errors import assert_problem
from tests.people import Person

__all__ = ["place"]

TUS = {"Tus-Resumable": "1.0.0"}
CHUNK = {**TUS, "Content-Type": "application/offset+octet-stream"}


def metadata(**values: str | bytes) -> str:
    encoded = {
        key: base64.b64encode(value if isinstance(value, bytes) else value.encode()).decode()
        for key, value in values.items()
    }
    return ",".join(f"{key} {value}" for key, value in encoded.items())


def create(person: Person, place: Path, name: str = "file", system: str = "demo", **headers: Any) -> httpx.Response:
    given = {key.replace("_", "-"): str(value) for key, value in headers.items()}
    return person.http.post(
        f"/filesystem/{system}/files/uploads",
        params={"path": str(place)},
        headers={**TUS, "Upload-Metadata": metadata(filename=name), **given},
    )


def begin(person: Person, place: Path, length: int, system: str = "demo", **headers: Any) -> str:
    made = create(person, place, system=system, upload_length=length, **headers)
    assert made.status_code == 201, made.text
    assert made.headers["tus-resumable"] == "1.0.0"
    return made.headers["location"]


def patch(person: Person, location: str, offset: int, content: Any, **headers: str) -> httpx.Response:
    given = {key.replace("_", "-"): value for key, value in headers.items()}
    return person.http.patch(location, content=content, headers={**CHUNK, "Upload-Offset": str(offset), **given})


def offset_of(person: Person, location: str) -> int:
    found = person.http.head(location, headers=TUS)
    assert found.status_code == 200
    assert found.headers["cache-control"] == "no-store"
    return int(found.headers["upload-offset"])


def sha(content: bytes, algorithm: str = "sha256") -> str:
    return f"{algorithm} {base64.b64encode(hashlib.new(algorithm, content).digest()).decode()}"


def test_what_is_offered(gateway: Gateway) -> None:
    """OPTIONS tells what of tus is offered."""
    for target in ("uploads", "uploads/0123"):
        answer = httpx.options(f"{gateway.url}/filesystem/demo/files/{target}")
        assert answer.status_code == 204
        assert answer.headers["tus-version"] == "1.0.0"
        assert {"creation", "creation-with-upload", "checksum", "termination", "expiration", "concatenation"} <= set(
            answer.headers["tus-extension"].split(",")
        )
        assert {"sha1", "sha256"} <= set(answer.headers["tus-checksum-algorithm"].split(","))


@pytest.mark.parametrize("system", SYSTEMS)
def test_an_upload_in_pieces(alice: Person, place: Path, system: str) -> None:
    name = "a 'näme' $(id)\n"
    made = create(alice, place, name, system, upload_length=len(LARGE))
    location = made.headers["location"]
    assert parse_qs(urlsplit(location).query)["path"] == [str(place)]
    assert not (place / name).exists()
    offset = 0
    for size in (1, 5_000_000, 0, 255 * 1024, len(LARGE)):
        assert offset_of(alice, location) == offset
        chunk = LARGE[offset : offset + size]
        answer = patch(alice, location, offset, chunk)
        assert answer.status_code == 204, answer.text
        offset += len(chunk)
        assert answer.headers["upload-offset"] == str(offset)
    assert (place / name).read_bytes() == LARGE
    assert (place / name).stat().st_mode & 0o777 == 0o644
    assert names(place) == [name]
    # A client that has missed the last answer asks again.
    assert offset_of(alice, location) == len(LARGE)


@pytest.mark.parametrize("system", SYSTEMS)
def test_what_head_tells(alice: Person, place: Path, system: str) -> None:
    """HEAD tells the length, the metadata and the end of an upload."""
    location = begin(alice, place, 100, system)
    found = alice.http.head(location, headers=TUS)
    assert found.headers["upload-length"] == "100"
    assert found.headers["upload-metadata"] == metadata(filename="file")
    expires = parsedate_to_datetime(found.headers["upload-expires"]).timestamp()
    assert abs(expires - time.time() - 7 * 24 * 3600) < 60
    assert "upload-defer-length" not in found.headers
    assert alice.http.delete(location, headers=TUS).status_code == 204
    assert names(place) == []


@pytest.mark.parametrize("system", SYSTEMS)
def test_creation_with_upload_and_empty_files(alice: Person, place: Path, system: str) -> None:
    target = f"/filesystem/{system}/files/uploads"
    headers = {**CHUNK, "Upload-Length": "10", "Upload-Metadata": metadata(filename="file")}
    made = alice.http.post(target, params={"path": str(place)}, content=b"12345", headers=headers)
    assert made.headers["upload-offset"] == "5"
    assert patch(alice, made.headers["location"], 5, b"67890").status_code == 204
    assert (place / "file").read_bytes() == b"1234567890"
    assert create(alice, place, "empty", system, upload_length=0).headers["upload-offset"] == "0"
    assert (place / "empty").read_bytes() == b""
    assert names(place) == ["empty", "file"]


def test_the_path_in_the_metadata_and_links(alice: Person, place: Path) -> None:
    alice.run("mkdir", str(place / "real"))
    make(alice, place / "real/old", b"old").chmod(0o640)
    alice.run("ln", "-s", "real/old", str(place / "link"))
    headers = {**TUS, "Upload-Length": "3", "Upload-Metadata": metadata(path=f"{place}/link")}
    made = alice.http.post("/filesystem/demo/files/uploads", headers=headers)
    assert made.status_code == 201
    assert patch(alice, made.headers["location"], 0, b"new").status_code == 204
    assert (place / "link").is_symlink()
    assert (place / "real/old").read_bytes() == b"new"
    assert (place / "real/old").stat().st_mode & 0o777 == 0o640
    assert names(place / "real") == ["old"]


def test_a_length_told_later(alice: Person, place: Path) -> None:
    made = create(alice, place, upload_defer_length=1)
    location = made.headers["location"]
    assert patch(alice, location, 0, b"12345").status_code == 204
    assert alice.http.head(location, headers=TUS).headers["upload-defer-length"] == "1"
    assert_problem(patch(alice, location, 5, b"", upload_length="4"), 400)
    assert patch(alice, location, 5, b"678", upload_length="10").status_code == 204
    assert alice.http.head(location, headers=TUS).headers["upload-length"] == "10"
    assert_problem(patch(alice, location, 8, b"", upload_length="11"), 400)
    assert patch(alice, location, 8, b"90").status_code == 204
    assert (place / "file").read_bytes() == b"1234567890"


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("algorithm", ["sha1", "sha256"])
def test_checksums(alice: Person, place: Path, system: str, algorithm: str) -> None:
    """A part with a wrong checksum is refused and not kept."""
    location = begin(alice, place, 2_000_000, system)
    first, second = LARGE[:1_000_000], LARGE[1_000_000:2_000_000]
    assert patch(alice, location, 0, first, upload_checksum=sha(first, algorithm)).status_code == 204
    wrong = patch(alice, location, 1_000_000, second, upload_checksum=sha(first, algorithm))
    assert_problem(wrong, 460)
    assert offset_of(alice, location) == 1_000_000
    assert_problem(patch(alice, location, 1_000_000, second, upload_checksum="crc 0"), 400)
    assert_problem(patch(alice, location, 1_000_000, second, upload_checksum="sha1 ?"), 400)
    assert patch(alice, location, 1_000_000, second, upload_checksum=sha(second, algorithm)).status_code == 204
    assert (place / "file").read_bytes() == LARGE[:2_000_000]
    assert names(place) == ["file"]


@pytest.mark.parametrize("system", SYSTEMS)
def test_concatenation(alice: Person, place: Path, system: str) -> None:
    """Parts that were uploaded apart become one file."""
    alice.run("mkdir", str(place / "parts"))
    pieces = [LARGE[:3_000_000], LARGE[3_000_000:3_000_001], LARGE[3_000_001:8_000_000]]
    locations = [begin(alice, place / "parts", len(piece), system, upload_concat="partial") for piece in pieces]
    early = create(alice, place, system=system, upload_concat="final;" + " ".join(locations))
    assert_problem(early, 400, "Upload-Concat")
    for location, piece in zip(locations, pieces, strict=True):
        assert patch(alice, location, 0, piece).status_code == 204
        assert alice.http.head(location, headers=TUS).headers["upload-concat"] == "partial"
    absolute = [str(alice.http.base_url.join(location)) for location in locations]
    final = create(alice, place, system=system, upload_concat="final;" + " ".join(absolute))
    assert final.status_code == 201, final.text
    assert (place / "file").read_bytes() == LARGE[:8_000_000]
    assert names(place) == ["file", "parts"]
    assert names(place / "parts") == []
    assert offset_of(alice, final.headers["location"]) == 8_000_000


@pytest.mark.parametrize(
    "concat",
    [
        "nonsense",
        "final;",
        "final;/etc/passwd",
        "final;/filesystem/other/files/uploads/0?path=/tmp",
        "final;/filesystem/demo/files/uploads/../../etc/passwd?path=/etc",
        "final;/filesystem/demo/files/uploads/" + "0" * 32 + "?path=/etc",
    ],
)
def test_what_cannot_be_joined(alice: Person, place: Path, concat: str) -> None:
    assert create(alice, place, upload_concat=concat).status_code in (400, 404)
    assert names(place) == []


def test_refusals(alice: Person, place: Path) -> None:
    """Requests that tus does not allow are refused."""
    url = "/filesystem/demo/files/uploads"
    where = {"path": str(place)}
    named = {"Upload-Metadata": metadata(filename="x")}
    old = alice.http.post(url, params=where, headers={"Upload-Length": "1", "Tus-Resumable": "0.2.2", **named})
    assert_problem(old, 412)
    assert old.headers["tus-version"] == "1.0.0"
    assert old.headers["tus-resumable"] == "1.0.0"
    assert_problem(alice.http.post(url, params=where, headers={"Upload-Length": "1", **named}), 412)
    assert_problem(httpx.post(str(alice.http.base_url) + url, headers=TUS), 401)
    wrong: tuple[dict[str, str | bytes], ...] = (
        {},
        {"Upload-Length": "-1"},
        {"Upload-Length": "x"},
        {"Upload-Length": "9" * 40},
        {"Upload-Length": "1", "Upload-Defer-Length": "1"},
        {"Upload-Defer-Length": "2"},
        {"Upload-Length": "1", "Upload-Metadata": "filename ?"},
        {"Upload-Length": "1", "Upload-Metadata": ""},
        {"Upload-Length": "1", "Upload-Metadata": metadata(filename="..")},
        {"Upload-Length": "1", "Upload-Metadata": metadata(filename="a\0b")},
        {"Upload-Length": "1", "Upload-Metadata": metadata(filename="x", note="n" * 20_000)},
        {"Upload-Length": "1", "Upload-Metadata": metadata(filename="x").encode() + b",\xff \xff"},
        {"Upload-Length": "1", "Upload-Concat": "final;http://["},
    )
    for headers in wrong:
        given: Any = {**TUS, **named, **headers}
        answer = alice.http.post(url, params=where, headers=given)
        assert answer.status_code == 400, headers
    for parameters, status in (
        ({"path": "/etc"}, 400),
        ({"path": "relative"}, 400),
        ({"path": f"{place}/missing"}, 404),
        ({"path": str(place), "replace": "in-place"}, 400),
    ):
        answer = alice.http.post(url, params=parameters, headers={**TUS, **named, "Upload-Length": "1"})
        assert answer.status_code == status, parameters
    escaping = {**TUS, "Upload-Length": "1", "Upload-Metadata": metadata(path="/etc/x")}
    assert_problem(alice.http.post(url, headers=escaping), 400, "file system")
    # Only the last component of a name counts.
    assert create(alice, place, "../../up", upload_length=0).status_code == 201
    alice.run("mkdir", str(place / "dir"))
    assert_problem(create(alice, place, "dir", upload_length=1), 400, "Is a directory")
    assert names(place) == ["dir", "up"]


def test_unknown_uploads(alice: Person, bob: Person, place: Path) -> None:
    """An upload that does not exist is 404."""
    location = begin(alice, place, 10)
    upload = urlsplit(location).path.rpartition("/")[2]
    base = "/filesystem/demo/files/uploads"
    for name in ("0" * 32, "x", "..%2f..%2fetc%2fpasswd", upload[:-1], upload.upper() + "x"):
        wrong = f"{base}/{name}?path={place}"
        assert alice.http.head(wrong, headers=TUS).status_code == 404
        assert patch(alice, wrong, 0, b"x").status_code == 404
        assert alice.http.delete(wrong, headers=TUS).status_code == 404
    assert alice.http.head(f"{base}/{upload}?path=/etc", headers=TUS).status_code == 400
    assert alice.http.head(f"{base}/{upload}?path={place.parent}", headers=TUS).status_code == 404
    alice.run("chmod", "700", str(place))
    assert bob.http.head(location, headers=TUS).status_code in (403, 404)
    assert_problem(patch(alice, location, 5, b"x"), 409)
    assert_problem(patch(alice, location, 0, b"x" * 11), 413)
    assert_problem(patch(alice, location, 0, iter([b"x" * 10, b"x"])), 413)
    wrong_kind = alice.http.patch(location, content=b"x", headers={**TUS, "Upload-Offset": "0"})
    assert_problem(wrong_kind, 415)
    no_offset = alice.http.patch(location, content=b"x", headers=CHUNK)
    assert_problem(no_offset, 400, "Upload-Offset")
    assert alice.http.delete(location, headers=TUS).status_code == 204
    assert alice.http.head(location, headers=TUS).status_code == 404
    assert names(place) == []


def test_method_override(alice: Person, place: Path) -> None:
    """The method of a request may stand in a header."""
    location = begin(alice, place, 5)
    headers = {**CHUNK, "Upload-Offset": "0", "X-HTTP-Method-Override": "PATCH"}
    assert alice.http.post(location, content=b"123", headers=headers).status_code == 204
    assert offset_of(alice, location) == 3
    assert alice.http.post(location, headers={**TUS, "X-HTTP-Method-Override": "DELETE"}).status_code == 204
    assert alice.http.post(location, headers={**TUS, "X-HTTP-Method-Override": "PUT"}).status_code == 400
    assert names(place) == []


def hidden(place: Path, name: str) -> Path:
    """Return a file of the one upload in a directory."""
    (found,) = place.glob(".hpcgate-upload-*")
    return found / f".hpcgate-{name}"


@pytest.mark.parametrize(
    "changes",
    [
        {"name": base64.b64encode(b"../../escaped").decode()},
        {"name": base64.b64encode(b"/etc/escaped").decode()},
        {"name": base64.b64encode(b"..").decode()},
        {"name": "?"},
        {"length": -5},
        {"length": 10**400},
        {"metadata": "filename \u20ac"},
        {"metadata": "filename eA==\r\nSet-Cookie: x"},
        {"metadata": "filename eA==\n"},
        {"metadata": "\ud800"},
        {"metadata": "a" * 20_000},
        {"more": 1},
        None,
    ],
)
def test_state_that_somebody_has_changed(alice: Person, place: Path, changes: dict[str, Any] | None) -> None:
    location = begin(alice, place, 5)
    state = hidden(place, "state")
    changed = b"no json" if changes is None else json.dumps({**json.loads(state.read_bytes()), **changes}).encode()
    make(alice, state, changed)
    assert_problem(patch(alice, location, 0, b"12345"), 400, "damaged")
    assert alice.http.head(location, headers=TUS).status_code == 400
    assert not (place.parent.parent / "escaped").exists()
    assert not [name for name in names(place) if not name.startswith(".hpcgate-upload-")]


def test_a_link_in_the_place_of_the_content(alice: Person, place: Path) -> None:
    location = begin(alice, place, 5)
    content = hidden(place, "content")
    make(alice, place / "precious", b"precious")
    alice.run("ln", "-sf", "precious", str(content))
    assert patch(alice, location, 0, b"12345").status_code == 404
    assert (place / "precious").read_bytes() == b"precious"


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_client_that_vanishes_goes_on_where_it_was(gateway: Gateway, alice: Person, place: Path, system: str) -> None:
    location = begin(alice, place, len(LARGE), system)
    head = f"Tus-Resumable: 1.0.0\r\nContent-Type: {CHUNK['Content-Type']}\r\nUpload-Offset: 0\r\n"
    with begun(gateway, alice, "PATCH", location, f"{head}Content-Length: {len(LARGE)}\r\n") as raw:
        raw.sendall(LARGE[:7_000_000])
    assert wait_until(lambda: offset_of(alice, location) > 6_000_000)
    assert wait_until(lambda: not hidden(place, "lock").exists())
    offset = offset_of(alice, location)
    assert patch(alice, location, offset, LARGE[offset:]).status_code == 204
    assert (place / "file").read_bytes() == LARGE
    assert names(place) == ["file"]


def test_a_new_request_takes_over_from_one_that_hangs(gateway: Gateway, alice: Person, place: Path) -> None:
    location = begin(alice, place, len(LARGE))
    head = f"Tus-Resumable: 1.0.0\r\nContent-Type: {CHUNK['Content-Type']}\r\nUpload-Offset: 0\r\n"
    with begun(gateway, alice, "PATCH", location, f"{head}Content-Length: {len(LARGE)}\r\n") as raw:
        raw.sendall(LARGE[:5_000_000])
        assert wait_until(lambda: offset_of(alice, location) > 4_000_000)
        first = patch(alice, location, offset_of(alice, location), b"")
        assert first.status_code in (204, 409)
        assert b" 423 " in raw.recv(1000)
    offset = offset_of(alice, location)
    assert patch(alice, location, offset, LARGE[offset:]).status_code == 204
    assert (place / "file").read_bytes() == LARGE
    assert names(place) == ["file"]


def test_another_replica_goes_on_after_a_crash(cluster: Cluster, alice: Person, place: Path) -> None:
    first = cluster.start_gateway(cluster.write_gateway_config(cluster.directory / "replica1.yaml"))
    second = cluster.start_gateway(cluster.write_gateway_config(cluster.directory / "replica2.yaml"))
    headers = {"Authorization": token(alice)}
    try:
        location = begin(alice, place, len(LARGE))
        chunk = LARGE[:9_000_000]
        head = f"Tus-Resumable: 1.0.0\r\nContent-Type: {CHUNK['Content-Type']}\r\nUpload-Offset: 0\r\n"
        head += f"Upload-Checksum: {sha(chunk)}\r\nContent-Length: {len(chunk)}\r\n"
        with begun(first, alice, "PATCH", location, head) as raw:
            raw.sendall(chunk[:5_000_000])
            assert wait_until(lambda: hidden(place, "content").stat().st_size > 4_000_000)
            os.kill(first.pid, signal.SIGKILL)
        # What a checksum was to vouch for, and did not, does not count.
        found = httpx.head(second.url + location, headers={**headers, **TUS})
        assert found.headers["upload-offset"] == "0"
        for offset in (0, 9_000_000):
            piece = LARGE[offset : offset + 9_000_000] if not offset else LARGE[offset:]
            answer = httpx.patch(
                second.url + location,
                content=piece,
                headers={**headers, **CHUNK, "Upload-Offset": str(offset)},
                timeout=600,
            )
            assert answer.status_code == 204, answer.text
        assert (place / "file").read_bytes() == LARGE
        assert names(place) == ["file"]
    finally:
        first.stop()
        second.stop()


def test_two_replicas_write_at_once(cluster: Cluster, gateway: Gateway, alice: Person, place: Path) -> None:
    second = cluster.start_gateway(cluster.write_gateway_config(cluster.directory / "replica3.yaml"))
    location = begin(alice, place, len(LARGE))
    statuses: list[int] = []
    go_on = threading.Event()

    def body() -> Iterator[bytes]:
        yield LARGE[:3_000_000]
        go_on.wait(120)
        yield LARGE[3_000_000:]

    def write() -> None:
        statuses.append(patch(alice, location, 0, body()).status_code)

    writing = threading.Thread(target=write)
    writing.start()
    try:
        headers = {"Authorization": token(alice), **CHUNK}
        assert wait_until(lambda: hidden(place, "content").stat().st_size > 2_000_000)
        offset = int(httpx.head(second.url + location, headers=headers).headers["upload-offset"])
        answer = httpx.patch(
            second.url + location,
            content=LARGE[offset:],
            headers={**headers, "Upload-Offset": str(offset)},
            timeout=600,
        )
        if answer.status_code == 409:
            offset = int(httpx.head(second.url + location, headers=headers).headers["upload-offset"])
            rest = {**headers, "Upload-Offset": str(offset)}
            answer = httpx.patch(second.url + location, content=LARGE[offset:], headers=rest, timeout=600)
        assert answer.status_code == 204, answer.text
        go_on.set()
        writing.join(120)
        assert statuses == [423]
        assert (place / "file").read_bytes() == LARGE
        assert names(place) == ["file"]
    finally:
        go_on.set()
        writing.join(120)
        second.stop()


@pytest.mark.parametrize("system", SYSTEMS)
def test_two_replicas_begin_at_once(
    cluster: Cluster, gateway: Gateway, alice: Person, place: Path, system: str
) -> None:
    settings = [cluster.cluster_settings(), cluster.cluster_settings("commands", ssh={"files": "commands"})]
    second = cluster.start_gateway(cluster.write_gateway_config(cluster.directory / "replica4.yaml", clusters=settings))
    right, wrong = LARGE[:300_000], b"x" * 300_000
    headers = {"Authorization": token(alice), **CHUNK, "Upload-Offset": "0", "Upload-Checksum": sha(right)}
    try:
        for number in range(5):
            location = begin(alice, place, len(right), system)
            both = threading.Barrier(2)
            statuses: dict[str, int] = {}

            def write(url: str, content: bytes, location: str, both: threading.Barrier, said: dict[str, int]) -> None:
                both.wait()
                said[url] = httpx.patch(url + location, content=content, headers=headers, timeout=600).status_code

            writers = [
                threading.Thread(target=write, args=(url, content, location, both, statuses))
                for url, content in ((gateway.url, right), (second.url, wrong))
            ]
            for writer in writers:
                writer.start()
            for writer in writers:
                writer.join()
            # Whoever comes second finds the upload complete, or has to come again; what is told to be there is there.
            assert statuses[gateway.url] in (204, 423), number
            assert statuses[second.url] in (404, 409, 423, 460), number
            if statuses[gateway.url] == 204:
                assert (place / "file").read_bytes() == right
                (place / "file").unlink()
            else:
                assert names(place) != ["file"]
                assert alice.http.delete(location, headers=TUS).status_code == 204
            assert names(place) == []
    finally:
        second.stop()


@pytest.mark.parametrize("system", SYSTEMS)
def test_what_will_replace_a_file_is_for_nobody_else_to_read(alice: Person, place: Path, system: str) -> None:
    make(alice, place / "file", b"secret").chmod(0o640)
    location = begin(alice, place, 5, system)
    assert hidden(place, "content").stat().st_mode & 0o777 == 0o600
    assert patch(alice, location, 0, b"12345").status_code == 204
    assert (place / "file").stat().st_mode & 0o777 == 0o640
    part = begin(alice, place, 5, system, upload_concat="partial")
    assert hidden(place, "content").stat().st_mode & 0o777 == 0o600
    assert patch(alice, part, 0, b"12345").status_code == 204
    assert create(alice, place, "new", system, upload_concat=f"final;{part}").status_code == 201
    assert (place / "new").stat().st_mode & 0o777 == 0o644
    assert names(place) == ["file", "new"]


@pytest.mark.parametrize("system", SYSTEMS)
def test_what_replaces_a_file_is_for_the_same_group(alice: Person, place: Path, system: str) -> None:
    path = make(alice, place / "file", b"secret")
    project = alice.user.identity.groups[-1]
    for group, then, mode in ((project, project, 0o660), (54322, alice.user.gid, 0o600)):
        os.chown(path, alice.user.uid, group)
        path.chmod(0o660)
        assert patch(alice, begin(alice, place, 5, system), 0, b"12345").status_code == 204
        assert (path.stat().st_gid, path.stat().st_mode & 0o777) == (then, mode)


def test_state_without_content(alice: Person, place: Path) -> None:
    """An upload whose content is gone is 404, or complete if the file is there."""
    location = begin(alice, place, 5)
    hidden(place, "content").unlink()
    assert alice.http.head(location, headers=TUS).status_code == 404
    make(alice, place / "file", b"12345")  # as if it had got its name, and the process had ended there
    assert offset_of(alice, location) == 5


def test_head_never_takes_a_terminated_upload_for_complete(gateway: Gateway, alice: Person, place: Path) -> None:
    found: list[tuple[int, str | None]] = []
    with httpx.Client(base_url=gateway.url, headers={"Authorization": token(alice), **TUS}) as other:
        for _ in range(20):
            location = begin(alice, place, 5)
            ending = threading.Thread(target=alice.http.delete, args=(location,), kwargs={"headers": TUS})
            ending.start()
            while ending.is_alive():
                answer = other.head(location)
                found.append((answer.status_code, answer.headers.get("upload-offset")))
            ending.join()
    assert set(found) <= {(200, "0"), (404, None)}
    assert names(place) == []


@pytest.mark.parametrize("system", SYSTEMS)
def test_an_upload_that_nobody_is_told_of_is_gone(
    gateway: Gateway, alice: Person, bob: Person, place: Path, system: str
) -> None:
    target = f"/filesystem/{system}/files/uploads"
    headers = {**CHUNK, "Upload-Length": "10", "Upload-Metadata": metadata(filename="file")}
    where = {"path": str(place)}
    wrong = {**headers, "Upload-Checksum": sha(b"other")}
    assert_problem(alice.http.post(target, params=where, content=b"12345", headers=wrong), 460)
    assert_problem(alice.http.post(target, params=where, content=b"x" * 11, headers=headers), 413)
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    with begun(gateway, alice, "POST", f"{target}?path={place}", f"{head}Content-Length: 10\r\n") as raw:
        raw.sendall(b"12345")
        assert wait_until(lambda: names(place) != [])
    assert wait_until(lambda: names(place) == []), names(place)


@pytest.mark.parametrize("system", SYSTEMS)
def test_joining_what_cannot_get_its_name_leaves_the_parts_alone(
    cluster: Cluster, alice: Person, bob: Person, system: str
) -> None:
    place = cluster.scratch / f"sticky-{system}"
    place.mkdir()
    place.chmod(0o1777)
    make(bob, place / "file", b"not alice's")
    part = begin(alice, place, 3, system, upload_concat="partial")
    assert patch(alice, part, 0, b"abc").status_code == 204
    before = names(place)
    assert_problem(create(alice, place, system=system, upload_concat=f"final;{part}"), 403)
    assert names(place) == before
    # One that has not begun is refused before anything is sent.
    assert_problem(create(alice, place, system=system, upload_length=3), 403, "not written in place")
    assert names(place) == before
    assert (place / "file").read_bytes() == b"not alice's"
    shut = cluster.scratch / f"shut-{system}"
    shut.mkdir()
    (shut / "file").touch()
    (shut / "file").chmod(0o666)
    assert_problem(create(alice, shut, system=system, upload_length=3), 403, "Permission denied")


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_full_disk(cluster: Cluster, alice: Person, system: str) -> None:
    """A part for which there is no room is 507, and what was stored before it stays.

    Of the part itself nothing does: where a write has failed, what was written before it may be lost as well (NFS).
    """
    disk = cluster.mount_tmpfs("8M", user=alice.user)
    location = begin(alice, disk, len(LARGE), system)
    before = 100
    assert patch(alice, location, 0, LARGE[:before]).status_code == 204
    assert_problem(patch(alice, location, before, LARGE[before:]), 507, "No space left on device")
    assert offset_of(alice, location) == before
    content = hidden(disk, "content")
    assert content.read_bytes() == LARGE[:before]
    assert alice.http.delete(location, headers=TUS).status_code == 204
    assert names(disk) == []


def test_expiry(alice: Person, place: Path) -> None:
    """An upload that expired is gone."""
    first, second = begin(alice, place, 10), begin(alice, place, 10)
    long_ago = time.time() - 8 * 24 * 3600
    for path in place.glob(".hpcgate-upload-*/*"):
        os.utime(path, (long_ago, long_ago))
    assert alice.http.head(first, headers=TUS).status_code == 410
    assert alice.http.head(first, headers=TUS).status_code == 404
    # The next upload in the directory sweeps up what nobody asks for any more.
    third = begin(alice, place, 10)
    assert alice.http.head(second, headers=TUS).status_code == 404
    assert alice.http.delete(third, headers=TUS).status_code == 204
    assert names(place) == []


def test_a_crash_before_the_file_had_its_name(alice: Person, place: Path) -> None:
    location = begin(alice, place, 5)
    make(alice, hidden(place, "content"), b"12345")
    assert offset_of(alice, location) == 5
    assert (place / "file").read_bytes() == b"12345"
    assert names(place) == ["file"]


def test_who_may_only_look_gives_no_file_its_name(cluster: Cluster, alice: Person, place: Path) -> None:
    """HEAD reads: what a crash has left to be done is done by whoever may write."""
    rules = [{"name": "look", "operations": ["fs:read"]}]
    config = cluster.write_gateway_config(cluster.directory / "tus-look.yaml", auth={"policy": {"rules": rules}})
    gateway = cluster.start_gateway(config)
    try:
        location = begin(alice, place, 5)
        make(alice, hidden(place, "content"), b"12345")
        found = httpx.head(gateway.url + location, headers={"Authorization": token(alice), **TUS}, timeout=600)
        assert (found.status_code, found.headers["upload-offset"]) == (200, "5")
        assert "file" not in names(place)
        assert offset_of(alice, location) == 5
        assert names(place) == ["file"]
    finally:
        gateway.stop()


def test_limits(cluster: Cluster, alice: Person, place: Path) -> None:
    """An upload over the limit of size is refused."""
    config = cluster.write_gateway_config(cluster.directory / "tus-limits.yaml", streams={"max_upload_size": 100})
    gateway = cluster.start_gateway(config)
    url = f"{gateway.url}/filesystem/demo/files/uploads"
    headers = {"Authorization": token(alice), **CHUNK, "Upload-Metadata": metadata(filename="file")}
    where = {"path": str(place)}
    try:
        assert httpx.options(url).headers["tus-max-size"] == "100"
        assert_problem(httpx.post(url, params=where, headers={**headers, "Upload-Length": "101"}), 413)
        made = httpx.post(url, params=where, headers={**headers, "Upload-Defer-Length": "1"})
        location = gateway.url + made.headers["location"]
        chunk = httpx.patch(location, content=b"x" * 60, headers={**headers, "Upload-Offset": "0"})
        assert chunk.status_code == 204
        over = httpx.patch(location, content=b"x" * 60, headers={**headers, "Upload-Offset": "60"})
        assert_problem(over, 413)
        assert httpx.delete(location, headers=headers).status_code == 204
        part = httpx.post(
            url, params=where, content=b"x" * 60, headers={**headers, "Upload-Length": "60", "Upload-Concat": "partial"}
        ).headers["location"]
        whole = {key: value for key, value in headers.items() if key != "Content-Type"}
        joined = httpx.post(url, params=where, headers={**whole, "Upload-Concat": f"final;{part} {part}"})
        assert_problem(joined, 413)
        assert httpx.delete(gateway.url + part, headers=headers).status_code == 204
        assert names(place) == []
    finally:
        gateway.stop()


def test_a_client_library_resumes(gateway: Gateway, alice: Person, place: Path, tmp_path: Path) -> None:
    local = tmp_path / "local"
    local.write_bytes(LARGE)
    client = TusClient(f"{gateway.url}/filesystem/demo/files/uploads?path={place}", {"Authorization": token(alice)})
    with local.open("rb") as source:
        uploader = client.uploader(
            file_stream=source, chunk_size=3_000_000, metadata={"filename": "a file"}, upload_checksum=True
        )
        uploader.upload(stop_at=7_000_000)
        assert 7_000_000 <= uploader.offset < len(LARGE)
        resumed = client.uploader(file_stream=source, chunk_size=5_000_000, url=uploader.url)
        assert resumed.offset == uploader.offset
        resumed.upload()
    assert (place / "a file").read_bytes() == LARGE
    assert names(place) == ["a file"]
