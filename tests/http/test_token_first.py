"""The token comes before the body, on every route that the program documents."""

import json
import re
import socket
from collections.abc import Iterator

import httpx
import pytest

from tests.front import Front, serving

PUBLIC = ("/status/liveness", "/status/readiness")
JSON = "Content-Type: application/json\r\n"
BODIES = {
    "announced": "Content-Length: 67108864\r\nExpect: 100-continue\r\n",
    "chunked": "Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n",
    "never sent": "Content-Length: 67108864\r\n",
}


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    with serving(tmp_path_factory.mktemp("token-first")) as running:
        yield running


def routes(front: Front) -> list[tuple[str, str]]:
    """Return the method and path of each route that wants a token, with something for each parameter."""
    documented = httpx.get(f"http://127.0.0.1:{front.port}/openapi.json", trust_env=False).json()["paths"]
    return [
        (method.upper(), re.sub(r"{[^}]*}", "1", path))
        for path, methods in documented.items()
        for method in methods
        # Of tus, OPTIONS says what the server can do, to anybody (tus 1.0.0, OPTIONS).
        if method != "options" and not path.rstrip("/").startswith(PUBLIC)
    ]


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
def test_who_shows_no_token_is_refused_before_a_byte_of_the_body(front: Front, body: str) -> None:
    found = routes(front)
    assert len(found) > 40
    answers = {}
    for method, path in found:
        head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nTus-Resumable: 1.0.0\r\n{JSON}{body}\r\n"
        with socket.create_connection(("127.0.0.1", front.port), timeout=600) as connection:
            connection.sendall(head.encode())
            answers[method, path] = connection.recv(65536)
    wrong = {route: answer[:60] for route, answer in answers.items() if not answer.startswith(b"HTTP/1.1 401 ")}
    assert not wrong, json.dumps({" ".join(route): answer.decode() for route, answer in wrong.items()}, indent=1)
