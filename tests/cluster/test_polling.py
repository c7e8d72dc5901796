"""What polling costs the scheduler: squeue and sacct of a real Slurm, counted on the login node."""

import asyncio
import time
from collections.abc import Iterator

import aiohttp
import pytest

from benchmarks.counted_slurm import COMMANDS, CountedSlurm
from hpcgate.demo.cluster import Cluster, Gateway

CLIENTS = 100
POLLS = 3


@pytest.fixture(scope="module")
def counted(cluster: Cluster) -> CountedSlurm:
    return CountedSlurm(cluster)


@pytest.fixture(scope="module")
def polled(cluster: Cluster, counted: CountedSlurm) -> Iterator[Gateway]:
    # What counts here is the scheduler's part, not whether a busy machine would shed some of a hundred clients.
    config = cluster.write_gateway_config(
        cluster.directory / "polled.yaml",
        clusters=[cluster.cluster_settings("demo", sshd=counted.sshd)],
        http={"max_delay": 60},
    )
    running = cluster.start_gateway(config)
    yield running
    running.stop()


@pytest.fixture(scope="module")
def job_ids(cluster: Cluster) -> Iterator[list[str]]:
    """Jobs of the first user that wait."""
    wrap = "for i in $(seq 20); do sbatch --parsable --hold --wrap true; done"
    ids = cluster.as_user("alice", ["sh", "-c", wrap], timeout=300).stdout.split()
    yield ids
    cluster.as_user("alice", ["scancel", *ids])


def _client(cluster: Cluster, role: str) -> aiohttp.ClientSession:
    headers = {"Authorization": f"Bearer {cluster.token(role)}"}
    return aiohttp.ClientSession(
        headers=headers, connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(60)
    )


async def _poll(http: aiohttp.ClientSession, url: str) -> tuple[list[str], float]:
    began = time.monotonic()
    async with http.get(url) as answer:
        assert answer.status == 200, await answer.text()
        jobs = (await answer.json())["jobs"]
    return [job["jobId"] for job in jobs], time.monotonic() - began


@pytest.mark.parametrize("single", [False, True], ids=["all-jobs", "each-its-own"])
async def test_a_hundred_clients_cost_a_tenth_of_the_queries(
    polled: Gateway, cluster: Cluster, counted: CountedSlurm, job_ids: list[str], single: bool
) -> None:
    url = f"{polled.url}/compute/demo/jobs"
    async with _client(cluster, "alice") as http:
        await _poll(http, url)
        before = counted.queries()

        async def client(number: int) -> None:
            job_id = job_ids[number % len(job_ids)]
            for _ in range(POLLS):
                found, _seconds = await _poll(http, f"{url}/{job_id}" if single else url)
                assert found == [job_id] if single else set(job_ids) <= set(found)

        await asyncio.gather(*(client(number) for number in range(CLIENTS)))
    # By itself each poll runs both commands once.
    assert counted.queries() - before <= CLIENTS * POLLS * len(COMMANDS) / 10


async def test_answers_flow_while_one_query_takes_long(
    polled: Gateway, cluster: Cluster, counted: CountedSlurm, job_ids: list[str]
) -> None:
    """Those who ask the same wait for it; other questions, other users and files do not."""
    url = f"{polled.url}/compute/demo/jobs"
    home = cluster.user("alice").home
    async with _client(cluster, "alice") as alice, _client(cluster, "bob") as bob:
        await asyncio.gather(_poll(alice, f"{url}/{job_ids[0]}"), _poll(bob, url))
        counted.slow("squeue", 5)
        slow = asyncio.create_task(_poll(alice, url))
        while (counted.directory / "squeue.slow").exists():
            await asyncio.sleep(0.01)
        shared = asyncio.create_task(_poll(alice, url))
        for _ in range(3):
            assert (await _poll(alice, f"{url}/{job_ids[0]}"))[0] == [job_ids[0]]
            await _poll(bob, url)
        async with alice.get(f"{polled.url}/filesystem/demo/ops/stat", params={"path": str(home)}) as answer:
            assert answer.status == 200
        assert not slow.done()
        (found, seconds), (also_found, _) = await asyncio.gather(slow, shared)
        assert seconds >= 5
        assert found == also_found
