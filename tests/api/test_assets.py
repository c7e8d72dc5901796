"""Pages that a room registers: hashed names, compressed files, a policy of their own, and nothing beside them."""

import gzip
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from hpcgate.api.assets import Assets
from hpcgate.config import Settings
from hpcgate.server.app import create_app

GENERAL = {
    "auth": {"authentication": {"token_url": "http://127.0.0.1/token"}},
    "ssh_credentials": {"type": "SSHService", "url": "http://127.0.0.1"},
}
SCRIPT = b"console.log('here');\n" * 100


@pytest.fixture
def built(tmp_path: Path) -> Path:
    """Return a directory as a bundler leaves it, beside something that is nobody's business."""
    (tmp_path / "secret.txt").write_text("secret")
    directory = tmp_path / "built"
    (directory / "assets").mkdir(parents=True)
    (directory / "index.html").write_text("<!doctype html><script src='assets/app-B3xq91ZT.js'></script>")
    (directory / "index.html.gz").write_bytes(gzip.compress(b"<!doctype html>"))
    (directory / "assets" / "app-B3xq91ZT.js").write_bytes(SCRIPT)
    (directory / "assets" / "app-B3xq91ZT.js.gz").write_bytes(gzip.compress(SCRIPT))
    (directory / "assets" / "app-B3xq91ZT.js.br").write_bytes(b"not really brotli")
    (directory / "logo.svg").write_text("<svg/>")
    return directory


@asynccontextmanager
async def browsing(assets: Assets) -> AsyncIterator[httpx.AsyncClient]:
    app: Any = create_app(Settings.model_validate(GENERAL))
    assets.install(app, "/console")
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway") as client:
        yield client


@pytest.fixture
def assets(built: Path) -> Assets:
    return Assets(built, {"connect-src": "'self' https://idp.example.org"}, routed=True)


@pytest.mark.parametrize(
    ("path", "media_type", "kept"),
    [
        ("", "text/html; charset=utf-8", False),
        ("/", "text/html; charset=utf-8", False),
        ("/jobs/12", "text/html; charset=utf-8", False),
        ("/assets/app-B3xq91ZT.js", "text/javascript; charset=utf-8", True),
        ("/logo.svg", "image/svg+xml", False),
    ],
)
async def test_pages_need_no_token_and_say_how_long_they_keep(
    assets: Assets, path: str, media_type: str, kept: bool
) -> None:
    async with browsing(assets) as client:
        answer = await client.get(f"/console{path}", headers={"Accept-Encoding": "identity"})
        assert (answer.status_code, answer.headers["content-type"]) == (200, media_type)
        assert answer.headers["cache-control"] == ("public, max-age=31536000, immutable" if kept else "no-cache")
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; ")
        assert "connect-src 'self' https://idp.example.org;" in policy
        head = await client.head(f"/console{path}", headers={"Accept-Encoding": "identity"})
        assert (head.content, head.headers["content-length"]) == (b"", answer.headers["content-length"])
        again = await client.get(
            f"/console{path}", headers={"If-None-Match": answer.headers["etag"], "Accept-Encoding": "identity"}
        )
        assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize(
    ("accepted", "coding"),
    [
        ("gzip, deflate, br", "br"),
        ("gzip", "gzip"),
        ("br;q=0, gzip;q=0.5", "gzip"),
        ("identity", None),
        ("zstd", None),
    ],
)
async def test_a_file_comes_in_the_best_coding_that_lies_beside_it(
    assets: Assets, accepted: str, coding: str | None
) -> None:
    async with (
        browsing(assets) as client,
        client.stream("GET", "/console/assets/app-B3xq91ZT.js", headers={"Accept-Encoding": accepted}) as answer,
    ):
        raw = b"".join([block async for block in answer.aiter_raw()])
        assert answer.headers.get("content-encoding") == coding
        assert answer.headers["vary"] == "Accept-Encoding"
        assert int(answer.headers["content-length"]) == len(raw)
        assert raw == {"br": b"not really brotli", None: SCRIPT}.get(coding, raw)
        assert coding != "gzip" or gzip.decompress(raw) == SCRIPT


@pytest.mark.parametrize(
    "path",
    [
        "/../secret.txt",
        "/%2e%2e/secret.txt",
        "/assets/../../secret.txt",
        "//etc/passwd",
        "/assets/app-B3xq91ZT.js.br",
        "/no.js",
    ],
)
async def test_nothing_is_served_but_what_is_in_the_table(assets: Assets, path: str) -> None:
    async with browsing(assets) as client:
        answer = await client.get(httpx.URL(f"http://gateway/console{path}"))
        assert answer.status_code == 404 or b"secret" not in answer.content
        assert "root:" not in answer.text


async def test_pages_that_are_not_routed_have_their_own_paths_alone(built: Path) -> None:
    async with browsing(Assets(built)) as client:
        assert (await client.get("/console/jobs/12")).status_code == 404
        assert (await client.post("/console/")).status_code == 405


def test_a_directory_without_an_index_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Assets(tmp_path)
