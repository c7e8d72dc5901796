"""Who asks, before anything is verified."""

import pytest

from hpcgate.admission.askers import address_of, forwarded_in, network, path_in, token_in, token_of

HEAD = b"GET /a/b/?x=1 HTTP/1.1\r\nHost: x\r\n%b\r\n\r\n"


@pytest.mark.parametrize(
    ("line", "token"),
    [
        (b"Authorization: Bearer abc.def", "abc.def"),
        (b"authorization:bearer \t abc ", "abc"),
        (b"Authorization: Basic abc", None),
        (b"X-Authorization: Bearer abc", None),
        (b"Authorization: Bearer ", None),
        (b"Authorization: Bearer \xff", None),
        (b"Accept: */*", None),
        (b"AUTHORIZATION: BEARER abc", "abc"),
        (b"X-API-Key: hpcgate_abc", "hpcgate_abc"),
        (b"x-api-key:\t hpcgate_abc ", "hpcgate_abc"),
        (b"X-API-Key: ", None),
        (b"X-API-Key: \xff", None),
        (b"X-X-API-Key: abc", None),
    ],
)
def test_the_token_is_found_in_a_head_and_in_headers_alike(line: bytes, token: str | None) -> None:
    assert token_in(HEAD % line) == token
    name, _, value = line.partition(b":")
    assert token_of([(name.lower(), value)]) == token


@pytest.mark.parametrize(
    "head", [b"", b"GET / HTTP/1.1\r\nAuthorization: Bearer abc", b"GET / HTTP/1.1\r\nAuthorization: Bearer a b\r\n"]
)
def test_half_a_token_is_none(head: bytes) -> None:
    assert token_in(head) is None


@pytest.mark.parametrize(
    ("head", "path"),
    [(HEAD % b"A: b", "/a/b"), (b"GET /status/liveness HTTP/1.1\r\n", "/status/liveness"), (b"GET /a", ""), (b"", "")],
)
def test_the_path_is_found(head: bytes, path: str) -> None:
    assert path_in(head) == path


@pytest.mark.parametrize(
    ("address", "client"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("", ""),
        ("unix", "unix"),
    ],
)
def test_a_client_has_an_address_or_a_network(address: str, client: str) -> None:
    assert network(address) == client


def test_only_a_trusted_peer_says_for_whom_it_asks() -> None:
    head = HEAD % b"X-Forwarded-For: 203.0.113.7\r\nx-forwarded-for:\t203.0.113.8 "
    headers = forwarded_in(head)
    assert [value for _, value in headers] == [b"203.0.113.7", b"203.0.113.8"]
    assert address_of("127.0.0.1", headers, None) == "127.0.0.1"
    assert address_of("127.0.0.1", headers, lambda value: value.rpartition(", ")[2]) == "203.0.113.8"
    assert address_of("127.0.0.1", [], lambda value: value) == "127.0.0.1"
    assert forwarded_in(b"GET / HTTP/1.1\r\nX-Forwarded-For:  ") == []
