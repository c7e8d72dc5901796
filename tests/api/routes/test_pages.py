"""The pages for people: whole, from this server alone, and allowed nothing more."""

import re
from pathlib import Path

import httpx
import pytest

from tests.front import serving


@pytest.mark.parametrize(("root", "starts"), [("", ["/", ""]), ("/v2", ["/v2", "/v2/", "/"])])
def test_the_root_leads_to_the_pages(tmp_path: Path, root: str, starts: list[str]) -> None:
    with serving(tmp_path, apis_root_path=root) as front, httpx.Client() as client:
        for start in starts:
            for method in ("GET", "HEAD"):
                answer = client.request(method, f"http://127.0.0.1:{front.port}{start}")
                assert (answer.status_code, answer.headers["location"]) == (307, f"{root}/docs"), start
        answer = client.get(f"http://127.0.0.1:{front.port}{starts[0]}", follow_redirects=True)
        assert (answer.status_code, answer.headers["content-type"].partition(";")[0]) == (200, "text/html")


@pytest.mark.parametrize("root", ["", "/v2"])
@pytest.mark.parametrize(("page", "names"), [("/docs", 2), ("/redoc", 1)])
def test_pages_load_from_this_server_alone(tmp_path: Path, page: str, names: int, root: str) -> None:
    with serving(tmp_path, apis_root_path=root) as front, httpx.Client() as client:
        client.base_url = f"http://127.0.0.1:{front.port}"
        answer = client.get(f"{root}{page}")
        assert answer.status_code == 200
        assert b"Warning" not in front.log.read_bytes()
        loaded = [url for url in re.findall(r'(?:src|href)="([^"]*)"', answer.text) if not url.startswith("data:")]
        own = [url for url in loaded if url.startswith(f"{root}/docs/")]
        assert len(own) == names
        assert not re.search(r'<(?:script|link|img)[^>]*"(?:https?:)?//', answer.text)
        for url in own:
            script = client.get(url).content
            assert len(script) > 100_000
            assert b"logo-mini.svg" not in script
        assert f"{root}/openapi.json" in answer.text
        assert client.get(f"{root}/openapi.json").json()["openapi"].startswith("3.")
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'")
        assert re.findall(r"https?:[^ ;]*", policy) == (["http://127.0.0.1:9"] if page == "/docs" else [])
        assert "unsafe-inline" not in policy.split("style-src")[0]
