"""The multipart parser against what real clients write."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request

from hpcgate.admission.bodies import Arrivals
from hpcgate.api.multipart import MultipartFile, disposition
from hpcgate.errors import BadRequest, TimedOut, TooLarge
from hpcgate.http.body import Body, Bounds


def request(body: bytes, content_type: str, block: int = 7) -> Request:
    blocks = [body[start : start + block] for start in range(0, len(body), block)] or [b""]

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": blocks.pop(0), "more_body": bool(blocks)}

    return Request({"type": "http", "method": "POST", "headers": [(b"content-type", content_type.encode())]}, receive)


FILE_BEGUN = b'--B\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\nabc'


async def read(asked: Request, limit: int = 10_000) -> tuple[bytes | None, bytes]:
    part = await MultipartFile.open(asked, limit=limit)
    return part.filename, b"".join([block async for block in part.content()])


def by_httpx(filename: str, content: bytes) -> tuple[bytes, str]:
    prepared = httpx.Request("POST", "http://x/", files={"file": (filename, content)})
    return prepared.read(), prepared.headers["content-type"]


def by_requests(filename: str, content: bytes) -> tuple[bytes, str]:
    prepared = requests.Request("POST", "http://x/", files={"file": (filename, content)}).prepare()
    assert isinstance(prepared.body, bytes)
    return prepared.body, str(prepared.headers["content-type"])


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0/\\%"), min_size=1, max_size=60).filter(
    lambda name: name.strip() not in ("", ".", "..")
)


@pytest.mark.parametrize("client", [by_httpx, by_requests])
@given(filename=NAMES, content=st.binary(max_size=300), block=st.integers(1, 64))
async def test_what_clients_send_arrives(client: Any, filename: str, content: bytes, block: int) -> None:
    body, content_type = client(filename, content)
    name, received = await read(request(body, content_type, block))
    assert received == content
    assert name is not None
    if filename.isprintable():
        assert name.decode() == filename


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (b'form-data; name="file"; filename="a%22b.txt"', b'a"b.txt'),
        (b'form-data; name="file"; filename="a%0Ab%0D"', b"a\nb\r"),
        (b"form-data; name=\"file\"; filename*=utf-8''%e2%82%ac%20x", "€ x".encode()),
        (b'form-data; name="file"; filename="\xc3\xa4 b"', "ä b".encode()),
        (b'form-data; name="file"', None),
        # What .NET sends: the makeshift of RFC 2047 for those who do not know better, and the name.
        (b"form-data; name=file; filename=\"=?utf-8?B?w6QudHh0?=\"; filename*=utf-8''%C3%A4.txt", "ä.txt".encode()),
        (b"form-data; name=file; filename=a.txt; filename*=utf-8''%C3%A4.txt", "ä.txt".encode()),
        (b"form-data; filename*=UTF-8'de'%C3%A4%27b'.txt; name=file; filename=a", "ä'b'.txt".encode()),
        (b"form-data; name=file; filename=a; filename* = \"Utf-8''%c3%a4\"", "ä".encode()),
        (b"form-data; name=file; filename=a; filename*=ISO-8859-1'en'%E4", "ä".encode()),
        # What cannot be read leaves the other one; what stands in quotes is a name that looks like it.
        (b"form-data; name=file; filename=a; filename*=utf-16''%00a", b"a"),
        (b"form-data; name=file; filename=a; filename*=%C3%A4", b"a"),
        (b'form-data; name="file"; filename="a; filename*=utf-8\'\'b"', b"a; filename*=utf-8''b"),
        (b'form-data; name="file"; filename="a\\"; filename*=utf-8\'\'b"', b"a\"; filename*=utf-8''b"),
    ],
)
def test_file_names(header: bytes, expected: bytes | None) -> None:
    """The name of a file is read from its header as browsers and curl write it."""
    assert disposition(header) == (b"file", expected)


def multipart(*parts: tuple[bytes, bytes], end: bytes = b"--X--\r\n") -> bytes:
    return b"".join(b"--X\r\n" + head + b"\r\n\r\n" + content + b"\r\n" for head, content in parts) + end


FILE = b'Content-Disposition: form-data; name="file"; filename="a"'
KIND = "multipart/form-data; boundary=X"


async def test_other_fields_are_passed_over() -> None:
    other = b'Content-Disposition: form-data; name="other"'
    body = multipart((other, b"1"), (FILE, b"content"), (other, b"2"))
    assert await read(request(body, KIND)) == (b"a", b"content")


async def test_an_empty_file() -> None:
    """An empty file is a file."""
    assert await read(request(multipart((FILE, b"")), KIND)) == (b"a", b"")


async def test_exactly_the_limit_and_one_more() -> None:
    assert (await read(request(multipart((FILE, b"x" * 100)), KIND), 100))[1] == b"x" * 100
    with pytest.raises(TooLarge):
        await read(request(multipart((FILE, b"x" * 101)), KIND), 100)


async def test_a_body_that_breaks_off() -> None:
    with pytest.raises(BadRequest, match="before the file was whole"):
        await read(request(multipart((FILE, b"content"), end=b""), KIND))


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"", KIND),
        (multipart(), KIND),
        (multipart((b'Content-Disposition: form-data; name="other"', b"1")), KIND),
        (b"{}", "application/json"),
        (b"--X\r\n", "multipart/form-data"),
        (b"nonsense" * 100, KIND),
        (b"", "multipart/form-data; boundary=" + "X" * 257),
        (b"", "multipart/form-data; boundary=" + "X" * 20_000),
        (b"", 'multipart/form-data; boundary=""'),
        (b"", 'multipart/form-data; boundary="'),
        (b"", "multipart/form-data; boundary*=utf-8''%ff"),
        (b"", "multipart/form-data; boundary*0=X; boundary*1=Y"),
        (b"", "multipart/form-data; ;;=;\xe9=\xff"),
        (multipart((b'Content-Disposition: form-data; name="other"', b"x" * 70_000), (FILE, b"")), KIND),
        # What can be read in two ways.
        (multipart((FILE, b"1"), (FILE, b"2")), KIND),
        (multipart((FILE, b"1"), (b'Content-Disposition: form-data; name=file; filename="b"', b"1")), KIND),
        (multipart((FILE + b"\r\n" + FILE, b"1")), KIND),
        (multipart((FILE + b"\r\ncontent-disposition: form-data; name=other", b"1")), KIND),
        (multipart((FILE + b"; filename=b", b"1")), KIND),
        (multipart((FILE + b"; FileName=b", b"1")), KIND),
        (multipart((FILE + b"; name=other", b"1")), KIND),
        (multipart((b"Content-Disposition: form-data; name=other; name=file; filename=a", b"1")), KIND),
        (multipart((FILE + b"; filename*=utf-8''b; filename*=utf-8''c", b"1")), KIND),
    ],
)
async def test_bodies_that_are_refused(body: bytes, kind: str) -> None:
    with pytest.raises(BadRequest):
        await read(request(body, kind, 4096))


@given(st.binary(max_size=400), st.integers(1, 50))
async def test_noise_is_refused_and_nothing_else(body: bytes, block: int) -> None:
    with pytest.raises(BadRequest):
        await read(request(b"--X\r\n" + body, KIND, block), 50)


@given(st.text(st.characters(codec="latin-1"), max_size=80), st.binary(max_size=60))
async def test_any_content_type_is_refused_and_nothing_else(options: str, body: bytes) -> None:
    asked = request(body, "")
    asked.scope["headers"] = [(b"content-type", b"multipart/form-data;" + options.encode("latin-1"))]
    with pytest.raises(BadRequest):
        await read(asked)


async def blocks(*content: bytes) -> AsyncIterator[bytes]:
    for block in content:
        yield block


@pytest.mark.parametrize("sent", [b"--B\r\nContent-Disposition: form-data", FILE_BEGUN], ids=["headers", "content"])
async def test_a_client_that_sends_no_more_is_given_up(sent: bytes) -> None:
    messages = [{"type": "http.request", "body": sent, "more_body": True}]

    async def receive() -> dict[str, Any]:
        if not messages:
            await asyncio.Event().wait()
        return messages.pop()

    headers = [(b"content-type", b"multipart/form-data; boundary=B")]
    body = Body(receive, None, awaited=False)
    body.open(Bounds(None, 0.05, rate=512), Arrivals(1, 1), "alice")
    asked = Request({"type": "http", "method": "POST", "headers": headers}, body.receive)
    with pytest.raises(TimedOut):
        await read(asked)


@pytest.mark.parametrize("text", [b'"\\' * 32_000, b'\\"' * 32_000, b'"' * 64_000, b"; " * 32_000])
def test_a_long_disposition_is_gone_through_once(text: bytes) -> None:
    """Quotes that are never closed were looked for anew from each of them."""
    assert disposition(b'form-data; name="file"; filename="a' + text)[0] == b"file"
