"""The command `firecrest`, run as a user runs it."""

import dataclasses
import hashlib
import importlib.metadata
import os
import stat
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

from hpcgate.demo.cluster import Cluster, Gateway
from tests.clients.clients import CommandLine
from tests.people import Person

Put = Callable[[Path, bytes], Path]


def test_status(cli: CommandLine, cluster: Cluster) -> None:
    """The command shows systems, nodes, partitions and reservations."""
    assert cli("server-version").stdout == "2.6.0\n"
    assert {system["name"] for system in cli.json("systems")} == {"demo", "commands", "plain"}
    assert {node["name"] for node in cli.json("get-nodes")} == set(cluster.slurm.nodes)
    assert {partition["name"] for partition in cli.json("get-partitions", "--system", "plain")} == {"normal", "debug"}
    name = cluster.slurm.reserve("clients-command", [cluster.user("alice").name], start="now+2hours")
    try:
        assert [reservation["name"] for reservation in cli.json("get-reservations")] == [name]
    finally:
        cluster.slurm.release(name)


def test_who_am_i(cli: CommandLine, gateway: Gateway, cluster: Cluster, alice: Person) -> None:
    """The command shows its user, whether it logs in by a secret or is given a token."""
    user = alice.user
    said = cli("id", FIRECREST_CLIENT_AUTH_METHOD="client_secret_basic").stdout
    assert said.startswith(f"uid={user.uid}({user.name}) gid={user.gid}({user.groups[0]}) groups=")
    environment = {name: value for name, value in cli.environment.items() if name in ("PATH", "HOME", "FIRECREST_URL")}
    environment |= {"FIRECREST_TOKEN_COMMAND": f"echo {cluster.token(user)}"}
    with_token = dataclasses.replace(cli, environment=environment)
    assert with_token.json("id", "--json", "-s", "commands")["user"]["name"] == user.name


def test_options_of_the_command_itself(cli: CommandLine, gateway: Gateway, cluster: Cluster, alice: Person) -> None:
    bare = dataclasses.replace(cli, environment={"PATH": cli.environment["PATH"], "HOME": cli.environment["HOME"]})
    version = importlib.metadata.version("pyfirecrest")
    assert version in bare("--version").stdout
    secret = ("--client-id", alice.user.client_id, "--client-secret", alice.user.client_secret)
    tokens = (*secret, "--token-url", cluster.idp.token_url, "--client-auth-method", "client_secret_post")
    patience = ("--timeout", "60", "--auth-timeout", "60", "--api-version", "2.6.0")
    url = ("--firecrest-url", gateway.url)
    assert len(bare.json(*url, *tokens, *patience, "systems")) == 3
    command = f"echo {cluster.token(alice.user)}"
    assert len(bare.json(*url, "--token-command", command, "systems")) == 3
    (cli.directory / "settings.yaml").write_text(f"firecrest_url: {gateway.url}\ntoken_command: {command}\n")
    assert len(bare.json("--config", "settings.yaml", "systems")) == 3
    told = bare(*url, "--token-command", command, "--debug", "--verbose", "systems", check=False)
    assert told.returncode == 0
    assert cluster.token(alice.user) not in told.stdout + told.stderr


def test_files(cli: CommandLine, place: Path, alice: Person) -> None:
    """The command lists, moves and changes files."""
    folder, content = place / "a" / "b c", b"".join(b"line %d\n" % number for number in range(1, 21))
    cli("mkdir", "-p", folder)
    assert folder.is_dir()
    (cli.directory / "local.txt").write_bytes(content)
    cli("upload", "local.txt", folder, "data.txt")
    path = folder / "data.txt"
    assert path.read_bytes() == content
    assert path.owner() == alice.user.name

    cli("chmod", path, "640")
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    cli("chown", "--group", alice.user.groups[1], path)
    assert path.group() == alice.user.groups[1]
    cli("chown", "--owner", alice.user.name, path, "-s", "commands")
    assert path.owner() == alice.user.name
    cli("symlink", path, folder / ".link")
    assert os.readlink(folder / ".link") == str(path)

    listed = {entry["name"]: entry for entry in cli.json("ls", "-a", "-R", "-n", "-L", place / "a")}
    assert set(listed) == {"b c", "b c/data.txt", "b c/.link"}
    assert listed["b c/.link"]["size"] == str(len(content))
    assert listed["b c/data.txt"]["user"] == str(alice.user.uid)
    assert cli.json("stat", "-L", folder / ".link")["ino"] == path.stat().st_ino
    assert cli("file", path).stdout == "ASCII text\n"
    assert cli.json("checksum", path)["checksum"] == hashlib.sha256(content).hexdigest()

    assert cli("head", "-n", "2", path).stdout == "line 1\nline 2\n"
    assert cli.json("head", "-c", "-8", "--json", path)["content"] == content[:-8].decode()
    assert cli("tail", "-n", "+19", path).stdout == "line 19\nline 20\n"
    assert cli.json("tail", "-c", "8", "--json", path)["content"] == "line 20\n"
    cli("download", path, "fetched.txt")
    assert (cli.directory / "fetched.txt").read_bytes() == content

    cli("rm", "--force", folder)
    assert not folder.exists()
    assert folder.parent.exists()


def test_archives(cli: CommandLine, place: Path, alice: Person, put: Put) -> None:
    """The command packs and unpacks archives."""
    source, target = place / "source", place / "target"
    for directory in (source, target):
        directory.mkdir()
        os.chown(directory, alice.user.uid, alice.user.gid)
    put(source / "one.txt", b"one")
    put(source / "two.bin", b"two")
    (source / "link").symlink_to(put(place / "elsewhere", b"from elsewhere"))
    cli("compress", "--dereference", source, place / "all.tar.gz")
    with tarfile.open(place / "all.tar.gz") as archive:
        assert archive.getmember("source/link").isreg()
    cli("compress", "--regexp", r".*/one\.txt", source, place / "some.tar.gz")
    cli("extract", place / "some.tar.gz", target)
    (found,) = (path for path in target.rglob("*") if path.is_file())
    assert (found.name, found.read_bytes()) == ("one.txt", b"one")


def test_jobs(cli: CommandLine, cluster: Cluster, place: Path, alice: Person, put: Put) -> None:
    """The command submits a job, follows it, attaches to it and cancels it."""
    (cli.directory / "job.sh").write_text('#!/bin/bash\n#SBATCH -J cli -o out.txt\necho "$GREETING"\n')
    job_id = cli.json(
        "submit", "--working-dir", place, "-e", "GREETING=a b=c", "--account", "extra", "--partition", "debug", "job.sh"
    )["jobId"]
    (job,) = cli.json("wait-for-job", job_id)
    assert (job["status"]["state"], job["account"], job["partition"]) == ("COMPLETED", "extra", "debug")
    assert (place / "out.txt").read_text() == "a b=c\n"

    put(place / "long.sh", b"#!/bin/bash\n#SBATCH -J long\ntouch started\nsleep 60\n")
    name = cluster.slurm.reserve("clients-jobs", [alice.user.name])
    try:
        script = f"remote://{place}/long.sh"
        long_id = cli.json("submit", "--working-dir", place, "--reservation", name, script)["jobId"]
        assert f"Reservation={name}" in alice.run("scontrol", "show", "job", long_id)
        end = time.monotonic() + 120
        while not (place / "started").exists():
            assert time.monotonic() < end
            time.sleep(0.05)
        (job,) = cli.json("job-info", long_id)
        assert (job["jobId"], job["status"]["state"]) == (long_id, "RUNNING")
        cli("attach-to-job", long_id, f"echo $SLURM_JOB_ID > {place}/attached")
        assert (place / "attached").read_text() == f"{long_id}\n"
        (metadata,) = cli.json("job-metadata", long_id)
        assert metadata["script"] == (place / "long.sh").read_text()
        cli("cancel", long_id)
        while "JobState=CANCELLED" not in alice.run("scontrol", "show", "job", long_id):
            assert time.monotonic() < end
            time.sleep(0.05)
    finally:
        cluster.slurm.release(name)
    found = cli.json("job-info", "--all-users", "--account", "extra", "--name", "cli", "--time-window", "1h")
    assert job_id in {job["jobId"] for job in found}
    assert {(job["account"], job["name"]) for job in found} == {("extra", "cli")}


def test_failures(cli: CommandLine, place: Path) -> None:
    """The command ends with 1 and says what failed."""
    missing = cli("stat", place / "missing", check=False)
    assert missing.returncode == 1
    assert "No such file or directory" in missing.stdout
    denied = cli("systems", check=False, FIRECREST_CLIENT_SECRET="wrong")
    assert denied.returncode == 1
    assert "could not fetch token" in denied.stdout
