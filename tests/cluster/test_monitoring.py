"""Metrics and traces of a running gateway, and the rules and the dashboard that stand on them."""

import json
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from prometheus_client.parser import text_string_to_metric_families

from hpcgate.demo.cluster import Cluster, Gateway
from hpcgate.demo.packages import ensure_installed, find_program
from hpcgate.demo.slurm import Slurm
from hpcgate.demo.sshd import Sshd

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
PATIENCE = 120.0


class Posted:
    """What an HTTP server was sent; it answers everything with 200 and an empty object."""

    def __init__(self) -> None:
        self.requests: list[tuple[dict[str, str], bytes]] = []
        posted = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                posted.requests.append(({name.lower(): value for name, value in self.headers.items()}, body))
                self.send_response(200)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture(scope="module")
def collector() -> Iterator[Posted]:
    """An OTLP receiver."""
    posted = Posted()
    yield posted
    posted.close()


@pytest.fixture(scope="module")
def decisions() -> Iterator[Posted]:
    """An authorisation service in FirecREST's way: any 200 is a yes."""
    posted = Posted()
    yield posted
    posted.close()


@pytest.fixture(scope="module")
def metrics_port(cluster: Cluster) -> int:
    return cluster.take_port()


@pytest.fixture(scope="module")
def watched(
    cluster: Cluster, plain: tuple[Slurm, Sshd], collector: Posted, decisions: Posted, metrics_port: int
) -> Iterator[Gateway]:
    slurm, sshd = plain
    config = cluster.write_gateway_config(
        cluster.directory / "tests-monitoring.yaml",
        clusters=[
            cluster.cluster_settings("watched", slurm=slurm, sshd=sshd),
            cluster.cluster_settings("down", ssh={"port": cluster.take_port()}),
        ],
        auth={"authorization": {"url": f"{decisions.url}/check"}},
        metrics={"port": metrics_port},
        tracing={"endpoint": f"{collector.url}/v1/traces", "headers": {"x-key": "collector-key"}},
    )
    running = cluster.start_gateway(config, env={"OTEL_BSP_SCHEDULE_DELAY": "100"})
    yield running
    running.stop()


@pytest.fixture(scope="module")
def http(cluster: Cluster, watched: Gateway) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {cluster.token('alice')}"}
    with httpx.Client(base_url=watched.url, headers=headers, timeout=600) as client:
        yield client


Values = dict[str, list[tuple[dict[str, str], float]]]


def scrape(port: int) -> Values:
    answer = httpx.get(f"http://127.0.0.1:{port}/metrics")
    assert answer.status_code == 200
    values: Values = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            values.setdefault(sample.name, []).append((sample.labels, sample.value))
    return values


def value(values: Values, name: str, **labels: str) -> float:
    return sum(amount for its, amount in values.get(name, []) if labels.items() <= its.items())


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"not in {PATIENCE:g} s: {what}"
        time.sleep(0.1)


def test_what_is_counted(http: httpx.Client, cluster: Cluster, metrics_port: int) -> None:
    """Requests are counted by route and status, whatever the spelling."""
    before = scrape(metrics_port)
    home = str(cluster.user("alice").home)
    ls = "/filesystem/{system_name}/ops/ls"
    assert http.get("/filesystem/WATCHED/ops/ls/", params={"path": home}).status_code == 200
    assert http.get("/filesystem/watched/ops/stat", params={"path": home}).status_code == 200
    assert http.get("/filesystem/watched/ops/checksum", params={"path": "/etc/passwd"}).status_code == 400
    assert http.get("/filesystem/down/ops/ls", params={"path": home}).status_code == 424
    assert http.get("/compute/watched/jobs").status_code == 200
    assert http.get("/status/systems", headers={"Authorization": "Bearer x"}).status_code == 401
    assert http.get("/status/systems", headers={"Authorization": ""}).status_code == 401
    content = {"path": f"{home}/metered"}
    assert http.put("/filesystem/watched/files/content", params=content, content=b"x" * 1000).status_code == 201
    assert http.get("/filesystem/watched/files/content", params=content).status_code == 200
    assert http.delete("/filesystem/watched/ops/rm", params=content).status_code == 204
    after = scrape(metrics_port)

    def more(name: str, **labels: str) -> float:
        return value(after, name, **labels) - value(before, name, **labels)

    requests = "hpcgate_http_requests_total"
    assert more(requests, route=ls, method="GET", status="200", system="watched") == 1
    assert more(requests, route=ls, status="424", system="down") == 1
    assert more("hpcgate_http_request_seconds_count", route=ls) == 2
    files = "/filesystem/{system_name}/files/content"
    assert more("hpcgate_http_request_body_bytes_total", route=files, system="watched") == 1000
    assert more("hpcgate_http_response_body_bytes_total", route=files, system="watched") == 1000
    assert more("hpcgate_tokens_total", outcome="accepted") == 8
    assert more("hpcgate_tokens_total", outcome="refused") == 1
    assert more("hpcgate_tokens_total", outcome="missing") == 1
    # Other tests may have logged users in before; each has one connection, which is kept.
    logins = value(after, "hpcgate_ssh_logins_total", system="watched", outcome="ok")
    assert logins == value(after, "hpcgate_ssh_pool_connections", system="watched") > 0
    assert more("hpcgate_ssh_logins_total", system="down", outcome="unreachable") == 1
    for name in ("ssh_credential", "ssh_handshake"):
        assert value(after, f"hpcgate_{name}_seconds_count", system="watched") == logins
    assert more("hpcgate_ssh_command_seconds_count", system="watched") > 0
    assert more("hpcgate_sftp_request_seconds_count", system="watched") > 0
    assert more("hpcgate_scheduler_seconds_count", system="watched", operation="jobs") == 1
    assert more("hpcgate_scheduler_reads_total", system="watched") == 1
    assert value(after, "hpcgate_ready") == 1
    assert 0 <= value(after, "hpcgate_jwks_age_seconds") < 3600
    assert value(after, "hpcgate_maintenance", system="watched") == 0
    wait_until(lambda: value(scrape(metrics_port), "hpcgate_event_loop_lag_seconds_count") > 0, "the loop is looked at")
    wait_until(
        lambda: value(scrape(metrics_port), "hpcgate_service_healthy", system="watched") == 4, "the probes have run"
    )
    assert value(scrape(metrics_port), "hpcgate_service_healthy", system="down") == 0


def test_labels_name_no_user(cluster: Cluster, http: httpx.Client, metrics_port: int) -> None:
    for _ in range(3):
        http.get("/filesystem/no-such-system/ops/ls", params={"path": "/x"})
        http.get(f"/no/such/{cluster.user('alice').name}")
    text = httpx.get(f"http://127.0.0.1:{metrics_port}/metrics").text
    assert cluster.user("alice").name not in text
    assert "no-such" not in text


def test_metrics_are_not_on_the_api(http: httpx.Client, gateway: Gateway, metrics_port: int) -> None:
    assert http.get("/metrics").status_code == 404
    assert httpx.get(f"{gateway.url}/metrics").status_code == 404
    assert httpx.get(f"http://127.0.0.1:{metrics_port}/status/systems").status_code == 404


def test_transfer_jobs_are_counted(http: httpx.Client, cluster: Cluster, metrics_port: int) -> None:
    home = str(cluster.user("alice").home)
    body = {"path": f"{home}/.profile", "targetPath": f"{home}/profile-copy"}
    assert http.post("/filesystem/watched/transfer/cp", json=body).status_code == 201
    assert value(scrape(metrics_port), "hpcgate_transfer_jobs_total", system="watched", kind="cp") == 1
    assert value(scrape(metrics_port), "hpcgate_scheduler_seconds_count", system="watched", operation="submit") == 1


def spans_of(collector: Posted, trace: str) -> dict[str, Span]:
    found: dict[str, Span] = {}
    for _, body in list(collector.requests):
        message = ExportTraceServiceRequest.FromString(body)
        for resource in message.resource_spans:
            for scope in resource.scope_spans:
                found |= {span.name: span for span in scope.spans if span.trace_id.hex() == trace}
    return found


def test_one_trace_from_the_caller_to_the_login_node(
    cluster: Cluster, watched: Gateway, collector: Posted, decisions: Posted
) -> None:
    bob = cluster.user("bob")
    headers = {"Authorization": f"Bearer {cluster.token(bob)}", "traceparent": f"00-{TRACE}-{PARENT}-01"}
    with httpx.Client(base_url=watched.url, headers=headers, timeout=600) as http:
        assert http.get("/filesystem/watched/ops/ls", params={"path": str(bob.home)}).status_code == 200
        assert http.get("/compute/watched/jobs").status_code == 200
    listing, jobs = "GET /filesystem/{system_name}/ops/ls", "GET /compute/{system_name}/jobs"
    wait_until(lambda: {listing, jobs} <= set(spans_of(collector, TRACE)), "the spans have arrived")
    spans = spans_of(collector, TRACE)
    assert spans[listing].parent_span_id.hex() == spans[jobs].parent_span_id.hex() == PARENT
    for name in ("credential", "connect", "resident perl"):
        assert spans[name].parent_span_id == spans[listing].span_id, name
    assert spans["scheduler jobs"].parent_span_id == spans[jobs].span_id
    commands = [span for name, span in spans.items() if name.startswith("command s")]
    assert spans["scheduler jobs"].span_id in [span.parent_span_id for span in commands]
    # What goes on to other services carries the trace on.
    carried = [sent["traceparent"] for sent, _ in decisions.requests if TRACE in sent.get("traceparent", "")]
    assert f"00-{TRACE}-{spans[listing].span_id.hex()}-01" in carried
    sent = b"".join(body for _, body in collector.requests)
    assert bob.name.encode() not in sent
    assert str(bob.home).encode() not in sent
    assert {sent["x-key"] for sent, _ in collector.requests} == {"collector-key"}


# --- what stands on the metrics --------------------------------------------------------------------------------------

ROOT = Path(__file__).parent.parent.parent
RULES = ROOT / "deploy" / "prometheus" / "alerts.yaml"
DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "hpcgate.json").read_text())
PAGE = (ROOT / "docs" / "operations" / "metrics.md").read_text()


@pytest.fixture(scope="module")
def promtool() -> Callable[..., str]:
    """Return a function that runs promtool, of Debian's package prometheus, and returns what it says."""
    ensure_installed({"promtool": "prometheus"}, print)
    program = find_program("promtool")
    assert program is not None

    def run(*arguments: str, input: str | None = None) -> str:
        done = subprocess.run([program, *arguments], input=input, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    return run


def exposed(port: int) -> dict[str, str]:
    """Return the names of the metrics with their kinds, as Prometheus stores them but for what histograms append."""
    text = httpx.get(f"http://127.0.0.1:{port}/metrics").text
    found = re.findall(r"^# TYPE (hpcgate_\w+) (\w+)$", text, re.MULTILINE)
    return dict(found)


def named(text: str) -> set[str]:
    return {re.sub(r"_(bucket|sum|count)$", "", name) for name in re.findall(r"\bhpcgate_\w+", text)}


def expressions() -> list[str]:
    return [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", ())]


def test_every_metric_is_documented_and_used(watched: Gateway, metrics_port: int) -> None:
    metrics = exposed(metrics_port)
    rows = dict(re.findall(r"^\| `(hpcgate_\w+)` \| (\w+) \|", PAGE, re.MULTILINE))
    assert rows == metrics
    alerts = named(" ".join(rule["expr"] for rule in yaml.safe_load(RULES.read_text())["groups"][0]["rules"]))
    shown = named(" ".join(expressions()))
    assert alerts <= set(metrics)
    assert shown == set(metrics)
    assert named(PAGE) <= set(metrics)


def test_every_alert_is_documented() -> None:
    alerts = [rule["alert"] for rule in yaml.safe_load(RULES.read_text())["groups"][0]["rules"]]
    assert re.findall(r"^\| `(Hpcgate\w+)` \|", PAGE, re.MULTILINE) == alerts


def test_promtool_finds_nothing_wrong(cluster: Cluster, promtool: Callable[..., str], tmp_path: Path) -> None:
    assert "SUCCESS" in promtool("check", "rules", str(RULES))
    assert "SUCCESS" in promtool("test", "rules", str(RULES.with_name("alerts_test.yaml")))
    tested = {
        test["alertname"]
        for group in yaml.safe_load(RULES.with_name("alerts_test.yaml").read_text())["tests"]
        for test in group["alert_rule_test"]
        if test["exp_alerts"]
    }
    assert tested == {rule["alert"] for rule in yaml.safe_load(RULES.read_text())["groups"][0]["rules"]}
    # The dashboard's queries are rules as well, once Grafana's variables are filled in.
    filled = [
        query.replace("$__rate_interval", "5m").replace("$system", ".*") for query in dict.fromkeys(expressions())
    ]
    rules = [{"record": f"panel:{number}", "expr": query} for number, query in enumerate(filled)]
    (tmp_path / "panels.yaml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    assert "SUCCESS" in promtool("check", "rules", str(tmp_path / "panels.yaml"))


def test_the_scrape_job_of_the_page(promtool: Callable[..., str], tmp_path: Path) -> None:
    (snippet,) = [block for block in re.findall(r"^```yaml\n(.*?)^```", PAGE, re.M | re.S) if "scrape_configs" in block]
    (tmp_path / "prometheus.yml").write_text(f"rule_files: ['{RULES}']\n{snippet}")
    assert "SUCCESS" in promtool("check", "config", str(tmp_path / "prometheus.yml"))


def test_prometheus_takes_what_is_exposed(promtool: Callable[..., str], watched: Gateway, metrics_port: int) -> None:
    text = httpx.get(f"http://127.0.0.1:{metrics_port}/metrics").text
    assert promtool("check", "metrics", input=text) == ""
