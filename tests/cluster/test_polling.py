"""What polling costs the scheduler: squeue and sacct of a real Slurm, counted on the login node."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator

import aiohttp
import httpx
import pytest

from benchmarks.counted_slurm import COMMANDS, CountedSlurm
from hpcgate.demo.cluster import Cluster, Gateway

CLIENTS = 100
POLLS = 3


@pytest.fixture(scope="module")
def counted(cluster: Cluster) -> CountedSlurm:
    return CountedSlurm(cluster)


@pytest.fixture(scope="module")
def polled(cluster: Cluster, counted: CountedSlurm) -> Iterator[tuple[Gateway, int]]:
    """The gateway, and the port of its metrics."""
    # What counts here is the scheduler's part, not whether a busy machine would shed some of a hundred clients.
    config = cluster.write_gateway_config(
        cluster.directory / "polled.yaml",
        clusters=[cluster.cluster_settings("demo", sshd=counted.sshd)],
        http={"max_delay": 60},
        metrics={"port": (port := cluster.take_port())},
    )
    running = cluster.start_gateway(config)
    yield running, port
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
        headers=headers, connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(300)
    )


async def _under_way(port: int) -> int:
    """How many requests are served, or wait for it."""
    answer = await asyncio.to_thread(httpx.get, f"http://127.0.0.1:{port}/metrics")
    return sum(
        int(float(line.split()[1]))
        for line in answer.text.splitlines()
        if line.startswith(("hpcgate_http_requests_running ", "hpcgate_http_requests_waiting "))
    )


async def _eventually(is_so: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(300):
        while not await is_so():
            await asyncio.sleep(0.05)


async def _poll(http: aiohttp.ClientSession, url: str) -> list[str]:
    async with http.get(url) as answer:
        assert answer.status == 200, await answer.text()
        jobs = (await answer.json())["jobs"]
    return [job["jobId"] for job in jobs]


@pytest.mark.parametrize("single", [False, True], ids=["all-jobs", "each-its-own"])
async def test_a_hundred_clients_cost_a_tenth_of_the_queries(
    polled: tuple[Gateway, int], cluster: Cluster, counted: CountedSlurm, job_ids: list[str], single: bool
) -> None:
    gateway, port = polled
    url = f"{gateway.url}/compute/demo/jobs"

    async def all_are_there() -> bool:
        return await _under_way(port) >= CLIENTS

    async with _client(cluster, "alice") as http:
        await _poll(http, url)
        before = counted.queries()

        async def client(number: int) -> None:
            job_id = job_ids[number % len(job_ids)]
            found = await _poll(http, f"{url}/{job_id}" if single else url)
            assert found == [job_id] if single else set(job_ids) <= set(found)

        for _ in range(POLLS):
            # All ask while a query is under way, however long they take for it on a slow machine.
            with counted.holding("squeue"):
                asking = [asyncio.create_task(client(number)) for number in range(CLIENTS)]
                await _eventually(all_are_there)
            await asyncio.gather(*asking)
    # By itself each poll runs both commands once.
    assert counted.queries() - before <= CLIENTS * POLLS * len(COMMANDS) / 10


async def test_answers_flow_while_one_query_takes_long(
    polled: tuple[Gateway, int], cluster: Cluster, counted: CountedSlurm, job_ids: list[str]
) -> None:
    """Those who ask the same wait for it; other questions, other users and files do not."""
    gateway, port = polled
    url = f"{gateway.url}/compute/demo/jobs"
    home = cluster.user("alice").home

    async def is_held() -> bool:
        return counted.holds("squeue")

    async def both_ask() -> bool:
        return await _under_way(port) == 2

    async with _client(cluster, "alice") as alice, _client(cluster, "bob") as bob:
        await asyncio.gather(_poll(alice, f"{url}/{job_ids[0]}"), _poll(bob, url))
        before = counted.queries("squeue")
        await _poll(alice, url)
        # One, and one more where a job of another test has ended so lately that its exit code is asked for.
        alone = counted.queries("squeue") - before
        with counted.holding("squeue"):
            slow = asyncio.create_task(_poll(alice, url))
            await _eventually(is_held)
            shared = asyncio.create_task(_poll(alice, url))
            await _eventually(both_ask)
            before = counted.queries("squeue")
            for _ in range(3):
                assert await _poll(alice, f"{url}/{job_ids[0]}") == [job_ids[0]]
                await _poll(bob, url)
            async with alice.get(f"{gateway.url}/filesystem/demo/ops/stat", params={"path": str(home)}) as answer:
                assert answer.status == 200
            assert not slow.done()
            assert not shared.done()
            asked = counted.queries("squeue") - before
        assert await slow == await shared
    assert counted.queries("squeue") - before - asked <= alone - 1
