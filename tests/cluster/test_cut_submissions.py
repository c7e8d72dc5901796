"""A connection that breaks while a job's script is on its way: the part that came is no job."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import httpx

from hpcgate.demo.cluster import Cluster
from tests.transfers.throttle import Throttle

SCRIPT = "#!/bin/sh\nsleep 600\n" + "# a line of a long script\n" * 100_000
AFTER = [0.1, 0.5, 0.9]
"""Shares of the script that have passed when the connection breaks."""


def _has_passed(line: Throttle, goal: float) -> bool:
    return line.passed >= goal


def test_half_a_script_is_no_job(cluster: Cluster) -> None:
    alice = cluster.user("alice")
    with Throttle(cluster.sshd.port, 4 * len(SCRIPT)) as line:
        settings = cluster.cluster_settings("demo", ssh={"port": line.port}, probing=None)
        path = cluster.directory / "tests-cut.yaml"
        gateway = cluster.start_gateway(cluster.write_gateway_config(path, clusters=[settings]))
        try:
            headers = {"Authorization": f"Bearer {cluster.token(alice)}"}
            with (
                httpx.Client(base_url=gateway.url, headers=headers, timeout=600) as http,
                ThreadPoolExecutor(1) as pool,
            ):
                for share in AFTER:
                    assert http.get("/filesystem/demo/ops/stat", params={"path": str(alice.home)}).status_code == 200
                    job = {"name": "in-part", "script": SCRIPT, "workingDirectory": str(alice.home)}
                    goal = line.passed + share * len(SCRIPT)
                    answer = pool.submit(http.post, "/compute/demo/jobs", json={"job": job})
                    until(partial(_has_passed, line, goal), "the script is not sent")
                    line.cut()
                    assert answer.result().status_code in (408, 409, 424)
        finally:
            gateway.stop()
    running = ["sh", "-c", "pgrep -u $(id -u) -x sbatch || true"]
    until(lambda: not cluster.as_user(alice, running).stdout, "sbatch does not end")
    jobs = cluster.slurm.run(["squeue", "-h", "-a", "-t", "all", "-o", "%F %j", "-u", alice.name])
    assert "in-part" not in jobs


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.005)
