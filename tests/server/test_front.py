"""TLS, proxies, headers, other origins and slow clients, on a real gateway process."""

import contextlib
import datetime
import ipaddress
import json
import os
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.front import Front, command, serving, write_config
from tests.routes import at
from tests.transfers.servers import free_port, wait_for_port

ALIVE = "/status/liveness/"
ORIGIN = "https://portal.example.org"


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    """A gateway that behaves as by default, but for its patience."""
    with serving(tmp_path_factory.mktemp("front"), http={"header_timeout": 1, "keep_alive": 1}) as running:
        yield running


@pytest.fixture(scope="module")
def open_front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    """A gateway behind a proxy on this machine, which a portal's pages may call."""
    with serving(
        tmp_path_factory.mktemp("open-front"),
        http={"trusted_proxies": ["127.0.0.0/8"], "cors": {"allow_origins": [ORIGIN]}, "hsts_max_age": 31536000},
    ) as running:
        yield running


def self_signed(path: Path, serial: int) -> Path:
    """Write a certificate for 127.0.0.1 and its key into one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "hpcgate.test")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    whole = path.with_suffix(".new")
    whole.write_bytes(certificate.public_bytes(serialization.Encoding.PEM) + pem)
    whole.rename(path)
    return path


def shown_serial(port: int) -> int:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with socket.create_connection(("127.0.0.1", port), timeout=600) as raw, context.wrap_socket(raw) as tls:
        shown = tls.getpeercert(binary_form=True)
    assert shown is not None
    return x509.load_der_x509_certificate(shown).serial_number


def eventually(condition: object, seconds: float = 120) -> None:
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def received(connection: socket.socket) -> bytes:
    """Return all that comes until the other side closes the connection."""
    connection.settimeout(60)
    content = b""
    while block := connection.recv(65536):
        content += block
    return content


def test_who_asks_is_found_out_before_what_is_asked(front: Front) -> None:
    """Without a token nobody learns which parameters are missing or wrong."""
    base = f"http://127.0.0.1:{front.port}"
    free = {"/status/liveness/", "/status/readiness"}
    with httpx.Client(base_url=base, headers={"Tus-Resumable": "1.0.0"}) as client:
        paths = client.get("/openapi.json").json()["paths"]
        asked = [(method, path) for path, methods in paths.items() for method in methods if path not in free]
        assert ("patch", "/filesystem/{system_name}/files/uploads/{upload_id}") in asked
        for method, path in asked:
            if method != "options":
                answer = client.request(method, at(path, system_name="demo"))
                assert answer.status_code == 401, (method, path)


def test_https_and_a_renewed_certificate(tmp_path: Path) -> None:
    certificate = self_signed(tmp_path / "tls.pem", 1001)
    with serving(tmp_path, "--tls-cert", str(certificate), http={"hsts_max_age": 600}) as front:
        answer = httpx.get(
            f"https://127.0.0.1:{front.port}{ALIVE}", verify=ssl.create_default_context(cafile=certificate)
        )
        assert answer.status_code == 200
        assert answer.headers["strict-transport-security"] == "max-age=600"
        assert shown_serial(front.port) == 1001
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            old.maximum_version = ssl.TLSVersion.TLSv1_1
        with (
            socket.create_connection(("127.0.0.1", front.port), timeout=600) as raw,
            pytest.raises((ssl.SSLError, ConnectionError)),
        ):
            old.wrap_socket(raw)
        self_signed(certificate, 1002)
        eventually(lambda: shown_serial(front.port) == 1002)
        certificate.write_text("no certificate at all")
        eventually(lambda: "tls.renewal_failed" in front.log.read_text())
        assert shown_serial(front.port) == 1002


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "No such file or directory"), ("nothing of use", "PEM"), ("encrypted", "passphrase")],
)
def test_a_certificate_of_no_use_is_told(content: str | None, words: str, tmp_path: Path) -> None:
    path = tmp_path / "tls.pem"
    if content == "encrypted":
        self_signed(path, 1)
        key = ec.generate_private_key(ec.SECP256R1())
        path.with_suffix(".key").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.BestAvailableEncryption(b"unknown"),
            )
        )
    elif content is not None:
        path.write_text(content)
    options = ["--tls-cert", str(path)]
    if content == "encrypted":
        options += ["--tls-key", str(path.with_suffix(".key"))]
    ended = subprocess.run(command(write_config(tmp_path), 0, *options), capture_output=True, text=True, timeout=300)
    assert ended.returncode == 1
    assert words in ended.stderr
    assert "Traceback" not in ended.stderr


def test_forwarded_headers_of_strangers_are_ignored(front: Front, open_front: Front) -> None:
    headers = {"X-Forwarded-For": "203.0.113.7", "X-Forwarded-Proto": "https"}
    for where, source in ((front, "127.0.0.1"), (open_front, "203.0.113.7")):
        answer = httpx.get(f"http://127.0.0.1:{where.port}{ALIVE}?{source}", headers=headers)
        line = access_line(where, answer.headers["x-request-id"])
        assert line["client"] == source
    # Only who is believed to have come by TLS is told to come by TLS for ever.
    assert answer.headers["strict-transport-security"] == "max-age=31536000"


def access_line(front: Front, request_id: str) -> dict[str, object]:
    def found() -> list[dict[str, object]]:
        text = front.log.read_text().rpartition("\n")[0]
        lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
        return [line for line in lines if line.get("request_id") == request_id and line["event"] == "http.request"]

    eventually(found)
    assert len(found()) == 1
    return found()[0]


def test_every_line_of_the_log_is_json(front: Front) -> None:
    with socket.create_connection(("127.0.0.1", front.port)) as connection:
        connection.sendall(b"no HTTP at all\r\n\r\n")
        assert received(connection).startswith(b"HTTP/1.1 400 ")

    def complained() -> bool:
        return '"http.refused"' in front.log.read_text()

    eventually(complained)
    lines = [json.loads(line) for line in front.log.read_text().rpartition("\n")[0].splitlines()]
    assert any(line.get("message", "").startswith("Uvicorn running on") for line in lines)
    assert all({"event", "level", "timestamp"} <= line.keys() for line in lines)


def test_security_headers(front: Front, tmp_path: Path) -> None:
    """Every answer has the headers that browsers go by."""
    for path in (ALIVE, "/status/systems", "/nowhere"):
        headers = httpx.get(f"http://127.0.0.1:{front.port}{path}").headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
        assert headers["cache-control"] == "no-store"
        assert "strict-transport-security" not in headers
        assert "server" not in headers
    page = httpx.get(f"http://127.0.0.1:{front.port}/docs").headers
    assert page["content-security-policy"].startswith("default-src 'none'; script-src 'self'")
    assert page["content-security-policy"].endswith("frame-ancestors 'none'")
    with serving(tmp_path, http={"security_headers": False}) as bare:
        assert "x-frame-options" not in httpx.get(f"http://127.0.0.1:{bare.port}{ALIVE}").headers


def test_other_origins_only_where_they_are_named(front: Front, open_front: Front) -> None:
    asked = {
        "Origin": ORIGIN,
        "Access-Control-Request-Method": "PUT",
        "Access-Control-Request-Headers": "authorization,content-type",
    }
    closed = f"http://127.0.0.1:{front.port}"
    assert "access-control-allow-origin" not in httpx.options(f"{closed}/status/systems", headers=asked).headers
    assert "access-control-allow-origin" not in httpx.get(f"{closed}{ALIVE}", headers={"Origin": ORIGIN}).headers
    base = f"http://127.0.0.1:{open_front.port}"
    before = httpx.options(f"{base}/status/systems", headers=asked)
    assert before.status_code == 200
    assert before.headers["access-control-allow-origin"] == ORIGIN
    assert "PUT" in before.headers["access-control-allow-methods"]
    assert "authorization" in before.headers["access-control-allow-headers"].lower()
    assert before.headers["access-control-max-age"] == "600"
    assert "access-control-allow-credentials" not in before.headers
    assert before.headers["f7t-appversion"]
    # An error carries them too: a page could not read it otherwise.
    answer = httpx.get(f"{base}/status/systems", headers={"Origin": ORIGIN})
    assert answer.status_code == 401
    assert answer.headers["access-control-allow-origin"] == ORIGIN
    assert "X-Request-ID" in answer.headers["access-control-expose-headers"]
    foreign = httpx.get(f"{base}/status/systems", headers={"Origin": "https://evil.example.org"})
    assert "access-control-allow-origin" not in foreign.headers


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: "])
def test_a_slow_first_head_is_given_up(sent: bytes, front: Front) -> None:
    with socket.create_connection(("127.0.0.1", front.port)) as connection:
        connection.sendall(sent)
        answer = received(connection)
    if sent:
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["message"].startswith("The headers did not arrive")
    else:
        assert answer == b""


@pytest.mark.parametrize("then", [b"", b"\r\n", b"GET / HTTP/1.1\r\nX-Slow: "])
def test_a_connection_does_not_rest_for_ever(then: bytes, front: Front) -> None:
    with socket.create_connection(("127.0.0.1", front.port)) as connection:
        connection.sendall(f"GET {ALIVE} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        begun = connection.recv(4096)
        assert begun.startswith(b"HTTP/1.1 200 ")
        connection.sendall(then)
        received(connection)


@pytest.mark.parametrize("end", [b"", b"\r\n\r\n"])
@pytest.mark.parametrize("size", [70_000, 200_000])
def test_a_head_that_is_too_long_is_refused(size: int, end: bytes, front: Front) -> None:
    with socket.create_connection(("127.0.0.1", front.port)) as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(f"GET {ALIVE} HTTP/1.1\r\nHost: x\r\nX-Long: ".encode() + b"x" * size + end)
        connection.settimeout(60)
        assert connection.recv(4096).startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize("first", [b"", f"GET {ALIVE} HTTP/1.1\r\nHost: x\r\n\r\n".encode()])
def test_empty_lines_before_a_head_have_an_end(first: bytes, open_front: Front) -> None:
    """They are as much of a head as all else; a few are passed over."""
    with socket.create_connection(("127.0.0.1", open_front.port)) as connection:
        connection.settimeout(60)
        if first:
            connection.sendall(first)
            answer = b""
            while not answer.endswith(b"}"):
                part = connection.recv(4096)
                assert part
                answer += part
            assert answer.startswith(b"HTTP/1.1 200 ")
        with contextlib.suppress(ConnectionError):
            connection.sendall(b"\r\n" * 100_000)
        assert connection.recv(4096).startswith(b"HTTP/1.1 431 ")
    with socket.create_connection(("127.0.0.1", open_front.port)) as connection:
        connection.settimeout(60)
        connection.sendall(b"\r\n" * 1000 + f"GET {ALIVE} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert connection.recv(4096).startswith(b"HTTP/1.1 200 ")


def test_a_head_of_just_the_size_is_taken(front: Front) -> None:
    answer = httpx.get(f"http://127.0.0.1:{front.port}{ALIVE}", headers={"X-Long": "x" * 60_000})
    assert answer.status_code == 200


def test_a_client_that_takes_nothing_is_given_up(tmp_path: Path) -> None:
    with serving(tmp_path, http={"send_timeout": 1}) as front:
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", front.port))
        # Pipelined, so that the answers are far more than all buffers on the way hold; none is taken.
        with connection:
            connection.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 300)
            eventually(lambda: "http.client_takes_nothing" in front.log.read_text())
            with contextlib.suppress(ConnectionError):
                received(connection)
        assert httpx.get(f"http://127.0.0.1:{front.port}{ALIVE}").status_code == 200


def test_standard_output_that_nobody_reads_holds_nobody(tmp_path: Path) -> None:
    """A pipe takes 64 KiB: with three times as much in the log all are answered, and it ends when it is told to."""
    port = free_port()
    process = subprocess.Popen(
        command(write_config(tmp_path), port),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        wait_for_port(port, process)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=600) as client:
            for _ in range(200):
                assert client.get(f"/{'x' * 1000}").status_code == 404
        process.terminate()
        assert process.wait(120) == -signal.SIGTERM
    finally:
        process.kill()
        process.communicate()


def test_handlers_of_a_site_that_hang_hold_nobody(tmp_path: Path) -> None:
    fifo, config = tmp_path / "fifo", tmp_path / "log-config.yaml"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    config.write_text(
        f"version: 1\nhandlers: {{file: {{class: logging.FileHandler, filename: {fifo}, mode: w}}}}\n"
        "root: {level: INFO, handlers: [file]}\n"
    )
    try:
        with serving(tmp_path, env={"UVICORN_LOG_CONFIG": str(config)}) as front:
            with httpx.Client(base_url=f"http://127.0.0.1:{front.port}", timeout=600) as client:
                for _ in range(200):
                    assert client.get(f"/{'x' * 1000}").status_code == 404
            front.process.send_signal(signal.SIGINT)
            front.process.wait(120)
    finally:
        os.close(reader)


def test_logs_that_cannot_be_written_or_read_are_told(tmp_path: Path) -> None:
    config = write_config(tmp_path, audit={"to": "/proc/audit.jsonl"})
    ended = subprocess.run(command(config, 0), capture_output=True, text=True, timeout=300)
    assert ended.returncode == 1
    assert ended.stderr.startswith("cannot write the audit log /proc/audit.jsonl: ")
    broken = tmp_path / "log-config.yaml"
    broken.write_text("version: 1\nhandlers: {file: {class: no.such.Handler}}\n")
    for name in (str(broken), "/nowhere.yaml"):
        ended = subprocess.run(
            command(write_config(tmp_path), 0),
            capture_output=True,
            text=True,
            timeout=300,
            env=os.environ | {"UVICORN_LOG_CONFIG": name},
        )
        assert ended.returncode == 1
        assert ended.stderr.startswith(f"UVICORN_LOG_CONFIG: cannot use {name}: ")
        assert "Traceback" not in ended.stderr
