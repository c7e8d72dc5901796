"""Slurm by its commands, on the real one, through the real sshd."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest

from hpcgate.auth import Principal
from hpcgate.demo.cluster import Cluster
from hpcgate.demo.slurm import LIMITED_QOS, Slurm
from hpcgate.demo.sshd import Sshd
from hpcgate.errors import BadRequest, Forbidden, JobNotFound, SchedulerUnavailable, SubmissionRefused, TimedOut
from hpcgate.schedulers.base import Account, JobQuery, Scheduler
from hpcgate.schedulers.slurm import squeue, values
from hpcgate.schedulers.slurm.delimiters import new_mark
from hpcgate.schedulers.slurm.job_ids import JobId
from hpcgate.schedulers.slurm.records import Selection
from hpcgate.ssh.commands.process import Process
from hpcgate.ssh.runner import Completed
from hpcgate.ssh.session import Session
from tests.schedulers.described import described

from .scheduler_systems import environment_of, principal, system, until

NASTY_NAME = "a|b, \"q\" 'x'\nJobState=FAKE $(id) `id` é日本 \x1f\x01 %j"
NASTY_ENVIRONMENT = {
    "COMMAS": "a,b,,c",
    "QUOTES": "\"double\" 'single' `back`",
    "NEWLINES": "one\ntwo\n",
    "EQUALS": "=a=b",
    "EMPTY": "",
    "DOLLAR": "$HOME $(id) \\n !",
    "BLANKS": "  x  ",
    "UTF8": "é日本",
    "PATH": "/nowhere:/usr/bin:/bin",
    "IFS_": ":",
}
SLEEP = "#!/bin/bash\nexec sleep 300\n"


@pytest.fixture
async def slurm(cluster: Cluster) -> AsyncIterator[Scheduler]:
    async with system(cluster) as made:
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


@pytest.fixture(params=["with-slurmdbd", "without-slurmdbd"])
async def either(request: pytest.FixtureRequest, cluster: Cluster) -> AsyncIterator[Scheduler]:
    """Slurm with and without slurmdbd."""
    options = {}
    if request.param == "without-slurmdbd":
        options["slurm"], options["sshd"] = request.getfixturevalue("plain")
    async with system(cluster, **options) as made:
        yield made.scheduler


async def test_a_nasty_job_goes_through_unchanged(
    either: Scheduler, cluster: Cluster, alice: Principal, home: str
) -> None:
    await _make_directory(cluster, f"{home}/a b,'c\"$(id)\n|é")
    directory = f"{home}/a b,'c\"$(id)\n|é"
    script = "#!/bin/bash\nenv -0\nsleep 1\nexit 3\n"
    description = described(
        working_directory=directory,
        script=script,
        name=NASTY_NAME,
        environment=NASTY_ENVIRONMENT,
        standard_output="out, '%j' $(id) %u.txt",
        standard_error="err-%A-%a-%4j",
    )
    job_id = await either.submit(alice, description)

    (job,) = (await either.job(alice, job_id)).jobs
    assert (job.job_id, job.name, job.working_directory) == (job_id, NASTY_NAME, directory)
    assert job.user == job.group == alice.username
    assert NASTY_NAME in {job.name for job in (await either.jobs(alice, JobQuery())).jobs}
    (metadata,) = await either.metadata(alice, job_id)
    assert metadata.script == script
    assert metadata.standard_output == f"{directory}/out, '{job_id}' $(id) {alice.username}.txt"
    assert metadata.standard_error == f"{directory}/err-{job_id}-4294967294-{job_id.zfill(4)}"
    assert metadata.standard_input == "/dev/null"

    (job,) = await until(either, alice, job_id, "FAILED")
    assert (job.status.exit_code, job.status.interrupt_signal) == (3, 0)
    assert (job.name, job.working_directory) == (NASTY_NAME, directory)
    assert job.time.start is not None
    assert job.time.end is not None
    assert job.time.end >= job.time.start
    assert [found.job_id for found in (await either.jobs(alice, JobQuery(name=NASTY_NAME))).jobs].count(job_id) == 1
    output = cluster.as_user("alice", ["cat", metadata.standard_output]).stdout
    seen = environment_of(output.encode("utf-8", "surrogateescape"))
    for name, value in NASTY_ENVIRONMENT.items():
        assert seen[name.encode()] == value.encode()
    assert b"LC_ALL" not in seen
    assert seen[b"HOME"] == home.encode()
    assert cluster.as_user("alice", ["test", "-e", metadata.standard_error]).returncode == 0
    await either.cancel(alice, job_id)


async def _make_directory(cluster: Cluster, path: str) -> None:
    await asyncio.to_thread(cluster.as_user, "alice", ["mkdir", "-p", path])


async def test_history_keeps_the_name_and_says_how_it_ended(
    slurm: Scheduler, cluster: Cluster, alice: Principal, home: str
) -> None:
    """The database stores a double quote as a backtick; the controller forgets the job."""
    job_id = await slurm.submit(alice, described(home, script="#!/bin/bash\nkill -9 $$\n", name='say "hi", `x`'))
    await until(slurm, alice, job_id, "FAILED")
    await _only_history(slurm, cluster, alice, job_id)

    (job,) = (await slurm.job(alice, job_id)).jobs
    assert job.name == 'say "hi", `x`'
    assert (job.status.state, job.status.interrupt_signal) == ("FAILED", 9)
    assert job.tasks is not None
    assert [task.id for task in job.tasks] == [f"{job_id}.batch"]
    (metadata,) = await slurm.metadata(alice, job_id)
    assert metadata.script == "#!/bin/bash\nkill -9 $$\n"
    await slurm.cancel(alice, job_id)


async def _only_history(slurm: Scheduler, cluster: Cluster, who: Principal, job_id: str) -> None:
    """Make the controller unaware of the job for this scheduler, as after MinJobAge, once the database knows it."""

    async def forgotten(*_: object) -> list[object]:
        return []

    await _stored(cluster, job_id)
    slurm.backend._commands.live = forgotten  # type: ignore[attr-defined]


async def _stored(cluster: Cluster, job_id: str) -> None:
    """Wait until the database knows all of a job that has ended."""
    async with asyncio.timeout(300):
        while True:
            argv = ["sacct", "-a", "-n", "-P", "-X", "-j", job_id, "-o", "partition,end"]
            row = await asyncio.to_thread(cluster.slurm.run, argv)
            if row and not row.startswith("|") and "Unknown" not in row:
                break
            await asyncio.sleep(0.3)


async def test_job_without_env_gets_the_login_environment(
    slurm: Scheduler, cluster: Cluster, alice: Principal, home: str
) -> None:
    description = described(home, script="#!/bin/bash\nenv -0 > env.out\n", standard_output="/dev/null")
    await until(slurm, alice, await slurm.submit(alice, description), "COMPLETED")
    seen = environment_of(cluster.as_user("alice", ["cat", "env.out"]).stdout.encode())
    assert b"LC_ALL" not in seen
    assert b"/usr/bin" in seen[b"PATH"]
    assert seen[b"USER"] == alice.username.encode()


async def test_large_environment_and_script(slurm: Scheduler, cluster: Cluster, alice: Principal, home: str) -> None:
    """Beyond the 128 KiB that one shell line may have."""
    environment = {f"BIG{number}": "x" * 50_000 for number in range(5)}
    script = "#!/bin/bash\nenv -0 > big.out\n" + "# padding\n" * 30_000
    job_id = await slurm.submit(alice, described(home, script=script, environment=environment))
    assert (await slurm.metadata(alice, job_id))[0].script == script
    await until(slurm, alice, job_id, "COMPLETED")
    seen = environment_of(cluster.as_user("alice", ["cat", "big.out"]).stdout.encode())
    assert [len(seen[name.encode()]) for name in environment] == [50_000] * 5


async def test_directives_in_the_script_keep_working(slurm: Scheduler, alice: Principal, home: str) -> None:
    script = "#!/bin/bash\n#SBATCH --job-name=directive\n#SBATCH --partition=debug\n#SBATCH --time=7\nsleep 60\n"
    job_id = await slurm.submit(alice, described(home, script=script, environment={"A": "1"}))
    (job,) = (await slurm.job(alice, job_id)).jobs
    assert (job.name, job.partition, job.time.limit) == ("directive", "debug", 420)
    await slurm.cancel(alice, job_id)


async def test_values_never_become_options(slurm: Scheduler, alice: Principal, home: str) -> None:
    job_id = await slurm.submit(alice, described(home, script=SLEEP, name="--partition=debug"))
    (job,) = (await slurm.job(alice, job_id)).jobs
    assert (job.name, job.partition) == ("--partition=debug", "normal")
    await slurm.cancel(alice, job_id)
    with pytest.raises(SubmissionRefused, match="Unable to open file"):
        await slurm.submit(alice, described(home, script_path="--wrap=id"))


async def test_script_path(slurm: Scheduler, cluster: Cluster, alice: Principal, home: str) -> None:
    """A script on the cluster is submitted by its path."""
    path = f'{home}/-job\'s "script" $(id).sh'
    cluster.as_user("alice", ["tee", path], input="#!/bin/bash\nexit 4\n")
    job_id = await slurm.submit(alice, described(home, script_path=path, environment={"A": "1,2"}))
    (job,) = await until(slurm, alice, job_id, "FAILED")
    assert job.status.exit_code == 4


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"partition": "nosuch"}, "sbatch: error: .*[Ii]nvalid partition"),
        ({"script": "echo hi\n"}, "does not look like a batch script"),
        ({"script": ""}, "Batch script is empty"),
        ({"script": "#!/bin/bash\r\necho\r\n"}, "DOS line breaks"),
        ({"script": "#!/bin/bash\necho \0\n"}, "NULL character"),
        ({"script": "#!/bin/bash\n#SBATCH --nosuch\n"}, "unrecognized option"),
        ({"script": None, "script_path": "/no/such.sh"}, "Unable to open file /no/such.sh"),
        ({"working_directory": "/no/such/dir"}, "cd: /no/such/dir: No such file or directory"),
        ({"account": "nosuch"}, "Invalid account"),
        ({"reservation": "nosuch"}, "reservation"),
        ({"constraints": "nosuch"}, "Invalid feature"),
    ],
)
async def test_refused_submissions(
    slurm: Scheduler, alice: Principal, home: str, change: dict[str, Any], words: str
) -> None:
    """What Slurm refuses is an error in its words."""
    with pytest.raises(SubmissionRefused, match=words):
        await slurm.submit(alice, described(**({"working_directory": home, "script": SLEEP} | change)))


@pytest.mark.parametrize(
    "change",
    [
        {"environment": {"A B": "1"}},
        {"environment": {"1A": "1"}},
        {"environment": {"": "1"}},
        {"environment": {"A\n": "1"}},
        {"environment": {"A": "\0"}},
        {"environment": {"A": "\ud800"}},
        {"name": "a\0b"},
        {"name": "\ud800"},
        {"working_directory": "/tmp\0"},
    ],
)
async def test_what_cannot_be_submitted(
    slurm: Scheduler, alice: Principal, home: str, change: dict[str, object]
) -> None:
    with pytest.raises(BadRequest):
        await slurm.submit(alice, described(**({"working_directory": home, "script": SLEEP} | change)))  # type: ignore[arg-type]


async def test_qos_limit_is_forbidden(slurm: Scheduler, alice: Principal, home: str) -> None:
    description = described(home, script=f"#!/bin/bash\n#SBATCH --qos={LIMITED_QOS}\nsleep 60\n")
    first = await slurm.submit(alice, description)
    try:
        with pytest.raises(Forbidden, match="accounting/QOS policy"):
            await slurm.submit(alice, description)
    finally:
        await slurm.cancel(alice, first)


async def test_arrays(either: Scheduler, alice: Principal, home: str) -> None:
    """Each task of an array is a job of its own."""
    script = "#!/bin/bash\n#SBATCH --array=0-2\nexit $SLURM_ARRAY_TASK_ID\n"
    job_id = await either.submit(alice, described(home, script=script, name="arr", standard_output="%x.%A_%a.%N"))
    assert {job.name for job in (await either.job(alice, f"{job_id}_1")).jobs} == {"arr"}
    jobs = await until(either, alice, job_id, "COMPLETED", "FAILED")
    assert [(job.job_id, job.status.exit_code) for job in jobs] == [
        (f"{job_id}_0", 0),
        (f"{job_id}_1", 1),
        (f"{job_id}_2", 2),
    ]
    assert [job.job_id for job in (await either.job(alice, f"{job_id}_2")).jobs] == [f"{job_id}_2"]
    assert len((await either.job(alice, f"{job_id}_[0-1]")).jobs) == 2
    with pytest.raises(JobNotFound):
        await either.job(alice, f"{job_id}_7")
    (metadata,) = await either.metadata(alice, f"{job_id}_2")
    node = jobs[2].nodes
    assert metadata.standard_output == f"{home}/arr.{job_id}_2.{node}"
    assert metadata.script == script


async def test_pending_array_is_one_job_until_asked_by_task(either: Scheduler, alice: Principal, home: str) -> None:
    script = "#!/bin/bash\n#SBATCH --array=1-100:3%2\n#SBATCH --hold\n"
    job_id = await either.submit(alice, described(home, script=script))
    (job,) = (await either.job(alice, job_id)).jobs
    assert job.job_id == f"{job_id}_[1-100:3]"
    assert (job.status.state, job.status.state_reason) == ("PENDING", "JobHeldUser")
    assert (job.time.start, job.time.end, job.allocation_nodes, job.priority) == (None, None, 0, 0)
    assert (await either.job(alice, f"{job_id}_4")).jobs[0].status.state == "PENDING"
    with pytest.raises(JobNotFound):
        await either.job(alice, f"{job_id}_5")
    await either.cancel(alice, f"{job_id}_4")
    await either.cancel(alice, f"{job_id}_[7-13:3]")
    remaining = [job for job in (await either.job(alice, job_id)).jobs if job.status.state == "PENDING"]
    (job,) = remaining
    assert job.job_id.startswith(f"{job_id}_[1,16,19,")
    await either.cancel(alice, job_id)
    await until(either, alice, job_id, "CANCELLED")


async def test_heterogeneous_jobs(either: Scheduler, alice: Principal, home: str) -> None:
    """Each part of a heterogeneous job is listed."""
    script = "#!/bin/bash\n#SBATCH -n1 -t 10\n#SBATCH hetjob\n#SBATCH -n1 -t 5 -p debug\nsleep 60\n"
    job_id = await either.submit(alice, described(home, script=script))
    jobs = (await either.job(alice, job_id)).jobs
    assert [(job.job_id, job.partition, job.time.limit) for job in jobs] == [
        (f"{job_id}+0", "normal", 600),
        (f"{job_id}+1", "debug", 300),
    ]
    assert [job.job_id for job in (await either.job(alice, f"{job_id}+1")).jobs] == [f"{job_id}+1"]
    await either.cancel(alice, job_id)
    await until(either, alice, job_id, "CANCELLED")


async def test_waiting_jobs_are_listed(slurm: Scheduler, alice: Principal, home: str) -> None:
    def script(directive: str) -> str:
        return f"#!/bin/bash\n#SBATCH {directive}\nsleep 60\n"

    held = await slurm.submit(alice, described(home, script=script("--hold")))
    dependent = await slurm.submit(alice, described(home, script=script(f"--dependency=afterok:{held}")))
    later = await slurm.submit(alice, described(home, script=script("--begin=now+2hours")))
    hidden = await slurm.submit(alice, described(home, script=script("--hold"), partition="hidden"))
    jobs = {job.job_id: job for job in (await slurm.jobs(alice, JobQuery())).jobs}
    reasons = {name: jobs[name].status.state_reason for name in (held, dependent, later)}
    assert reasons == {held: "JobHeldUser", dependent: "Dependency", later: "BeginTime"}
    assert jobs[hidden].partition == "hidden"
    assert jobs[held].time.limit is None
    assert jobs[held].cluster == "demo"
    for job_id in (held, dependent, later, hidden):
        await slurm.cancel(alice, job_id)


async def test_requeued_job_is_listed_once(slurm: Scheduler, cluster: Cluster, alice: Principal, home: str) -> None:
    script = "#!/bin/bash\n#SBATCH --requeue\nsleep 60\n"
    job_id = await slurm.submit(alice, described(home, script=script))
    await until(slurm, alice, job_id, "RUNNING")
    cluster.as_user("alice", ["scontrol", "requeuehold", job_id])
    await until(slurm, alice, job_id, "PENDING", "REQUEUE_HOLD", "SPECIAL_EXIT")
    assert [job.job_id for job in (await slurm.jobs(alice, JobQuery())).jobs].count(job_id) == 1
    await slurm.cancel(alice, job_id)
    await until(slurm, alice, job_id, "CANCELLED")


async def test_queries(slurm: Scheduler, alice: Principal, bob: Principal, cluster: Cluster, home: str) -> None:
    """Jobs are selected by user, name and account."""
    mine = await slurm.submit(alice, described(home, script=SLEEP, name="x,y", account="extra"))
    bobs = await slurm.submit(bob, described(str(cluster.user("bob").home), script=SLEEP, name="x"))

    async def listed(who: Principal, **query: object) -> set[str]:
        return {job.job_id for job in (await slurm.jobs(who, JobQuery(**query))).jobs}  # type: ignore[arg-type]

    assert mine in await listed(alice)
    assert bobs not in await listed(alice)
    assert {mine, bobs} <= await listed(alice, all_users=True)
    assert mine in await listed(alice, account="extra")
    assert mine not in await listed(alice, account="demo")
    assert await listed(alice, account="demo,extra") == set()
    assert mine in await listed(alice, name="x,y")
    assert await listed(alice, name="nobody calls a job this") == set()
    assert await listed(alice, name="x,y", all_users=True, window="1h") >= {mine}
    assert mine not in await listed(alice, name="x", all_users=True)
    with pytest.raises(Forbidden):
        await slurm.cancel(alice, bobs)
    with pytest.raises(Forbidden):
        await slurm.attach(alice, bobs, "true") if (await until(slurm, bob, bobs, "RUNNING")) else None
    await slurm.cancel(bob, bobs)
    await slurm.cancel(alice, mine)
    (job,) = await until(slurm, alice, mine, "CANCELLED")
    assert job.status.state == "CANCELLED"


async def test_cancelled_by_says_who(slurm: Scheduler, cluster: Cluster, alice: Principal, home: str) -> None:
    first = await slurm.submit(alice, described(home, script=SLEEP))
    second = await slurm.submit(alice, described(home, script=SLEEP))
    await until(slurm, alice, first, "RUNNING")
    await slurm.cancel(alice, first)
    cluster.slurm.run(["scancel", second])
    for job_id, killer in ((first, alice.username), (second, "root")):
        async with asyncio.timeout(300):
            while True:
                (job,) = await until(slurm, alice, job_id, "CANCELLED")
                if job.kill_request_user is not None:
                    break
                await asyncio.sleep(0.3)
        assert job.kill_request_user == killer


@pytest.mark.parametrize("job_id", ["999999999", "1;id", "$(id)", "abc", "", "-1", "1_", "1 2", "1\n", "1_[x]", "../1"])
async def test_unknown_and_malformed_ids(slurm: Scheduler, alice: Principal, job_id: str) -> None:
    for call in (slurm.job, slurm.metadata, slurm.cancel):
        with pytest.raises(JobNotFound, match="Job not found"):
            await call(alice, job_id)
    with pytest.raises(JobNotFound, match="Job not found"):
        await slurm.attach(alice, job_id, "true")


async def test_attach(either: Scheduler, cluster: Cluster, alice: Principal, home: str) -> None:
    """A command runs as a step of a job that runs."""
    job_id = await either.submit(alice, described(home, script=SLEEP))
    await until(either, alice, job_id, "RUNNING")
    await either.attach(alice, job_id, "echo \"$SLURM_JOB_ID $SLURM_STEP_ID\" '|' > step.out; env -0 > step.env")
    assert cluster.as_user("alice", ["cat", "step.out"]).stdout == f"{job_id} 0 |\n"
    assert b"LC_ALL" not in environment_of(cluster.as_user("alice", ["cat", "step.env"]).stdout.encode())
    with pytest.raises(BadRequest, match="boom"):
        await either.attach(alice, job_id, "echo boom >&2; exit 5")
    await either.cancel(alice, job_id)
    await until(either, alice, job_id, "CANCELLED")
    with pytest.raises(BadRequest, match=job_id):
        await either.attach(alice, job_id, "true")
    with pytest.raises(JobNotFound):
        await either.attach(alice, "999999999", "true")


async def test_attach_to_a_job_that_the_controller_has_forgotten(
    slurm: Scheduler, cluster: Cluster, alice: Principal, home: str
) -> None:
    job_id = await slurm.submit(alice, described(home, script="#!/bin/bash\ntrue\n"))
    await until(slurm, alice, job_id, "COMPLETED")
    await _only_history(slurm, cluster, alice, job_id)

    async def unknown(*_: object) -> None:
        raise JobNotFound(job_id)

    slurm.backend._commands.attach = unknown  # type: ignore[attr-defined]
    with pytest.raises(BadRequest, match="its state is COMPLETED"):
        await slurm.attach(alice, job_id, "true")


async def test_attach_that_takes_too_long_is_ended(
    slurm: Scheduler, cluster: Cluster, alice: Principal, home: str
) -> None:
    async with system(cluster, scheduler={"timeout": 3}) as made:
        job_id = await slurm.submit(alice, described(home, script=SLEEP))
        await until(slurm, alice, job_id, "RUNNING")
        with pytest.raises(TimedOut, match="Command srun timed out"):
            await made.scheduler.attach(alice, job_id, "exec sleep 1234")
        async with asyncio.timeout(300):
            while cluster.as_user("alice", ["pgrep", "-u", alice.username, "-f", "sleep 1234"], check=False).stdout:
                await asyncio.sleep(0.3)
        await slurm.cancel(alice, job_id)


async def test_status(slurm: Scheduler, cluster: Cluster, alice: Principal) -> None:
    """Nodes and partitions are listed with all that is known of them."""
    nodes = await slurm.nodes(alice)
    assert [node.name for node in nodes] == list(cluster.slurm.nodes)
    assert {node.cpus for node in nodes} == {cluster.slurm.options.cpus_per_node}
    assert nodes[0].features == ("demo", "fast")
    assert nodes[0].partitions == ("normal", "debug", "hidden")
    assert [item.name for item in await slurm.partitions(alice)] == ["normal", "debug"]
    hidden = await slurm.partitions(alice, show_hidden=True)
    assert [(item.name, item.state, item.total_nodes) for item in hidden] == [
        ("normal", "UP", 2),
        ("debug", "UP", 2),
        ("hidden", "UP", 2),
    ]
    assert set(await slurm.accounts(alice) or ()) == {Account("demo", default=True), Account("extra", default=False)}
    await slurm.ping(alice)


async def test_allocations(slurm: Scheduler, cluster: Cluster, alice: Principal) -> None:
    """What the controller counts of an account: its limit, what is used, what is left."""
    cluster.slurm.sacctmgr("modify", "account", "extra", "set", "GrpTRESMins=cpu=1000000")
    try:
        async with asyncio.timeout(120):
            while True:
                found = {one.account: one for one in await slurm.allocations(alice)}
                cpu = next((one for one in found["extra"].resources if one.resource == "cpu"), None)
                if cpu is not None and cpu.limit is not None:
                    break
                # The controller is told by the database.
                await asyncio.sleep(0.3)
        assert {one.account: one.default for one in found.values()} == {"demo": True, "extra": False}
        assert (cpu.scope, cpu.limit, cpu.left) == ("account", 1000000, 1000000 - cpu.used)
        assert all(one.limit is None for one in found["demo"].resources)
    finally:
        cluster.slurm.sacctmgr("modify", "account", "extra", "set", "GrpTRESMins=cpu=-1")


async def test_node_states(slurm: Scheduler, cluster: Cluster, alice: Principal) -> None:
    """The state of a node is read whatever its reason says."""
    node = cluster.slurm.nodes[1]
    cluster.slurm.scontrol("update", f"nodename={node}", "state=drain", 'reason=State=FAKE "x" | CPUTot=7')
    try:
        (found,) = [item for item in await slurm.nodes(alice) if item.name == node]
        assert "DRAIN" in found.state
        assert found.cpus == cluster.slurm.options.cpus_per_node
    finally:
        cluster.slurm.scontrol("update", f"nodename={node}", "state=resume")
        cluster.slurm.wait_for_nodes()


async def test_reservations(slurm: Scheduler, cluster: Cluster, alice: Principal, home: str) -> None:
    """Reservations are listed with their state and times."""
    assert await slurm.reservations(alice) == ()
    name = cluster.slurm.reserve("course", [alice.username], minutes=30, start="now+1hour")
    try:
        (found,) = await slurm.reservations(alice)
        assert (found.name, found.state, found.end_time - found.start_time) == (name, "inactive", 1800)
        assert found.node_list in cluster.slurm.nodes
        job_id = await slurm.submit(alice, described(home, script=SLEEP, reservation=name))
        await slurm.cancel(alice, job_id)
    finally:
        cluster.slurm.release(name)


async def test_without_slurmdbd_nothing_is_missing_and_sacct_is_not_asked_again(
    cluster: Cluster, plain: tuple[Slurm, Sshd], alice: Principal, home: str
) -> None:
    async with system(cluster, slurm=plain[0], sshd=plain[1]) as made:
        commands = _commands_of(made.pool)
        job_id = await made.scheduler.submit(alice, described(home, script="#!/bin/bash\nexit 2\n"))
        (job,) = await until(made.scheduler, alice, job_id, "FAILED")
        assert (job.status.exit_code, job.cluster) == (2, "plain")
        for query in (JobQuery(), JobQuery(all_users=True)):
            listed = await made.scheduler.jobs(alice, query)
            assert listed.missing == ()
            assert job_id in {job.job_id for job in listed.jobs}
        assert commands.count("sacct") == 1
        assert await made.scheduler.accounts(alice) is None


def _commands_of(pool: object) -> list[str]:
    """Return a list that from now on gets the name of each command that the pool's sessions run."""
    seen: list[str] = []
    perform = pool.perform  # type: ignore[attr-defined]

    async def counting(who: Principal, work: object, *, retry: bool) -> object:
        async def counted(session: Session) -> object:
            return await work(_Counting(session, seen))  # type: ignore[operator]

        return await perform(who, counted, retry=retry)

    pool.perform = counting  # type: ignore[attr-defined]
    return seen


class _Counting:
    def __init__(self, session: Session, seen: list[str]) -> None:
        self._session, self._seen = session, seen

    async def run(self, argv: list[str], **options: object) -> Completed:
        self._seen.append(argv[0])
        return await self._session.run(argv, **options)  # type: ignore[arg-type]

    def process(self, argv: list[str], **options: Any) -> AbstractAsyncContextManager[Process]:
        self._seen.append(argv[0])
        return self._session.process(argv, **options)


async def test_the_sites_own_variables_reach_each_command(
    cluster: Cluster, plain: tuple[Slurm, Sshd], alice: Principal, home: str
) -> None:
    """The commands of one cluster's login node turn to another cluster."""
    async with system(cluster, scheduler={"environment": dict(plain[0].environment)}) as made:
        job_id = await made.scheduler.submit(alice, described(home, script=SLEEP, name="by-environment"))
        (job,) = (await made.scheduler.job(alice, job_id)).jobs
        assert (job.name, job.cluster) == ("by-environment", "plain")
        await made.scheduler.cancel(alice, job_id)
        await until(made.scheduler, alice, job_id, "CANCELLED")


async def test_submission_is_not_tried_twice(cluster: Cluster, alice: Principal, home: str) -> None:
    async with system(cluster) as made:
        commands = _commands_of(made.pool)
        with pytest.raises(SubmissionRefused):
            await made.scheduler.submit(alice, described(home, script="no"))
        assert commands == ["sh"]


async def test_controller_down(cluster: Cluster, alice: Principal, home: str) -> None:
    """While the controller is down the history is served, and submissions are 503."""
    async with system(cluster) as made:
        slurm = made.scheduler
        job_id = await slurm.submit(alice, described(home, script="#!/bin/bash\n", name="before"))
        await until(slurm, alice, job_id, "COMPLETED")
        await _stored(cluster, job_id)
        cluster.slurm.slurmctld.stop()
        try:
            listed = await slurm.jobs(alice, JobQuery())
            assert listed.missing == ("live",)
            assert job_id in {job.job_id for job in listed.jobs}
            assert (await slurm.job(alice, job_id)).jobs[0].name == "before"
            for call in (
                slurm.submit(alice, described(home, script=SLEEP)),
                slurm.ping(alice),
                slurm.nodes(alice),
                slurm.cancel(alice, job_id),
            ):
                with pytest.raises(SchedulerUnavailable):
                    await call
        finally:
            cluster.slurm.slurmctld.start()
            cluster.slurm.wait_for_nodes()


async def test_slurmdbd_down(cluster: Cluster, alice: Principal, home: str) -> None:
    """While the database is down the live jobs are served."""
    assert cluster.slurm.slurmdbd is not None
    async with system(cluster) as made:
        slurm = made.scheduler
        job_id = await slurm.submit(alice, described(home, script=SLEEP, name="live"))
        cluster.slurm.slurmdbd.stop()
        try:
            listed = await slurm.jobs(alice, JobQuery())
            assert listed.missing == ("history",)
            assert job_id in {job.job_id for job in listed.jobs}
            assert (await slurm.job(alice, job_id)).missing == ("history",)
            assert await slurm.accounts(alice) is None
            await slurm.cancel(alice, job_id)
            await until(slurm, alice, job_id, "CANCELLED")
        finally:
            cluster.slurm.slurmdbd.start()


HEADINGS = {
    "%i": "JOBID", "%A": "JOBID", "%T": "STATE", "%r": "REASON", "%M": "TIME", "%l": "TIME_LIMIT", "%V": "SUBMIT_TIME",
    "%S": "START_TIME", "%e": "END_TIME", "%D": "NODES", "%N": "NODELIST", "%Q": "PRIORITY", "%u": "USER",
    "%g": "GROUP", "%a": "ACCOUNT", "%P": "PARTITION", "%Z": "WORK_DIR", "%j": "NAME",
}  # fmt: skip
"""What squeue writes above each column, in 22.05 as in 24.11."""
EXITS = {(22, 5): "{status}", (24, 11): "{code}:{signal}"}
"""What ``squeue --Format=exit_code`` prints, from which version on: the status of wait(2), then both numbers."""
ENDS = {"well": ("exit 0", 0, 0), "with a status": ("exit 3", 3, 0), "by a signal": ("kill -9 $$", 0, 9)}


async def test_squeue_says_what_its_version_is_known_to_say(
    plain: tuple[Slurm, Sshd], cluster: Cluster, alice: Principal, home: str
) -> None:
    """The installed one's headings and values are read as they are, and are those that the code was written for."""
    slurm, sshd = plain
    mark = new_mark()
    version = tuple(map(int, slurm.version.split(".")[:2]))
    form = EXITS[max(known for known in EXITS if known <= version)]
    async with system(cluster, slurm=slurm, sshd=sshd) as made:
        for how, (line, code, signal) in ENDS.items():
            job_id = await made.scheduler.submit(alice, described(home, script=f"#!/bin/sh\n{line}\n"))
            (job,) = await until(made.scheduler, alice, job_id, "COMPLETED", "FAILED")
            assert (job.status.exit_code, job.status.interrupt_signal) == (code, signal), how
            selection = Selection((JobId.parse(job_id),))
            said = slurm.run(["squeue", "--noheader", *squeue.select(selection), "--Format=exit_code:30"]).strip()
            assert said == form.format(status=code << 8 | signal, code=code, signal=signal), (how, version)
            assert values.wait_status(said) == (code, signal)
            listed = slurm.run(squeue.command(selection, mark))
            heading, row = (
                chunk.rstrip("\n").removesuffix(f"{mark}.").split(f"{mark},") for chunk in listed.split(f"{mark};")[1:]
            )
            assert dict(zip(squeue.COLUMNS, heading, strict=True)) == HEADINGS, version
            assert len(row) == len(squeue.COLUMNS)
            assert [record.job.job_id for record in squeue.parse(listed, mark)] == [job_id]
        nothing = slurm.run(squeue.command(Selection(user="nobody"), mark))
        assert squeue.answers(nothing.encode(), mark)
        assert squeue.parse(nothing, mark) == []
