"""What a policy with paths is tried by: every request that there is with a path in it."""

import base64
from collections.abc import Iterator
from typing import Any

import httpx

TUS = {"Tus-Resumable": "1.0.0"}
CHUNK = {"Content-Type": "application/offset+octet-stream"}
Request = tuple[str, str, dict[str, Any]]


def assert_denied(answer: httpx.Response, rule: str) -> None:
    assert answer.status_code == 403, (answer.request.method, answer.request.url, answer.text)
    if answer.request.method != "HEAD":
        body = answer.json()
        assert set(body) == {"errorType", "message", "causedBy", "data", "user"}
        assert body["errorType"] == "error"
        assert body["data"] == {"reason": "policy", "rule": rule}
        assert rule in body["message"] or rule == "default"


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def requests(system: str, good: str, path: str) -> Iterator[Request]:
    """Yield each request that there is with a path in it, once for each of its fields; the other fields are good.

    Args:
        system: The system.
        good: A directory that the policy allows.
        path: The path to try.
    """
    ops, transfer, files = (f"/filesystem/{system}/{part}" for part in ("ops", "transfer", "files"))
    for name in ("ls", "stat", "head", "tail", "view", "checksum", "file", "download"):
        yield "GET", f"{ops}/{name}", {"params": {"path": path}}
    yield "GET", f"{ops}/ls", {"params": {"path": path}, "headers": {"Accept": "application/x-ndjson"}}
    yield "GET", f"{ops}/ls", {"params": {"path": path, "limit": "1"}}
    yield "GET", f"{files}/follow", {"params": {"path": path}}
    yield "DELETE", f"{ops}/rm", {"params": {"path": f"{path}/"}}
    yield "POST", f"{ops}/mkdir", {"json": {"path": f"{path}/made/deep", "parent": True}}
    yield "PUT", f"{ops}/chmod", {"json": {"source_path": path, "mode": "777"}}
    yield "PUT", f"{ops}/chown", {"json": {"sourcePath": path, "owner": None, "group": None}}
    yield "POST", f"{ops}/symlink", {"json": {"path": path, "linkPath": f"{good}/link"}}
    up = "../" * good.rstrip("/").count("/")
    yield "POST", f"{ops}/symlink", {"json": {"path": up + path.lstrip("/"), "linkPath": f"{good}/link"}}
    yield "POST", f"{ops}/symlink", {"json": {"path": good, "linkPath": f"{path}/link"}}
    for top, more in ((ops, {}), (transfer, {"account": "x"})):
        for name in ("compress", "extract"):
            yield "POST", f"{top}/{name}", {"json": {"path": path, "targetPath": f"{good}/to", **more}}
            yield "POST", f"{top}/{name}", {"json": {"path": f"{good}/good.tar.gz", "targetPath": path, **more}}
    yield "POST", f"{ops}/upload", {"params": {"path": path}, "files": {"file": ("name", b"evil")}}
    yield "GET", f"{files}/content", {"params": {"path": path}}
    yield "HEAD", f"{files}/content", {"params": {"path": path}}
    yield "PUT", f"{files}/content", {"params": {"path": path}, "content": b"evil"}
    yield "GET", f"{files}/archive", {"params": {"path": path}}
    yield "PUT", f"{files}/archive", {"params": {"path": path}, "content": b"\0" * 10240}
    upload, uploads = f"{files}/uploads/{'0' * 32}", f"{files}/uploads"
    length = {**TUS, "Upload-Length": "1"}
    named = {**length, "Upload-Metadata": f"filename {b64('name')}"}
    yield "POST", uploads, {"params": {"path": path}, "headers": named}
    yield "POST", uploads, {"headers": {**length, "Upload-Metadata": f"path {b64(path)}"}}
    part = {**TUS, "Upload-Concat": f"final;{upload}?path={path}", "Upload-Metadata": f"filename {b64('name')}"}
    yield "POST", uploads, {"params": {"path": good}, "headers": part}
    yield "HEAD", upload, {"params": {"path": path}, "headers": TUS}
    yield "DELETE", upload, {"params": {"path": path}, "headers": TUS}
    patch = {**TUS, **CHUNK, "Upload-Offset": "0"}
    yield "PATCH", upload, {"params": {"path": path}, "headers": patch, "content": b"x"}
    hidden = {"params": {"path": path}, "headers": {**patch, "X-HTTP-Method-Override": "PATCH"}, "content": b"x"}
    yield "POST", upload, hidden
    for name in ("mv", "cp"):
        yield "POST", f"{transfer}/{name}", {"json": {"path": path, "targetPath": f"{good}/to", "account": "x"}}
        yield "POST", f"{transfer}/{name}", {"json": {"path": f"{good}/good", "targetPath": path, "account": "x"}}
    yield "DELETE", f"{transfer}/rm", {"params": {"path": path, "account": "x"}}
    wormhole = {"transferMethod": "wormhole", "wormholeCode": "1-a-b"}
    for name in ("upload", "download"):
        yield "POST", f"{transfer}/{name}", {"json": {"path": path, "account": "x", "transferDirectives": wormhole}}
    jobs = f"/compute/{system}/jobs"
    job = {"workingDirectory": good, "script": "#!/bin/sh\ntrue\n"}
    yield "POST", jobs, {"json": {"job": {**job, "workingDirectory": path}}}
    yield "POST", jobs, {"json": {"job": {"workingDirectory": good, "scriptPath": path}}}
    for stream in ("standardInput", "standardOutput", "standardError"):
        yield "POST", jobs, {"json": {"job": {**job, stream: path}}}
