"""Every status and message of the contract's table that bad input provokes, over HTTP on the real cluster."""

import contextlib
import itertools
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from hpcgate.demo.cluster import Cluster, Gateway
from tests.people import Person

SYSTEMS = ("demo", "commands")
_numbers = itertools.count()


def assert_problem(answer: httpx.Response, status: int, *words: str, kind: str = "error") -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    body: dict[str, Any] = answer.json()
    assert set(body) == {"errorType", "message", "causedBy", "data", "user"}
    assert body["errorType"] == kind
    for word in words:
        assert word in body["message"]
    for header in ("f7t-timestamp", "f7t-appversion", "x-request-id", "x-correlation-id"):
        assert header in answer.headers
    return body


@pytest.fixture
def place(alice: Person) -> Iterator[Path]:
    """A directory of the first user."""
    path = alice.user.home / f"errors-{next(_numbers)}"
    alice.run("mkdir", str(path))
    yield path
    shutil.rmtree(path)


# Tokens


@pytest.mark.parametrize(
    "path", ["/status/systems", "/status/demo/nodes", "/filesystem/demo/ops/ls", "/compute/demo/jobs"]
)
def test_no_token(gateway: Gateway, path: str) -> None:
    """A request without a token is 401."""
    body = assert_problem(httpx.get(gateway.url + path), 401, "Not authenticated")
    assert body["user"] is None


@pytest.mark.parametrize("path", ["/compute/demo/jobs", "/filesystem/demo/ops/mkdir"])
def test_no_body_is_looked_at_without_a_token(gateway: Gateway, path: str) -> None:
    assert_problem(httpx.post(gateway.url + path, content=b"{"), 401, "Not authenticated")
    host, port = gateway.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=600) as raw:
        raw.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 67108864\r\n\r\n".encode() + b" " * 1_000_000)
        # The rest never comes, and nobody waits for it.
        assert raw.recv(65536).startswith(b"HTTP/1.1 401 ")


@pytest.mark.parametrize("path", ["/compute/demo/jobs", "/filesystem/demo/ops/mkdir"])
def test_a_body_that_is_too_large(alice: Person, path: str) -> None:
    body = {"job": {"workingDirectory": "/", "script": "#" * 16 * 1024 * 1024}}
    with contextlib.suppress(httpx.WriteError):
        assert_problem(alice.http.post(path, json=body), 413, "The request body is larger than")
    answer = alice.http.post(path, content=b"{")
    problem = assert_problem(answer, 400, kind=answer.json()["errorType"])
    assert problem["user"] == alice.user.name


@pytest.mark.parametrize(
    "header", ["Basic abc", "Bearer", "Bearer a b", "nonsense", "Bearer a.b.c", "Bearer " + "x" * 9000]
)
def test_nonsense_tokens(gateway: Gateway, header: str) -> None:
    """A header that is not a token is 401, and the answer does not repeat it."""
    answer = httpx.get(gateway.url + "/status/systems", headers={"Authorization": header})
    assert_problem(answer, 401)
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert header.removeprefix("Bearer ") not in answer.text or header in ("Bearer", "nonsense")


def test_expired_token(cluster: Cluster, gateway: Gateway) -> None:
    """An expired token is 401, and the answer says so."""
    token = cluster.idp.mint(cluster.user("alice").name, exp=int(time.time()) - 10)
    answer = httpx.get(gateway.url + "/status/systems", headers={"Authorization": f"Bearer {token}"})
    assert_problem(answer, 401, "expired")
    assert answer.headers["www-authenticate"] == 'Bearer error="invalid_token"'
    assert token not in answer.text


def test_foreign_token(cluster: Cluster, gateway: Gateway) -> None:
    """A token signed by an unknown key is 401."""
    from joserfc import jwt
    from joserfc.jwk import RSAKey

    key = RSAKey.generate_key(2048, {"kid": "foreign"})
    claims = {"preferred_username": cluster.user("alice").name, "exp": int(time.time()) + 60}
    token = jwt.encode({"alg": "RS256", "kid": "foreign"}, claims, key)
    answer = httpx.get(gateway.url + "/status/systems", headers={"Authorization": f"Bearer {token}"})
    assert_problem(answer, 401)


def test_the_answer_names_the_user(alice: Person) -> None:
    answer = alice.http.get("/status/nowhere/nodes")
    assert assert_problem(answer, 404, "System not found")["user"] == alice.user.name
    assert answer.headers["f7t-authusername"] == alice.user.name


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/status/nowhere/nodes"), ("GET", "/filesystem/nowhere/ops/ls?path=/"), ("GET", "/compute/nowhere/jobs")],
)
def test_unknown_system(alice: Person, method: str, path: str) -> None:
    """Each route answers 404 for a system that does not exist."""
    assert_problem(alice.http.request(method, path), 404, "System not found")


def test_system_names_in_any_case(alice: Person) -> None:
    assert alice.http.get("/status/DeMo/userinfo").status_code == 200


# Paths


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize(
    ("operation", "words"),
    [
        ("ls", "ls: cannot access"),
        ("stat", "stat: cannot statx"),
        ("head", "head: cannot open"),
        ("tail", "tail: cannot open"),
        ("view", "No such file"),
        ("checksum", "sha256sum: "),
        ("file", "No such file"),
        ("download", "No such file"),
    ],
)
def test_missing_path(alice: Person, place: Path, system: str, operation: str, words: str) -> None:
    """A path that does not exist is 404 in the words of the tool."""
    answer = alice.http.get(f"/filesystem/{system}/ops/{operation}", params={"path": f"{place}/none"})
    assert_problem(answer, 404, words, "No such file or directory", str(place))


@pytest.mark.parametrize("system", SYSTEMS)
def test_deleting_what_is_not_there(alice: Person, place: Path, system: str) -> None:
    answer = alice.http.delete(f"/filesystem/{system}/ops/rm", params={"path": f"{place}/none"})
    assert_problem(answer, 404, "rm: cannot remove", "No such file or directory")


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("operation", ["ls", "head", "tail", "view", "checksum", "download"])
def test_unreadable_path(alice: Person, bob: Person, place: Path, system: str, operation: str) -> None:
    """A path that the user may not read is 403."""
    alice.run("mkdir", str(place / "closed"))
    alice.run("touch", str(place / "closed/file"))
    alice.run("chmod", "000", str(place / "closed/file"), str(place / "closed"))
    path = place / "closed" if operation == "ls" else place / "closed/file"
    answer = alice.http.get(f"/filesystem/{system}/ops/{operation}", params={"path": str(path)})
    assert_problem(answer, 403, "Permission denied")
    alice.run("chmod", "700", str(place / "closed"))


@pytest.mark.parametrize("system", SYSTEMS)
def test_dangling_link(alice: Person, place: Path, system: str) -> None:
    """A link to nowhere is listed as a link, and 404 where it is followed."""
    link = place / "dangling"
    alice.run("ln", "-s", "nowhere", str(link))
    ops = f"/filesystem/{system}/ops"
    listed = alice.http.get(f"{ops}/ls", params={"path": str(place)}).json()["output"]
    assert [(item["name"], item["type"], item["linkTarget"]) for item in listed] == [("dangling", "l", "nowhere")]
    assert alice.http.get(f"{ops}/stat", params={"path": str(link)}).status_code == 200
    followed = alice.http.get(f"{ops}/stat", params={"path": str(link), "dereference": True})
    assert_problem(followed, 404, "No such file or directory")
    assert_problem(alice.http.get(f"{ops}/head", params={"path": str(link)}), 404, "No such file or directory")


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("operation", ["ls", "stat", "head", "view", "download"])
def test_a_file_is_no_directory(alice: Person, place: Path, system: str, operation: str) -> None:
    alice.run("touch", str(place / "file"))
    answer = alice.http.get(f"/filesystem/{system}/ops/{operation}", params={"path": f"{place}/file/below"})
    assert_problem(answer, 400, "Not a directory")


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("operation", ["head", "tail", "view", "checksum", "download"])
def test_a_directory_is_no_file(alice: Person, place: Path, system: str, operation: str) -> None:
    answer = alice.http.get(f"/filesystem/{system}/ops/{operation}", params={"path": str(place)})
    assert_problem(answer, 400, "Is a directory")


@pytest.mark.parametrize("system", SYSTEMS)
def test_taken_names(alice: Person, place: Path, system: str) -> None:
    """A name that is taken is 400."""
    ops = f"/filesystem/{system}/ops"
    made = alice.http.post(f"{ops}/mkdir", json={"path": f"{place}/dir"})
    assert made.status_code == 201
    assert_problem(alice.http.post(f"{ops}/mkdir", json={"path": f"{place}/dir"}), 400, "File exists")
    assert alice.http.post(f"{ops}/mkdir", json={"sourcePath": f"{place}/dir", "parent": True}).status_code == 201
    linked = alice.http.post(f"{ops}/symlink", json={"path": "/etc", "linkPath": f"{place}/dir"})
    assert linked.status_code in (400, 201)  # ln puts a link into an existing directory
    alice.run("touch", str(place / "file"))
    linked = alice.http.post(f"{ops}/symlink", json={"source_path": str(place), "linkPath": f"{place}/file"})
    assert_problem(linked, 400, "File exists")


@pytest.mark.parametrize("path", ["relative", "", "~", "./x"])
def test_relative_paths(alice: Person, path: str) -> None:
    """A path that is not absolute is 400."""
    for operation in ("ls", "download"):
        answer = alice.http.get(f"/filesystem/demo/ops/{operation}", params={"path": path})
        assert answer.status_code == 400
        assert "absolute" in answer.text


def test_nul_in_a_path(alice: Person) -> None:
    answer = alice.http.get("/filesystem/demo/ops/ls", params={"path": "/tmp/\0x"})
    assert answer.status_code == 400


@pytest.mark.parametrize("path", ["/etc", "/", "/etc/../etc/passwd", "{home}/../../../../etc", "{home}x/.."])
def test_outside_of_the_file_systems(alice: Person, cluster: Cluster, path: str) -> None:
    asked = path.format(home=cluster.homes)
    assert_problem(alice.http.get("/filesystem/demo/ops/ls", params={"path": asked}), 400, "file system")
    body = {"path": str(alice.user.home), "linkPath": asked}
    assert_problem(alice.http.post("/filesystem/demo/ops/symlink", json=body), 400, "file system")
    relative = {"path": os.path.relpath(asked, alice.user.home), "linkPath": f"{alice.user.home}/link"}
    assert_problem(alice.http.post("/filesystem/demo/ops/symlink", json=relative), 400, "file system")


def test_missing_parameters(alice: Person) -> None:
    """A parameter that is missing is named in the answer."""
    body = assert_problem(alice.http.get("/filesystem/demo/ops/ls"), 400, kind="validation")
    assert body["data"]["fields"] == [{"location": "query", "name": "path", "message": "Field required"}]
    body = assert_problem(alice.http.post("/filesystem/demo/ops/mkdir", json={}), 400, kind="validation")
    assert body["data"]["fields"][0]["location"] == "body"


@pytest.mark.parametrize("content", [b"", b"{", b"[" * 100_000, b"\xff", b"null", b"[]", b"1"])
def test_bodies_that_are_no_object(alice: Person, content: bytes) -> None:
    for path in ("/filesystem/demo/ops/mkdir", "/compute/demo/jobs"):
        answer = alice.http.post(path, content=content, headers={"Content-Type": "application/json"})
        assert answer.status_code == 400, answer.text


# A full disk


@pytest.mark.parametrize("system", SYSTEMS)
def test_full_disk(cluster: Cluster, alice: Person, system: str) -> None:
    """A full disk is 507, and what was there stays."""
    disk = cluster.mount_tmpfs("1M", user=alice.user)
    ops = f"/filesystem/{system}/ops"
    alice.run("sh", "-c", f"echo old > {disk}/file")
    answer = alice.http.post(f"{ops}/upload", params={"path": str(disk)}, files={"file": ("file", b"x" * 2_000_000)})
    assert_problem(answer, 507, "No space left on device", str(disk))
    assert sorted(path.name for path in disk.iterdir()) == ["file"]
    assert (disk / "file").read_text() == "old\n"
    alice.run("sh", "-c", f"head -c 900000 /dev/urandom > {disk}/big")
    packed = alice.http.post(f"{ops}/compress", json={"path": f"{disk}/big", "targetPath": f"{disk}/big.tar.gz"})
    assert_problem(packed, 507, "No space left on device")
    assert sorted(path.name for path in disk.iterdir()) == ["big", "file"]


# Modes and owners


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("mode", ["999", "abc", "", "77777", "--reference=/etc", "u", "7 7", "-x,y"])
def test_invalid_modes(alice: Person, place: Path, system: str, mode: str) -> None:
    """A mode that is not one is 400, and the file keeps its own."""
    alice.run("touch", str(place / "file"))
    answer = alice.http.put(f"/filesystem/{system}/ops/chmod", json={"path": f"{place}/file", "mode": mode})
    assert answer.status_code == 400, answer.text
    assert alice.run("stat", "-c", "%a", str(place / "file")) == "644\n"


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize(
    ("owner", "status"), [("nobody-here", 400), ("$(id)", 400), ("a:b", 400), ("--help", 400), ("root", 403)]
)
def test_invalid_owners(alice: Person, place: Path, system: str, owner: str, status: int) -> None:
    """An owner that does not exist, or may not be given, is refused in the words of the tool."""
    alice.run("touch", str(place / "file"))
    answer = alice.http.put(f"/filesystem/{system}/ops/chown", json={"path": f"{place}/file", "owner": owner})
    assert_problem(answer, status, "chown: ")


# Jobs


@pytest.mark.parametrize("job_id", ["1;id", "$(id)", "abc", "999999999", "-1", "1 2", "`id`", "1'", "%0a1"])
def test_unknown_and_malformed_job_ids(alice: Person, job_id: str) -> None:
    path = f"/compute/demo/jobs/{httpx.URL('/').copy_with(path='/' + job_id).raw_path.decode()[1:]}"
    for method, suffix in (("GET", ""), ("GET", "/metadata"), ("DELETE", "")):
        answer = alice.http.request(method, path + suffix)
        assert_problem(answer, 404, "Job not found")
    assert_problem(alice.http.put(f"{path}/attach", json={"command": "id"}), 404, "Job not found")


def submit(person: Person, **job: Any) -> httpx.Response:
    return person.http.post("/compute/demo/jobs", json={"job": {"workingDirectory": str(person.user.home), **job}})


@pytest.mark.parametrize(
    ("job", "words"),
    [
        ({"script": "#!/bin/sh\ntrue\n", "partition": "nowhere"}, "partition"),
        ({"script": "echo no shebang\n"}, "#!"),
        ({}, "script"),
        ({"script": "#!/bin/sh\n", "scriptPath": "/tmp/x"}, "script"),
        ({"script": "#!/bin/sh\ntrue\n", "account": "nobody-pays"}, "account"),
        ({"script": "#!/bin/sh\ntrue\n", "env": ["NO EQUALS"]}, "env"),
    ],
)
def test_refused_submissions(alice: Person, job: dict[str, Any], words: str) -> None:
    """What the scheduler refuses is 400 in its words."""
    assert_problem(submit(alice, **job), 400, words)


def test_submission_without_a_working_directory(alice: Person) -> None:
    answer = alice.http.post("/compute/demo/jobs", json={"job": {"script": "#!/bin/sh\n"}})
    assert_problem(answer, 400, kind="validation")


# Uploads and clients that go away


def broken_upload(gateway: Gateway, person: Person, system: str, place: Path, *, after: int) -> None:
    token = person.http.headers["authorization"]
    host, port = gateway.url.removeprefix("http://").split(":")
    head = b'--X\r\nContent-Disposition: form-data; name="file"; filename="file"\r\n\r\n'
    with socket.create_connection((host, int(port))) as raw:
        raw.sendall(
            f"POST /filesystem/{system}/ops/upload?path={place} HTTP/1.1\r\nHost: x\r\nAuthorization: {token}\r\n"
            f"Content-Type: multipart/form-data; boundary=X\r\nContent-Length: 2000000\r\n\r\n".encode()
        )
        raw.sendall(head + b"x" * after)
        time.sleep(0.5)


@pytest.mark.parametrize("system", SYSTEMS)
def test_an_upload_that_breaks_off(gateway: Gateway, alice: Person, place: Path, system: str) -> None:
    alice.run("sh", "-c", f"echo old > {place}/file")
    broken_upload(gateway, alice, system, place, after=1_000_000)
    deadline = time.monotonic() + 120
    while [path.name for path in place.iterdir()] != ["file"] and time.monotonic() < deadline:
        time.sleep(0.1)
    assert [path.name for path in place.iterdir()] == ["file"]
    assert (place / "file").read_text() == "old\n"


@pytest.mark.parametrize("system", SYSTEMS)
def test_upload_limit(alice: Person, place: Path, system: str) -> None:
    """A file of exactly the limit is taken, and one byte more is refused."""
    limit = 5 * 1024 * 1024
    ops = f"/filesystem/{system}/ops"
    exact = alice.http.post(f"{ops}/upload", params={"path": str(place)}, files={"file": ("exact", b"x" * limit)})
    assert exact.status_code == 204
    assert (place / "exact").stat().st_size == limit
    assert len(alice.http.get(f"{ops}/download", params={"path": f"{place}/exact"}).content) == limit
    for size in (limit + 1, limit + 1_000_000):
        over = alice.http.post(f"{ops}/upload", params={"path": str(place)}, files={"file": ("over", b"x" * size)})
        assert_problem(over, 413, "PUT files/content")
    alice.run("truncate", "-s", str(limit + 1), str(place / "large"))
    assert_problem(alice.http.get(f"{ops}/download", params={"path": f"{place}/large"}), 413, "GET files/content")
    assert sorted(path.name for path in place.iterdir()) == ["exact", "large"]


def wait_until(condition: Callable[[], bool], seconds: float = 120) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def test_a_client_that_hangs_up_ends_its_command(gateway: Gateway, alice: Person, place: Path) -> None:
    alice.run("truncate", "-s", "200G", str(place / "huge"))

    def running() -> bool:
        done = alice.cluster.as_user(alice.user, ["pgrep", "-u", alice.user.name, "-f", "sha256sum"], check=False)
        return done.returncode == 0

    with contextlib.suppress(httpx.ReadTimeout):
        httpx.get(
            f"{gateway.url}/filesystem/demo/ops/checksum",
            params={"path": f"{place}/huge"},
            headers={"Authorization": alice.http.headers["authorization"]},
            timeout=1.5,
        )
        raise AssertionError("the checksum of 200 GB was done in 1.5 s")
    assert wait_until(lambda: not running())


def test_a_command_that_takes_too_long(gateway: Gateway, cluster: Cluster, alice: Person, place: Path) -> None:
    alice.run("truncate", "-s", "200G", str(place / "huge"))
    config = cluster.write_gateway_config(
        cluster.directory / "short.yaml",
        clusters=[cluster.cluster_settings("demo", ssh={"timeout": {"command_execution": 1}})],
    )
    short = cluster.start_gateway(config)
    try:
        answer = httpx.get(
            f"{short.url}/filesystem/demo/ops/checksum",
            params={"path": f"{place}/huge"},
            headers={"Authorization": alice.http.headers["authorization"]},
        )
        assert_problem(answer, 408)
    finally:
        short.stop()


# Login nodes


def test_login_nodes_that_fail(cluster: Cluster, alice: Person) -> None:
    frozen = cluster.start_sshd()
    closed = cluster.take_port()
    other_key = cluster.start_sshd()
    settings = [
        cluster.cluster_settings("down", ssh={"port": closed}),
        cluster.cluster_settings("frozen", sshd=frozen, ssh={"timeout": {"connection": 1, "login": 1}}, probing=None),
        cluster.cluster_settings("nowhere", ssh={"host": "no-such-host.invalid"}),
        cluster.cluster_settings("impostor", sshd=other_key, ssh={"host_keys": [cluster.sshd.host_public_key]}),
    ]
    gateway = cluster.start_gateway(cluster.write_gateway_config(cluster.directory / "failing.yaml", clusters=settings))
    frozen.suspend()
    try:
        headers = {"Authorization": alice.http.headers["authorization"]}
        for name in ("down", "frozen", "nowhere", "impostor"):
            answer = httpx.get(
                f"{gateway.url}/filesystem/{name}/ops/ls",
                params={"path": str(alice.user.home)},
                headers=headers,
                timeout=600,
            )
            assert_problem(answer, 424)
        assert httpx.get(f"{gateway.url}/status/liveness/").status_code == 200
    finally:
        frozen.resume()
        frozen.stop()
        other_key.stop()
        gateway.stop()


def test_a_login_node_that_refuses_the_key(cluster: Cluster, alice: Person, bob: Person) -> None:
    wrong = cluster.gateway_settings()["ssh_credentials"]
    keys = wrong["keys"]
    keys[alice.user.name] = keys[bob.user.name]
    del keys[bob.user.name]
    config = cluster.write_gateway_config(cluster.directory / "refused.yaml", ssh_credentials={"keys": keys})
    gateway = cluster.start_gateway(config)
    try:
        for person in (alice, bob):
            answer = httpx.get(
                f"{gateway.url}/filesystem/demo/ops/ls",
                params={"path": str(person.user.home)},
                headers={"Authorization": person.http.headers["authorization"]},
            )
            if person is alice:
                assert_problem(answer, 424)
    finally:
        gateway.stop()


def test_the_idp_is_down(cluster: Cluster, alice: Person) -> None:
    port = cluster.take_port()
    config = cluster.write_gateway_config(
        cluster.directory / "no-idp.yaml",
        auth={"authentication": {"public_certs": [f"http://127.0.0.1:{port}/jwks"]}},
    )
    gateway = cluster.start_gateway(config)
    try:
        answer = httpx.get(
            f"{gateway.url}/status/systems", headers={"Authorization": alice.http.headers["authorization"]}
        )
        assert_problem(answer, 503)
        assert "retry-after" in answer.headers
        assert httpx.get(f"{gateway.url}/status/liveness").status_code == 200
    finally:
        gateway.stop()


# HTTP


def test_an_offer_to_upgrade_is_passed_over(gateway: Gateway) -> None:
    """A client may offer another protocol on any request (RFC 9110, section 7.8); the answer is as ever."""
    offer = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Key": "x3JJHMbDL1EzLkh9GBhXDw==",
        "Sec-WebSocket-Version": "13",
    }
    assert httpx.get(gateway.url + "/status/liveness/", headers=offer).status_code == 200
    assert_problem(httpx.get(gateway.url + "/status/systems", headers=offer), 401, "Not authenticated")


def _raw(gateway: Gateway, *pieces: bytes) -> httpx.Response:
    """Send bytes as they are and return the answer to them."""
    address = httpx.URL(gateway.url)
    with socket.create_connection((address.host, address.port or 80), timeout=600) as connection:
        for piece in pieces:
            connection.sendall(piece)
            time.sleep(0.05)  # each piece is to arrive by itself
        received = b""
        while block := connection.recv(65536):
            received += block
    head, _, content = received.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    headers = [(name, value) for name, _, value in (line.partition(": ") for line in lines)]
    return httpx.Response(int(status.split()[1]), headers=headers, content=content)


@pytest.mark.parametrize("request_line", [b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\nno colon\r\n\r\n"])
def test_what_is_no_http(gateway: Gateway, request_line: bytes) -> None:
    assert_problem(_raw(gateway, request_line), 400, "Invalid HTTP request")


def test_headers_without_an_end(gateway: Gateway) -> None:
    # The last one is the one that is too much: whoever still sends when he is refused may not get to read it.
    blocks = itertools.repeat(b"x" * 16 * 1024, 4)
    assert_problem(_raw(gateway, b"GET /status/liveness/ HTTP/1.1\r\nX: ", *blocks), 431, "The headers take more than")


def test_headers_of_a_usual_size(gateway: Gateway) -> None:
    for size in (8_000, 30_000):
        assert httpx.get(gateway.url + "/status/liveness/", headers={"X": "x" * size}).status_code == 200


# HEAD


@pytest.mark.parametrize(
    "path",
    [
        "/status/systems", "/status/demo/userinfo", "/status/demo/nodes", "/compute/demo/jobs",
        "/filesystem/demo/ops/ls?path={place}", "/filesystem/demo/ops/download?path={place}/file",
        "/filesystem/commands/ops/download?path={place}/file", "/filesystem/demo/files/content?path={place}/file",
        "/filesystem/demo/files/archive?path={place}", "/openapi.json", "/docs", "/status/liveness/",
        "/filesystem/demo/ops/stat?path={place}/missing", "/compute/demo/jobs/999999999", "/nowhere",
    ],
)  # fmt: skip
def test_head_says_what_get_would_and_the_connection_goes_on(alice: Person, place: Path, path: str) -> None:
    alice.run("sh", "-c", f"head -c 100000 /dev/zero > {place}/file")
    path = path.format(place=place)
    with httpx.Client(base_url=alice.http.base_url, headers=alice.http.headers, timeout=300) as client:
        got = client.get(path)
        head = client.head(path)
        assert (head.status_code, head.content) == (got.status_code, b"")
        # What changes from one answer to the next may be longer, too.
        if "download" in path or "content" in path:
            assert head.headers["content-length"] == got.headers["content-length"] == "100000"
        assert head.headers.get("content-type") == got.headers.get("content-type")
        # Had any content been sent, it would be taken for the next answer.
        assert client.get("/status/liveness/").json().keys() == {"healthcheckRuns", "lastUpdate"}
