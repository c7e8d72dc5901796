"""The demo cluster itself: its login nodes and Slurm behave as a site's do."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from hpcgate.config import load
from hpcgate.demo.cluster import Cluster, Options, merged
from hpcgate.demo.keys import Key
from hpcgate.demo.problems import DemoError
from hpcgate.demo.processes import wait_until
from hpcgate.demo.slurm import LIMITED_QOS, Slurm, SlurmOptions
from hpcgate.demo.sshd import Sshd
from hpcgate.demo.users import User
from tests.cluster.openssh import command_line, forward, sftp, ssh
from tests.cluster.scheduler_systems import takes_at_jwt


@pytest.fixture(scope="module")
def alice(cluster: Cluster) -> User:
    """The first user."""
    return cluster.user("alice")


@pytest.fixture
def start_sshd(cluster: Cluster) -> Iterator[Callable[..., Sshd]]:
    """Start login nodes that are stopped after the test."""
    started: list[Sshd] = []

    def start(**options: object) -> Sshd:
        started.append(cluster.start_sshd(**options))  # type: ignore[arg-type]
        return started[-1]

    yield start
    for login in started:
        login.stop()


def finished(cluster: Cluster, user: User, job: str, slurm: Slurm | None = None) -> str:
    """Wait for the job's end and return its final state."""
    state = ""

    def ended() -> bool:
        nonlocal state
        shown = cluster.as_user(user, ["scontrol", "show", "job", "-o", job], slurm=slurm).stdout
        state = shown.partition("JobState=")[2].split()[0]
        return state not in ("PENDING", "RUNNING", "COMPLETING")

    wait_until(ended, f"job {job} has ended", 120, interval=0.1)
    return state


# --- login nodes -----------------------------------------------------------------------------------------------------


def test_users_log_in_with_their_key_and_find_their_slurm(cluster: Cluster, alice: User) -> None:
    done = ssh(cluster.sshd, alice, 'id -un; id -Gn; pwd; echo "$SLURM_CONF"; sinfo -h -o %P')
    assert done.stdout.splitlines() == [
        alice.name,
        " ".join(alice.groups),
        str(alice.home),
        str(cluster.slurm.configuration),
        "normal*",
        "debug",
    ], done.stderr


def test_users_log_in_with_a_certificate_of_the_authority(cluster: Cluster, tmp_path: Path) -> None:
    bob, fresh = cluster.user("bob"), Key.make("fresh", "rsa")
    key = fresh.write(tmp_path / "fresh")
    past = time.time() - 7200

    def answer(certificate: str) -> int:
        file = tmp_path / "certificate.pub"
        file.write_text(certificate + "\n")
        return ssh(cluster.sshd, bob, "true", key=key, options=(f"CertificateFile={file}",)).returncode

    assert ssh(cluster.sshd, bob, "true", key=key).returncode == 255
    assert answer(cluster.authority.certify(fresh, [bob.name])) == 0
    assert answer(cluster.authority.certify(fresh, [bob.name], valid_after=past, lifetime=60)) == 255
    assert answer(cluster.authority.certify(fresh, ["somebody-else"])) == 255
    assert answer(Key.make("another ca").certify(fresh, [bob.name])) == 255


def test_the_certificate_files_of_the_users_are_good(
    cluster: Cluster, alice: User, start_sshd: Callable[..., Sshd]
) -> None:
    login = start_sshd(static_keys=False)
    option = f"CertificateFile={alice.certificate}"
    assert ssh(login, alice, "id", "-un", options=(option,)).stdout == f"{alice.name}\n"
    key = cluster.directory / "keys" / "only-the-key"
    alice.key.write(key)
    assert ssh(login, alice, "true", key=key).returncode == 255
    login = start_sshd(certificates=False)
    assert ssh(login, alice, "true", key=key).returncode == 0


def test_root_and_members_of_system_groups_stay_outside(cluster: Cluster, alice: User) -> None:
    keys = cluster.directory / "ssh" / "authorized_keys" / "root"
    keys.write_text(alice.key.public_line + "\n")
    try:
        assert ssh(cluster.sshd, alice, "true", name="root").returncode == 255
    finally:
        keys.unlink()
    assert "User root from 127.0.0.1 not allowed because a group is listed in DenyGroups" in cluster.sshd.log()


def test_forwarding_needs_the_jump_host(cluster: Cluster, alice: User) -> None:
    target = cluster.sshd
    assert "administratively prohibited" in forward(target, target, alice).stderr
    jump = cluster.start_jump_host()
    try:
        assert forward(jump, target, alice).stdout.startswith("SSH-2.0-OpenSSH")
    finally:
        jump.stop()


def test_sftp_is_there_unless_switched_off(cluster: Cluster, alice: User, start_sshd: Callable[..., Sshd]) -> None:
    assert sftp(cluster.sshd, alice, "pwd\n").stdout.strip().endswith(str(alice.home))
    assert sftp(start_sshd(sftp=False), alice, "pwd\n").returncode == 255
    server = start_sshd(sftp="/usr/lib/openssh/sftp-server")
    assert sftp(server, alice, "pwd\n").stdout.strip().endswith(str(alice.home))


def test_a_connection_has_as_many_sessions_as_it_may(alice: User, start_sshd: Callable[..., Sshd]) -> None:
    login = start_sshd(max_sessions=1)
    with command_line("ssh", login, alice, options=("ControlMaster=yes", "ControlPersist=no")) as argv:
        control = str(alice.private_key.parent / f"control-{login.port}")
        master = subprocess.Popen(
            [*argv[:-1], "-S", control, argv[-1], "echo in; cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        with master:
            assert master.stdout is not None
            assert master.stdout.readline() == "in\n"
            second = subprocess.run(
                ["ssh", "-F", "none", "-S", control, login.host, "echo two"],
                capture_output=True,
                text=True,
                timeout=600,
                check=False,
            )
    assert "Session open refused by peer" in second.stderr


def test_a_login_node_hangs_goes_on_dies_and_comes_back(alice: User, start_sshd: Callable[..., Sshd]) -> None:
    host_key = Key.make("pinned", "ecdsa")
    login = start_sshd(host_key=host_key, max_startups="10:30:100", extra="LoginGraceTime 7", match_extra="Banner none")
    assert login.host_public_key == host_key.public_line
    login.suspend()
    with socket.create_connection((login.host, login.port), timeout=0.3) as silent:
        with pytest.raises(TimeoutError):
            silent.recv(1)
        login.resume()
        silent.settimeout(120)
        assert silent.recv(7) == b"SSH-2.0"
    port, pid = login.port, login.pid
    with (
        command_line("ssh", login, alice) as argv,
        subprocess.Popen(
            [*argv, "echo in; sleep 60"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as session,
    ):
        assert session.stdout is not None
        assert session.stdout.readline() == "in\n"
        login.stop()
        assert session.wait(120) == 255
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((login.host, port), timeout=1)
    login.start()
    assert (login.port, login.host_public_key) == (port, host_key.public_line)
    assert login.pid != pid
    assert ssh(login, alice, "echo", "back").stdout == "back\n"
    login.restart()
    assert ssh(login, alice, "echo", "again").stdout == "again\n"


def test_a_bad_option_is_an_error_with_the_words_of_sshd(start_sshd: Callable[..., Sshd]) -> None:
    with pytest.raises(DemoError, match="Bad configuration option: NoSuchKeyword"):
        start_sshd(extra="NoSuchKeyword yes")


# --- Slurm -----------------------------------------------------------------------------------------------------------


def test_a_job_runs_soon_as_its_user_and_is_accounted_for(cluster: Cluster, alice: User) -> None:
    job = cluster.as_user(alice, ["sbatch", "--parsable", "--wrap", "id -un; echo $SLURM_JOB_ACCOUNT"]).stdout.strip()
    assert finished(cluster, alice, job) == "COMPLETED"
    assert (alice.home / f"slurm-{job}.out").read_text() == f"{alice.name}\ndemo\n"
    wait_until(
        lambda: (
            cluster.as_user(alice, ["sacct", "-nPXj", job, "-o", "state,account,user"]).stdout
            == f"COMPLETED|demo|{alice.name}\n"
        ),
        "sacct knows the job",
        20,
        interval=0.2,
    )


def test_there_are_two_nodes_and_three_partitions_one_of_them_hidden(cluster: Cluster, alice: User) -> None:
    done = cluster.as_user(alice, ["srun", "-N2", "--partition=debug", "printenv", "SLURMD_NODENAME"])
    assert sorted(done.stdout.split()) == list(cluster.slurm.nodes)
    assert cluster.as_user(alice, ["sinfo", "-h", "-o", "%R %l"]).stdout.splitlines() == [
        "normal infinite",
        "debug 30:00",
    ]
    assert "hidden" in cluster.as_user(alice, ["sinfo", "-h", "-a", "-o", "%R"]).stdout.split()


def test_users_have_two_accounts_and_a_limited_quality_of_service(cluster: Cluster, alice: User) -> None:
    listed = cluster.slurm.sacctmgr("-nP", "show", "associations", f"user={alice.name}", "format=account,defaultqos")
    assert sorted(listed.splitlines()) == ["demo|normal", "extra|normal"]
    submit = ["sbatch", "--hold", "--parsable", f"--qos={LIMITED_QOS}", "--wrap", "true"]
    job = cluster.as_user(alice, submit).stdout.strip()
    try:
        with pytest.raises(DemoError, match="QOSMaxSubmitJobPerUserLimit"):
            cluster.as_user(alice, submit)
    finally:
        cluster.as_user(alice, ["scancel", job])
    with pytest.raises(DemoError, match="Invalid account"):
        cluster.as_user(alice, ["sbatch", "--account=nobodys", "--wrap", "true"])


def test_a_reservation_is_for_its_users(cluster: Cluster, alice: User) -> None:
    name = cluster.slurm.reserve("for-alice", [alice.name], minutes=5)
    try:
        assert "ReservationName=for-alice" in cluster.slurm.scontrol("show", "reservation")
        assert cluster.as_user(alice, ["srun", f"--reservation={name}", "echo", "in"]).stdout == "in\n"
        with pytest.raises(DemoError, match=r"[Rr]eservation"):
            cluster.as_user("bob", ["srun", f"--reservation={name}", "true"])
    finally:
        cluster.slurm.release(name)
    assert "No reservations" in cluster.slurm.scontrol("show", "reservation")


def test_an_independent_slurm_without_accounting(cluster: Cluster, alice: User) -> None:
    plain, login = cluster.start_plain_slurm("apart")
    try:
        assert plain.slurmdbd is None
        job = ssh(login, alice, "sbatch", "--parsable", "--wrap", "true").stdout.strip()
        assert finished(cluster, alice, job, plain) == "COMPLETED"
        assert "disabled" in ssh(login, alice, "sacct").stderr
        assert cluster.as_user(alice, ["sinfo", "-h", "-N", "-o", "%N"], slurm=plain).stdout.split() == ["apart-n1"] * 2
        with pytest.raises(FileExistsError):
            cluster.start_slurm(SlurmOptions(name="apart"))
        # Single daemons stop and come back.
        plain.slurmctld.stop()
        with pytest.raises(DemoError, match=r"Unable to contact|Connection refused"):
            cluster.as_user(alice, ["squeue"], slurm=plain)
        plain.slurmctld.start()
        assert job in cluster.as_user(alice, ["squeue", "-h", "-t", "all", "-o", "%i"], slurm=plain).stdout
    finally:
        login.stop()
        plain.stop()
    with pytest.raises(DemoError, match="without accounting"):
        cluster.start_slurm(SlurmOptions(name="odd", accounting=False, rest=True))


def test_slurmrestd_takes_the_tokens_of_the_provider(cluster: Cluster, alice: User) -> None:
    slurm = cluster.start_slurm(SlurmOptions(name="rest", rest=True, nodes=1))
    try:
        settings = cluster.cluster_settings(slurm=slurm)["scheduler"]
        assert settings["api_url"] == slurm.rest_url
        version = settings["api_version"]

        def ask(token: str) -> httpx.Response:
            headers = {"X-SLURM-USER-NAME": alice.name, "X-SLURM-USER-TOKEN": token}
            return httpx.get(f"{slurm.rest_url}/slurm/v{version}/nodes", headers=headers, timeout=600, trust_env=False)

        answer = ask(cluster.token(alice, typ="JWT"))
        assert [node["name"] for node in answer.json()["nodes"]] == ["rest-n1"]
        assert not ask(cluster.token("bob", typ="JWT")).json().get("nodes")
        # Why the provider calls its tokens JWT when there is a slurmrestd.
        assert bool(ask(cluster.token(alice, typ="at+jwt")).json().get("nodes")) is takes_at_jwt()
    finally:
        slurm.stop()


# --- the rest --------------------------------------------------------------------------------------------------------


def test_commands_run_as_the_user(cluster: Cluster, alice: User) -> None:
    script = 'id -un; id -Gn; pwd; echo "$HOME $EXTRA"; umask; cat; printf "\\377"'
    done = cluster.as_user(alice, ["sh", "-c", script], input="in", env={"EXTRA": "more"})
    groups = " ".join(alice.groups)
    assert done.stdout == f"{alice.name}\n{groups}\n{alice.home}\n{alice.home} more\n0022\nin\udcff"
    assert cluster.as_user("bob", ["pwd"], cwd=cluster.scratch).stdout == f"{cluster.scratch}\n"
    assert cluster.as_user("bob", ["false"], check=False).returncode == 1
    with pytest.raises(DemoError, match="no demo user 'carol'"):
        cluster.as_user("carol", ["true"])


def test_users_cannot_read_what_is_secret_nor_each_others_files(cluster: Cluster, alice: User) -> None:
    readable = cluster.as_user(
        alice, ["find", str(cluster.directory), "-type", "f", "-readable", "-print"], check=False
    ).stdout.splitlines()
    names = {Path(path).name for path in readable}
    assert "slurm.conf" in names
    assert not names & {"keys.json", "idp.json", "munge.key", "slurmdbd.conf", "service.client_secret", "user_ca"}
    assert not {name for name in names if name.endswith((".host_key", ".client_secret"))}
    with pytest.raises(DemoError, match="Permission denied"):
        cluster.as_user(alice, ["touch", str(cluster.user("bob").home / "x")])
    cluster.as_user(alice, ["touch", str(cluster.scratch / "shared")])
    with pytest.raises(DemoError, match="not permitted"):
        cluster.as_user("bob", ["rm", "-f", str(cluster.scratch / "shared")])
    (cluster.scratch / "shared").unlink()


def test_a_small_file_system_gets_full(cluster: Cluster, alice: User) -> None:
    path = cluster.mount_tmpfs("64k", user=alice)
    assert path.is_mount()
    with pytest.raises(DemoError, match=os.strerror(errno.ENOSPC)):
        cluster.as_user(alice, ["dd", "if=/dev/zero", f"of={path / 'big'}", "bs=1k", "count=100"])
    assert cluster.mount_tmpfs("64k", "named") == cluster.scratch / "named"
    with pytest.raises(DemoError, match=r"(?i)wrong|bad|unknown|invalid"):
        cluster.mount_tmpfs("no size")


def test_the_written_configuration_loads_and_bears_no_secret(cluster: Cluster, tmp_path: Path) -> None:
    entries = [cluster.cluster_settings(), cluster.cluster_settings("other", ssh={"timeout": {"login": 3}})]
    path = cluster.write_gateway_config(tmp_path / "gateway.yaml", clusters=entries, apis_root_path="/hpc")
    settings = load(path)
    assert [entry.name for entry in settings.clusters] == ["demo", "other"]
    assert settings.clusters[1].ssh.timeout.login == 3
    assert settings.clusters[1].ssh.timeout.connection == cluster.options.patience / 2
    text = path.read_text()
    assert "apis_root_path: /hpc" in text
    assert cluster.idp.service_client_secret not in text
    assert "PRIVATE KEY" not in text


def test_settings_merge_mapping_by_mapping() -> None:
    base = {"a": {"b": 1, "c": [1]}, "d": 2, "e": 3}
    assert merged(base, {"a": {"c": [2]}, "d": None, "f": {"g": 4}}) == {
        "a": {"b": 1, "c": [2]},
        "e": 3,
        "f": {"g": 4},
    }
    assert base == {"a": {"b": 1, "c": [1]}, "d": 2, "e": 3}


def test_what_is_not_running_says_so() -> None:
    idle = Cluster(Options())
    assert repr(idle) == "<Cluster, not running>"
    with pytest.raises(DemoError, match="not running"):
        _ = idle.keeper
    with pytest.raises(DemoError, match="not running"):
        idle.start_jump_host()
    idle.stop()
