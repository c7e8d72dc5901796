"""PBS by its commands, through the real sshd; behind them stands a program that answers as real servers did."""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import httpx
import pytest

from hpcgate.auth import Principal
from hpcgate.demo.cluster import Cluster
from hpcgate.errors import (
    BadRequest,
    Conflict,
    Forbidden,
    GatewayError,
    JobNotFound,
    NotSupported,
    SchedulerUnavailable,
    SubmissionRefused,
    TimedOut,
)
from hpcgate.schedulers import job_spec as spec
from hpcgate.schedulers.base import JobDescription, JobQuery, Jobs, Scheduler, TimeWindow
from hpcgate.schedulers.control import SIGNALS, Action, JobChanges
from hpcgate.schedulers.job_spec import Dependency, JobAttributes, Resources
from hpcgate.schedulers.once import Submitted
from hpcgate.schedulers.receipts import Once, Receipts
from hpcgate.schedulers.rendering import with_script
from hpcgate.ssh.runner import Completed
from hpcgate.ssh.session import Session
from tests.pbs.standin import TIME_ZONE, Standin
from tests.schedulers.described import described

from .scheduler_systems import environment_of, principal, system, until

SLEEP = "#!/bin/sh\nexec sleep 300\n"
NASTY_ENVIRONMENT = {
    "COMMAS": "a,b,,c",
    "QUOTES": "\"double\" 'single' `back`",
    "NEWLINES": "one\n#PBS -q nosuchq\ntwo\r\n",
    "EQUALS": "=a=b",
    "EMPTY": "",
    "DOLLAR": "$HOME $(id) \\n \\ !",
    "BLANKS": "  x  ",
    "UTF8": "é日本",
}


@pytest.fixture(scope="module")
def servers(cluster: Cluster) -> dict[str, Standin]:
    """One server of each release."""
    made = {"23.06.06": Standin.install(cluster, "pbs-released"), "master": Standin.install(cluster, "pbs-master")}
    made["master"].switch("master", on=True)
    return made


@pytest.fixture(params=["23.06.06", "master"])
def server(request: pytest.FixtureRequest, servers: dict[str, Standin]) -> Iterator[Standin]:
    yield servers[request.param]
    for name in ("down", "hide", "nohistory", "slow", "inexpress"):
        servers[request.param].switch(name, on=False)


@pytest.fixture
async def pbs(cluster: Cluster, server: Standin) -> AsyncIterator[Scheduler]:
    async with system(cluster, **server.settings()) as made:
        yield made.scheduler


@pytest.fixture
async def released(cluster: Cluster, servers: dict[str, Standin]) -> AsyncIterator[Scheduler]:
    """What both releases do alike is tried on one of them."""
    async with system(cluster, **servers["23.06.06"].settings()) as made:
        yield made.scheduler


@pytest.fixture
def alice(cluster: Cluster) -> Principal:
    return principal(cluster, "alice")


@pytest.fixture
def bob(cluster: Cluster) -> Principal:
    return principal(cluster, "bob")


@pytest.fixture
def home(cluster: Cluster) -> str:
    return str(cluster.user("alice").home)


async def _command(cluster: Cluster, *argv: str) -> str:
    return (await asyncio.to_thread(cluster.as_user, "alice", list(argv))).stdout


async def _processes(cluster: Cluster, words: str) -> str:
    return (await asyncio.to_thread(cluster.as_user, "alice", ["pgrep", "-f", words], check=False)).stdout


@pytest.mark.parametrize("name", ["inf", "1.50"])
async def test_a_nasty_job_goes_through_unchanged(
    pbs: Scheduler, cluster: Cluster, alice: Principal, home: str, name: str
) -> None:
    directory = f"{home}/a b,'c\"$(id)\\|é"
    await _command(cluster, "mkdir", "-p", directory)
    script = "#!/bin/sh\n#PBS -l walltime=00:02:00\n#PBS -N other\nenv -0\npwd >&2\nsleep 1\nexit 3\n"
    began = time.time()
    job_id = await pbs.submit(
        alice,
        described(
            directory,
            script=script,
            name=name,
            account='"q", é\\',
            environment=NASTY_ENVIRONMENT,
            standard_output="out, '$(id)'.txt",
            standard_error=f"{home}/err:{name}.txt",
        ),
    )
    (job,) = (await pbs.job(alice, job_id)).jobs
    assert (job.job_id, job.name, job.account, job.working_directory) == (job_id, name, '"q", é\\', directory)
    assert (job.user, job.partition, job.time.limit) == (alice.username, "workq", 120)
    listed = (await pbs.jobs(alice, JobQuery(name=name, account='"q", é\\'))).jobs
    assert job_id in [job.job_id for job in listed]
    assert (await pbs.jobs(alice, JobQuery(name=name + "x"))).jobs == ()
    (metadata,) = await pbs.metadata(alice, job_id)
    assert metadata.standard_output == f"{directory}/out, '$(id)'.txt"
    assert metadata.standard_error == f"{home}/err:{name}.txt"
    assert metadata.script is None

    (job,) = await until(pbs, alice, job_id, "F")
    assert (job.name, job.status.exit_code, job.status.interrupt_signal) == (name, 3, 0)
    assert (job.nodes, job.allocation_nodes) == ("vm", 1)
    assert job.time.start is not None
    assert job.time.end is not None
    assert began - 2 <= job.time.start <= job.time.end <= time.time() + 2
    assert job.time.elapsed == job.time.end - job.time.start
    seen = environment_of(await asyncio.to_thread(Path(metadata.standard_output).read_bytes))
    assert {key: seen.get(key.encode()) for key in NASTY_ENVIRONMENT} == {
        key: value.encode() for key, value in NASTY_ENVIRONMENT.items()
    }
    assert await _command(cluster, "cat", metadata.standard_error or "") == f"{directory}\n"
    assert job_id in [job.job_id for job in (await pbs.jobs(alice, JobQuery(window="1h"))).jobs]
    await pbs.cancel(alice, job_id)


async def test_a_running_job_is_cancelled(pbs: Scheduler, cluster: Cluster, alice: Principal, home: str) -> None:
    job_id = await pbs.submit(alice, described(home, script=SLEEP))
    (job,) = await until(pbs, alice, job_id, "R")
    assert (job.status.exit_code, job.time.end, job.nodes) == (None, None, "vm")
    (node,) = await pbs.nodes(alice)
    assert (node.name, node.cpus, node.alloc_cpus) == ("vm", 2, 1)
    assert node.state == ("MIXED",)
    await pbs.cancel(alice, job_id)
    (job,) = await until(pbs, alice, job_id, "F")
    assert (job.status.exit_code, job.status.interrupt_signal) == (271, 15)
    await pbs.cancel(alice, job_id)
    await pbs.cancel(alice, job_id.partition(".")[0])


async def test_only_ones_own_jobs_unless_all_are_asked_for(
    pbs: Scheduler, server: Standin, alice: Principal, bob: Principal, home: str
) -> None:
    mine = [await pbs.submit(alice, described(home, script="#!/bin/sh\n", partition="stoppedq")) for _ in "123"]
    theirs = await pbs.submit(bob, described("/tmp", script=SLEEP, partition="stoppedq"))
    own = [job.job_id for job in (await pbs.jobs(alice, JobQuery())).jobs]
    assert set(mine) <= set(own)
    assert theirs not in own
    assert {*mine, theirs} <= {job.job_id for job in (await pbs.jobs(alice, JobQuery(all_users=True))).jobs}
    assert (await pbs.job(alice, theirs)).jobs[0].user == bob.username
    with pytest.raises(Forbidden, match="Unauthorized Request"):
        await pbs.cancel(alice, theirs)
    server.switch("hide", on=True)
    with pytest.raises(JobNotFound):
        await pbs.job(alice, theirs)
    assert theirs not in [job.job_id for job in (await pbs.jobs(alice, JobQuery(all_users=True))).jobs]
    for who, job_id in ((bob, theirs), *((alice, job_id) for job_id in mine)):
        await pbs.cancel(who, job_id)
        assert (await pbs.job(who, job_id)).jobs[0].status.exit_code is None


async def test_many_jobs_where_qstat_shows_the_first_only(
    pbs: Scheduler, server: Standin, cluster: Cluster, alice: Principal, home: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without -E, which asks for all at once, the development head prints the first of several."""
    monkeypatch.setattr("hpcgate.schedulers.pbs.command_line.ONE_BY_ONE", 2)
    server.switch("inexpress", on=True)
    job = described(home, script="#!/bin/sh\n", partition="stoppedq", name="many")
    ids = [await pbs.submit(alice, job) for _ in range(4)]
    for _ in range(2):
        assert [job.job_id for job in (await pbs.jobs(alice, JobQuery(name="many"))).jobs] == ids
        found = await pbs.several(alice, (ids[0], "999999999", ids[2]))
        assert [isinstance(jobs, Jobs) for jobs in found.values()] == [True, False, True]
    for job_id in ids:
        await pbs.cancel(alice, job_id)


UNUSUAL = {
    "one that waits for its job": "#PBS -W block=true",
    "one that waits, among other things": "#PBS -W umask=022,block=true -N waiting",
    "one that says nothing": "#PBS -z",
    "one that says nothing, among other letters": "#PBS -hz -N quiet\n#PBS -m n",
    "one that says nothing, in a line that goes on": "#PBS -N quiet \\\n-z",
}
"""Directives after which qsub does not print the id and end."""


@pytest.mark.parametrize("case", UNUSUAL)
async def test_a_submission_is_answered_with_the_id_whatever_its_directives(
    released: Scheduler, alice: Principal, home: str, case: str
) -> None:
    before = {job.job_id for job in (await released.jobs(alice, JobQuery())).jobs}
    job_id = await released.submit(alice, described(home, script=f"#!/bin/sh\n{UNUSUAL[case]}\nexec sleep 300\n"))
    after = {job.job_id for job in (await released.jobs(alice, JobQuery())).jobs}
    assert after - before == {job_id}
    await released.cancel(alice, job_id)


WRAPPERS = {
    "a banner and a cost": 'echo "Welcome, 4711 users; 12.50 CHF"; {real} "$@"; echo "cost: 12.50"',
    "colours": 'id=$({real} "$@") && printf "\\033[32m%s\\033[0m\\r\\n" "$id"',
    "a sentence": 'id=$({real} "$@") && echo "Your job $id was submitted."',
    "a cost on standard error": '{real} "$@"; echo "1250.5" >&2',
    "a failure of its own behind": '{real} "$@"; echo "cannot write the log" >&2; exit 1',
    "one that goes on for long": '{real} "$@"; exec sleep 4714',
    "no word of the id": '{real} "$@" >/dev/null && echo "Your job was submitted"',
    "no word at all": '{real} "$@" >/dev/null',
    "ids of other jobs": 'echo 1.vm; {real} "$@"; echo "Waits for 2.vm"; echo 3.vm',
    "ids of other jobs alone": '{real} "$@" >/dev/null; echo "After 1.vm and 2.vm"',
    "a failure without the id": '{real} "$@" >/dev/null; echo "cannot write the log" >&2; exit 1',
    "a failure in the words of a server that is down": (
        '{real} "$@" >/dev/null; echo "qsub: cannot connect to server vm (errno=15010)" >&2; exit 162'
    ),
    "a failure in words that nobody can be sure of": (
        '{real} "$@" >/dev/null; echo "qsub: Error (15033) submitting job" >&2; exit 185'
    ),
    "one that is killed": '{real} "$@" >/dev/null; kill -9 $$',
    "one that goes on for long without a word": '{real} "$@" >/dev/null; exec sleep 4714',
}
"""Text of a script named qsub."""


@pytest.fixture
def wrapped(servers: dict[str, Standin]) -> Iterator[Callable[..., None]]:
    """Return a function that puts a script in the place of a tool, with ``{real}`` for the tool itself."""
    commands, beside = (servers["23.06.06"].directory / name for name in ("bin", "real"))
    beside.mkdir()
    beside.chmod(0o755)
    changed = set()

    def put(text: str, tool: str = "qsub") -> None:
        changed.add(tool)
        (beside / tool).symlink_to(commands / "server.py")
        (commands / tool).unlink()
        (commands / tool).write_text("#!/bin/sh\n" + text.replace("{real}", str(beside / tool)) + "\n")
        (commands / tool).chmod(0o755)

    yield put
    for tool in changed:
        (commands / tool).unlink()
        (commands / tool).symlink_to("server.py")
        (beside / tool).unlink()
    beside.rmdir()


@pytest.mark.parametrize("case", WRAPPERS)
async def test_the_id_is_found_in_whatever_a_wrapper_prints(
    cluster: Cluster,
    servers: dict[str, Standin],
    wrapped: Callable[..., None],
    alice: Principal,
    home: str,
    case: str,
) -> None:
    wrapped(WRAPPERS[case])
    async with system(cluster, **servers["23.06.06"].settings(timeout=10)) as made:
        before = {job.job_id for job in (await made.scheduler.jobs(alice, JobQuery())).jobs}
        job_id = await made.scheduler.submit(alice, described(home, script=SLEEP, partition="stoppedq"))
        after = {job.job_id for job in (await made.scheduler.jobs(alice, JobQuery())).jobs}
        assert after - before == {job_id}
        await made.scheduler.cancel(alice, job_id)


CANCELLATIONS: dict[str, tuple[str, type[GatewayError] | None]] = {
    "a wrapper's refusal": ('echo "no cancelling on Sundays" >&2; exit 1', BadRequest),
    "an error of a number": ('echo "qdel: Request not allowed: Job is in another queue $1" >&2; exit 169', BadRequest),
    "a server that is busy": ('echo "qdel: PBS Server is busy, try again later" >&2; exit 1', SchedulerUnavailable),
    "a node that is away": ('echo "qdel: Server could not connect to MOM $1" >&2; exit 222', SchedulerUnavailable),
    "no qdel": ('echo "sh: 1: qdel: not found" >&2; exit 127', SchedulerUnavailable),
    "chatter": ('echo "qdel: 0 of 4711 denied" >&2; exec {real} "$@"', None),
}
"""Text of a script named qdel."""


@pytest.mark.parametrize("case", CANCELLATIONS)
async def test_what_qdel_says_is_the_answer(
    released: Scheduler, wrapped: Callable[..., None], alice: Principal, home: str, case: str
) -> None:
    text, error = CANCELLATIONS[case]
    job_id = await released.submit(alice, described(home, script=SLEEP, partition="stoppedq"))
    wrapped(text, "qdel")
    if error is None:
        await released.cancel(alice, job_id)
        return
    with pytest.raises(error) as refused:
        await released.cancel(alice, job_id)
    assert type(refused.value) is error
    words = text.split('"')[1].partition(" $1")[0]
    assert words in refused.value.message


async def test_tools_that_are_missing_are_503_by_name(
    released: Scheduler, wrapped: Callable[..., None], alice: Principal, home: str
) -> None:
    for tool in ("qstat", "qselect", "qsub", "pbsnodes"):
        wrapped(f'cat >/dev/null; echo "sh: 1: {tool}: not found" >&2; exit 127', tool)
    for ask in (
        released.job(alice, "1"),
        released.metadata(alice, "1"),
        released.jobs(alice, JobQuery()),
        released.jobs(alice, JobQuery(all_users=True)),
        released.nodes(alice),
        released.submit(alice, described(home, script=SLEEP)),
    ):
        with pytest.raises(SchedulerUnavailable, match=r"(qstat|qselect|qsub|pbsnodes): not found"):
            await ask


UNTOLD: dict[str, tuple[str, type[GatewayError], str]] = {
    "words of thanks": ('echo "Thank you"', Conflict, r"look at your jobs: Thank you$"),
    "a refusal": ('echo "Your quota is spent" >&2; exit 1', SubmissionRefused, r"^Your quota is spent$"),
    "a server that went away": (
        'echo "qsub: Error (15033) submitting job" >&2; exit 185',
        TimedOut,
        r"may have been submitted all the same: qsub: Error \(15033\)",
    ),
    "a server that is not there": (
        'echo "qsub: cannot connect to server vm (errno=15010)" >&2; exit 162',
        SchedulerUnavailable,
        "cannot connect to server",
    ),
    "one that is killed": ("kill -9 $$", SchedulerUnavailable, "exit status"),
    # awslabs/engineering-development-hub 74
    "a hook that a value makes fail": (
        'echo "qsub: request rejected as filter hook limits encountered an exception. Please inform Admin" >&2; exit 1',
        SubmissionRefused,
        "limits encountered an exception. Please inform Admin",
    ),
    "a hook that takes too long": (
        'echo "qsub: request rejected as filter hook limits got an alarm call. Please inform Admin" >&2; exit 1',
        SchedulerUnavailable,
        "an alarm call",
    ),
    "a hook that refuses": (
        'echo "qsub: request rejected by filter hook: no project" >&2; exit 1',
        SubmissionRefused,
        "no project",
    ),
    "a server that shuts down": (
        'echo "qsub: Request not allowed: Server shutting down" >&2; exit 1',
        SchedulerUnavailable,
        "shutting down",
    ),
}
"""Text of a script named qsub that submits nothing, and what is answered."""


@pytest.mark.parametrize("case", UNTOLD)
async def test_what_has_no_job_is_answered_by_its_words(
    released: Scheduler, wrapped: Callable[..., None], alice: Principal, home: str, case: str
) -> None:
    text, error, words = UNTOLD[case]
    wrapped(f"cat >/dev/null; {text}")
    with pytest.raises(error, match=words) as answered:
        await released.submit(alice, described(home, script=SLEEP))
    assert type(answered.value) is error


PARTIAL = {
    # Parsl/parsl 3793: an answer that could not be read was taken for a missing job. openpbs/openpbs 2541
    "an answer that breaks off": '{real} "$@" | head -c -200',
    "an answer without its end": '{real} "$@" | head -c -3',
    "words in place of an answer": 'echo "qstat is for operators"',
}
"""Text of a script named qstat that ends well, and does not show the jobs that there are."""


@pytest.mark.parametrize("case", PARTIAL)
async def test_an_answer_that_breaks_off_makes_no_job_vanish(
    released: Scheduler, wrapped: Callable[..., None], alice: Principal, home: str, case: str
) -> None:
    job_id = await released.submit(alice, described(home, script=SLEEP, partition="stoppedq"))
    wrapped(PARTIAL[case], "qstat")
    for ask in (
        released.job(alice, job_id),
        released.metadata(alice, job_id),
        released.jobs(alice, JobQuery()),
        released.jobs(alice, JobQuery(all_users=True)),
    ):
        with pytest.raises(SchedulerUnavailable, match=r"qstat printed (no list|breaks off)"):
            await ask


async def test_a_job_that_has_ended_meanwhile_is_found_in_the_history(
    released: Scheduler, wrapped: Callable[..., None], alice: Principal, home: str
) -> None:
    wrapped('id=$({real} "$@"); while qstat -f -F json "$id" >/dev/null 2>&1; do sleep 0.1; done; echo Done')
    job_id = await released.submit(alice, described(home, script="#!/bin/sh\n", name="brief"))
    (job,) = (await released.job(alice, job_id)).jobs
    assert (job.name, job.status.state) == ("brief", "F")


DOUBTS = {
    "nobody can be asked": (True, "kill -9 $$", TimedOut),
    "jobs have no tags": (False, "kill -9 $$", TimedOut),
    "jobs have no tags, and it ends well": (False, "exit 0", Conflict),
}
"""Whether jobs are tagged, how a script named qsub ends after it has submitted the job, and what is answered."""


@pytest.mark.parametrize("case", DOUBTS)
async def test_a_job_that_cannot_be_looked_up_is_not_said_to_be_none(
    cluster: Cluster,
    servers: dict[str, Standin],
    wrapped: Callable[..., None],
    alice: Principal,
    home: str,
    case: str,
) -> None:
    tagged, end, error = DOUBTS[case]
    wrapped(f'{{real}} "$@" >/dev/null; {end}')
    if tagged:
        wrapped(
            'echo "Connection refused"; echo "qselect: cannot connect to server vm (errno=15010)"; exit 162', "qselect"
        )
    async with system(cluster, **servers["23.06.06"].settings(tag_jobs=tagged)) as made:
        with pytest.raises(error, match="may have been submitted"):
            await made.scheduler.submit(alice, described(home, script="#!/bin/sh\n", partition="stoppedq"))


async def test_a_submission_that_takes_too_long_names_qsub(
    cluster: Cluster, servers: dict[str, Standin], wrapped: Callable[..., None], alice: Principal, home: str
) -> None:
    wrapped("cat >/dev/null; exec sleep 4715")
    async with system(cluster, **servers["23.06.06"].settings(timeout=1)) as made:
        with pytest.raises(TimedOut, match="Command qsub timed out; the job may have been submitted"):
            await made.scheduler.submit(alice, described(home, script=SLEEP))


async def test_jobs_that_ended_before_the_window_are_left_out(
    released: Scheduler, servers: dict[str, Standin], alice: Principal, home: str
) -> None:
    job_id = await released.submit(alice, described(home, script="#!/bin/sh\n", name="past"))
    await until(released, alice, job_id, "F")
    servers["23.06.06"].age(job_id, 2 * 3600)
    windows: tuple[tuple[TimeWindow, list[str]], ...] = (("1h", []), ("8h", [job_id]))
    for window, listed in windows:
        found = await released.jobs(alice, JobQuery(name="past", window=window))
        assert [job.job_id for job in found.jobs] == listed
    assert (await released.job(alice, job_id)).jobs[0].job_id == job_id


async def test_several_jobs_cost_one_query_and_unknown_ones_hurt_nobody(
    cluster: Cluster, server: Standin, alice: Principal, home: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with system(cluster, **server.settings()) as made:
        pbs = made.scheduler
        job = described(home, script="#!/bin/sh\n", partition="stoppedq")
        ids = [await pbs.submit(alice, job) for _ in range(3)]
        array = await pbs.submit(alice, replace(job, script="#!/bin/sh\n#PBS -J 1-2\n"))
        asked = (ids[0], "999999999", ids[1].partition(".")[0], "$(id)", array, ids[2], array.replace("[]", "[2]"))
        commands = []
        run = Session.run

        async def count(session: Session, argv: Sequence[str | bytes], **options: Any) -> Completed:
            commands.append(argv)
            return await run(session, argv, **options)

        monkeypatch.setattr(Session, "run", count)
        found = await pbs.several(alice, asked)
        assert tuple(found) == asked
        shown = {name: [job.job_id for job in jobs.jobs] for name, jobs in found.items() if isinstance(jobs, Jobs)}
        assert shown == {
            ids[0]: [ids[0]],
            ids[1].partition(".")[0]: [ids[1]],
            ids[2]: [ids[2]],
            array: [array, array.replace("[]", "[1]"), array.replace("[]", "[2]")],
            array.replace("[]", "[2]"): [array.replace("[]", "[2]")],
        }
        assert isinstance(found["999999999"], JobNotFound)
        assert isinstance(found["$(id)"], JobNotFound)
        # The arrays, with their own option, are one more.
        assert len(commands) == 2
        commands.clear()
        listed = (await pbs.jobs(alice, JobQuery())).jobs
        assert {*ids, array} <= {job.job_id for job in listed}
        assert len(commands) == 1
        monkeypatch.undo()
        for job_id in (*ids, array):
            await pbs.cancel(alice, job_id)


async def test_arrays(pbs: Scheduler, cluster: Cluster, alice: Principal, home: str) -> None:
    """An array and each of its tasks are listed, as PBS knows them."""
    script = '#!/bin/sh\n#PBS -J 1-3\necho "task $PBS_ARRAY_INDEX $A"\nexit "$((PBS_ARRAY_INDEX - 1))"\n'
    job_id = await pbs.submit(alice, described(home, script=script, name="arr", environment={"A": "x,y"}))
    number = job_id.partition("[")[0]
    assert job_id == f"{number}[].vm"
    assert job_id in [job.job_id for job in (await pbs.jobs(alice, JobQuery())).jobs]
    jobs = await until(pbs, alice, job_id, "F")
    assert [job.job_id for job in jobs] == [job_id, *(f"{number}[{index}].vm" for index in (1, 2, 3))]
    assert [job.status.exit_code for job in jobs[1:]] == [0, 1, 2]
    (task,) = (await pbs.job(alice, f"{number}[2]")).jobs
    assert task.status.exit_code == 1
    streams = await pbs.metadata(alice, job_id)
    assert streams[2].standard_output == f"{home}/arr.o{number}.2"
    assert await _command(cluster, "cat", streams[2].standard_output) == "task 2 x,y\n"
    with pytest.raises(JobNotFound):
        await pbs.cancel(alice, f"{number}[9]")
    await pbs.cancel(alice, job_id)


async def test_a_script_on_the_cluster(pbs: Scheduler, cluster: Cluster, alice: Principal, home: str) -> None:
    await _command(cluster, "sh", "-c", "printf '#!/usr/bin/python3\nimport os\nprint(os.environ[\"A\"])\n' >py-job.py")
    job = described(home, script_path="py-job.py", environment={"A": 'it\'s, "so"'}, standard_input="/dev/null")
    job_id = await pbs.submit(alice, job)
    (done,) = await until(pbs, alice, job_id, "F")
    assert (done.name, done.status.exit_code) == ("py-job.py", 0)
    (streams,) = await pbs.metadata(alice, job_id)
    assert await _command(cluster, "cat", streams.standard_output or "") == 'it\'s, "so"\n'
    with pytest.raises(SubmissionRefused, match="No such file or directory"):
        await pbs.submit(alice, described(home, script_path="/nonexistent"))


@pytest.mark.parametrize(
    ("fields", "error", "words"),
    [
        ({"partition": "nosuchq"}, SubmissionRefused, "Unknown queue"),
        ({"reservation": "R99999.vm"}, SubmissionRefused, "Unknown queue"),
        ({"partition": "closedq"}, SubmissionRefused, "Queue is not enabled"),
        ({"partition": "aclq"}, Forbidden, "Unauthorized Request"),
        ({"partition": "smallq", "constraints": "walltime=10:00:00"}, Forbidden, "violates queue"),
        ({"constraints": "nosuch=1"}, SubmissionRefused, "Unknown resource Resource_List.nosuch"),
        ({"constraints": "walltime=soon"}, SubmissionRefused, "Illegal attribute"),
        ({"name": "two words"}, SubmissionRefused, "illegal -N value$"),
        ({"name": "x" * 231}, SubmissionRefused, "Job name is too long"),
        ({"script": "#!/bin/sh\n#PBS -q nosuchq\n"}, SubmissionRefused, "Unknown queue"),
        ({"script": "#!/bin/sh\n#PBS --nosuch\n"}, SubmissionRefused, "invalid option"),
        ({"working_directory": "/nonexistent"}, SubmissionRefused, "/nonexistent"),
    ],
)
async def test_refused_submissions(
    released: Scheduler, alice: Principal, home: str, fields: dict[str, Any], error: type[GatewayError], words: str
) -> None:
    """What PBS refuses is an error in its words."""
    with pytest.raises(error, match=words):
        await released.submit(alice, described(**{"working_directory": home, "script": SLEEP, **fields}))


async def test_into_a_reservation(pbs: Scheduler, alice: Principal, home: str) -> None:
    """A reservation is listed, and a job runs in it."""
    (reservation,) = await pbs.reservations(alice)
    assert (reservation.state, reservation.node_list) == ("active", "vm")
    assert reservation.end_time - reservation.start_time == 7200
    assert -7200 < time.time() - reservation.start_time < 7200
    job_id = await pbs.submit(alice, described(home, script=SLEEP, reservation=reservation.name, partition="workq"))
    assert (await pbs.job(alice, job_id)).jobs[0].partition == reservation.name
    await pbs.cancel(alice, job_id)


async def test_queues_accounts_and_what_is_not_to_be_had(pbs: Scheduler, alice: Principal) -> None:
    queues = {queue.name: queue.state for queue in await pbs.partitions(alice)}
    assert queues == {"workq": "UP", "smallq": "UP", "closedq": "DRAIN", "stoppedq": "DOWN", "aclq": "UP"}
    assert "R231" in [queue.name for queue in await pbs.partitions(alice, show_hidden=True)]
    assert await pbs.accounts(alice) is None
    with pytest.raises(NotSupported):
        await pbs.attach(alice, "1", "id")
    await pbs.ping(alice)


async def test_unknown_and_malformed_ids(pbs: Scheduler, alice: Principal) -> None:
    for job_id in ("999999999", "0.nosuchserver", "999999999[]", "1;id", "$(id)", "abc", "1[", "workq@vm", ""):
        for ask in (pbs.job, pbs.metadata, pbs.cancel):
            with pytest.raises(JobNotFound, match="Job not found"):
                await ask(alice, job_id)


async def test_the_server_is_down(pbs: Scheduler, server: Standin, alice: Principal, home: str) -> None:
    server.switch("down", on=True)
    for ask in (
        pbs.ping(alice),
        pbs.jobs(alice, JobQuery()),
        pbs.jobs(alice, JobQuery(all_users=True)),
        pbs.job(alice, "1"),
        pbs.metadata(alice, "1"),
        pbs.cancel(alice, "1"),
        pbs.nodes(alice),
        pbs.partitions(alice),
        pbs.reservations(alice),
        pbs.submit(alice, described(home, script=SLEEP)),
    ):
        with pytest.raises(SchedulerUnavailable, match="connect"):
            await ask


async def test_a_server_without_history(pbs: Scheduler, server: Standin, alice: Principal, home: str) -> None:
    job_id = await pbs.submit(alice, described(home, script=SLEEP))
    await until(pbs, alice, job_id, "R")
    server.switch("nohistory", on=True)
    for _ in range(2):
        assert job_id in [job.job_id for job in (await pbs.jobs(alice, JobQuery())).jobs]
        assert [job.job_id for job in (await pbs.job(alice, job_id)).jobs] == [job_id]
        assert job_id in [job.job_id for job in (await pbs.jobs(alice, JobQuery(all_users=True))).jobs]
    await pbs.cancel(alice, job_id)
    with pytest.raises(JobNotFound):
        await pbs.job(alice, job_id)


async def test_a_server_that_hangs(cluster: Cluster, servers: dict[str, Standin], alice: Principal) -> None:
    server = servers["23.06.06"]
    server.switch("slow", on=True)
    try:
        async with system(cluster, **server.settings(timeout=1)) as made:
            with pytest.raises(TimedOut, match="Command qselect timed out"):
                await made.scheduler.jobs(alice, JobQuery())
            with pytest.raises(TimedOut, match="Command qstat timed out"):
                await made.scheduler.jobs(alice, JobQuery(all_users=True))
            left = await asyncio.to_thread(
                cluster.as_user, "alice", ["pgrep", "-f", f"{server.directory}/bin/q"], check=False
            )
            assert left.stdout == ""
    finally:
        server.switch("slow", on=False)


def test_over_http_from_submission_to_cancellation_and_a_transfer(
    cluster: Cluster, servers: dict[str, Standin], home: str
) -> None:
    server = servers["23.06.06"]
    config = cluster.write_gateway_config(
        cluster.directory / "pbs-gateway.yaml", clusters=[cluster.cluster_settings("pbs", **server.settings())]
    )
    gateway = cluster.start_gateway(config)
    headers = {"Authorization": f"Bearer {cluster.token('alice')}"}
    try:
        with httpx.Client(base_url=gateway.url, headers=headers, timeout=600) as http:
            _over_http(http, cluster, home)
    finally:
        gateway.stop()


def _over_http(http: httpx.Client, cluster: Cluster, home: str) -> None:
    job = {"workingDirectory": home, "script": "#!/bin/sh\necho $A >http.txt\n", "env": {"A": "x"}, "name": "1e5"}
    answer = http.post("/compute/pbs/jobs", json={"job": job})
    assert answer.status_code == 201, answer.text
    path = f"/compute/pbs/jobs/{answer.json()['jobId']}"
    found = _wait(http, path)
    assert (found["name"], found["status"]["exitCode"]) == ("1e5", 0)
    assert [item["jobId"] for item in http.get("/compute/pbs/jobs?name=1e5").json()["jobs"]][-1] == found["jobId"]
    assert http.get(f"{path}/metadata").json()["jobs"][0]["script"] is None
    assert http.delete(path).status_code == 204
    attached = http.put(f"{path}/attach", json={"command": "id"})
    assert (attached.status_code, attached.json()["errorType"]) == (501, "error")
    missing = http.get("/compute/pbs/jobs/999999999")
    assert missing.status_code == 404
    assert "Job not found" in missing.json()["message"]
    waits = {"dependencies": [{"type": "afterok", "jobIds": ["999999999"]}]}
    for refused in (
        http.post("/compute/pbs/jobs", json={"job": job | waits}),
        http.post("/compute/pbs/jobs", params={"dryRun": "true"}, json={"job": job | waits}),
        http.patch(path, json=waits),
    ):
        assert refused.status_code == 400, refused.text
        assert refused.json()["message"] == "dependencies: the scheduler knows no job 999999999"
    (told,) = http.post("/compute/pbs/jobs/bulk", json={"jobs": [{"job": job | waits}]}).json()["jobs"]
    assert (told["jobId"], told["error"]["status"]) == (None, 400)
    array = http.post("/compute/pbs/jobs", json={"job": {**job, "script": "#!/bin/sh\n#PBS -J 1-2\n"}}).json()["jobId"]
    assert len(http.get(f"/compute/pbs/jobs/{array}").json()["jobs"]) == 3
    for part in ("nodes", "partitions", "reservations"):
        assert http.get(f"/status/pbs/{part}").json()[part]
    assert http.get("/status/pbs/userinfo").json()["accounts"] is None
    answer = http.get("/status/pbs/allocations")
    assert answer.status_code == 501, answer.text
    assert "PBS does not record" in answer.json()["message"]

    moved = http.post("/filesystem/pbs/transfer/mv", json={"path": f"{home}/http.txt", "targetPath": f"{home}/to.txt"})
    assert moved.status_code == 201, moved.text
    _transferred(http, cluster, moved)
    assert cluster.as_user("alice", ["cat", f"{home}/to.txt"]).stdout == "x\n"
    nasty = f"{home}/it's $(id)"
    base = "/filesystem/pbs/transfer"
    for verb, source, target in (
        ("cp", f"{home}/to.txt", nasty),
        ("compress", nasty, f"{home}/packed.tar.gz"),
        ("extract", f"{home}/packed.tar.gz", f"{home}/unpacked"),
    ):
        if verb == "extract":
            cluster.as_user("alice", ["mkdir", target])
        _transferred(http, cluster, http.post(f"{base}/{verb}", json={"path": source, "targetPath": target}))
    assert cluster.as_user("alice", ["cat", f"{home}/unpacked/it's $(id)"]).stdout == "x\n"
    _transferred(http, cluster, http.delete(f"{base}/rm", params={"path": nasty}))
    assert cluster.as_user("alice", ["test", "-e", nasty], check=False).returncode == 1


def _transferred(http: httpx.Client, cluster: Cluster, answer: httpx.Response) -> None:
    """See that the job of a transfer ends well and says so."""
    assert answer.is_success, answer.text
    transfer = answer.json()["transferJob"]
    assert _wait(http, f"/compute/pbs/jobs/{transfer['jobId']}")["status"]["exitCode"] == 0
    assert "successfully" in cluster.as_user("alice", ["cat", transfer["logs"]["outputLog"]]).stdout


def _wait(http: httpx.Client, path: str) -> dict[str, Any]:
    deadline = time.monotonic() + 120
    while True:
        (job,) = http.get(path).json()["jobs"]
        if job["status"]["state"] == "F":
            return dict(job)
        assert time.monotonic() < deadline, job
        time.sleep(0.2)


async def test_the_version_is_told_by_the_server_itself(pbs: Scheduler, alice: Principal) -> None:
    assert await pbs.installed_version(alice) == "23.06.06"


CHANGES: list[tuple[JobChanges, str]] = [
    (JobChanges(name="renamed"), "-N renamed"),
    (JobChanges(name="-x"), "-N -x"),
    (JobChanges(time_limit=90, priority=-5), "-l walltime=90 -p -5"),
    (
        JobChanges(dependencies=(Dependency("afterany", ("{other}", "7.vm")),)),
        "-W depend=afterany:{other}:7.vm",
    ),
]


async def test_a_job_is_controlled(pbs: Scheduler, server: Standin, cluster: Cluster, alice: Principal) -> None:
    home = str(cluster.user("alice").home)
    other, held = [await pbs.submit(alice, described(home, script="#!/bin/sh\n#PBS -h\nsleep 300\n")) for _ in range(2)]
    for changes, given in CHANGES:
        names = tuple(
            replace(one, job_ids=tuple(name.format(other=other) for name in one.job_ids))
            for one in changes.dependencies or ()
        )
        await pbs.change(alice, held, replace(changes, dependencies=names or None))
        assert given.format(other=other) in server.altered(held)
    assert (await pbs.job(alice, held)).jobs[0].time.limit == 90
    await pbs.change(alice, held, JobChanges(partition="smallq", name="both"))
    (job,) = (await pbs.job(alice, held)).jobs
    assert (job.partition, job.name) == ("smallq", "both")
    await pbs.act(alice, held, Action.RELEASE)
    await until(pbs, alice, held, "R")
    await pbs.signal(alice, held, SIGNALS["TERM"])
    await until(pbs, alice, held, "F")


@pytest.mark.parametrize("through", [0, 1, 3])
async def test_no_job_comes_to_wait_for_itself(
    pbs: Scheduler, cluster: Cluster, alice: Principal, through: int
) -> None:
    """The server takes a circle of dependencies, and none of its jobs would ever start."""
    home = str(cluster.user("alice").home)
    waits = described(home, script="#!/bin/sh\n#PBS -h\nsleep 300\n")
    first = last = await pbs.submit(alice, waits)
    for _ in range(through):
        attributes = JobAttributes(dependencies=(spec.Dependency("afterany", (last,)),))
        last = await pbs.submit(alice, replace(waits, attributes=attributes))
    other = await pbs.submit(alice, waits)
    circle = JobChanges(dependencies=(Dependency("after", (other,)), Dependency("afterok", (last.partition(".")[0],))))
    with pytest.raises(BadRequest, match=rf"^dependencies: .*{first}"):
        await pbs.change(alice, first, circle)
    await pbs.change(alice, first, JobChanges(dependencies=circle.dependencies[:1] if circle.dependencies else ()))
    for job_id in (first, last, other):
        await pbs.cancel(alice, job_id)


REFUSED: list[tuple[str, JobChanges | Action | int, type[GatewayError]]] = [
    ("waits", Action.REQUEUE, Forbidden),
    ("waits", Action.SUSPEND, Forbidden),
    ("waits", Action.RESUME, Forbidden),
    ("waits", 15, Conflict),
    ("waits", JobChanges(comment="x"), NotSupported),
    ("waits", JobChanges(dependencies=()), NotSupported),
    ("waits", JobChanges(partition="q@elsewhere"), BadRequest),
    ("waits", JobChanges(partition="nosuchq"), BadRequest),
    ("waits", JobChanges(dependencies=(Dependency("after", ("1,stagein=a@b:c",)),)), BadRequest),
    *[("his", what, Forbidden) for what in (Action.HOLD, Action.RELEASE, 15, JobChanges(name="x"))],
    *[("ended", what, Conflict) for what in (Action.HOLD, Action.RELEASE, 15, JobChanges(name="x"))],
    *[("99999", what, JobNotFound) for what in (Action.HOLD, Action.RELEASE, 15, JobChanges(name="x"))],
    *[("down", what, SchedulerUnavailable) for what in (Action.HOLD, 15, JobChanges(name="x"))],
]


async def control(pbs: Scheduler, who: Principal, job_id: str, what: JobChanges | Action | int) -> None:
    match what:
        case Action():
            await pbs.act(who, job_id, what)
        case int():
            await pbs.signal(who, job_id, what)
        case JobChanges():
            await pbs.change(who, job_id, what)


async def test_what_cannot_be_controlled_is_refused(
    pbs: Scheduler, server: Standin, cluster: Cluster, alice: Principal, bob: Principal
) -> None:
    waits = "#!/bin/sh\n#PBS -h\nsleep 300\n"
    homes = {who: str(cluster.user(who).home) for who in ("alice", "bob")}
    jobs = {
        "waits": await pbs.submit(alice, described(homes["alice"], script=waits)),
        "his": await pbs.submit(bob, described(homes["bob"], script=waits)),
        "ended": await pbs.submit(alice, described(homes["alice"], script=waits)),
    }
    await pbs.cancel(alice, jobs["ended"])
    for which, what, wanted in REFUSED:
        server.switch("down", on=which == "down")
        job_id = jobs.get(which, jobs["waits"] if which == "down" else which)
        with pytest.raises(wanted):
            await control(pbs, alice, job_id, what)
    server.switch("down", on=False)
    await pbs.cancel(alice, jobs["waits"])
    await pbs.cancel(bob, jobs["his"])


# A job in fields.


async def test_fields_reach_the_server_and_outweigh_directives(
    pbs: Scheduler, server: Standin, alice: Principal, home: str
) -> None:
    lines = "#PBS -l select=1:ncpus=3:mem=1gb -l walltime=1:00 -r y\n#PBS -a 0000 -J 0-1\n"
    waits = await pbs.submit(alice, described(home, script="#!/bin/sh\n#PBS -h\nsleep 300\n"))
    fields = JobAttributes(
        resources=Resources(node_count=2, processes_per_node=2, exclusive_node_use=True),
        duration=90,
        array="2-6:2",
        dependencies=(spec.Dependency("afterok", (waits,)), spec.Dependency("afterany", (waits,))),
        hold=True,
        begin=1798131600,
        requeue=False,
        mail=spec.Mail(("begin", "end"), "alice@example.org"),
        extra={"pbs": {"P": "project"}},
    )
    job_id = await pbs.submit(alice, described(home, script=f"#!/bin/sh\n{lines}true\n", attributes=fields))
    record = server.record(job_id)
    assert (
        record["resources"]
        | {
            "select": "2:ncpus=3:mem=1gb:mpiprocs=2",
            "place": "scatter:exclhost",
            "walltime": "00:01:30",
        }
        == record["resources"]
    )
    assert (record["range"], record["state"]) == ("2-6:2", "H")
    words = record["arguments"]
    assert f"-W depend=afterok:{waits},afterany:{waits}" in words
    assert "-r n -m be -M alice@example.org" in words
    assert "-P project" in words
    # In the time zone of the login node.
    there = datetime.fromtimestamp(1798131600, ZoneInfo(TIME_ZONE.removeprefix(":")))
    assert f"-a {there:%Y%m%d%H%M.%S}" in words
    for each in (job_id, waits):
        await pbs.cancel(alice, each)


TOO_MUCH: list[tuple[dict[str, Any], str]] = [
    ({"attributes": JobAttributes(array="0-10000")}, "^array: .*exceeds"),
    ({"attributes": JobAttributes(array="0-99999999")}, "^array: "),
    ({"environment": {"LONG": "x" * (128 * 1024)}}, "LONG is too long"),
    ({"environment": {"A B": "x"}}, "A B"),
    ({"attributes": JobAttributes(dependencies=(spec.Dependency("afterok", ("no-id",)),))}, "^dependencies: .*no-id"),
]


@pytest.mark.parametrize(("job", "words"), TOO_MUCH, ids=range(len(TOO_MUCH)))
async def test_what_is_too_much_is_refused_by_its_name(
    pbs: Scheduler, alice: Principal, home: str, job: dict[str, Any], words: str
) -> None:
    job_described = described(home, **{"script": SLEEP, **job})
    with pytest.raises(BadRequest, match=words):
        await pbs.submit(alice, job_described)
    (error,) = await pbs.submit_many(alice, [(job_described, None)])
    assert isinstance(error, BadRequest)
    assert re.search(words, error.message)


async def test_what_is_just_within_the_limits_is_taken(pbs: Scheduler, alice: Principal, home: str) -> None:
    script = f"#!/bin/sh\n#{'x' * 1024**2}\ntrue\n"
    value = "x" * (128 * 1024 - len("LONG=\0"))
    fields = JobAttributes(array="0-9999", hold=True)
    job_id = await pbs.submit(alice, described(home, script=script, environment={"LONG": value}, attributes=fields))
    await pbs.cancel(alice, job_id)


async def test_a_program_runs_with_its_arguments_as_they_are(
    pbs: Scheduler, cluster: Cluster, alice: Principal, home: str
) -> None:
    words = ("%s|", "a b", "it's", '"$(id)"', "two\nlines", "#PBS -q nosuchq", "", "é", "\\")
    for name, text in (("pre.sh", "BEFORE=yes\n"), ("post.sh", "echo after $BEFORE\n")):
        await asyncio.to_thread(cluster.as_user, "alice", ["tee", f"{home}/{name}"], input=text)
    program = spec.Program("printf", words, pre_launch=f"{home}/pre.sh", post_launch=f"{home}/post.sh")
    programmed = described(home, program=program, standard_output=f"{home}/program.txt")
    job_id = await pbs.submit(alice, with_script(programmed, pbs.launchers()))
    await until(pbs, alice, job_id, "F")
    said = await _command(cluster, "cat", f"{home}/program.txt")
    assert said == "".join(f"{word}|" for word in words[1:]) + "after yes\n"


async def test_a_dry_run_shows_what_qsub_would_be_given(released: Scheduler, alice: Principal, home: str) -> None:
    job = described(home, script="#!/bin/sh\ntrue\n", attributes=JobAttributes(duration=60))
    before = len((await released.jobs(alice, JobQuery())).jobs)
    told = await released.dry_run(alice, job)
    assert (told.tested, told.options) == (False, ("-l", "walltime=00:01:00"))
    assert told.script is not None
    assert told.script.endswith("# The job:\ntrue\n")
    assert len((await released.jobs(alice, JobQuery())).jobs) == before


async def test_a_job_in_fields_with_a_key_is_one_job(
    pbs: Scheduler, server: Standin, cluster: Cluster, alice: Principal, home: str
) -> None:
    """The answer comes from the receipt, and from the mark once the receipt does not tell."""
    receipts = Receipts("~/.local/state/hpcgate/submissions", 86400, 1000)
    once = Once.of(receipts, alice.username, "pbs", secrets.token_hex(8), "digest")
    job = described(home, script=SLEEP, attributes=JobAttributes(hold=True, duration=60))
    first = await pbs.submit_once(alice, job, once)
    assert not first.replayed
    assert server.record(first.job_id)["state"] == "H"
    assert await pbs.submit_once(alice, job, once) == replace(first, replayed=True)
    assert (await pbs.submission(alice, once)).job_id == first.job_id
    # As if nobody had seen the end of it.
    place = f"{home}/.local/state/hpcgate/submissions/{once.name}"
    await _command(cluster, "rm", "-f", f"{place}/1.out", f"{place}/1.end")
    assert (await pbs.submission(alice, once)).job_id == first.job_id
    assert (await pbs.submit_once(alice, job, once)).job_id == first.job_id
    await pbs.cancel(alice, first.job_id)


async def test_many_are_submitted_and_cancelled_by_one_command_each(
    pbs: Scheduler, cluster: Cluster, alice: Principal, bob: Principal
) -> None:
    home = str(cluster.user("alice").home)
    waits = "#!/bin/sh\n#PBS -h\nsleep 300\n"
    once = Once.of(Receipts("~/.local/state/hpcgate/many", 3600, 1000), alice.username, "pbs", secrets.token_hex(8))
    jobs: list[tuple[JobDescription, Once | None]] = [
        *[(described(home, script=waits, name=f"many{number}"), None) for number in range(6)],
        (described(home, script=waits, partition="nosuchq"), None),
        (described(home, script=waits, name="keyed"), once),
        (described(home, script="#!/bin/sh\n#PBS -W block=true\ntrue\n"), None),
    ]
    found = await pbs.submit_many(alice, jobs)
    ids = [one.job_id for one in found if isinstance(one, Submitted)]
    assert len(set(ids)) == len(jobs) - 1
    assert isinstance(found[6], SubmissionRefused)
    for number, job_id in enumerate(ids[:6]):
        assert (await pbs.job(alice, job_id)).jobs[0].name == f"many{number}"
    again = await pbs.submit_many(alice, [jobs[7]])
    assert again == [Submitted(ids[6], replayed=True)]
    his = await pbs.submit(bob, described(str(cluster.user("bob").home), script=waits))
    errors = await pbs.cancel_many(alice, [*ids, his, "99999", "no-id"])
    assert [type(error) for error in errors[-3:]] == [Forbidden, JobNotFound, JobNotFound]
    assert errors[:-3] == [None] * len(ids)
    await pbs.cancel(bob, his)
