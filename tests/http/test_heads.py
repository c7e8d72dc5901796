"""Heads and bodies that a proxy and the gateway could read in two ways, over raw sockets: each has an answer, a 4xx."""

import json
import re
import socket
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcgate.api.responses import fields
from hpcgate.http.heads import MAX_FIELDS, ONCE, odd_path, refusal
from hpcgate.server.answers import MAX_PIPELINED
from tests.front import Front, serving

PATH = b"/status/liveness"
HOST = b"Host: gateway.example.org\r\n"
GOOD = b"GET " + PATH + b" HTTP/1.1\r\n" + HOST
POST = b"POST /filesystem/demo/ops/mkdir HTTP/1.1\r\n" + HOST
LONG = 100_000
"""Bytes that are more than `http.max_header_size`."""
OFFERING = POST + b"Connection: Upgrade\r\nUpgrade: h2c\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"


def asked(target: bytes, version: bytes = b"HTTP/1.1", method: bytes = b"GET") -> bytes:
    return method + b" " + target + b" " + version + b"\r\n" + HOST + b"\r\n"


def head(*lines: bytes) -> bytes:
    return b"\r\n".join((b"GET " + PATH + b" HTTP/1.1", *lines, b"", b""))


ODD: dict[str, tuple[int, bytes]] = {
    # What is sent, and the status of its one answer.
    "no Host": (400, head()),
    "two Hosts": (400, head(b"Host: a", b"Host: b")),
    "the same Host twice": (400, head(b"Host: a", b"Host: a")),
    "two Hosts in other cases": (400, head(b"HOST: a", b"host: a")),
    "two Hosts in one": (400, head(b"Host: a, b")),
    "Host with a path": (400, head(b"Host: a/b")),
    "Host with a user": (400, head(b"Host: u@a")),
    **{
        f"Host {host.decode('latin-1')}": (400, head(b"Host: " + host))
        for host in (
            b"a:b:c",
            b"x:80:90",
            b":80",
            b"a:999999",
            b"a:0x50",
            b"[::1",
            b"a]:80",
            b"[[::1]]",
            b"::1",
            b"[::1]x",
            b"[fe80::1%eth0]",
            b"%zz",
            b"a%00b",
            b"a%2fb",
            b"a b",
            b"a;b",
            b"a#b",
            b"*",
            b"\xe9",
        )
    },
    "two tokens": (400, head(b"Host: a", b"Authorization: Bearer x", b"Authorization: Bearer y")),
    "two API keys": (400, head(b"Host: a", b"X-API-Key: x", b"x-api-key: y")),
    "the same token twice": (400, head(b"Host: a", b"authorization: Bearer x", b"Authorization: Bearer x")),
    **{
        f"two of {name.decode()}": (400, head(b"Host: a", name + b": 1", name.upper() + b": 2"))
        for name in sorted(ONCE)
    },
    "length and chunks": (400, POST + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    "chunks and length": (400, POST + b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n"),
    "two lengths": (400, POST + b"Content-Length: 4\r\nContent-Length: 5\r\n\r\nabcd"),
    "the same length twice": (400, POST + b"Content-Length: 4\r\nContent-Length: 4\r\n\r\nabcd"),
    "a list of lengths": (400, POST + b"Content-Length: 4, 4\r\n\r\nabcd"),
    "length with a plus": (400, POST + b"Content-Length: +4\r\n\r\nabcd"),
    "length below zero": (400, POST + b"Content-Length: -4\r\n\r\nabcd"),
    "length in hex": (400, POST + b"Content-Length: 0x4\r\n\r\nabcd"),
    "length without end": (400, POST + b"Content-Length: 99999999999999999999999\r\n\r\nabcd"),
    "coding gzip": (400, POST + b"Transfer-Encoding: gzip\r\n\r\nabcd"),
    "coding identity": (400, POST + b"Transfer-Encoding: identity\r\n\r\nabcd"),
    "coding xchunked": (400, POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
    "coding gzip, chunked": (400, POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
    "coding chunked, gzip": (400, POST + b"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n"),
    "coding twice": (400, POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    "coding after a vertical tab": (400, POST + b"Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n"),
    "coding in HTTP/1.0": (400, b"POST /x HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    "blank before the colon": (400, POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n"),
    "a folded line": (400, head(b"Host: a", b"X-A: b", b" c")),
    "a folded first line": (400, head(b" X: b", b"Host: a")),
    "bare LF": (400, b"GET " + PATH + b" HTTP/1.1\nHost: x\n\n"),
    "bare CR": (400, b"GET " + PATH + b" HTTP/1.1\rHost: x\r\r"),
    "CR in a value": (400, head(b"Host: a", b"X: a\rb")),
    "LF after a value": (400, head(b"Host: a", b"X: a\nY: b")),
    "NUL in a value": (400, head(b"Host: a", b"X: a\0b")),
    "NUL in a name": (400, head(b"Host: a", b"X\0: b")),
    "no name": (400, head(b"Host: a", b": b")),
    "no colon": (400, head(b"Host: a", b"b")),
    "NUL in the target": (400, asked(b"/status/live\0ness")),
    "a byte in the target": (400, asked(b"/status/live\xffness")),
    "a byte in the query": (400, asked(PATH + b"?\xff")),
    "tabs": (400, GOOD.replace(b" ", b"\t") + b"\r\n"),
    "a chunk's size in 0x": (400, CHUNKED + b"0x4\r\nabcd\r\n0\r\n\r\n"),
    "a chunk's size over all": (400, CHUNKED + b"fffffffffffffffffff\r\nabcd\r\n0\r\n\r\n"),
    "a chunk's size below zero": (400, CHUNKED + b"-4\r\nabcd\r\n0\r\n\r\n"),
    "a chunk's size and a blank": (400, CHUNKED + b"4 \r\nabcd\r\n0\r\n\r\n"),
    "a chunk's size and LF": (400, CHUNKED + b"4\nabcd\n0\n\n"),
    "a chunk that is longer than it says": (400, CHUNKED + b"4\r\nabcdef\r\n0\r\n\r\n"),
    "LF in a chunk's extension": (400, CHUNKED + b"4;x=y\nabcd\r\n0\r\n\r\n"),
    "CR in a chunk's extension": (400, CHUNKED + b"4;x\ry\r\nabcd\r\n0\r\n\r\n"),
    "NUL in a chunk's extension": (400, CHUNKED + b"4;x=\0\r\nabcd\r\n0\r\n\r\n"),
    "a chunk's extension with a quote left open": (400, CHUNKED + b'4;x="y\r\nabcd\r\n0\r\n\r\n'),
    "LF after the last chunk": (400, CHUNKED + b"4\r\nabcd\r\n0\n\n"),
    "a folded field after the body": (400, CHUNKED + b"0\r\nX: a\r\n b\r\n\r\n"),
    "a length after the body": (400, CHUNKED + b"0\r\nContent-Length: 9\r\n\r\n"),
    "a chunk's extension": (401, CHUNKED + b"4;x=y\r\nabcd\r\n0\r\n\r\n"),
    "an offer of HTTP/2 and a chunk that is none": (400, OFFERING + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n"),
    "an offer of HTTP/2 by HTTP/1.0": (
        401,
        OFFERING.replace(b"HTTP/1.1", b"HTTP/1.0").replace(HOST, b"") + b"Content-Length: 2\r\n\r\n{}",
    ),
    "a target without end": (431, asked(b"/" + b"a" * LONG)),
    "a query without end": (431, asked(PATH + b"?" + b"a" * LONG)),
    "a value without end": (431, head(b"Host: a", b"X: " + b"a" * LONG)),
    "a name without end": (431, head(b"Host: a", b"a" * LONG + b": x")),
    "a token without end": (431, head(b"Host: a", b"Authorization: Bearer " + b"a" * LONG)),
    "more fields than anybody sends": (431, head(b"Host: a", *(b"X: y" for _ in range(MAX_FIELDS)))),
    "another host in the target": (400, asked(b"http://other.example.org" + PATH)),
    "a user in the target": (400, asked(b"http://u:p@gateway.example.org" + PATH)),
    "no path in the target": (400, asked(b"http://gateway.example.org")),
    "no host in the target": (400, asked(b"http://" + PATH)),
    "another scheme": (400, asked(b"ftp://gateway.example.org" + PATH)),
    "a fragment": (400, asked(PATH + b"#x")),
    "no slash": (400, asked(b"status/liveness")),
    "a star": (400, asked(b"*")),
    "OPTIONS *": (400, asked(b"*", method=b"OPTIONS")),
    "CONNECT": (400, asked(b"x:80", method=b"CONNECT")),
    "CONNECT to a path": (405, asked(PATH, method=b"CONNECT")),
    "TRACE": (405, asked(PATH, method=b"TRACE")),
    "BREW": (400, asked(PATH, method=b"BREW")),
    "a method in lower case": (400, asked(PATH, method=b"get")),
    "a method without end": (400, asked(PATH, method=b"A" * 300)),
    "HTTP/2's preface": (400, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "HTTP/2.0": (400, asked(PATH, b"HTTP/2.0")),
    "HTTP/1.2": (400, asked(PATH, b"HTTP/1.2")),
    "HTTP/0.9": (400, asked(PATH, b"HTTP/0.9")),
    "two blanks before the target": (400, GOOD.replace(b" /", b"  /") + b"\r\n"),
    "two blanks before the version": (400, GOOD.replace(b" HTTP", b"  HTTP") + b"\r\n"),
    "a blank behind the version": (400, GOOD.replace(b"\r\n", b" \r\n", 1) + b"\r\n"),
    "a blank before the method": (400, b" " + GOOD + b"\r\n"),
    "two blanks where the head says it right": (
        400,
        GOOD.replace(b" /", b"  /") + b'X: "\r\nY: GET ' + PATH + b" HTTP/1.1\r\n\r\n",
    ),
    "RTSP": (400, asked(PATH, b"RTSP/1.0")),
    "RTSP by a method of its own": (400, asked(PATH, b"RTSP/1.0", b"DESCRIBE")),
    "ICE": (400, asked(PATH, b"ICE/1.0", b"SOURCE")),
    "the version in lower case": (400, asked(PATH, b"http/1.1")),
    "HTTP/1.10": (400, asked(PATH, b"HTTP/1.10")),
    "no version": (400, b"GET " + PATH + b"\r\n\r\n"),
    "TLS": (400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"a" * 100),
    "SSH": (400, b"SSH-2.0-OpenSSH_9\r\n"),
    "another expectation": (417, head(b"Host: a", b"Expect: 200-ok")),
    "an encoded slash": (404, asked(b"/status%2fliveness")),
    "an encoded slash in a system's name": (404, asked(b"/filesystem/demo%2Fops%2Fls?path=/")),
    "an encoded backslash": (404, asked(b"/filesystem/demo%5Cops/ops/ls?path=/")),
    "an encoded NUL": (404, asked(b"/filesystem/demo%00/ops/ls?path=/")),
    "an encoded line feed": (401, asked(b"/filesystem/demo%0a/ops/ls?path=/")),
    "encoded twice": (404, asked(b"/filesystem/demo%252Fops%252Fls?path=/")),
    "an encoded letter": (404, asked(b"/status/%6civeness")),
    "an encoded dot segment": (404, asked(b"/x/%2e%2e/status/liveness")),
    "a dot segment": (404, asked(b"/x/../status/liveness")),
    "a dot": (404, asked(b"/status/./liveness")),
    "half an encoding": (404, asked(PATH + b"%zz")),
    "not UTF-8": (404, asked(b"/filesystem/%ff/ops/ls?path=/")),
    "UTF-8 that is too long": (404, asked(b"/filesystem/%c0%af/ops/ls?path=/")),
}


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    with serving(tmp_path_factory.mktemp("heads"), metrics={"path": "/metrics"}) as running:
        yield running


def received(connection: socket.socket) -> bytes:
    """Return all that comes until the other side closes the connection."""
    content = b""
    while block := connection.recv(65536):
        content += block
    return content


def sent(front: Front, content: bytes) -> bytes:
    """Return all that comes for this until the gateway closes the connection."""
    with socket.create_connection(("127.0.0.1", front.port), timeout=300) as connection:
        connection.sendall(content)
        return received(connection)


def status_of(answer: bytes) -> int:
    assert answer.startswith(b"HTTP/1.1 "), answer
    return int(answer.split()[1])


@pytest.mark.parametrize("name", ODD)
def test_whatever_is_odd_is_answered(name: str, front: Front) -> None:
    status, content = ODD[name]
    with socket.create_connection(("127.0.0.1", front.port), timeout=300) as connection:
        connection.sendall(content)
        answer = b""
        # A refusal ends the connection; a request that is only refused by its path does not.
        while b"}" not in answer:
            block = connection.recv(65536)
            assert block, answer
            answer += block
    assert status_of(answer) == status
    problem = json.loads(answer.partition(b"\r\n\r\n")[2])
    assert problem.keys() == {"errorType", "message", "causedBy", "data", "user"}
    assert problem["errorType"] == "error"


HEADLESS = {
    # What is refused before its route is known, and the statuses of all answers. That to HEAD has no body.
    "HEAD without Host": ((400,), b"HEAD " + PATH + b" HTTP/1.1\r\n\r\n"),
    "HEAD that breaks off": ((400,), b"HEAD " + PATH + b" HTTP/1.1\r\nHost: a\r\nX\r\n"),
    "HEAD of too much": ((431,), b"HEAD " + PATH + b" HTTP/1.1\r\nHost: a\r\nX: " + b"a" * LONG),
    "HEAD with a body that is none": (
        (400,),
        b"HEAD /status/systems HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz",
    ),
    "HEAD without Host after another": (
        (200, 400),
        b"HEAD " + PATH + b" HTTP/1.1\r\nHost: a\r\n\r\nHEAD / HTTP/1.1\r\n\r\n",
    ),
}


@pytest.mark.parametrize("name", HEADLESS)
def test_an_early_refusal_of_head_has_no_body(name: str, front: Front) -> None:
    expected, content = HEADLESS[name]
    answer = sent(front, content)
    assert tuple(int(status) for status in re.findall(rb"HTTP/1\.1 (\d+) ", answer)) == expected
    assert answer.endswith(b"\r\n\r\n")
    assert b"{" not in answer


@pytest.mark.parametrize("content", [b"\0", b"GET / HTTP/1.1\r\n\r\n"])
def test_what_follows_head_has_a_body_again(content: bytes, front: Front) -> None:
    answer = sent(front, b"HEAD " + PATH + b" HTTP/1.1\r\nHost: a\r\n\r\n" + content)
    assert answer.endswith(b"}")


GOOD_ONES = {
    "one Host and one token": head(b"Host: a", b"Authorization: Bearer x"),
    "an empty Host": head(b"Host:"),
    "an address": head(b"Host: [::1]:8000"),
    "an address with a zone": head(b"Host: [fe80::1%25eth0]:80"),
    "a host that DNS would not have": head(b"Host: my_gateway.example.org.:"),
    "HTTP/1.0 without Host": b"GET " + PATH + b" HTTP/1.0\r\n\r\n",
    "a whole URL": asked(b"http://gateway.example.org" + PATH),
    "a whole URL in capitals": asked(b"HTTP://GATEWAY.example.org" + PATH),
    "the same kind of content twice": head(b"Host: a", b"Content-Type: a/b", b"content-type: a/b"),
    "two of what may be a list": head(b"Host: a", b"If-None-Match: x", b"If-None-Match: y"),
    "an empty segment": asked(b"//status/liveness"),
    "empty segments at the end": asked(PATH + b"///"),
    "a byte in a value": head(b"Host: a", b"X: \xff"),
    "a slash at the end": asked(PATH + b"/"),
    "encoded slashes in the query": asked(PATH + b"?path=%2Fhome%2F..%2F%00%25"),
    "fields as many as allowed": head(b"Host: a", *(b"X: y" for _ in range(MAX_FIELDS - 1))),
    "HEAD": b"HEAD " + PATH + b" HTTP/1.1\r\nHost: a\r\n\r\n",
    "an upgrade to HTTP/2": head(b"Host: a", b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c"),
    "an upgrade to WebSocket": head(b"Host: a", b"Connection: Upgrade", b"Upgrade: websocket"),
    "100-continue": head(b"Host: a", b"Expect: 100-Continue"),
}


@pytest.mark.parametrize("name", GOOD_ONES)
def test_whatever_is_allowed_is_served(name: str, front: Front) -> None:
    with socket.create_connection(("127.0.0.1", front.port), timeout=300) as connection:
        connection.sendall(GOOD_ONES[name])
        answer = connection.recv(65536)
        answer = answer.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n") or connection.recv(65536)
    assert status_of(answer) == 200


def test_after_an_upgrade_nothing_is_read(front: Front) -> None:
    """What would be the other protocol must not be taken for a request."""
    answer = sent(front, head(b"Host: a", b"Connection: Upgrade", b"Upgrade: h2c") + head(b"Host: a"))
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b"connection: close" in answer


def test_what_is_refused_comes_after_what_was_asked_before(front: Front) -> None:
    """Else the refusal would pass for the answer to the request before it."""
    answer = sent(front, asked(b"/openapi.json") + head(b"Host: a") * 2 + b"BAD\r\n\r\n")
    assert re.findall(rb"HTTP/1\.1 (\d+) ", answer) == [b"200", b"200", b"200", b"400"]


def test_a_body_that_breaks_off_has_one_answer(front: Front) -> None:
    for before in (b"", head(b"Host: a")):
        answer = sent(front, before + CHUNKED + b"4\r\nabcd\r\n" + b"zz\r\n")
        assert answer.count(b"HTTP/1.1 ") == (2 if before else 1)


@pytest.mark.parametrize("content", [GOOD, GOOD[:4], POST + b"Content-Length: 4\r\n\r\nab", CHUNKED + b"4\r\nab"])
def test_who_sends_no_more_of_a_request_is_told(front: Front, content: bytes) -> None:
    with socket.create_connection(("127.0.0.1", front.port), timeout=300) as connection:
        connection.sendall(content)
        connection.shutdown(socket.SHUT_WR)
        # A body without a token may have been refused before.
        assert status_of(received(connection)) in (400, 401)


def test_fields_after_the_body_count_for_nothing(front: Front) -> None:
    closing = CHUNKED.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    answer = sent(front, closing + b"0\r\nAuthorization: Bearer x\r\nX-Request-ID: trailer\r\n\r\n")
    assert status_of(answer) == 401
    assert b"trailer" not in answer
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["message"] == "Not authenticated"


def test_padding_does_not_go_on_for_ever(front: Front) -> None:
    with socket.create_connection(("127.0.0.1", front.port), timeout=300) as connection:
        connection.sendall(CHUNKED + b"1;")
        # Enough for every buffer on the way; the answer may come before all of it is sent.
        with suppress(ConnectionError):
            for _ in range(64):
                connection.sendall(b"x" * 65536)
        answer = connection.recv(65536)
    assert status_of(answer) in (400, 401)


def test_a_refusal_is_read_even_by_who_goes_on_sending(front: Front) -> None:
    with socket.create_connection(("127.0.0.1", front.port), timeout=300) as connection:
        connection.sendall(GOOD + b"X: ")
        for _ in range(8):
            connection.sendall(b"x" * 65536)
            time.sleep(0.02)
        assert status_of(received(connection)) == 431


def test_more_requests_at_once_than_anybody_sends(front: Front) -> None:
    answer = sent(front, asked(b"/openapi.json") + head(b"Host: a") * (MAX_PIPELINED + 500))
    assert answer.count(b"HTTP/1.1 400") == 1
    assert answer.count(b"HTTP/1.1 200") > 100


def test_a_client_who_leaves_has_all_its_requests_ended(front: Front) -> None:
    """uvicorn tells the last of them only."""

    def tasks() -> int:
        lines = sent(front, b"GET /metrics HTTP/1.0\r\n\r\n").decode().splitlines()
        return next(int(float(line.split()[1])) for line in lines if line.startswith("hpcgate_asyncio_tasks "))

    before = tasks()
    for _ in range(20):
        connection = socket.create_connection(("127.0.0.1", front.port), timeout=300)
        connection.sendall(POST + b"Content-Length: 10\r\n\r\nabcdefghij" + head(b"Host: a") * 3)
        connection.close()
    deadline = time.monotonic() + 120
    while tasks() > before:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert "Exception in ASGI application" not in front.log.read_text()


def test_nothing_of_it_is_a_fault_of_the_gateway(front: Front) -> None:
    """The last of this module: after all of the above."""
    text = sent(front, b"GET /metrics HTTP/1.0\r\n\r\n").decode()
    found = [line for line in text.splitlines() if line.startswith("hpcgate_internal_errors_total")]
    assert len(found) > 20
    assert [line for line in found if not line.endswith(" 0.0")] == []
    assert "internal.error" not in front.log.read_text()


@pytest.mark.parametrize(
    "path", ["/", "/status/systems/", "/compute/demo/jobs/123_%5B1-4%5D", "/filesystem/z%C3%BCrich"]
)
def test_a_plain_path(path: str) -> None:
    """A path that every proxy takes for the same is not odd."""
    assert odd_path(path.encode()) == ""


@given(st.binary(max_size=60))
def test_any_path_can_be_judged(raw: bytes) -> None:
    odd_path(b"/" + raw)


@given(
    st.lists(st.tuples(st.sampled_from([b"host", b"expect", b"x"]), st.binary(max_size=20)), max_size=5), st.binary()
)
def test_any_head_can_be_judged(headers: list[tuple[bytes, bytes]], target: bytes) -> None:
    refusal("1.1", target, headers)


@given(st.text(max_size=50))
def test_whatever_is_put_into_a_header_can_be_sent(text: str) -> None:
    value = fields({"X": text})["X"].encode("latin-1")
    assert len(value) == len(text)
    assert not any((byte < 32 and byte != 9) or byte == 127 for byte in value)
