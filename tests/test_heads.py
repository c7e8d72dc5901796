"""Heads that a proxy and the gateway could read in two ways."""

import json
import socket
from collections.abc import Iterator

import pytest

from tests.front import Front, serving

PATH = "/status/liveness"
BAD = {
    "no Host": "",
    "two Hosts": "Host: a\r\nHost: b\r\n",
    "the same Host twice": "Host: a\r\nHost: a\r\n",
    "two Hosts in other cases": "HOST: a\r\nhost: a\r\n",
    "two tokens": "Host: a\r\nAuthorization: Bearer x\r\nAuthorization: Bearer y\r\n",
    "the same token twice": "Host: a\r\nauthorization: Bearer x\r\nAuthorization: Bearer x\r\n",
}


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    with serving(tmp_path_factory.mktemp("heads")) as running:
        yield running


def answered(front: Front, headers: str, version: str = "1.1") -> tuple[int, bytes]:
    """Return the status and the body of the answer to a request with these headers alone."""
    request = f"GET {PATH} HTTP/{version}\r\n{headers}Connection: close\r\n\r\n"
    content = b""
    with socket.create_connection(("127.0.0.1", front.port), timeout=30) as connection:
        connection.sendall(request.encode())
        while block := connection.recv(65536):
            content += block
    head, _, body = content.partition(b"\r\n\r\n")
    return int(head.split()[1]), body


@pytest.mark.parametrize("headers", BAD.values(), ids=BAD.keys())
def test_a_head_that_can_be_read_in_two_ways_is_refused(front: Front, headers: str) -> None:
    status, body = answered(front, headers)
    assert status == 400
    problem = json.loads(body)
    assert problem["errorType"] == "error"
    assert "Host" in problem["message"] or "Authorization" in problem["message"]


def test_one_host_and_one_token_are_fine(front: Front) -> None:
    assert answered(front, "Host: a\r\nAuthorization: Bearer x\r\n")[0] == 200


def test_http_1_0_needs_no_host(front: Front) -> None:
    assert answered(front, "", version="1.0")[0] == 200
