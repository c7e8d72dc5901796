"""The two clients before a stand-in for slurmrestd that answers what real ones answered."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
import structlog

from hpcgate.auth import Principal
from hpcgate.errors import (
    BadRequest,
    CommandFailed,
    Conflict,
    Forbidden,
    GatewayError,
    JobNotFound,
    LoginNodeUnreachable,
    NotSupported,
    SchedulerUnavailable,
    SubmissionRefused,
    TimedOut,
)
from hpcgate.schedulers.base import Account, JobQuery, TimeWindow
from hpcgate.schedulers.slurm import Slurm, SlurmSettings
from hpcgate.schedulers.slurm.rest import client
from hpcgate.ssh.pool import Pool
from tests.schedulers.described import described

from .recordings import RELEASE_OF, recorded
from .stand_in import StandIn, stand_in

TOKEN = "header.payload.signature"
LAB = Principal("lab001", token=TOKEN, request_id="request-1", correlation_id="correlation-1")
JOB = described("/home/lab001", script="#!/bin/sh\ntrue\n", environment={"A": "b"})


class NoLoginNode:
    """A pool whose login node is down, which keeps nobody from slurmrestd."""

    async def perform(self, *_: object, **__: object) -> None:
        raise LoginNodeUnreachable("The login node cannot be reached")


@asynccontextmanager
async def slurm(number: int, url: str, timeout: float = 5.0) -> AsyncIterator[Slurm]:
    settings = SlurmSettings.model_validate(
        {
            "type": "slurm",
            "version": "22.05.8",
            "connection_mode": "rest",
            "api_url": url,
            "api_version": f"0.0.{number}",
            "timeout": timeout,
        }
    )
    made = Slurm("demo", settings, cast("Pool", NoLoginNode()))
    try:
        yield made
    finally:
        await made.close()


@pytest.fixture(params=tuple(RELEASE_OF))
async def server(request: pytest.FixtureRequest) -> AsyncIterator[StandIn]:
    async with stand_in(request.param) as running:
        yield running


@pytest.fixture
async def scheduler(server: StandIn) -> AsyncIterator[Slurm]:
    async with slurm(server.number, server.url) as made:
        yield made


@pytest.fixture
async def old() -> AsyncIterator[tuple[StandIn, Slurm]]:
    async with stand_in(38) as server, slurm(38, server.url) as made:
        yield server, made


@pytest.fixture
async def new() -> AsyncIterator[tuple[StandIn, Slurm]]:
    async with stand_in(45) as server, slurm(45, server.url) as made:
        yield server, made


async def test_who_asks(server: StandIn, scheduler: Slurm) -> None:
    """slurmrestd is asked as the user, with the user's token and the request's ids."""
    await scheduler.ping(LAB)
    (received,) = server.received
    assert received.path == f"/slurm/v0.0.{server.number}/ping"
    assert received.headers["X-SLURM-USER-NAME"] == "lab001"
    assert received.headers["X-SLURM-USER-TOKEN"] == TOKEN
    assert received.headers["X-Request-ID"] == "request-1"
    assert received.headers["X-Correlation-ID"] == "correlation-1"
    assert "Authorization" not in received.headers


async def test_submission(server: StandIn, scheduler: Slurm) -> None:
    """A submission sends the job as it is, and returns its id."""
    for label in ("submit-good", "submit-hold"):
        server.play(label)
        expected = str(recorded(server.number, label).answer["job_id"])
        assert await scheduler.submit(LAB, JOB) == expected
    body = server.received[-1].body
    assert body["script"] == JOB.script
    assert body["job"]["current_working_directory"] == "/home/lab001"
    environment = body["job"]["environment"]
    assert isinstance(environment, dict) is (server.number == 38)
    assert environment["A"] == "b" if server.number == 38 else "A=b" in environment


async def test_a_refused_submission_is_sent_once(server: StandIn, scheduler: Slurm) -> None:
    server.play("submit-bad-partition")
    with pytest.raises(SubmissionRefused, match="Invalid partition name specified"):
        await scheduler.submit(LAB, JOB)
    assert len(server.received) == 1


async def test_one_job(server: StandIn, scheduler: Slurm) -> None:
    """One job is found by its id, and a job that does not exist is not."""
    job_id = recorded(server.number, "job-fail").path.rpartition("/")[2]
    found = await scheduler.job(LAB, job_id)
    (job,) = found.jobs
    assert (job.job_id, job.status.state, job.status.exit_code, found.missing) == (job_id, "FAILED", 3, ())
    assert job.tasks is not None
    with pytest.raises(JobNotFound):
        await scheduler.job(LAB, "99999999")
    for nonsense in ("abc", "1;id", "1/../2", "../nodes"):
        asked = len(server.received)
        with pytest.raises(JobNotFound):
            await scheduler.job(LAB, nonsense)
        assert len(server.received) == asked


async def test_array_tasks(server: StandIn, scheduler: Slurm) -> None:
    """An array has its tasks, and a task is found by itself."""
    array = recorded(server.number, "job-array").path.rpartition("/")[2]
    assert len((await scheduler.job(LAB, array)).jobs) == 3
    server.play("job-array", f"/slurm/v0.0.{server.number}/job/{array}_2")
    (job,) = (await scheduler.job(LAB, f"{array}_2")).jobs
    assert (job.job_id, job.status.exit_code) == (f"{array}_2", 4)


CANCELLED = {"delete-running": None, "delete-finished": None, "delete-other": Forbidden, "delete-unknown": JobNotFound}


@pytest.mark.parametrize("label", CANCELLED)
async def test_cancelling(server: StandIn, scheduler: Slurm, label: str) -> None:
    """A cancelled job is cancelled, a finished one too, and an unknown one is not found."""
    server.play(label)
    server.play("db-job-unknown")
    job_id = recorded(server.number, label).path.rpartition("/")[2]
    if label == "delete-unknown":
        server.play("job-unknown", f"/slurm/v0.0.{server.number}/job/{job_id}")
    error = CANCELLED[label]
    if error is None:
        await scheduler.cancel(LAB, job_id)
    else:
        with pytest.raises(error):
            await scheduler.cancel(LAB, job_id)


REFUSED = {
    "a job of scrontab": (2182, "Cannot cancel scrontab jobs without --cron flag.", BadRequest),
    "an error without a name": (9999, "Unknown error 9999", BadRequest),
    "a job in transition": (2020, "Job can not be altered now, try again later", SchedulerUnavailable),
    "an operation that is disabled": (2044, "Requested operation is presently disabled", Conflict),
}
"""Numbers and words of slurm/slurm_errno.h."""


@pytest.mark.parametrize("case", REFUSED)
async def test_what_is_refused_is_said_in_its_words(server: StandIn, scheduler: Slurm, case: str) -> None:
    number, words, error = REFUSED[case]
    of_a_job = {"job_id": "5", "error": {"code": number, "string": words, "message": ""}}
    shapes: list[tuple[int, dict[str, object]]] = [(500, {"errors": [{"error_number": number, "error": words}]})]
    if server.number >= 42:
        shapes.append((200, {"errors": [], "status": [of_a_job]}))
    for status, answer in shapes:
        server.say("DELETE", f"/slurm/v0.0.{server.number}/job/5", status, answer)
        with pytest.raises(error, match=re.escape(words)) as refused:
            await scheduler.cancel(LAB, "5")
        assert type(refused.value) is error
        assert isinstance(refused.value, GatewayError)
        assert (refused.value.headers.get("Retry-After") is not None) is (error is SchedulerUnavailable)


async def test_names_of_accounts_have_no_case(server: StandIn, scheduler: Slurm) -> None:
    shown = {}
    for account in ("staff", "STAFF", "nosuch"):
        shown[account] = {
            job.job_id for job in (await scheduler.jobs(LAB, JobQuery(account=account, window="7d"))).jobs
        }
    assert shown["staff"]
    assert shown["STAFF"] == shown["staff"]
    assert not shown["nosuch"]


async def test_who_one_is_is_told_without_the_database(server: StandIn, scheduler: Slurm) -> None:
    for status, number in ((500, 9999), (500, 7000), (502, 1007)):
        answer = {"errors": [{"error_number": number, "error": "no"}]}
        server.say("GET", f"/slurmdb/v0.0.{server.number}/associations", status, answer)
        if number != 1007:
            assert await scheduler.accounts(LAB) is None
        else:
            with pytest.raises(Forbidden):
                await scheduler.accounts(LAB)


async def test_cancelling_several_tasks(new: tuple[StandIn, Slurm]) -> None:
    """An expression of tasks cancels each of them, up to a bound."""
    server, scheduler = new
    for task in (0, 1, 5):
        server.play("delete-running", f"/slurm/v0.0.45/job/12_{task}")
    await scheduler.cancel(LAB, "12_[0-1,5]")
    assert sorted(one.path for one in server.received) == [f"/slurm/v0.0.45/job/12_{task}" for task in (0, 1, 5)]
    with pytest.raises(NotSupported, match="1000"):
        await scheduler.cancel(LAB, "12_[0-100000000]")


async def test_listing_asks_the_server_for_what_it_can_choose(server: StandIn, scheduler: Slurm) -> None:
    listed = await scheduler.jobs(LAB, JobQuery(account="staff", window="1h"))
    assert listed.missing == ()
    asked = {one.path.split("/")[1]: one.query for one in server.received}
    history = dict(asked["slurmdb"])
    assert history.pop("start_time").startswith("uts")
    assert history.pop("end_time").startswith("uts")
    states = history.pop("state")
    if server.number == 38:
        assert set(states.split(",")) >= {"PENDING", "RUNNING", "CANCELLED", "COMPLETED", "FAILED"}
    else:
        assert states.isupper()
        assert "," not in states
    assert history == {"account": "staff"} | ({"users": "lab001"} if server.number > 38 else {})
    assert asked["slurm"] == ({"flags": "ALL"} if server.number > 41 else {})
    await scheduler.jobs(LAB, JobQuery(all_users=True))
    assert all("users" not in one.query for one in server.received[2:])


async def test_a_slurmrestd_that_reads_no_states_is_asked_without(server: StandIn, scheduler: Slurm) -> None:
    path = f"/slurmdb/v0.0.{server.number}/jobs"
    refusal = {"errors": [{"error_number": 9207, "error": "Data parser unable to parse invalid flag"}]}
    server.refused = (path, "state", 422, refusal)
    server.say("GET", path, 200, {"jobs": [], "errors": []})
    windows: dict[TimeWindow, list[bool]] = {"7d": [True, False], "3d": [False]}
    for window, asked in windows.items():
        server.received.clear()
        assert (await scheduler.jobs(LAB, JobQuery(window=window))).missing == ()
        assert ["state" in one.query for one in server.received if one.path == path] == asked


async def test_listing_keeps_the_jobs_of_others_out(server: StandIn, scheduler: Slurm) -> None:
    everybody = await scheduler.jobs(LAB, JobQuery(all_users=True, window="7d"))
    assert {job.user for job in everybody.jobs} >= {"lab001"}
    other = Principal("lab999", token=TOKEN)
    assert (await scheduler.jobs(other, JobQuery(window="7d"))).jobs == ()


async def test_nodes_partitions_reservations_accounts(server: StandIn, scheduler: Slurm) -> None:
    assert [node.name for node in await scheduler.nodes(LAB)] == ["vm"]
    assert [one.name for one in await scheduler.partitions(LAB)] == ["part01", "xfer"]
    assert [one.name for one in await scheduler.reservations(LAB)] == ["resv1"]
    assert await scheduler.accounts(LAB) == (Account("staff", True),)
    assert server.received[-1].query == {"user": "lab001"}


async def test_what_it_cannot_do_is_said_by_name(server: StandIn, scheduler: Slurm) -> None:
    job_id = recorded(server.number, "job-run").path.rpartition("/")[2]
    with pytest.raises(NotSupported, match="Attaching"):
        await scheduler.attach(LAB, job_id, "true")
    with pytest.raises(NotSupported, match="metadata"):
        await scheduler.metadata(LAB, job_id)
    with pytest.raises(NotSupported, match="scriptPath"):
        await scheduler.submit(LAB, described("/", script_path="/x.sh"))
    assert all(one.method == "GET" for one in server.received)


async def test_a_refused_token(new: tuple[StandIn, Slurm]) -> None:
    """A token that slurmrestd refuses is forbidden, in its words."""
    server, scheduler = new
    for label in ("auth-wrongkey", "auth-wrongkey-jobs", "auth-wrongkey-db", "submit-expired-token"):
        server.play(label)
    for call in (scheduler.ping(LAB), scheduler.jobs(LAB, JobQuery()), scheduler.submit(LAB, JOB)):
        with pytest.raises(Forbidden, match="Protocol authentication error"):
            await call


async def test_a_refused_token_that_looks_like_a_controller_that_is_down(old: tuple[StandIn, Slurm]) -> None:
    server, scheduler = old
    for label in ("auth-wrongkey", "auth-wrongkey-jobs", "submit-expired-token"):
        server.play(label)
    judge = "/slurmdb/v0.0.38/tres"
    server.say("GET", judge, 200, {"errors": [{"error_number": 1007, "error": "Protocol authentication error"}]})
    for call in (scheduler.ping(LAB), scheduler.jobs(LAB, JobQuery()), scheduler.submit(LAB, JOB)):
        with pytest.raises(Forbidden, match="does not accept the token"):
            await call
    server.say("GET", judge, 200, {"errors": [], "TRES": []})
    for call in (scheduler.ping(LAB), scheduler.submit(LAB, JOB)):
        with pytest.raises(SchedulerUnavailable):
            await call


@pytest.mark.parametrize("number", [38, 42, 45])
async def test_controller_down(number: int) -> None:
    """Without the controller lists have the history, and all else is unavailable."""
    async with stand_in(number) as server, slurm(number, server.url) as scheduler:
        for label in ("down-ping", "down-jobs", "down-job", "down-nodes", "down-submit", "down-delete"):
            server.play(label)
        listed = await scheduler.jobs(LAB, JobQuery(window="7d"))
        assert listed.missing == ("live",)
        for call in (
            scheduler.ping(LAB),
            scheduler.nodes(LAB),
            scheduler.submit(LAB, JOB),
            scheduler.cancel(LAB, "1"),
        ):
            with pytest.raises(SchedulerUnavailable):
                await call


@pytest.mark.parametrize("number", [38, 42, 45])
async def test_database_down(number: int) -> None:
    """Without the database lists have what is live."""
    async with stand_in(number) as server, slurm(number, server.url) as scheduler:
        job_id = recorded(number, "job-run").path.rpartition("/")[2]
        server.play("down-db-jobs", f"/slurmdb/v0.0.{number}/jobs")
        server.play("down-db-jobs", f"/slurmdb/v0.0.{number}/job/{job_id}")
        server.play("down-db-jobs", f"/slurmdb/v0.0.{number}/associations")
        assert (await scheduler.jobs(LAB, JobQuery())).missing == ("history",)
        found = await scheduler.job(LAB, job_id)
        assert (found.missing, found.jobs[0].name) == (("history",), "run")
        assert await scheduler.accounts(LAB) is None


async def test_without_slurmdbd_nothing_is_missing(new: tuple[StandIn, Slurm]) -> None:
    server, scheduler = new
    none = {"jobs": [], "errors": [], "meta": {"plugin": {"accounting_storage": "accounting_storage/none"}}}
    server.say("GET", "/slurmdb/v0.0.45/jobs", 200, none)
    for _ in range(2):
        assert (await scheduler.jobs(LAB, JobQuery())).missing == ()
    assert sum(one.path.startswith("/slurmdb/") for one in server.received) == 1
    server.say("GET", "/slurmdb/v0.0.45/associations", 404, "Unable to find requested URL.")
    assert await scheduler.accounts(LAB) is None


async def test_a_version_that_is_not_served_is_said() -> None:
    async with stand_in(38) as server, slurm(39, server.url) as scheduler:
        with pytest.raises(CommandFailed, match="check api_version"):
            await scheduler.nodes(LAB)


async def test_nothing_listens(closed_port: int) -> None:
    """Where nothing listens the scheduler is unavailable."""
    async with slurm(38, f"http://127.0.0.1:{closed_port}") as scheduler:
        for call in (scheduler.ping(LAB), scheduler.submit(LAB, JOB), scheduler.jobs(LAB, JobQuery())):
            with pytest.raises(SchedulerUnavailable, match="slurmrestd cannot be reached"):
                await call


async def test_no_answer_in_time() -> None:
    async with stand_in(38) as server, slurm(38, server.url, timeout=1.0) as scheduler:
        server.delay = 60.0
        for call in (scheduler.ping(LAB), scheduler.submit(LAB, JOB), scheduler.jobs(LAB, JobQuery())):
            with pytest.raises(TimedOut, match=r"slurmrestd did not answer within 1 s"):
                await call
        assert sum(one.method == "POST" for one in server.received) == 1


Handle = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def raw_server(handle: Handle) -> AsyncIterator[str]:
    """Serve connections as `handle` does, and yield the URL; a connection is closed when it returns."""
    tasks = []

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.append(asyncio.current_task())
        try:
            await handle(reader, writer)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await asyncio.gather(*(task for task in tasks if task is not None))


async def test_a_connection_that_breaks_is_no_second_submission() -> None:
    requests = []

    async def hang_up(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        requests.append(await reader.readuntil(b"\r\n\r\n"))

    async with raw_server(hang_up) as url, slurm(38, url) as scheduler:
        with (
            structlog.testing.capture_logs() as logs,
            pytest.raises(SchedulerUnavailable, match="may have been submitted all the same"),
        ):
            await scheduler.submit(LAB, JOB)
    assert len(requests) == 1
    assert [entry["event"] for entry in logs] == ["slurm.directory_unknown", "slurm.rest_failed"]
    assert TOKEN not in repr(logs)


async def test_a_line_after_the_body_does_no_harm() -> None:
    """22.05 sends ``Connection: Close`` behind the body of the answer to a request that asked for it."""
    requests = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append((await reader.readuntil(b"\r\n\r\n")).lower())
        body = b'{"errors": [], "pings": [{"hostname": "vm", "ping": "UP"}]}'
        late = b"Connection: Close\r\n" if b"connection: close" in requests[-1] else b""
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body + late)
        await writer.drain()
        # The connection is closed from the other side, as nobody else may use it.
        assert await reader.read() == b""

    async with raw_server(answer) as url, slurm(38, url) as scheduler:
        for _ in range(3):
            await scheduler.ping(LAB)
    assert len(requests) == 3


async def test_a_redirect_does_not_carry_the_token_away(new: tuple[StandIn, Slurm]) -> None:
    server, scheduler = new
    async with stand_in(45) as elsewhere:
        server.say("GET", "/slurm/v0.0.45/nodes", 307, "moved")
        with pytest.raises(GatewayError):
            await scheduler.nodes(LAB)
        assert elsewhere.received == []


@pytest.mark.parametrize("answer", ["", "<html>", [], "null", {"errors": None}, {"nodes": {}}])
async def test_answers_that_are_none(new: tuple[StandIn, Slurm], answer: Any) -> None:
    server, scheduler = new
    for status in (200, 500):
        server.say("GET", "/slurm/v0.0.45/nodes", status, answer)
        with pytest.raises(CommandFailed):
            await scheduler.nodes(LAB)
    server.say("GET", "/slurm/v0.0.45/nodes", 502, "Bad Gateway")
    with pytest.raises(SchedulerUnavailable):
        await scheduler.nodes(LAB)


async def test_large_answers_are_read_and_endless_ones_are_not(
    new: tuple[StandIn, Slurm], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, scheduler = new
    row = recorded(45, "job-run").answer["jobs"][0]
    many = [{**row, "job_id": 1000 + number, "user_name": f"user{number % 10}"} for number in range(200)]
    server.say("GET", "/slurm/v0.0.45/jobs", 200, {"jobs": many, "errors": []})
    listed = await scheduler.jobs(Principal("user3", token=TOKEN), JobQuery())
    assert len(listed.jobs) == 20
    monkeypatch.setattr(client, "MAX_ANSWER", 10_000)
    listed = await scheduler.jobs(Principal("user3", token=TOKEN), JobQuery())
    assert "live" in listed.missing


def later(scheduler: Slurm) -> None:
    """Have it be long enough since the controller was asked last."""
    cast("Any", scheduler)._commands.client._pinged._kept.clear()


async def test_a_silent_controller_is_asked_by_ping_before_anything_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "DIAGNOSIS", 600.0)
    async with stand_in(45) as server, slurm(45, server.url, timeout=1.0) as scheduler:
        server.say("GET", "/slurmdb/v0.0.45/tres", 200, {"TRES": [], "errors": []})
        server.slow = "/slurm/"
        with pytest.raises(SchedulerUnavailable, match=r"slurmctld did not answer within 1 s"):
            await scheduler.nodes(LAB)
        server.received.clear()
        # At once, and without a request, as long as nobody has asked again.
        with pytest.raises(SchedulerUnavailable, match="slurmctld does not answer"):
            await scheduler.submit(LAB, JOB)
        assert server.received == []
        later(scheduler)
        with pytest.raises(SchedulerUnavailable, match="slurmctld does not answer"):
            await scheduler.submit(LAB, JOB)
        assert [one.path for one in server.received] == ["/slurm/v0.0.45/ping"]
        server.slow = None
        later(scheduler)
        server.play("submit-good")
        assert await scheduler.submit(LAB, JOB)
        assert await scheduler.submit(LAB, JOB)
        assert [one.path.rpartition("/")[2] for one in server.received[1:]] == ["ping", "submit", "submit"]


async def test_a_submission_that_the_controller_does_not_answer_may_have_gone_through() -> None:
    async with stand_in(45) as server, slurm(45, server.url, timeout=1.0) as scheduler:
        server.say("GET", "/slurmdb/v0.0.45/tres", 200, {"TRES": [], "errors": []})
        server.slow = "/slurm/"
        with pytest.raises(TimedOut):
            await scheduler.submit(LAB, JOB)
        assert sum(one.method == "POST" for one in server.received) == 1
