"""Token buckets, in memory and in a real Redis: the same contract."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import structlog

from hpcgate.config.rates import Rate, RedisSettings
from hpcgate.errors import Unavailable
from hpcgate.rates import memory
from hpcgate.rates.base import Bucket, BucketStore
from hpcgate.rates.memory import MemoryCounter
from hpcgate.rates.redis import RedisCounter
from tests.redis_server import PASSWORD, RedisServer

SLOW = Rate(rate=0.001, burst=3)
FAST = Rate(rate=5, burst=2)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as running:
        yield running


def settings(server: RedisServer, **more: object) -> RedisSettings:
    return RedisSettings.model_validate({"url": server.url, "timeout": 5, **more})


@pytest.fixture(params=["memory", "redis"])
async def counter(request: pytest.FixtureRequest, server: RedisServer, tmp_path: Path) -> AsyncIterator[BucketStore]:
    made: BucketStore = (
        MemoryCounter() if request.param == "memory" else RedisCounter(settings(server, prefix=f"{tmp_path.name}:"))
    )
    yield made
    await made.close()


async def test_a_burst_and_then_no_more(counter: BucketStore) -> None:
    bucket = Bucket("user:fs:read:alice", SLOW)
    verdicts = [await counter.take([bucket]) for _ in range(5)]
    assert [verdict.allowed for verdict in verdicts] == [True, True, True, False, False]
    assert [verdict.headers()["RateLimit-Remaining"] for verdict in verdicts] == ["2", "1", "0", "0", "0"]
    told = verdicts[3].headers()
    assert told["RateLimit-Limit"] == "3"
    assert 900 < int(told["Retry-After"]) <= 1000
    assert 2900 < int(told["RateLimit-Reset"]) <= 3000
    assert "Retry-After" not in verdicts[0].headers()


async def test_a_bucket_fills_again(counter: BucketStore) -> None:
    bucket = Bucket("user:fs:read:alice", FAST)
    async with asyncio.timeout(300):
        while (await counter.take([bucket])).allowed:
            pass
        while not (await counter.take([bucket])).allowed:
            await asyncio.sleep(0.005)


async def test_each_has_a_bucket_of_its_own(counter: BucketStore) -> None:
    for _ in range(4):
        await counter.take([Bucket("user:fs:read:alice", SLOW)])
    assert (await counter.take([Bucket("user:fs:read:bob", SLOW)])).allowed
    assert (await counter.take([Bucket("user:fs:write:alice", SLOW)])).allowed


async def test_all_or_none(counter: BucketStore) -> None:
    """A request that one bucket refuses takes nothing from the others."""
    mine, all_of_the_client = Bucket("user:fs:read:alice", SLOW), Bucket("client:fs:read:portal", SLOW)
    for _ in range(3):
        assert (await counter.take([all_of_the_client])).allowed
    refused = await counter.take([mine, all_of_the_client])
    assert not refused.allowed
    assert refused.bucket is all_of_the_client
    assert [(await counter.take([mine])).allowed for _ in range(4)] == [True, True, True, False]


async def test_many_at_once_get_no_more_than_there_is(counter: BucketStore) -> None:
    bucket = Bucket("user:fs:read:alice", Rate(rate=0.001, burst=10))
    verdicts = await asyncio.gather(*(counter.take([bucket]) for _ in range(50)))
    assert sum(verdict.allowed for verdict in verdicts) == 10


async def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """No more buckets are kept than the bound allows."""
    monkeypatch.setattr(memory, "MAX_BUCKETS", 10)
    counter = MemoryCounter()
    for number in range(100):
        await counter.take([Bucket(f"user:fs:read:user{number}", SLOW)])
    assert repr(counter) == "<MemoryCounter 10 buckets>"


async def test_replicas_count_together(server: RedisServer, tmp_path: Path) -> None:
    """Replicas that share a Redis share its buckets."""
    replicas = [RedisCounter(settings(server, prefix=f"{tmp_path.name}:")) for _ in range(3)]
    bucket = Bucket("user:fs:read:alice", SLOW)
    allowed = [(await replica.take([bucket])).allowed for _ in range(3) for replica in replicas]
    assert sum(allowed) == 3
    for replica in replicas:
        await replica.close()


async def test_without_redis_a_replica_counts_by_itself_or_refuses(tmp_path: Path) -> None:
    server = RedisServer(tmp_path)
    server.start()
    bucket = Bucket("user:fs:read:alice", SLOW)
    going_on = RedisCounter(settings(server))
    refusing = RedisCounter(settings(server, when_down="refuse"))
    for _ in range(3):
        assert (await going_on.take([bucket])).allowed
    assert not (await refusing.take([bucket])).allowed
    server.stop()
    with structlog.testing.capture_logs() as lines:
        assert [(await going_on.take([bucket])).allowed for _ in range(5)] == [True, True, True, False, False]
        for _ in range(3):
            with pytest.raises(Unavailable, match="rate limits") as refusal:
                await refusing.take([bucket])
    assert refusal.value.headers["Retry-After"] == "1"
    assert [line["event"] for line in lines] == ["rate_limits.redis_down"] * 2
    assert PASSWORD not in str(lines)
    server.start()
    async with asyncio.timeout(300):
        # Redis has forgotten all, and is asked again soon.
        while not (await going_on.take([bucket])).allowed:
            await asyncio.sleep(0.05)
        while True:
            try:
                await refusing.take([bucket])
            except Unavailable:
                await asyncio.sleep(0.05)
            else:
                break
    for counter in (going_on, refusing):
        assert PASSWORD not in repr(counter)
        await counter.close()
    server.stop()


async def test_many_are_taken_at_once_or_none(counter: BucketStore) -> None:
    one, three = Bucket("user:compute:submit:alice", SLOW), Bucket("user:compute:submit:alice", SLOW, 3)
    assert (await counter.take([one])).allowed
    refused = await counter.take([three])
    assert not refused.allowed
    assert 900 < refused.wait <= 1000
    assert (await counter.take([Bucket(one.key, SLOW, 2)])).allowed
    assert not (await counter.take([one])).allowed
