"""A demo leaves nothing behind, however it ends; two of them, and an ordinary user's, do not disturb each other."""

from __future__ import annotations

import grp
import json
import os
import pwd
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from hpcgate.demo.cluster import Cluster, Options
from hpcgate.demo.keeper import (
    JOURNAL,
    PREFIX,
    PRIVILEGE_SEPARATION_DIRECTORY,
    descendants,
    processes,
    processes_of,
)
from hpcgate.demo.ports import listens
from hpcgate.demo.problems import DemoError
from hpcgate.demo.processes import wait_until
from hpcgate.demo.slurm import SlurmOptions
from tests.cluster.openssh import command_line, ssh

SMALL = Options(slurm=SlurmOptions(accounting=False, nodes=1))
"""The quickest cluster."""

DEMO = """
import json, sys, time
from hpcgate.demo.cluster import Cluster, Options
from hpcgate.demo.slurm import SlurmOptions

def say(**facts):
    sys.stdout.write(json.dumps(facts) + "\\n")  # one call: many threads report
    sys.stdout.flush()

cluster = Cluster(
    Options(slurm=SlurmOptions(accounting="accounting" in sys.argv, nodes=1)),
    lambda step: say(step=step, directory=str(getattr(cluster, "directory", "")),
                     users=[user.name for user in getattr(cluster, "users", ())]),
)
with cluster:
    user = cluster.users[0]
    cluster.as_user(user, ["sbatch", "--output=/dev/null", "--wrap", "sleep 60"])
    if "mount" in sys.argv:
        cluster.mount_tmpfs("64k")
    say(up=True, directory=str(cluster.directory), users=[user.name for user in cluster.users],
        port=cluster.sshd.port, key=str(user.private_key), jwks=cluster.idp.jwks_url,
        out=cluster.as_user(user, ["srun", "--immediate=10", "id", "-un"]).stdout)
    if "stay" in sys.argv:
        time.sleep(60)
"""


def traces(directory: str, users: list[str]) -> list[str]:
    """Return what is left of a demo on this machine."""
    found = [directory] if Path(directory).exists() else []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            about = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
            place = os.readlink(entry / "cwd")
        except OSError:
            continue
        if directory.encode() in about or place.startswith(directory):
            found.append(f"process {entry.name}: {about[:200]!r}")
    accounts = {account.pw_name for account in pwd.getpwall()} | {group.gr_name for group in grp.getgrall()}
    found += [name for name in accounts if name in users or name.rpartition("-")[2] in {_mark(user) for user in users}]
    found += [account.pw_name for account in pwd.getpwall() if account.pw_dir.startswith(directory)]
    found += [line for line in Path("/proc/mounts").read_text().splitlines() if directory in line]
    found += [
        f"{table}: {line}"
        for table in ("/etc/subuid", "/etc/subgid")
        if Path(table).exists()
        for line in Path(table).read_text().splitlines()
        if line.partition(":")[0] in users
    ]
    return found


def _mark(user: str) -> str:
    return user.rpartition("-")[2] if "-" in user else "\0"


def test_a_cluster_leaves_nothing_behind() -> None:
    with Cluster(SMALL) as cluster:
        directory, users = str(cluster.directory), [user.name for user in cluster.users]
        keeper = cluster.keeper.pid
        alice = cluster.users[0]
        cluster.mount_tmpfs("64k")
        cluster.as_user(alice, ["sbatch", "--wrap", "sleep 60 & wait"])
        # A process that a user detached from everything.
        ssh(cluster.sshd, alice, "setsid nohup sleep 61 </dev/null >/dev/null 2>&1 & mkdir shut; chmod 0 shut")
        assert len(traces(directory, users)) > 6
        wait_until(
            lambda: any(b"sleep\x0061" in _cmdline(pid) for pid in descendants(keeper)), "the process detached", 120
        )
        processes = descendants(keeper)
        assert len(processes) > 6
    assert traces(directory, users) == []
    assert not any(_cmdline(pid).startswith(b"sleep\x0061") for pid in processes)
    cluster.stop()


def _cmdline(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def test_two_demos_do_not_disturb_each_other(cluster: Cluster) -> None:
    user = cluster.user("alice")
    with Cluster(SMALL) as other:
        assert other.directory != cluster.directory
        assert not {user.name for user in other.users} & {user.name for user in cluster.users}
        assert other.as_user("alice", ["srun", "id", "-un"]).stdout == f"{other.users[0].name}\n"
        assert cluster.as_user(user, ["srun", "id", "-un"]).stdout == f"{user.name}\n"
        for one in (cluster, other):
            assert httpx.get(one.idp.jwks_url, trust_env=False).status_code == 200
    assert cluster.as_user(user, ["srun", "id", "-un"]).stdout == f"{user.name}\n"
    assert cluster.sshd.daemon.running
    assert cluster.start_sshd().daemon.running


@pytest.mark.parametrize(
    ("moment", "number"),
    [
        ("making users and keys", signal.SIGINT),
        ("starting sshd", signal.SIGINT),
        ("starting sshd", signal.SIGKILL),
        ("starting mariadbd", signal.SIGINT),
        ("starting slurmctld", signal.SIGTERM),
        ("up", signal.SIGINT),
        ("up", signal.SIGKILL),
    ],
)
def test_nothing_is_left_of_a_demo_that_is_interrupted(moment: str, number: signal.Signals) -> None:
    arguments = ["stay", "mount"] + (["accounting"] if moment == "starting mariadbd" else [])
    with subprocess.Popen(
        [sys.executable, "-c", DEMO, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as demo:
        assert demo.stdout is not None
        facts: dict[str, object] = {}
        while facts.get("step") != moment and not (moment == "up" and facts.get("up")):
            line = demo.stdout.readline()
            assert line, demo.stderr and demo.stderr.read()
            facts = json.loads(line)
        if moment == "making users and keys":
            # There is a directory in a moment, found by the keeper that makes it.
            wait_until(lambda: _directory_of(demo.pid) is not None, "the keeper runs", 120, interval=0.001)
            facts |= {"directory": _directory_of(demo.pid), "users": []}
        directory, users = str(facts["directory"]), list(facts["users"])  # type: ignore[call-overload]
        assert Path(directory).name.startswith(PREFIX)
        assert traces(directory, users)
        os.killpg(demo.pid, number)
        demo.communicate(timeout=600)
        assert demo.returncode != 0
    wait_until(
        lambda: traces(directory, users) == [], "nothing is left", 120, detail=lambda: f": {traces(directory, users)}"
    )


def _directory_of(demo: int) -> str | None:
    """Return the directory of a demo that has just begun: the file that its keeper keeps open lies there."""
    for pid in descendants(demo):
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            try:
                target = Path(os.readlink(descriptor))
            except OSError:
                continue
            if target.name == JOURNAL:
                return str(target.parent)
    return None


def test_a_start_that_fails_leaves_nothing_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    broken = Options(slurm=SlurmOptions(accounting=False, nodes=1, extra="NoSuchParameter=1"))
    cluster = Cluster(broken, steps.append)
    with pytest.raises(DemoError, match="NoSuchParameter"):
        cluster.start()
    assert "starting slurmctld" in steps
    assert traces(str(cluster.directory), [user.name for user in cluster.users]) == []


@pytest.fixture
def apart(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Demos of this test find each other, and those that other tests start at the same time find none of them."""
    with tempfile.TemporaryDirectory(prefix="apart-", dir="/tmp") as name:
        Path(name).chmod(0o755)
        monkeypatch.setattr(tempfile, "tempdir", name)
        yield


@pytest.mark.usefixtures("apart")
def test_users_of_a_demo_whose_keeper_was_killed_go_with_the_next_demo() -> None:
    first = Cluster(SMALL)
    first.start()
    directory, users = str(first.directory), [user.name for user in first.users]
    path = first.mount_tmpfs("64k")
    uid = first.users[0].uid
    with (
        command_line("ssh", first.sshd, first.users[0]) as argv,
        subprocess.Popen([*argv, "echo in; sleep 62"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as session,
    ):
        assert session.stdout is not None
        assert session.stdout.readline() == b"in\n"
        os.kill(first.keeper.pid, signal.SIGKILL)
        wait_until(lambda: not listens(first.sshd.port), "sshd has died", 120)
        with pytest.raises(DemoError, match="gone before the end"):
            first.stop()
        assert path.is_mount()
        assert processes_of(uid), "the session outlives its sshd"
        with Cluster(SMALL):
            assert traces(directory, users) == []
            assert processes_of(uid) == []
        assert session.wait(120) == 255


def test_the_directory_of_sshd_goes_with_the_last_that_needs_it() -> None:
    with Cluster(SMALL):
        assert PRIVILEGE_SEPARATION_DIRECTORY.is_dir()
        ours = (PRIVILEGE_SEPARATION_DIRECTORY / ".made-by-hpcgate-demo").exists()

    def as_it_should_be() -> bool:
        needed = any(process.name == "sshd" for process in processes())
        return PRIVILEGE_SEPARATION_DIRECTORY.exists() == (needed or not ours)

    # Other demos may come and go on this machine meanwhile.
    wait_until(as_it_should_be, "it is there only if needed", 120)


@pytest.fixture
def ordinary_user(tmp_path: Path) -> Iterator[str]:
    """A user of this machine without any rights."""
    name = f"plain-{secrets.token_hex(2)}"
    subprocess.run(["useradd", "--create-home", "--home-dir", f"/tmp/{name}", "--password", "*", name], check=True)
    yield name
    subprocess.run(["userdel", "--remove", name], check=True, capture_output=True)
    assert not Path(f"/tmp/{name}").exists()


def test_an_ordinary_user_runs_everything_alone(ordinary_user: str, cluster: Cluster) -> None:
    home = Path(f"/tmp/{ordinary_user}")
    before = {path.name for path in home.iterdir()}
    # The interpreter may lie where only root can read: the right to read goes along, and nothing else.
    lower = ["setpriv", f"--reuid={ordinary_user}", f"--regid={ordinary_user}", "--init-groups", "--no-new-privs"]
    lower += ["--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search"]
    lower += ["--bounding-set=-all,+dac_read_search"]
    with subprocess.Popen(
        [*lower, sys.executable, "-c", DEMO, "accounting"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd="/",
        env={"PATH": "/usr/bin:/bin", "HOME": str(home)},
    ) as demo:
        output, errors = demo.communicate(timeout=300)
    assert demo.returncode == 0, errors
    facts = json.loads(output.splitlines()[-1])
    assert facts["users"] == [ordinary_user]
    assert facts["out"] == f"{ordinary_user}\n"
    assert not Path(facts["directory"]).exists()
    assert {path.name for path in home.iterdir()} == before
    uid = pwd.getpwnam(ordinary_user).pw_uid
    assert processes_of(uid) == []
