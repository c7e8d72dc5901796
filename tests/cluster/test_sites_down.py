"""Down is not gone: a job that only somebody who did not answer could know is 503, by HTTP on the real Slurm.

A new case is a line of a table: a way of being down, crossed with each way of asking for a job.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from hpcgate.demo.cluster import Cluster
from hpcgate.demo.packages import program
from hpcgate.schedulers.slurm.silence import PAUSE

NOBODYS = "999999"
SLEEP = "#!/bin/sh\nexec sleep 300\n"
TOOLS = ("sacct", "sacctmgr", "squeue", "scontrol")


@dataclass
class Site:
    """A login node whose tools do what is written to them, and a user's requests."""

    cluster: Cluster
    http: httpx.Client
    directory: Path

    def clear(self) -> None:
        """Let each tool count its calls and be the real one."""
        for name in TOOLS:
            self.tool(name, 'exec {real} "$@"')

    def tool(self, name: str, text: str) -> None:
        """Put a text in the place of a tool; ``{real}`` is the real one."""
        script = self.directory / name
        new = script.with_suffix(".new")
        new.write_text(f"#!/bin/sh\necho >>{self.calls(name)}\n{text.replace('{real}', program(name))}\n")
        new.chmod(0o755)
        new.replace(script)

    def calls(self, name: str) -> Path:
        path = self.directory / f"{name}.calls"
        if not path.exists():
            path.touch()
            path.chmod(0o666)
        return path

    def called(self, name: str) -> int:
        return len(self.calls(name).read_text())

    def submit(self) -> str:
        body = {"script": SLEEP, "workingDirectory": str(self.cluster.user("alice").home)}
        answer = self.http.post("/compute/demo/jobs", json={"job": body})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["jobId"])


@pytest.fixture(scope="module")
def made(cluster: Cluster) -> Iterator[Site]:
    directory = cluster.scratch / "down"
    directory.mkdir()
    directory.chmod(0o755)
    variables = dict(cluster.slurm.environment) | {"PATH": f"{directory}:/usr/bin:/bin"}
    sshd = cluster.start_sshd(extra="SetEnv " + " ".join(f"{name}={value}" for name, value in variables.items()))
    systems = [
        cluster.cluster_settings(name, sshd=sshd, scheduler={"history_cache": 0}, probing=None)
        for name in ("demo", "unaccounted")
    ]
    gateway = cluster.start_gateway(cluster.write_gateway_config(cluster.directory / "down.yaml", clusters=systems))
    headers = {"Authorization": f"Bearer {cluster.token('alice')}"}
    with httpx.Client(base_url=gateway.url, headers=headers, timeout=300) as client:
        yield Site(cluster, client, directory)
    gateway.stop()
    sshd.stop()


@pytest.fixture
def site(made: Site) -> Iterator[Site]:
    made.clear()
    yield made
    made.clear()


@contextmanager
def stopped(site: Site) -> Iterator[None]:
    daemon = site.cluster.slurm.slurmdbd
    assert daemon is not None
    daemon.stop()
    try:
        yield
    finally:
        daemon.start()


@contextmanager
def frozen(site: Site) -> Iterator[None]:
    daemon = site.cluster.slurm.slurmdbd
    assert daemon is not None
    os.kill(daemon.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(daemon.pid, signal.SIGCONT)


@contextmanager
def no_controller(site: Site) -> Iterator[None]:
    site.cluster.slurm.slurmctld.stop()
    try:
        yield
    finally:
        site.cluster.slurm.slurmctld.start()
        site.cluster.slurm.wait_for_nodes()


Down = Callable[[Site], AbstractContextManager[None]]


def all_of(*downs: Down) -> Down:
    """Return what has several of them at a time."""

    @contextmanager
    def down(site: Site) -> Iterator[None]:
        with ExitStack() as stack:
            for each in downs:
                stack.enter_context(each(site))
            yield

    return down


def instead(name: str, text: str) -> Down:
    """Return what puts a text in the place of a tool."""

    @contextmanager
    def put(site: Site) -> Iterator[None]:
        site.tool(name, text)
        yield

    return put


DOWN: dict[str, Down] = {
    "slurmdbd stopped": stopped,
    "slurmdbd frozen": frozen,
    "slurmctld stopped": no_controller,
    "slurmdbd refuses": instead("sacct", 'echo "sacct: error: slurmdbd: Access/permission denied" >&2; exit 1'),
    "slurmdbd is of another release": instead("sacct", 'echo "sacct: error: Protocol version 9999" >&2; exit 1'),
    "sacct missing": instead("sacct", 'echo "sh: 1: sacct: not found" >&2; exit 127'),
    "sacct not to be run": instead("sacct", 'echo "sacct: Permission denied" >&2; exit 126'),
    "sacct killed": instead("sacct", "kill -9 $$"),
    "sacct says too much": instead("sacct", "head -c 50000000 /dev/zero"),
    "squeue says too much": instead("squeue", "head -c 50000000 /dev/zero"),
    "sacct says words alone": instead("sacct", 'echo "sacct is in maintenance until 4711"'),
    "sacct says nothing": instead("sacct", "exit 0"),
    "squeue says words alone": instead("squeue", 'echo "squeue is in maintenance until 4711"'),
    "squeue complains alone": instead("squeue", 'echo "squeue: not on this node" >&2'),
    "squeue says nothing": instead("squeue", "exit 0"),
    "neither makes sense": all_of(
        instead("squeue", 'echo "squeue: not on this node" >&2'), instead("sacct", "echo a b c; exit 1")
    ),
    "squeue of no standing": instead("squeue", 'echo "slurm_load_jobs error: Invalid user id" >&2; exit 1'),
}
ASKING: dict[str, Callable[[httpx.Client], httpx.Response]] = {
    "GET": lambda http: http.get(f"/compute/demo/jobs/{NOBODYS}"),
    "metadata": lambda http: http.get(f"/compute/demo/jobs/{NOBODYS}/metadata"),
    "DELETE": lambda http: http.delete(f"/compute/demo/jobs/{NOBODYS}"),
}


@pytest.mark.parametrize("case", DOWN)
def test_who_did_not_answer_may_know_the_job(site: Site, case: str) -> None:
    job_id = site.submit()
    with DOWN[case](site):
        for asking, ask in ASKING.items():
            answer = ask(site.http)
            assert answer.status_code == (403 if "no standing" in case else 503), (asking, answer.text)
            assert answer.status_code != 503 or int(answer.headers["Retry-After"]) > 0
        several = site.http.get("/compute/demo/jobs", params={"ids": f"{NOBODYS},{job_id}"})
        if several.status_code == 200:
            lacking = {each["jobId"]: each["status"] for each in several.json()["notShown"]}
            assert lacking.pop(NOBODYS) == (403 if "no standing" in case else 503), several.text
            assert 404 not in lacking.values()
        else:
            assert several.status_code == (403 if "no standing" in case else 503), several.text
        cancelled = site.http.post("/compute/demo/jobs/cancel", json={"ids": [NOBODYS]})
        if cancelled.status_code == 200:
            assert [one["error"]["status"] for one in cancelled.json()["jobs"]] == [
                403 if "no standing" in case else 503
            ]
        else:
            assert cancelled.status_code == (403 if "no standing" in case else 503), cancelled.text
        with ThreadPoolExecutor(4) as pool:
            paths = [f"/compute/demo/jobs/{one}" for one in (NOBODYS, job_id, "888888", "777777")]
            answers = list(pool.map(site.http.get, paths))
        assert 404 not in {answer.status_code for answer in answers}
        if "slurmdbd" in case or "sacct" in case:
            assert [answer.status_code for answer in answers] == [503, 200, 503, 503]
            assert answers[1].headers["X-Hpcgate-Jobs-Missing"] == "history"
            listed = site.http.get("/compute/demo/jobs")
            assert (listed.status_code, listed.headers["X-Hpcgate-Jobs-Missing"]) == (200, "history")
            assert job_id in {job["jobId"] for job in listed.json()["jobs"]}
            assert site.http.get(f"/compute/demo/jobs/{job_id}/metadata").json()["jobs"][0]["script"] == SLEEP
    site.clear()
    assert site.http.delete(f"/compute/demo/jobs/{job_id}").status_code == 204
    # The database may be left alone for a while yet.
    deadline = time.monotonic() + 120
    while (answer := site.http.get(f"/compute/demo/jobs/{NOBODYS}")).status_code == 503:
        assert time.monotonic() < deadline, answer.text
        time.sleep(0.2)
    assert answer.status_code == 404, answer.text


def test_a_malformed_id_is_unknown_whoever_is_down(site: Site) -> None:
    with DOWN["sacct missing"](site):
        assert site.http.get("/compute/demo/jobs/4711x").status_code == 404


def test_a_frozen_database_is_not_waited_for_by_each_list(site: Site) -> None:
    began = time.monotonic()
    with frozen(site):
        before = site.called("sacct")
        for _ in range(6):
            listed = site.http.get("/compute/demo/jobs")
            assert (listed.status_code, listed.headers["X-Hpcgate-Jobs-Missing"]) == (200, "history")
            answer = site.http.get("/status/demo/userinfo")
            assert (answer.status_code, answer.json()["accounts"]) == (200, None)
        turns = (time.monotonic() - began) // PAUSE
    # The list itself, and the small question; then the small question alone.
    assert site.called("sacct") - before <= 2 + turns
    assert site.called("sacctmgr") <= turns


def test_without_accounting_and_without_sacct_an_unknown_job_is_unknown(site: Site) -> None:
    config = "echo 'AccountingStorageType   = accounting_storage/none'"
    site.tool("scontrol", f'case "$*" in (*"show config"*) {config};; (*) exec {{real}} "$@";; esac')
    site.tool("sacct", "exit 127")
    assert site.http.get(f"/compute/unaccounted/jobs/{NOBODYS}").status_code == 404
