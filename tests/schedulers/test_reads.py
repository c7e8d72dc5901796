"""Shared reads, on a backend that counts and can be held."""

import asyncio
from collections.abc import AsyncIterator, Mapping

import pytest

from hpcgate.auth import Principal
from hpcgate.errors import GatewayError, JobNotFound, SchedulerUnavailable, TimedOut
from hpcgate.schedulers.base import (
    Account,
    Job,
    JobDescription,
    JobMetadata,
    JobQuery,
    Jobs,
    JobStatus,
    JobTime,
    Node,
    Partition,
    Reservation,
    Scheduler,
)
from hpcgate.schedulers.reads import MAX_GATHERED, SharedReads
from tests.schedulers.described import described

ALICE = Principal("alice", "token-a")
BOB = Principal("bob", "token-b")


def a_job(job_id: str, state: str = "RUNNING") -> Job:
    return Job(
        job_id=job_id,
        name="name",
        status=JobStatus(state),
        time=JobTime(),
        allocation_nodes=0,
        cluster="",
        nodes="",
        partition="",
        user=None,
        working_directory="/",
    )


class Backend(Scheduler):
    """Takes note of every query; `hold` makes queries wait."""

    def __init__(self) -> None:
        self.queries: list[tuple[str, object]] = []
        self.hold = asyncio.Event()
        self.hold.set()
        self.error: Exception | None = None
        self.state = "RUNNING"
        self.cancelled = 0

    async def _query(self, name: str, what: object) -> str:
        self.queries.append((name, what))
        state = self.state
        try:
            await self.hold.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.error is not None:
            raise self.error
        return state

    async def submit(self, principal: Principal, job: JobDescription) -> str:
        await self._query("submit", job)
        return "1"

    async def jobs(self, principal: Principal, query: JobQuery) -> Jobs:
        return Jobs((a_job(principal.username, await self._query("jobs", query)),))

    async def job(self, principal: Principal, job_id: str) -> Jobs:
        raise AssertionError("single jobs are gathered")

    async def several(self, principal: Principal, job_ids: tuple[str, ...]) -> Mapping[str, Jobs | GatewayError]:
        state = await self._query("several", job_ids)
        return {
            job_id: JobNotFound(job_id) if job_id.startswith("no") else Jobs((a_job(job_id, state),))
            for job_id in job_ids
        }

    async def metadata(self, principal: Principal, job_id: str) -> tuple[JobMetadata, ...]:
        await self._query("metadata", job_id)
        return (JobMetadata(job_id),)

    async def cancel(self, principal: Principal, job_id: str) -> None:
        await self._query("cancel", job_id)

    async def attach(self, principal: Principal, job_id: str, command: str) -> None:
        await self._query("attach", command)

    async def nodes(self, principal: Principal) -> tuple[Node, ...]:
        await self._query("nodes", None)
        return ()

    async def partitions(self, principal: Principal, *, show_hidden: bool = False) -> tuple[Partition, ...]:
        await self._query("partitions", show_hidden)
        return ()

    async def reservations(self, principal: Principal) -> tuple[Reservation, ...]:
        await self._query("reservations", None)
        return ()

    async def accounts(self, principal: Principal) -> tuple[Account, ...] | None:
        await self._query("accounts", None)
        return None

    async def ping(self, principal: Principal) -> None:
        await self._query("ping", None)


@pytest.fixture
def backend() -> Backend:
    return Backend()


@pytest.fixture
async def reads(backend: Backend) -> AsyncIterator[SharedReads]:
    before = asyncio.all_tasks()
    shared = SharedReads(backend)
    yield shared
    await shared.close()
    assert asyncio.all_tasks() - before - {asyncio.current_task()} == set()
    assert not shared._users


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def names(backend: Backend) -> list[str]:
    return [name for name, _ in backend.queries]


async def test_a_hundred_identical_reads_are_one_query(reads: SharedReads, backend: Backend) -> None:
    backend.hold.clear()
    asked = [asyncio.create_task(reads.jobs(ALICE, JobQuery())) for _ in range(100)]
    await settle()
    backend.hold.set()
    answers = await asyncio.gather(*asked)
    assert names(backend) == ["jobs"]
    assert {answer.jobs for answer in answers} == {(a_job("alice"),)}
    assert (reads.stats.asked, reads.stats.queries) == (100, 1)


async def test_users_and_questions_are_apart(reads: SharedReads, backend: Backend) -> None:
    backend.hold.clear()
    asked = [
        asyncio.create_task(reads.jobs(principal, query))
        for principal in (ALICE, BOB)
        for query in (JobQuery(), JobQuery(name="x"))
    ]
    await settle()
    backend.hold.set()
    answers = await asyncio.gather(*asked)
    assert [answer.jobs[0].job_id for answer in answers] == ["alice", "alice", "bob", "bob"]
    assert len(backend.queries) == 4


async def test_one_after_the_other_is_asked_again(reads: SharedReads, backend: Backend) -> None:
    await reads.jobs(ALICE, JobQuery())
    await reads.jobs(ALICE, JobQuery())
    assert names(backend) == ["jobs", "jobs"]


@pytest.mark.parametrize("write", ["submit", "cancel", "attach"])
@pytest.mark.parametrize("fails", [False, True])
async def test_nobody_reads_their_own_past(reads: SharedReads, backend: Backend, write: str, fails: bool) -> None:
    backend.hold.clear()
    early = asyncio.create_task(reads.jobs(ALICE, JobQuery()))
    early_job = asyncio.create_task(reads.job(ALICE, "7"))
    await settle()
    backend.hold.set()
    backend.state = "CANCELLED"
    backend.error = TimedOut("no answer") if fails else None
    doing = {
        "submit": reads.submit(ALICE, described("/", script="")),
        "cancel": reads.cancel(ALICE, "7"),
        "attach": reads.attach(ALICE, "7", "id"),
    }
    backend.hold.clear()
    writing = asyncio.create_task(doing.pop(write))
    for unused in doing.values():
        unused.close()
    await settle()
    during = asyncio.create_task(reads.jobs(ALICE, JobQuery()))
    await settle()
    backend.hold.set()
    if fails:
        with pytest.raises(TimedOut):
            await writing
    else:
        await writing
    backend.error = None
    backend.hold.clear()
    late = asyncio.create_task(reads.jobs(ALICE, JobQuery()))
    late_job = asyncio.create_task(reads.job(ALICE, "7"))
    await settle()
    backend.hold.set()
    assert (await late).jobs[0].status.state == "CANCELLED"
    assert (await late_job).jobs[0].status.state == "CANCELLED"
    await asyncio.gather(early, early_job, during, return_exceptions=True)


async def test_anothers_write_changes_nothing(reads: SharedReads, backend: Backend) -> None:
    backend.hold.clear()
    first = asyncio.create_task(reads.jobs(ALICE, JobQuery()))
    await settle()
    bobs = asyncio.create_task(reads.cancel(BOB, "1"))
    await settle()
    second = asyncio.create_task(reads.jobs(ALICE, JobQuery()))
    await settle()
    backend.hold.set()
    await asyncio.gather(first, second, bobs)
    assert names(backend).count("jobs") == 1


async def test_single_jobs_that_come_together_are_one_query(reads: SharedReads, backend: Backend) -> None:
    asked = [asyncio.create_task(reads.job(ALICE, str(number))) for number in range(50)]
    answers = await asyncio.gather(*asked)
    assert [answer.jobs[0].job_id for answer in answers] == [str(number) for number in range(50)]
    assert names(backend) == ["several"]


async def test_single_jobs_gather_behind_a_query_under_way(reads: SharedReads, backend: Backend) -> None:
    backend.hold.clear()
    first = asyncio.create_task(reads.job(ALICE, "1"))
    await settle()
    rest = [asyncio.create_task(reads.job(ALICE, str(number))) for number in range(2, 30)]
    await settle()
    assert len(backend.queries) == 1
    backend.hold.set()
    await asyncio.gather(first, *rest)
    assert [len(ids) for _, ids in backend.queries] == [1, 28]  # type: ignore[arg-type]


async def test_a_slow_query_does_not_hold_up_the_next(reads: SharedReads, backend: Backend) -> None:
    backend.hold.clear()
    slow = asyncio.create_task(reads.job(ALICE, "1"))
    await settle()
    other = asyncio.create_task(reads.job(ALICE, "2"))
    async with asyncio.timeout(300):
        while len(backend.queries) < 2:
            await asyncio.sleep(0.01)
    backend.hold.set()
    await asyncio.gather(slow, other)


async def test_no_batch_is_larger_than_allowed(reads: SharedReads, backend: Backend) -> None:
    await asyncio.gather(*(reads.job(ALICE, str(number)) for number in range(2 * MAX_GATHERED + 1)))
    assert [len(ids) for _, ids in backend.queries] == [MAX_GATHERED, MAX_GATHERED, 1]  # type: ignore[arg-type]


async def test_one_stale_id_fails_alone(reads: SharedReads, backend: Backend) -> None:
    answers = await asyncio.gather(*(reads.job(ALICE, name) for name in ("1", "no", "2")), return_exceptions=True)
    assert isinstance(answers[0], Jobs)
    assert isinstance(answers[1], JobNotFound)
    assert isinstance(answers[2], Jobs)


async def test_an_error_is_shared_but_not_kept(reads: SharedReads, backend: Backend) -> None:
    backend.error = SchedulerUnavailable("down")
    asked = [reads.jobs(ALICE, JobQuery()) for _ in range(5)] + [reads.job(ALICE, "1")]
    answers = await asyncio.gather(*asked, return_exceptions=True)
    assert all(isinstance(answer, SchedulerUnavailable) for answer in answers)
    assert len({id(answer) for answer in answers}) == 6
    assert len(backend.queries) == 2
    backend.error = None
    assert (await reads.jobs(ALICE, JobQuery())).jobs


async def test_a_bug_in_the_backend_reaches_every_reader(reads: SharedReads, backend: Backend) -> None:
    backend.error = ValueError("bug")
    asked = [reads.job(ALICE, "1"), reads.job(ALICE, "2"), reads.jobs(ALICE, JobQuery())]
    answers = await asyncio.gather(*asked, return_exceptions=True)
    assert [type(answer) for answer in answers] == [ValueError] * 3


async def test_one_reader_that_leaves_does_not_end_the_read(reads: SharedReads, backend: Backend) -> None:
    backend.hold.clear()
    leaving = asyncio.create_task(reads.jobs(ALICE, JobQuery()))
    staying = asyncio.create_task(reads.jobs(ALICE, JobQuery()))
    leaving_job = asyncio.create_task(reads.job(ALICE, "1"))
    staying_job = asyncio.create_task(reads.job(ALICE, "2"))
    await settle()
    leaving.cancel()
    leaving_job.cancel()
    await settle()
    backend.hold.set()
    assert (await staying).jobs
    assert (await staying_job).jobs
    assert leaving.cancelled()
    assert leaving_job.cancelled()


async def test_the_last_reader_that_leaves_ends_the_read(reads: SharedReads, backend: Backend) -> None:
    backend.hold.clear()
    asked = [
        asyncio.create_task(reads.jobs(ALICE, JobQuery())),
        asyncio.create_task(reads.jobs(ALICE, JobQuery())),
        asyncio.create_task(reads.job(ALICE, "1")),
    ]
    await settle()
    for task in asked:
        task.cancel()
    await asyncio.gather(*asked, return_exceptions=True)
    await settle()
    assert backend.cancelled == 2
    backend.hold.set()
    assert (await reads.jobs(ALICE, JobQuery())).jobs
    assert (await reads.job(ALICE, "1")).jobs


async def test_who_leaves_a_gathering_does_not_keep_others_waiting_in_it(reads: SharedReads, backend: Backend) -> None:
    """All who gathered have left before the query began: whoever comes then is asked for by another one."""
    backend.hold.clear()
    first = asyncio.create_task(reads.job(ALICE, "1"))
    await settle()
    leaving = asyncio.create_task(reads.job(ALICE, "2"))
    await settle()
    leaving.cancel()
    await asyncio.wait([leaving])
    late = [asyncio.create_task(reads.job(ALICE, name)) for name in ("2", "3")]
    await settle()
    backend.hold.set()
    async with asyncio.timeout(60):
        answers = await asyncio.gather(first, *late)
    assert [answer.jobs[0].job_id for answer in answers] == ["1", "2", "3"]


async def test_age_is_that_of_the_query(reads: SharedReads, backend: Backend) -> None:
    backend.hold.clear()
    first = asyncio.create_task(reads.jobs(ALICE, JobQuery()))
    await asyncio.sleep(0.2)
    second = asyncio.create_task(reads.jobs(ALICE, JobQuery()))
    await settle()
    backend.hold.set()
    assert 0.2 <= (await first).age < 60
    assert 0.2 <= (await second).age < 60


async def test_read_cache() -> None:
    """An answer from the cache says how old it is."""
    backend = Backend()
    reads = SharedReads(backend, read_cache=600)
    await reads.jobs(ALICE, JobQuery())
    await reads.job(ALICE, "1")
    await asyncio.sleep(0.1)
    again = await reads.jobs(ALICE, JobQuery())
    assert again.age >= 0.1
    await reads.job(ALICE, "1")
    assert len(backend.queries) == 2
    await reads.cancel(ALICE, "1")
    await reads.jobs(ALICE, JobQuery())
    assert names(backend) == ["jobs", "several", "cancel", "jobs"]
    await reads.close()


async def test_what_is_kept_is_kept_for_so_long() -> None:
    backend = Backend()
    reads = SharedReads(backend, read_cache=0.3)
    await reads.jobs(ALICE, JobQuery())
    assert reads._users
    async with asyncio.timeout(300):
        while reads._users:
            await asyncio.sleep(0.01)
    await reads.jobs(ALICE, JobQuery())
    assert names(backend) == ["jobs", "jobs"]
    await reads.close()


async def test_no_more_is_kept_than_so_many_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hpcgate.schedulers.reads.MAX_KEPT", 5)
    backend = Backend()
    reads = SharedReads(backend, read_cache=600)
    for _ in range(2):
        for name in "abcd":
            await reads.jobs(ALICE, JobQuery(name=name))
    # Two lists of one job each, and what it takes to keep them, have room.
    assert len(backend.queries) == 6
    assert len(reads._users["alice"].flights) == 2
    await reads.close()


async def test_all_other_reads_are_shared_too(reads: SharedReads, backend: Backend) -> None:
    backend.hold.clear()
    asked = [
        asyncio.create_task(read)
        for _ in range(3)
        for read in (
            reads.nodes(ALICE),
            reads.partitions(ALICE),
            reads.reservations(ALICE),
            reads.accounts(ALICE),
            reads.metadata(ALICE, "1"),
        )
    ]
    await settle()
    backend.hold.set()
    await asyncio.gather(*asked)
    assert sorted(names(backend)) == ["accounts", "metadata", "nodes", "partitions", "reservations"]
