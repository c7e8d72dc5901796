"""HAProxy, nginx and Envoy by the files of `deploy`, each in front of two gateways and a real cluster."""

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from hpcgate.demo.cluster import Cluster, Gateway
from hpcgate.demo.packages import program
from tests.cluster.streaming import LARGE, make, names, place, wait_until
from tests.deploy.proxies import KINDS, Proxy, start_proxy
from tests.people import Person

__all__ = ["place"]

VERSIONS = ("2.5.1", "2.5.2")
"""What the two gateways call themselves, so that an answer tells whose it is."""
MEBIBYTE = 1 << 20


@dataclass(frozen=True, slots=True)
class Site:
    """A proxy with what is behind it."""

    cluster: Cluster
    gateways: tuple[Gateway, Gateway]
    proxy: Proxy
    http: httpx.Client

    def asked(self, token: str, path: str = "/status/systems") -> str:
        """Return which gateway answers a token; any answer but 200 is an error."""
        answer = self.http.get(path, headers={"Authorization": f"Bearer {token}"})
        assert answer.status_code == 200, answer.text
        return answer.headers["f7t-appversion"]

    def streams(self) -> int:
        """Return how many streams are under way at both."""
        return sum(
            int(float(re.findall(r"^hpcgate_streams (\S+)", httpx.get(f"{one.url}/metrics").text, re.MULTILINE)[0]))
            for one in self.gateways
        )


@pytest.fixture(scope="module")
def gateways(cluster: Cluster) -> Iterator[tuple[Gateway, Gateway]]:
    first, second = (
        cluster.start_gateway(
            cluster.write_gateway_config(
                cluster.directory / f"behind-{version}.yaml",
                app_version=version,
                metrics={"path": "/metrics"},
                apis_root_path="/hpc",
                http={"trusted_proxies": ["127.0.0.1"], "drain": 3},
            )
        )
        for version in VERSIONS
    )
    yield first, second
    first.stop()
    second.stop()


@pytest.fixture(scope="module", params=KINDS)
def site(request: pytest.FixtureRequest, cluster: Cluster, gateways: tuple[Gateway, Gateway]) -> Iterator[Site]:
    # Time-outs of three seconds instead of 75: what takes longer shows that it is silence that they limit.
    proxy = start_proxy(request.param, cluster, gateways, patience="3s")
    with proxy.client() as http:
        yield Site(cluster, gateways, proxy, http)
    proxy.daemon.stop()


@pytest.fixture(scope="module")
def tokens(cluster: Cluster) -> list[str]:
    return [cluster.token(cluster.users[number % len(cluster.users)]) for number in range(16)]


def test_each_token_has_its_own_replica(site: Site, tokens: list[str]) -> None:
    first = {token: site.asked(token) for token in tokens}
    assert set(first.values()) == set(VERSIONS)
    for number in range(3):
        with site.proxy.client() as client:
            another = replace(site, http=client)
            order = random.Random(number).sample(tokens, len(tokens))
            assert {token: another.asked(token) for token in order} == first


def test_a_large_upload_is_passed_on_while_it_comes(site: Site, alice: Person, place: Path) -> None:
    def arrived() -> int:
        return sum(path.stat().st_size for path in place.iterdir())

    def body() -> Iterator[bytes]:
        yield LARGE[:MEBIBYTE]
        assert wait_until(lambda: arrived() >= MEBIBYTE // 2), "nothing arrives before all is sent"
        for number in range(1, 64):
            if number % 16 == 0:
                time.sleep(0.7)
            yield LARGE[:MEBIBYTE]

    headers = {"Authorization": alice.http.headers["authorization"], "Content-Length": str(64 * MEBIBYTE)}
    answer = site.http.put(
        "/filesystem/demo/files/content", params={"path": str(place / "up")}, content=body(), headers=headers
    )
    assert answer.status_code == 201, answer.text
    assert (place / "up").read_bytes() == LARGE[:MEBIBYTE] * 64
    assert names(place) == ["up"]


def test_a_slow_upload_may_take_longer_than_the_time_outs(site: Site, alice: Person, place: Path) -> None:
    def body() -> Iterator[bytes]:
        for _ in range(9):
            yield b"x" * 1000
            time.sleep(0.5)

    answer = site.http.put(
        "/filesystem/demo/files/content",
        params={"path": str(place / "slow")},
        content=body(),
        headers={"Authorization": alice.http.headers["authorization"]},
    )
    assert answer.status_code == 201, answer.text
    assert (place / "slow").stat().st_size == 9000


def test_a_download_waits_for_a_client_that_takes_its_time(site: Site, alice: Person, place: Path) -> None:
    content = make(alice, place / "down", LARGE[:MEBIBYTE] * 256).stat().st_size
    taken = 0
    with site.http.stream(
        "GET",
        "/filesystem/demo/files/content",
        params={"path": str(place / "down")},
        headers={"Authorization": alice.http.headers["authorization"]},
    ) as answer:
        assert answer.status_code == 200
        for block in answer.iter_raw():
            if not taken:
                # A proxy that buffers takes all of it meanwhile.
                time.sleep(1.5)
                assert site.streams() == 1
                kept = sum(path.stat().st_size for path in site.proxy.directory.rglob("*") if path.is_file())
                assert kept < MEBIBYTE
            taken += len(block)
    assert taken == content
    assert wait_until(lambda: site.streams() == 0)


def test_who_hangs_up_ends_the_work_on_the_login_node(site: Site, alice: Person, place: Path) -> None:
    alice.run("truncate", "-s", "200G", str(place / "huge"))

    def running() -> bool:
        done = alice.cluster.as_user(alice.user, ["pgrep", "-u", alice.user.name, "-f", "sha256sum"], check=False)
        return done.returncode == 0

    # One with the time-outs of the file, which are longer than the command may take: it is not they that end it.
    proxy = start_proxy(site.proxy.kind, site.cluster, site.gateways)
    try:
        with proxy.client() as http, contextlib.suppress(httpx.ReadTimeout):
            answer = http.get(
                "/filesystem/demo/ops/checksum",
                params={"path": f"{place}/huge"},
                headers={"Authorization": alice.http.headers["authorization"]},
                timeout=1.5,
            )
            raise AssertionError(answer.text)
        assert wait_until(lambda: not running())
    finally:
        proxy.daemon.stop()


def test_long_headers_reach_the_gateway(site: Site) -> None:
    headers = {"Authorization": "Bearer " + "x" * 16_000, "X-One": "y" * 16_000, "X-Two": "z" * 16_000}
    answer = site.http.get("/status/systems", headers=headers)
    assert answer.status_code == 401
    assert answer.json()["errorType"] == "error"


@pytest.mark.parametrize(
    "path",
    ["/metrics", "/metrics/", "/%6detrics", "/METRICS", "//metrics", "/x/../metrics", "/hpc/metrics", "/hpc/metrics/"],
)
def test_metrics_are_not_shown(site: Site, path: str) -> None:
    # What httpx would tidy up is sent as it is.
    request = site.http.build_request("GET", "/")
    request.url = httpx.URL(request.url, raw_path=path.encode())
    answer = site.http.send(request, follow_redirects=True)
    assert answer.status_code == 404
    assert "hpcgate_" not in answer.text


def test_the_client_is_named_by_the_proxy_and_not_by_itself(site: Site, tokens: list[str]) -> None:
    transport = httpx.HTTPTransport(verify=site.proxy.trust, local_address="127.0.0.2")
    with httpx.Client(base_url=site.proxy.url, transport=transport) as elsewhere:
        answer = elsewhere.get(
            "/status/systems",
            headers={
                "Authorization": f"Bearer {tokens[0]}",
                "X-Forwarded-For": "203.0.113.9",
                "X-Forwarded-Proto": "gopher",
                "X-Request-ID": f"forwarded-{site.proxy.kind}",
            },
        )
    assert answer.status_code == 200

    def clients() -> list[str]:
        lines = [line for one in site.gateways for line in one.log.read_text().splitlines()]
        mine = (json.loads(line) for line in lines if f"forwarded-{site.proxy.kind}" in line)
        return [line["client"] for line in mine if "client" in line]

    # The line of the access log is written after the answer.
    assert wait_until(lambda: bool(clients()))
    assert clients() == ["127.0.0.2"]


def unread(gateway: Gateway) -> int:
    """Return the most bytes that have come on one connection of a frozen gateway (proc_net(5))."""
    port = f":{urlsplit(gateway.url).port:04X}"
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    # The queue of one that listens counts connections.
    return max(
        (int(row[4].partition(":")[2], 16) for row in rows if row[1].endswith(port) and row[3] != "0A"), default=0
    )


def test_a_request_is_never_sent_twice(site: Site, alice: Person, tokens: list[str]) -> None:
    """A replica dies after it was sent a submission: the other one does not get it as well."""
    token = tokens[0]
    number = VERSIONS.index(site.asked(token))
    theirs, other = site.gateways[number], site.gateways[1 - number]
    statuses: list[int] = []

    def submit() -> None:
        job = {"name": "twice", "working_directory": str(alice.user.home), "script": "#!/bin/sh\n"}
        headers = {"Authorization": f"Bearer {token}"}
        # On a connection that has served other requests HAProxy would close without an answer.
        with site.proxy.client() as fresh:
            statuses.append(fresh.post("/compute/demo/jobs", json={"job": job}, headers=headers).status_code)

    submission = threading.Thread(target=submit)
    theirs.daemon.suspend()
    try:
        submission.start()
        # The token alone is longer than that, and the proxy's own questions are shorter.
        assert wait_until(lambda: unread(theirs) > 700)
    finally:
        theirs.daemon.kill()
        submission.join()
        theirs.daemon.start()
    assert statuses in ([502], [503])
    assert '"POST"' not in other.log.read_text()
    assert wait_until(lambda: site.asked(token) == VERSIONS[number])


def test_one_replica_stops_and_nobody_notices(site: Site, tokens: list[str]) -> None:
    before = Counter(site.asked(token) for token in tokens)
    assert len(before) == 2
    leaving, name = site.gateways[0], VERSIONS[0]
    os.kill(leaving.pid, signal.SIGTERM)
    deadline = time.monotonic() + 120
    while leaving.daemon.running:
        assert time.monotonic() < deadline
        for token in tokens:
            site.asked(token)
    assert {site.asked(token) for token in tokens} == {VERSIONS[1]}
    leaving.daemon.start()
    assert wait_until(lambda: Counter(site.asked(token) for token in tokens)[name] == before[name])


def test_the_program_itself_finds_nothing_wrong(site: Site) -> None:
    """The commands of the documentation that look at a configuration."""
    config = site.proxy.directory
    # Looked for one by one: the other proxies need not be installed.
    programs: dict[str, list[str]] = {
        "haproxy": ["haproxy", "-c", "-f", str(config / "haproxy.cfg")],
        "nginx": ["nginx", "-t", "-e", "stderr", "-c", str(config / "nginx.conf")],
        "envoy": ["envoy", "--mode", "validate", "-c", str(config / "envoy.yaml")],
    }
    name, *options = programs[site.proxy.kind]
    argv = [str(Path(sys.executable).with_name("envoy")) if name == "envoy" else program(name), *options]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=300)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert not re.search(r"(?i)\[?warning", said), said
