"""Bodies against a real gateway process: nothing of one is read before its token, and none holds what is others'."""

import contextlib
import json
import re
import resource
import select
import socket
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from hpcgate.api.terms import terms_of
from hpcgate.config import Settings
from hpcgate.server.app import create_app
from tests.auth import idp
from tests.front import Front, serving
from tests.routes import at

MIB = 1024 * 1024
PREFIX = "/v2"
AUTH: dict[str, Any] = {"authentication": {"token_url": "http://127.0.0.1:9/token"}}
CLUSTER = {
    "name": "demo",
    "ssh": {"host": "127.0.0.1", "port": 9},
    "scheduler": {"type": "slurm", "version": "22.05.8", "timeout": 5},
    "file_systems": [{"path": "/", "data_type": "scratch", "default_work_dir": True}],
}
SENDING = {
    "announced": b"Content-Length: 67108864\r\n\r\n" + b"[" * 1000,
    "slow": b"Content-Length: 67108864\r\n\r\n",
    "in chunks": b"Transfer-Encoding: chunked\r\n\r\n3e8\r\n" + b"[" * 1000 + b"\r\n",
    "slow in chunks": b"Transfer-Encoding: chunked\r\n\r\n",
    "expecting": b"Content-Length: 67108864\r\nExpect: 100-continue\r\n\r\n",
    "expecting little": b"Content-Length: 10\r\nExpect: 100-continue\r\n\r\n",
}


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    directory = tmp_path_factory.mktemp("bodies")
    keys = directory / "keys.json"
    keys.write_text(json.dumps({"keys": [idp.jwk("RSA")]}))
    with serving(
        directory,
        apis_root_path=PREFIX,
        auth={"authentication": {**AUTH["authentication"], "public_certs": [keys.as_uri()]}},
        clusters=[CLUSTER],
        metrics={"path": "/metrics"},
        streams={"stall_timeout": 1},
        http={"body_timeout": 1, "max_requests": 40, "max_bodies_per_user": 30, "drain": 0},
    ) as running:
        ready(running)
        yield running


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    """A gateway with bounds as they come, which waits, and lets wait, for longer than a test takes on any machine."""
    directory = tmp_path_factory.mktemp("patient")
    (directory / "keys.json").write_text(json.dumps({"keys": [idp.jwk("RSA")]}))
    keys = (directory / "keys.json").as_uri()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        with serving(
            directory,
            auth={"authentication": {**AUTH["authentication"], "public_certs": [keys]}},
            clusters=[CLUSTER],
            streams={"stall_timeout": 600},
            http={"body_timeout": 600, "max_delay": 600, "drain": 0, "graceful_stop": 0},
        ) as running:
            ready(running)
            yield running
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def ready(front: Front) -> None:
    """Wait until a gateway has its keys."""
    deadline = time.monotonic() + 120
    while httpx.get(f"http://127.0.0.1:{front.port}/status/readiness").status_code != 200:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def bearer(user: str) -> str:
    payload = idp.claims(preferred_username=user, exp=int(time.time()) + 7 * 86400)
    return f"Bearer {idp.token(payload=payload)}"


ALICE = bearer("alice")


def client_of(front: Front, token: str) -> httpx.Client:
    """A client with a token, and with patience."""
    return httpx.Client(base_url=f"http://127.0.0.1:{front.port}", headers={"Authorization": token}, timeout=200)


def every_request() -> Iterator[tuple[str, str, bool]]:
    """Yield method, path and whether it is free, for each route, and what stands beside the routes."""
    general = {
        "auth": AUTH,
        "ssh_credentials": {"type": "SSHService", "url": "http://127.0.0.1"},
        "metrics": {"path": "/metrics"},
    }
    routes: Any = create_app(Settings.model_validate(general)).routes
    for route in routes:
        path = at(route.path, system_name="demo")
        for method in route.methods:
            yield method, path, terms_of(route).public
    yield "POST", "/nowhere", True
    yield "DELETE", "/status/systems", True
    yield "OPTIONS", "/compute/demo/jobs", True


ASKED = sorted(set(every_request()))


def ask(front: Front, method: str, path: str, rest: bytes, token: str | None = None) -> bytes:
    """Send a head and the beginning of a body, and return all that comes until the gateway closes the connection."""
    with socket.create_connection(("127.0.0.1", front.port), timeout=300) as connection:
        head = f"{method} {path} HTTP/1.1\r\nHost: x\r\n" + (f"Authorization: {token}\r\n" if token else "")
        connection.sendall(head.encode() + rest)
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while block := connection.recv(65536):
                answer += block
        return answer


def body_bytes(front: Front) -> float:
    """Return how many bytes of bodies have been read."""
    text = httpx.get(f"http://127.0.0.1:{front.port}/metrics").text
    return sum(float(line.split()[-1]) for line in re.findall(r"^hpcgate_http_request_body_bytes_total.*", text, re.M))


@pytest.mark.parametrize("sending", SENDING)
def test_nothing_is_read_without_a_token(front: Front, sending: str) -> None:
    """Every route, with and without a slash at its end and the prefix before it."""
    before = body_bytes(front)
    for method, path, free in ASKED:
        for variant in {path, path.rstrip("/") + "/", PREFIX + path}:
            for token in (None, "Bearer e.y.J") if variant == path else (None,):
                answer = ask(front, method, variant, SENDING[sending], token)
                status = int(answer[9:12])
                assert b"100 Continue" not in answer, (method, variant)
                assert re.search(rb"\r\nconnection: close\r\n", answer, re.I), (method, variant)
                assert (status != 401) if free else (status == 401), (method, variant, answer)
                if not free and method != "HEAD":
                    told = json.loads(answer.partition(b"\r\n\r\n")[2])
                    assert told["errorType"] == "error", (method, variant)
                    assert b"www-authenticate: Bearer" in answer
    assert body_bytes(front) == before


def test_64_mib_without_a_token_are_not_waited_for(patient: Front) -> None:
    """Nor are they looked at where they come: they are read past."""
    before = body_bytes(patient)
    with socket.create_connection(("127.0.0.1", patient.port), timeout=600) as connection:
        head = f"POST /filesystem/demo/transfer/cp HTTP/1.1\r\nHost: x\r\nContent-Length: {64 * MIB}\r\n\r\n"
        connection.sendall(head.encode() + b"[" * MIB)
        # The rest comes after the answer, if at all.
        assert connection.recv(65536).startswith(b"HTTP/1.1 401 ")
        with contextlib.suppress(OSError):
            for _ in range(63):
                connection.sendall(b"[" * MIB)
    assert body_bytes(patient) == before


JSON_ROUTES = [(method, path) for method, path, free in ASKED if not free and method in ("POST", "PUT")]


def test_too_much_with_a_token_is_refused_early(patient: Front) -> None:
    whole = [(method, path) for method, path in JSON_ROUTES if "/files/" not in path and not path.endswith("/upload")]
    assert ("POST", "/filesystem/demo/transfer/cp") in whole
    assert ("POST", "/compute/demo/jobs") in whole
    for method, path in whole:
        for rest in (SENDING["announced"], SENDING["expecting"]):
            answer = ask(patient, method, path, rest, ALICE)
            assert answer.startswith(b"HTTP/1.1 413 "), (method, path, answer)


def test_a_continue_comes_after_the_token(patient: Front) -> None:
    with socket.create_connection(("127.0.0.1", patient.port), timeout=300) as connection:
        head = f"PUT /filesystem/demo/ops/chmod HTTP/1.1\r\nHost: x\r\nAuthorization: {ALICE}\r\n"
        connection.sendall(head.encode() + b"Content-Length: 2\r\nExpect: 100-continue\r\n\r\n")
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b"{}")
        assert connection.recv(1000).startswith(b"HTTP/1.1 400 ")


BAD = {
    "not JSON": (b"x" * 900_000, "not JSON"),
    "half": (b'{"path": "' + b"x" * 900_000, "not JSON"),
    "deep": (b"[" * 20_000, "nested too deeply"),
    "deep and whole": (b"[" * 100 + b"]" * 100, "nested too deeply"),
    "many": (b"[" + b"[]," * 300_000, "too many values"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_json_with_a_token(patient: Front, name: str) -> None:
    content, words = BAD[name]
    json_routes = [
        ("POST", "/compute/demo/jobs"),
        ("POST", "/filesystem/demo/transfer/mv"),
        ("PUT", "/filesystem/demo/ops/chmod"),
    ]
    with httpx.Client(
        base_url=f"http://127.0.0.1:{patient.port}", headers={"Authorization": ALICE}, timeout=300
    ) as client:
        for method, path in json_routes:
            answer = client.request(method, path, content=content, headers={"Content-Type": "application/json"})
            assert answer.status_code == 400
            assert words in answer.json()["message"]


def resident(front: Front) -> int:
    """Return the bytes of memory that the gateway takes."""
    status = Path(f"/proc/{front.process.pid}/status").read_text()
    return int(re.findall(r"VmRSS:\s+(\d+) kB", status)[0]) * 1024


FAILING = {
    "not JSON": b"x" * (7 * MIB),
    "not JSON at the end": b'{"job": {"script": "' + b"x" * (7 * MIB),
    "of the wrong form": b'{"job": ["' + b"x" * (7 * MIB) + b'"]}',
    "many mistakes": b'{"job": {"workingDirectory": "/", "env": [' + b"[1]," * 10_000 + b"1]}}",
    "a script in vain": b'{"job": {"workingDirectory": "/", "scriptPath": "/x", "script": "'
    + b"x" * (7 * MIB)
    + b'"}}',
}


@pytest.mark.parametrize("name", FAILING)
def test_what_a_failed_body_took_is_given_back(patient: Front, name: str) -> None:
    """Twenty after a few others take no more: the C library may keep the room of one body, never of all."""
    url = f"http://127.0.0.1:{patient.port}/compute/demo/jobs"
    headers = {"Authorization": ALICE, "Content-Type": "application/json"}
    taken = []
    with httpx.Client(timeout=300, headers=headers) as client:
        for _ in range(25):
            assert client.post(url, content=FAILING[name]).status_code == 400
            taken.append(resident(patient))
    assert min(taken[-5:]) - min(taken[:5]) < 32 * MIB, taken


def test_slow_bodies_with_a_token_end_and_shut_nobody_out(front: Front) -> None:
    """As many as there may be requests at all, of one user: they have their share, and others are served meanwhile."""
    statuses: list[int] = []
    head = f"POST /compute/demo/jobs HTTP/1.1\r\nHost: x\r\nAuthorization: {ALICE}\r\n"
    with contextlib.ExitStack() as stack:
        slow = [
            stack.enter_context(socket.create_connection(("127.0.0.1", front.port), timeout=300)) for _ in range(60)
        ]
        for connection in slow:
            connection.sendall(head.encode() + b"Content-Length: 9000\r\n\r\n[")
        with httpx.Client(
            base_url=f"http://127.0.0.1:{front.port}", headers={"Authorization": bearer("bob")}, timeout=300
        ) as bob:
            for _ in range(10):
                assert bob.get("/status/systems").status_code == 200
                assert bob.put("/filesystem/demo/ops/chmod", content=b"{}").status_code == 400
        with ThreadPoolExecutor(20) as pool:
            for answer in pool.map(lambda connection: connection.recv(65536), slow):
                statuses.append(int(answer[9:12]))
    assert set(statuses) <= {408, 429, 503}
    assert statuses.count(408) >= 1
    assert statuses.count(408) <= 30


MANY = 2000
JOBS = "POST /compute/demo/jobs"
FORM = b"Content-Type: multipart/form-data; boundary=B\r\n"
CROWDS: dict[str, tuple[list[str | None], str, bytes, set[int]]] = {
    "no token": ([None], JOBS, SENDING["slow"], {401, 503}),
    "bad tokens": ([f"Bearer e.y.J{number}" for number in range(MANY)], JOBS, SENDING["slow in chunks"], {401, 503}),
    "one user": ([ALICE], JOBS, b"Content-Length: 9000\r\n\r\n[", {429}),
    "one user in chunks": ([ALICE], "PUT /filesystem/demo/ops/chmod", SENDING["in chunks"], {429}),
    "one user's files": (
        [ALICE],
        "POST /filesystem/demo/ops/upload?path=/tmp",
        FORM + b"Content-Length: 9000\r\n\r\n--B\r\n",
        {429},
    ),
    "twenty users": ([bearer(f"user{number}") for number in range(20)], JOBS, b"Content-Length: 9000\r\n\r\n[", set()),
}


def answered(connections: list[socket.socket], most_left: int) -> list[int]:
    """Wait until no more than so many are without an answer, and return the statuses. The rest must wait on."""
    statuses: list[int] = []
    poll = select.poll()
    left = {connection.fileno(): connection for connection in connections}
    for number in left:
        poll.register(number, select.POLLIN)
    deadline = time.monotonic() + 120
    while len(left) > most_left:
        assert time.monotonic() < deadline, f"{len(left)} wait, {Counter(statuses)}"
        for number, _ in poll.poll(1000):
            poll.unregister(number)
            statuses.append(int(left.pop(number).recv(1000)[9:12]))
    assert len(left) == most_left
    assert not poll.poll(0)
    return statuses


@pytest.mark.parametrize("name", CROWDS)
def test_2000_slow_bodies_shut_nobody_out(patient: Front, name: str) -> None:
    """Those that may wait for their bodies wait, the rest is told so, and others are served as if nobody were there."""
    tokens, route, rest, refused = CROWDS[name]
    method, path = route.split()
    base = f"http://127.0.0.1:{patient.port}"
    with contextlib.ExitStack() as stack:
        bob = stack.enter_context(client_of(patient, bearer("bob")))
        assert bob.get("/status/systems").status_code == 200
        crowd = []
        for number in range(MANY):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", patient.port), timeout=300))
            token = tokens[number % len(tokens)]
            head = f"{method} {path} HTTP/1.1\r\nHost: x\r\n" + (f"Authorization: {token}\r\n" if token else "")
            connection.sendall(head.encode() + rest)
            crowd.append(connection)
        for number in range(5):
            assert bob.get("/status/systems").status_code == 200
            assert bob.put("/filesystem/demo/ops/chmod", content=b"{}").status_code == 400
            if 401 not in refused:
                # One who is as unknown as a crowd of strangers waits among them.
                newcomer = {"Authorization": bearer(f"newcomer{number}")}
                assert httpx.get(f"{base}/status/systems", headers=newcomer, timeout=200).status_code == 200
        waiting = {frozenset({401, 503}): 0, frozenset({429}): 256, frozenset(): MANY}[frozenset(refused)]
        assert set(answered(crowd, waiting)) <= refused


LONG = b"Content-Length: 700000\r\n\r\n" + b"[" * 700_000
EARLY: dict[str, tuple[str, str | None, bytes, bytes]] = {
    "no token": (JOBS, None, LONG, b"401"),
    "no token in chunks": (JOBS, None, b"Transfer-Encoding: chunked\r\n\r\naae60\r\n" + b"[" * 700_000, b"401"),
    "nowhere": ("POST /nowhere", None, LONG, b"404"),
    "too deep": (JOBS, ALICE, LONG, b"400"),
    "a body for a route without one": ("GET /status/systems", ALICE, LONG, b"200"),
    "public": ("GET /status/liveness", None, LONG, b"200"),
    "no form": (
        "POST /filesystem/demo/ops/upload?path=/tmp",
        ALICE,
        b"Content-Type: multipart/form-data; boundary=B\r\n" + LONG,
        b"400",
    ),
    "blanks before a form": (
        "POST /filesystem/demo/ops/upload?path=/tmp",
        ALICE,
        b"Content-Type: multipart/form-data; boundary=B\r\nTransfer-Encoding: chunked\r\n\r\n"
        + (b"10000\r\n" + b"\r\n" * 0x8000 + b"\r\n") * 84,
        b"413",
    ),
}


@pytest.mark.parametrize("name", EARLY)
def test_an_answer_before_the_end_of_the_body_arrives(patient: Front, name: str) -> None:
    """A connection that is closed with something unread is reset, and the answer may be lost."""
    route, token, rest, status = EARLY[name]
    method, path = route.split()
    with socket.create_connection(("127.0.0.1", patient.port), timeout=300) as connection:
        head = f"{method} {path} HTTP/1.1\r\nHost: x\r\n" + (f"Authorization: {token}\r\n" if token else "")
        connection.sendall(head.encode() + rest)
        answer = b""
        while block := connection.recv(65536):
            answer += block
        connection.sendall(b"[" * 1000)
    assert answer[9:12] == status
    assert b"\r\n\r\n" in answer


def test_the_last_answer_is_the_last_whatever_body_follows(patient: Front) -> None:
    head = b"POST /nowhere HTTP/1.1\r\nHost: x\r\n"
    last = head + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n"
    with socket.create_connection(("127.0.0.1", patient.port), timeout=300) as connection:
        connection.sendall(last + head + b"Content-Length: 100\r\n\r\n{")
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while block := connection.recv(65536):
                answer += block
    assert answer.count(b"HTTP/1.1 ") == 1
    assert httpx.get(f"http://127.0.0.1:{patient.port}/status/liveness", timeout=300).status_code == 200
    log = patient.log.read_text()
    assert "Exception in" not in log
    assert "internal.error" not in log


OFFERED = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n"
WHOLE = {
    "in one go": b"Content-Length: 2\r\n\r\n{}",
    "in chunks": b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n1\r\n}\r\n0\r\n\r\n",
    "by HTTP/2 rather": OFFERED + b"Content-Length: 2\r\n\r\n{}",
    "by HTTP/2 rather, in chunks": OFFERED + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "with trailers": b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nAuthorization: Bearer x\r\n\r\n",
}


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("cut", [0, 60])
def test_a_body_is_read_however_it_comes(patient: Front, name: str, cut: int) -> None:
    """Some clients offer with each first request to go on by HTTP/2, and send its body by HTTP/1.1."""
    head = f"PUT /filesystem/demo/ops/chmod HTTP/1.1\r\nHost: x\r\nAuthorization: {ALICE}\r\n".encode()
    text = head + WHOLE[name]
    with socket.create_connection(("127.0.0.1", patient.port), timeout=300) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for part in (text[: len(text) - cut], text[len(text) - cut :]):
            connection.sendall(part)
            time.sleep(0.05)
        answer = b""
        while b"Validation error" not in answer and (block := connection.recv(65536)):
            answer += block
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"Validation error" in answer


def test_only_who_may_wait_is_told_to_continue(patient: Front) -> None:
    """Not by HTTP/1.0, and not without a body (RFC 9110, section 10.1.1)."""
    expecting = f"Authorization: {ALICE}\r\nExpect: 100-continue\r\nConnection: close\r\n".encode()
    for start, rest in {
        b"PUT /filesystem/demo/ops/chmod HTTP/1.0\r\n": b"Content-Length: 2\r\n\r\n{}",
        b"PUT /filesystem/demo/ops/chmod HTTP/1.1\r\nHost: x\r\n": b"Content-Length: 0\r\n\r\n",
        b"GET /status/systems HTTP/1.1\r\nHost: x\r\n": b"\r\n",
    }.items():
        with socket.create_connection(("127.0.0.1", patient.port), timeout=300) as connection:
            connection.sendall(start + expecting + rest)
            answer = b""
            while block := connection.recv(65536):
                answer += block
            assert b"100 Continue" not in answer


STREAMS = {
    "PUT /filesystem/demo/ops/chmod": b"Content-Length: 100\r\n\r\n{",
    "POST /filesystem/demo/transfer/mv": b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n",
    "POST /filesystem/demo/ops/upload?path=/tmp": b"Content-Type: multipart/form-data; boundary=B\r\n"
    b"Content-Length: 1000\r\n\r\n--B\r\n",
}


@pytest.mark.parametrize("route", STREAMS)
def test_a_body_that_does_not_come(front: Front, route: str) -> None:
    method, path = route.split()
    answer = ask(front, method, path, STREAMS[route], ALICE)
    assert answer.startswith(b"HTTP/1.1 408 ")
