"""The access, tracing and audit logs of a running gateway."""

import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from hpcgate.demo.cluster import Cluster, Gateway
from hpcgate.demo.users import User

PATIENCE = 120.0
PAGE = Path(__file__).parents[2] / "docs" / "logging.md"

FIRECREST_LOG_CONFIG = """\
version: 1
disable_existing_loggers: false
formatters:
  plain: {format: "%(name)s - %(levelname)s - %(message)s"}
  json: {class: pythonjsonlogger.jsonlogger.JsonFormatter, format: "%(asctime)s %(levelname)s %(name)s %(message)s"}
handlers:
  plain: {class: logging.StreamHandler, formatter: plain, stream: ext://sys.stdout}
  json: {class: logging.StreamHandler, formatter: json, stream: ext://sys.stdout}
loggers:
  uvicorn.error: {level: INFO, handlers: [plain], propagate: false}
  uvicorn.access: {level: INFO, handlers: [plain], propagate: false}
  f7t_v2_tracing_log: {level: INFO, handlers: [json], propagate: false}
root: {level: ERROR, handlers: [plain]}
"""


@dataclass(frozen=True, slots=True)
class Watched:
    """A gateway, the file of its audit log, and a user with a client."""

    gateway: Gateway
    audit: Path
    user: User
    http: httpx.Client
    token: str

    def audited(self, request_id: str) -> list[dict[str, Any]]:
        """Return the audit lines of a request, once there are any."""
        return eventually(lambda: of(self.audit, request_id))

    def logged(self, request_id: str, event: str) -> list[dict[str, Any]]:
        """Return the log's lines of an event of a request, once there are any."""
        return eventually(lambda: [line for line in of(self.gateway.log, request_id) if line["event"] == event])


def of(path: Path, request_id: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in path.read_text().rpartition("\n")[0].splitlines() if line.startswith("{")]
    return [line for line in lines if line.get("request_id") == request_id]


def eventually(find: Callable[[], list[dict[str, Any]]]) -> list[dict[str, Any]]:
    deadline = time.monotonic() + PATIENCE
    while not (found := find()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


@pytest.fixture(scope="module")
def watched(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    audit = tmp_path_factory.mktemp("audit") / "audit.jsonl"
    config = cluster.write_gateway_config(
        cluster.directory / "logs-gateway.yaml",
        clusters=[cluster.cluster_settings("demo"), cluster.cluster_settings("commands", ssh={"files": "commands"})],
        logger={
            "enable_tracing_log": True,
            "loggable_request_headers": [
                {"input": "X-Portal", "output": "portal"},
                {"input": "Authorization", "output": "authorization"},
            ],
            "level": "info",
        },
        audit={"to": str(audit)},
    )
    gateway = cluster.start_gateway(config)
    user = cluster.user("alice")
    token = cluster.token(user)
    headers = {"Authorization": f"Bearer {token}"}
    with httpx.Client(base_url=gateway.url, headers=headers, timeout=300) as http:
        yield Watched(gateway, audit, user, http, token)
    gateway.stop()


def test_lines_from_deep_inside_carry_the_ids(watched: Watched, cluster: Cluster) -> None:
    # The only request of this user's: it logs in.
    bob = cluster.user("bob")
    token = f"Bearer {cluster.token(bob)}"
    headers = {"X-Request-ID": "deep-1", "X-Correlation-ID": "deep-c", "Authorization": token}
    answer = watched.http.get("/filesystem/demo/ops/ls", params={"path": str(bob.home)}, headers=headers)
    assert answer.status_code == 200
    connected = watched.logged("deep-1", "ssh.connect")
    assert connected[0]["correlation_id"] == "deep-c"
    assert connected[0]["system"] == "demo"
    # Once only: what the connection does later belongs to no request.
    assert len(connected) == 1


def test_one_access_line_a_request(watched: Watched) -> None:
    answer = watched.http.get("/compute/DEMO/jobs/", headers={"X-Request-ID": "access-1"})
    assert answer.status_code == 200
    lines = watched.logged("access-1", "http.request")
    assert len(lines) == 1
    line = lines[0]
    assert line["method"] == "GET"
    assert line["path"] == "/compute/DEMO/jobs/"
    assert line["status"] == 200
    assert line["user"] == watched.user.name
    assert line["client"] == "127.0.0.1"
    assert line["correlation_id"] == answer.headers["x-correlation-id"]
    assert 0 < line["seconds"] < PATIENCE


def test_an_action_is_recorded(watched: Watched) -> None:
    path = f"{watched.user.home}/made by an audited request"
    answer = watched.http.post("/filesystem/demo/ops/mkdir", json={"path": path}, headers={"X-Request-ID": "audit-1"})
    assert answer.status_code == 201
    (line,) = watched.audited("audit-1")
    assert line["event"] == "action"
    assert line["user"] == watched.user.name
    assert line["client_id"] == watched.user.client_id
    assert len(line["token_id"]) > 8
    assert line["token_id"] not in watched.token
    assert line["source"] == "127.0.0.1"
    assert line["system"] == "demo"
    assert line["operation"] == "POST /filesystem/{system_name}/ops/mkdir"
    assert line["group"] == "fs:write"
    assert line["paths"] == [path]
    assert (line["outcome"], line["status"]) == ("success", 201)
    assert line["seconds"] > 0
    assert line["correlation_id"] == answer.headers["x-correlation-id"]
    assert line["timestamp"].endswith("Z")


def test_a_job_is_recorded_by_its_id(watched: Watched) -> None:
    home = str(watched.user.home)
    job = {"name": "audited", "workingDirectory": home, "script": "#!/bin/sh\n# words of the script\ntrue\n"}
    answer = watched.http.post("/compute/demo/jobs", json={"job": job}, headers={"X-Request-ID": "audit-2"})
    assert answer.status_code == 201
    job_id = answer.json()["jobId"]
    (line,) = watched.audited("audit-2")
    assert (line["group"], line["job_id"], line["paths"]) == ("compute:submit", job_id, [home])
    cancelled = watched.http.delete(f"/compute/demo/jobs/{job_id}", headers={"X-Request-ID": "audit-3"})
    assert cancelled.status_code == 204
    (line,) = watched.audited("audit-3")
    assert line["operation"] == "DELETE /compute/{system_name}/jobs/{job_id}"
    assert line["job_id"] == job_id
    moved = watched.http.post(
        "/filesystem/demo/transfer/mv",
        json={"path": f"{home}/a", "targetPath": f"{home}/b", "account": "demo"},
        headers={"X-Request-ID": "audit-4"},
    )
    (line,) = watched.audited("audit-4")
    # And, perhaps, what the target stands for if it is a directory.
    assert line["paths"][:2] == [f"{home}/a", f"{home}/b"]
    if moved.status_code == 201:
        assert line["job_id"] == str(moved.json()["transferJob"]["jobId"])
    assert "words of the script" not in watched.audit.read_text()


@pytest.mark.parametrize(
    ("path", "status", "outcome"),
    [("/root/x", 403, "denied"), ("/nowhere", 404, "failure"), ("relative", 400, "failure")],
)
def test_what_fails_is_recorded_too(path: str, status: int, outcome: str, watched: Watched, cluster: Cluster) -> None:
    private = cluster.user("bob").home / "private"
    if outcome == "denied":
        cluster.as_user("bob", ["mkdir", "-p", "-m", "700", str(private)])
        path = f"{private}/file"
    elif path == "/nowhere":
        path = f"{watched.user.home}/nowhere"
    request_id = f"audit-failed-{status}"
    answer = watched.http.get(
        "/filesystem/commands/ops/stat", params={"path": path}, headers={"X-Request-ID": request_id}
    )
    assert answer.status_code == status
    (line,) = watched.audited(request_id)
    assert (line["outcome"], line["status"], line["system"]) == (outcome, status, "commands")


def test_an_answer_that_is_not_taken_to_its_end(watched: Watched) -> None:
    large = watched.user.home / "large"
    with large.open("wb") as file:
        file.truncate(512 * 1024 * 1024)
    large.chmod(0o644)
    headers = {"X-Request-ID": "audit-gone"}
    with watched.http.stream(
        "GET", "/filesystem/demo/files/content", params={"path": str(large)}, headers=headers
    ) as answer:
        assert answer.status_code == 200
        next(answer.iter_raw())
    (line,) = watched.audited("audit-gone")
    assert (line["outcome"], line["paths"]) == ("aborted", [str(large)])
    large.unlink()


def test_what_touches_no_system_is_not_recorded(watched: Watched) -> None:
    for request_id, path, headers in (
        ("none-1", "/status/systems", {}),
        ("none-2", "/status/liveness/", {}),
        ("none-3", "/status/nowhere/nodes", {}),
        ("none-4", "/status/demo/nodes", {"Authorization": "Bearer not-a-token"}),
    ):
        watched.http.get(path, headers={"X-Request-ID": request_id, **headers})
        watched.logged(request_id, "http.request")
        assert of(watched.audit, request_id) == []


def test_a_file_that_is_moved_away_is_begun_anew(watched: Watched) -> None:
    watched.http.get("/status/demo/nodes", headers={"X-Request-ID": "rotate-1"})
    watched.audited("rotate-1")
    old = watched.audit.with_suffix(".jsonl.1")
    watched.audit.rename(old)
    watched.http.get("/status/demo/nodes", headers={"X-Request-ID": "rotate-2"})
    eventually(lambda: [{}] if watched.audit.exists() else [])
    assert len(watched.audited("rotate-2")) == 1
    assert len(of(old, "rotate-1")) == 1
    assert watched.audit.stat().st_mode & 0o777 == 0o640


def test_a_tracing_line_names_the_command(watched: Watched) -> None:
    headers = {"X-Request-ID": "trace-1", "X-Portal": "jupyter", "User-Agent": "a-portal/1.0"}
    assert watched.http.get("/status/demo/partitions", headers=headers).status_code == 200
    (line,) = watched.logged("trace-1", "http.trace")
    assert line["username"] == watched.user.name
    assert line["system_name"] == "demo"
    assert line["endpoint"] == "/status/demo/partitions"
    assert line["resource"] == "status"
    assert line["status_code"] == 200
    assert line["user_agent"] == "a-portal/1.0"
    assert line["portal"] == "jupyter"
    assert line["authorization"] == "***"
    backend = line["backend"] if isinstance(line["backend"], list) else [line["backend"]]
    assert any("scontrol" in entry["command"] for entry in backend)
    assert {entry["exit_status"] for entry in backend} == {"0"}
    path = f"{watched.user.home}/it's not there"
    headers = {"X-Request-ID": "trace-2"}
    watched.http.get("/filesystem/commands/ops/file", params={"path": path}, headers=headers)
    (line,) = watched.logged("trace-2", "http.trace")
    assert "it'\"'\"'s not there" in line["backend"]["command"]
    assert line["backend"]["exit_status"] == "1"


def test_every_field_is_documented(watched: Watched) -> None:
    watched.http.get("/status/demo/nodes", headers={"X-Request-ID": "fields-1"})
    page = PAGE.read_text()
    for line in (
        *watched.audited("fields-1"),
        *watched.logged("fields-1", "http.request"),
        *watched.logged("fields-1", "http.trace"),
    ):
        for name in line.keys() - {"authorization", "portal"}:
            assert f"`{name}`" in page, name


def test_an_audit_log_that_hangs_holds_nobody(cluster: Cluster, watched: Watched, tmp_path: Path) -> None:
    """A FIFO takes 64 KiB. Its reader rests while twice as much is recorded, and then reads every line, in order."""
    fifo = tmp_path / "audit"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    gateway = None
    try:
        config = cluster.write_gateway_config(cluster.directory / "hanging-audit.yaml", audit={"to": str(fifo)})
        gateway = cluster.start_gateway(config)
        path = f"{watched.user.home}/nowhere" + f"/{'x' * 200}" * 14
        count = 60
        with httpx.Client(base_url=gateway.url, headers=watched.http.headers, timeout=300) as http:
            for number in range(count):
                answer = http.get(
                    "/filesystem/demo/ops/stat", params={"path": path}, headers={"X-Request-ID": str(number)}
                )
                assert answer.status_code == 404, answer.text[:300]
        text = b""
        os.set_blocking(reader, True)
        while text.count(b"\n") < count:
            text += os.read(reader, 65536)
        assert len(text) > 2 * 65536
        assert [json.loads(line)["request_id"] for line in text.splitlines()] == [*map(str, range(count))]
    finally:
        if gateway is not None:
            gateway.stop()
        os.close(reader)


def test_no_token_in_any_log(watched: Watched) -> None:
    for text in (watched.gateway.log.read_text(), watched.audit.read_text()):
        assert watched.token not in text
        assert watched.token.rpartition(".")[2] not in text


def test_the_logging_configuration_of_a_firecrest_site(cluster: Cluster, tmp_path: Path) -> None:
    log_config = tmp_path / "log-config.yaml"
    log_config.write_text(FIRECREST_LOG_CONFIG)
    config = cluster.write_gateway_config(
        cluster.directory / "log-config-gateway.yaml",
        clusters=[cluster.cluster_settings("demo", probing={"services": None})],
        logger={"enable_tracing_log": True},
        audit={"to": "stdout"},
    )
    gateway = cluster.start_gateway(config, env={"UVICORN_LOG_CONFIG": str(log_config)})
    headers = {"Authorization": f"Bearer {cluster.token('alice')}", "X-Request-ID": "site-1"}
    assert httpx.get(f"{gateway.url}/status/demo/nodes", headers=headers, timeout=300).status_code == 200
    lines = eventually(lambda: [line for line in of(gateway.log, "site-1") if line.get("name") == "f7t_v2_tracing_log"])
    gateway.stop()
    assert len(lines) == 1
    assert (lines[0]["levelname"], lines[0]["resource"]) == ("INFO", "status")
    assert lines[0]["backend"]["exit_status"] == "0"
    text = gateway.log.read_text()
    assert "uvicorn.access - INFO - 127.0.0.1" in text
    assert '"GET /status/demo/nodes HTTP/1.1" 200' in text
    # The root's level, ERROR, holds for all else; the audit log is none of its business.
    assert "http.request" not in text
    assert [line["outcome"] for line in of(gateway.log, "site-1") if line.get("event") == "action"] == ["success"]
