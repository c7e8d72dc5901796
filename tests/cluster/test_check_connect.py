"""`hpcgate check --connect` against the real cluster: what works, and what is said of what does not."""

import http.server
import json
import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from hpcgate.demo.cluster import Cluster
from hpcgate.demo.keeper import descendants
from hpcgate.demo.keys import Key
from tests.transfers.object_store import ObjectStore

GOOD, WARNING, BAD = "\N{CHECK MARK}", "!", "\N{BALLOT X}"


def check(cluster: Cluster, tmp_path: Path, **ssh: Any) -> tuple[int, str]:
    patient = {"timeout": {"connection": 60, "login": 60, "command_execution": 60}, **ssh}
    config = cluster.write_gateway_config(
        tmp_path / "config.yaml", clusters=[cluster.cluster_settings("demo", ssh=patient)]
    )
    argv = [sys.executable, "-m", "hpcgate.cli", "check", str(config), "--connect"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=300)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout


def fingerprint(key: Key) -> str:
    shown = subprocess.run(
        ["ssh-keygen", "-lf", "-"], input=key.public_line, capture_output=True, text=True, check=True
    )
    return shown.stdout.split()[1]


def host_key(cluster: Cluster) -> str:
    return " ".join(cluster.sshd.host_public_key.split()[:2])


def advice(said: str, words: str) -> str:
    """Return what stands behind the arrow of the first line with these words."""
    return next(line for line in said.splitlines() if words in line).partition(" \N{RIGHTWARDS ARROW} ")[2]


def test_a_key_that_is_expected(cluster: Cluster, tmp_path: Path) -> None:
    status, said = check(cluster, tmp_path)
    assert status == 0
    assert f"\N{CHECK MARK} demo: login node {cluster.sshd.host}:{cluster.sshd.port} shows ssh-ed25519 " in said
    assert fingerprint(cluster.sshd.host_key) in said
    assert "accepted" in said
    # Nobody tried to log in.
    assert "hpcgate-check" not in cluster.sshd.log()


def test_another_key(cluster: Cluster, tmp_path: Path) -> None:
    """A login node that shows another host key than the expected one is refused, with advice."""
    other = Key.make("other")
    status, said = check(cluster, tmp_path, host_keys=[other.public_line])
    assert status == 1
    assert "\N{BALLOT X} demo: login node" in said
    assert f"refused, for this is expected: {fingerprint(other)}" in said
    assert fingerprint(cluster.sshd.host_key) in said
    assert advice(said, "refused, for this").endswith(f"add to ssh.host_keys: {host_key(cluster)}")


def test_no_key_is_configured(cluster: Cluster, tmp_path: Path) -> None:
    status, said = check(cluster, tmp_path, host_keys=[])
    assert status == 0
    assert "! demo: login node" in said
    assert advice(said, "nothing says what to expect").endswith(f"set ssh.host_keys: {host_key(cluster)}")


def test_known_hosts(cluster: Cluster, tmp_path: Path) -> None:
    """Host keys are looked for in the file that the configuration names."""
    known = tmp_path / "known_hosts"
    known.write_text(cluster.sshd.known_hosts_line + "\n")
    assert check(cluster, tmp_path, host_keys=[], known_hosts=str(known))[0] == 0
    known.write_text("elsewhere.example.org " + cluster.sshd.host_public_key + "\n")
    status, said = check(cluster, tmp_path, host_keys=[], known_hosts=str(known))
    assert status == 1
    # The line to add is there, and it is the right one.
    line = advice(said, "has no key for the login node of demo").partition(f"add to {known}: ")[2]
    known.write_text(line + "\n")
    assert check(cluster, tmp_path, host_keys=[], known_hosts=str(known))[0] == 0


def test_nothing_listens(cluster: Cluster, tmp_path: Path) -> None:
    """A port where nothing listens is an error with advice."""
    status, said = check(cluster, tmp_path, port=cluster.take_port())
    assert status == 1
    assert "ssh -v" in advice(said, "does not answer")


@pytest.mark.parametrize("trusted", [True, False])
def test_jump_hosts(cluster: Cluster, tmp_path: Path, trusted: bool) -> None:
    """The key of the jump host is checked, too."""
    jump = cluster.start_jump_host()
    keys = [jump.host_public_key if trusted else Key.make("other").public_line]
    status, said = check(cluster, tmp_path, proxy_host=jump.host, proxy_port=jump.port, proxy_host_keys=keys)
    assert status == int(not trusted)
    assert f"jump host {jump.host}:{jump.port} shows" in said
    assert "lies behind the jump host and was not looked at" in said
    jump.stop()


def test_each_of_several_login_nodes(cluster: Cluster, tmp_path: Path) -> None:
    second = cluster.start_sshd()
    hosts = [f"{one.host}:{one.port}" for one in (cluster.sshd, second)]
    keys = [one.host_public_key for one in (cluster.sshd, second)]
    status, said = check(cluster, tmp_path, host=hosts, host_keys=keys)
    assert status == 0
    assert all(f"\N{CHECK MARK} demo: login node {host} shows ssh-ed25519 " in said for host in hosts)
    status, said = check(cluster, tmp_path, host=hosts, host_keys=keys[:1])
    assert status == 1
    assert f"\N{BALLOT X} demo: login node {hosts[1]} shows" in said


def walk(
    cluster: Cluster,
    tmp_path: Path,
    *options: str,
    env: dict[str, str] | None = None,
    settings: dict[str, Any] | None = None,
    **system: Any,
) -> tuple[int, list[tuple[str, str]]]:
    """Check the demo's configuration, some of it changed; return the exit status, and mark and text of each line."""
    entry = cluster.cluster_settings("demo", **system)
    config = cluster.write_gateway_config(tmp_path / "config.yaml", **{"clusters": [entry], **(settings or {})})
    argv = [sys.executable, "-m", "hpcgate.cli", "check", str(config), "--connect", *options]
    done = subprocess.run(
        argv, capture_output=True, text=True, check=False, timeout=300, env={**os.environ, **(env or {})}
    )
    assert done.stderr == ""
    lines = [line.split(" ", 1) for line in done.stdout.splitlines()]
    return done.returncode, [(mark, text) for mark, text in lines if mark in (GOOD, WARNING, BAD)]


def only(lines: list[tuple[str, str]], words: str) -> tuple[str, str]:
    """Return the one line that has these words."""
    (found,) = (line for line in lines if words in line[1])
    return found


def test_all_is_well(cluster: Cluster, tmp_path: Path) -> None:
    """Nothing but good findings come of a cluster that is well."""
    status, lines = walk(cluster, tmp_path)
    assert status == 0
    assert [line for line in lines if line[0] != GOOD] == []
    name = cluster.user("alice").name
    for words in (
        f"IdP: 4 keys from {cluster.idp.jwks_url}, for ES256, Ed25519, EdDSA, PS256, RS256",
        f"IdP: the token endpoint {cluster.idp.token_url} answers",
        "IdP: the clocks of 127.0.0.1 and of this machine agree",
        "demo: login node",
        f"demo: {name} logs in",
        "demo: the login node's clock and this machine's agree to ",
        "demo: a connection has at least 20 channels (MaxSessions)",
        "demo: 8 logins at once were all taken",
        "demo: SFTP works",
        f"demo: slurm {cluster.slurm.version} answers",
        f"demo: {cluster.homes} is a directory that {name} can read",
        f"demo: {cluster.scratch} is a directory that {name} can read",
    ):
        only(lines, words)


def test_nothing_is_left_behind(cluster: Cluster, tmp_path: Path) -> None:
    def processes() -> tuple[str, int]:
        # Those of this login node: others of the user's may end meanwhile.
        cats = cluster.as_user("alice", ["sh", "-c", "ps -u \"$(id -u)\" -o comm= | grep -c '^cat$' || :"]).stdout
        return cats, len(descendants(sshd.pid))

    sshd = cluster.start_sshd()
    before = processes()
    walk(cluster, tmp_path, ssh={"port": sshd.port, "host_keys": [sshd.host_public_key]})
    deadline = time.monotonic() + 120
    while processes() != before:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    sshd.stop()


def test_an_idp_that_is_down(cluster: Cluster, tmp_path: Path) -> None:
    nobody = f"http://127.0.0.1:{cluster.take_port()}"
    authentication = {"token_url": f"{nobody}/token", "public_certs": [f"{nobody}/jwks"]}
    status, lines = walk(cluster, tmp_path, settings={"auth": {"authentication": authentication}})
    assert status == 1
    for words in (f"IdP: no keys from {nobody}/jwks", "IdP: the token endpoint", "demo: nobody to log in as"):
        mark, text = only(lines, words)
        assert mark == BAD
        assert "\N{RIGHTWARDS ARROW}" in text


def test_what_is_no_token_endpoint(cluster: Cluster, tmp_path: Path) -> None:
    settings = {"auth": {"authentication": {"token_url": f"{cluster.idp.url}/nowhere"}}}
    status, lines = walk(cluster, tmp_path, settings=settings)
    assert status == 1
    assert only(lines, "is not a token endpoint: status 404")[0] == BAD


@contextmanager
def key_server(cluster: Cluster, seconds_ahead: float) -> Iterator[str]:
    """Serve the IdP's keys by another clock."""
    with urllib.request.urlopen(cluster.idp.jwks_url) as answer:
        document = answer.read()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(document)))
            self.end_headers()
            self.wfile.write(document)

        def date_time_string(self, timestamp: float | None = None) -> str:
            return super().date_time_string(int(time.time() + seconds_ahead))

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/jwks"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("ahead", "leeway", "mark", "words"),
    [
        (30, 0, BAD, "ahead of this machine's: fresh tokens are refused as not yet valid"),
        (30, 60, WARNING, "ahead of this machine's"),
        (-30, 0, WARNING, "behind this machine's"),
        (0, 0, GOOD, ""),
    ],
)
def test_the_clock_of_the_idp(
    cluster: Cluster, tmp_path: Path, ahead: float, leeway: float, mark: str, words: str
) -> None:
    with key_server(cluster, ahead) as url:
        authentication = {"public_certs": [url], "leeway": leeway}
        status, lines = walk(cluster, tmp_path, settings={"auth": {"authentication": authentication}})
    assert status == int(mark == BAD)
    clocks = [line for line in lines if line[1].startswith("IdP: the clock")]
    assert clocks[-1][0] == mark
    assert words in clocks[-1][1]


@pytest.mark.parametrize(("ahead", "mark"), [(3600, BAD), (-3600, BAD), (20, WARNING)])
def test_the_clock_of_a_login_node(cluster: Cluster, tmp_path: Path, ahead: int, mark: str) -> None:
    programs = cluster.scratch / f"clock{ahead}"
    programs.mkdir()
    (programs / "date").write_text(f'#!/bin/sh\nexec /bin/date --date="now {ahead:+} seconds" "$@"\n')
    (programs / "date").chmod(0o755)
    sshd = cluster.start_sshd(extra=f"SetEnv PATH={programs}:/usr/bin:/bin")
    status, lines = walk(cluster, tmp_path, ssh={"port": sshd.port, "host_keys": [sshd.host_public_key]})
    found = only(lines, "the login node's clock is")
    assert found[0] == mark
    assert f"{'ahead of' if ahead > 0 else 'behind'} this machine's" in found[1]
    assert status == 1 or mark == WARNING
    sshd.stop()


@pytest.mark.parametrize(
    ("sessions", "wanted", "mark", "words"),
    [
        (0, None, BAD, "opens no channel"),
        (1, None, WARNING, "a connection has 1 channel (MaxSessions)"),
        (10, None, GOOD, "a connection has 10 channels (MaxSessions)"),
        (10, 15, BAD, "a connection has 10 channels, fewer than ssh.max_sessions, 15"),
    ],
)
def test_max_sessions(
    cluster: Cluster, tmp_path: Path, sessions: int, wanted: int | None, mark: str, words: str
) -> None:
    """The check measures how many sessions the login node allows on a connection."""
    sshd = cluster.start_sshd(max_sessions=sessions)
    ssh = {"port": sshd.port, "host_keys": [sshd.host_public_key], "max_sessions": wanted}
    status, lines = walk(cluster, tmp_path, ssh=ssh)
    assert only(lines, words)[0] == mark
    assert status == int(mark == BAD)
    if sessions:
        assert only(lines, "slurm ")[0] == GOOD
        mark, text = only(lines, "SFTP")
        assert mark == (WARNING if sessions == 1 else GOOD)
        assert "Subsystem" not in text
    sshd.stop()


def test_max_startups(cluster: Cluster, tmp_path: Path) -> None:
    """The check measures how many logins the login node allows at once."""
    sshd = cluster.start_sshd(max_startups="2:100:2")
    status, lines = walk(
        cluster, tmp_path, ssh={"port": sshd.port, "host_keys": [sshd.host_public_key], "max_logins": 12}
    )
    mark, text = only(lines, "of 12 logins at once")
    assert (status, mark) == (1, BAD)
    assert "raise MaxStartups to 36:30:100" in text
    sshd.stop()


def test_several_systems_of_one_login_node(cluster: Cluster, tmp_path: Path) -> None:
    """Their logins are not tried at the same time: together they are more than sshd takes."""
    sshd = cluster.start_sshd(max_startups="16:100:20")
    ssh = {"port": sshd.port, "host_keys": [sshd.host_public_key]}
    entries = [cluster.cluster_settings(name, ssh=ssh) for name in ("one", "two", "three", "four")]
    status, lines = walk(cluster, tmp_path, settings={"clusters": entries})
    assert status == 0, lines
    assert len([text for mark, text in lines if mark == GOOD and "8 logins at once were all taken" in text]) == 4
    sshd.stop()


@pytest.mark.parametrize(
    ("files", "mark", "words"),
    [
        ("auto", WARNING, "files are reached by commands"),
        ("sftp", BAD, "SFTP does not work"),
        ("commands", GOOD, "is not used (ssh.files is commands)"),
    ],
)
def test_without_sftp(cluster: Cluster, tmp_path: Path, files: str, mark: str, words: str) -> None:
    """A login node without SFTP is an error only if the configuration wants SFTP."""
    sshd = cluster.start_sshd(sftp=False)
    ssh = {"port": sshd.port, "host_keys": [sshd.host_public_key], "files": files}
    status, lines = walk(cluster, tmp_path, ssh=ssh)
    assert only(lines, words)[0] == mark
    assert status == int(mark == BAD)
    sshd.stop()


def test_another_version_and_a_controller_that_is_down(cluster: Cluster, tmp_path: Path) -> None:
    status, lines = walk(cluster, tmp_path, scheduler={"version": "20.11.9"})
    mark, text = only(lines, "but scheduler.version is 20.11.9")
    assert (status, mark) == (0, WARNING)
    assert f"set scheduler.version to {cluster.slurm.version}" in text
    sshd = cluster.start_sshd(extra="SetEnv SLURM_CONF=/nowhere/slurm.conf")
    try:
        # Slurm's tools try again and again; that is waited for as long as the settings say.
        login = {"port": sshd.port, "host_keys": [sshd.host_public_key]}
        probes = {"services": {"scheduler": {"timeout": 3}}}
        status, lines = walk(cluster, tmp_path, ssh=login, scheduler={"timeout": 3}, probing=probes)
    finally:
        sshd.stop()
    assert status == 1
    assert only(lines, "scheduler: ")[0] == BAD


def test_tools_that_only_a_login_shell_finds(cluster: Cluster, tmp_path: Path) -> None:
    """The line names the setting and the directory, and with these the tools are found."""
    tools = cluster.scratch / "pbs bin"
    tools.mkdir()
    for name in ("qsub", "qstat", "qdel"):
        (tools / name).write_text("#!/bin/sh\nexit 1\n")
        (tools / name).chmod(0o755)
    tools.chmod(0o755)
    scheduler = {"type": "pbs", "version": "23.06.06"}
    cluster.as_user("alice", ["tee", ".profile"], input=f'PATH="$PATH:{tools}"\n')
    try:
        status, lines = walk(cluster, tmp_path, scheduler=scheduler)
        mark, text = only(lines, "qsub, qstat, qdel: found by a login shell only")
        assert (status, mark) == (1, BAD)
        assert text.endswith(f"\N{RIGHTWARDS ARROW} set ssh.path to [{tools}]")
        _, lines = walk(cluster, tmp_path, scheduler=scheduler, ssh={"path": [str(tools)]})
        assert only(lines, "qsub, qstat, qdel are found")[0] == GOOD
    finally:
        cluster.as_user("alice", ["rm", ".profile"])


def test_file_systems(cluster: Cluster, tmp_path: Path) -> None:
    """Each configured file system is looked for."""
    here = cluster.scratch / "check-connect"
    here.mkdir(exist_ok=True)
    (here / "file").write_text("")
    (here / "closed").mkdir(mode=0o700, exist_ok=True)
    paths = [{"path": str(here / name), "data_type": "scratch"} for name in ("nowhere", "file", "closed", "")]
    status, lines = walk(cluster, tmp_path, file_systems=paths)
    assert status == 1
    assert only(lines, "nowhere does not exist")[0] == BAD
    assert only(lines, "file is not a directory")[0] == BAD
    assert only(lines, "closed is a directory that")[0] == WARNING
    assert only(lines, "can read")[0] == GOOD


def test_quotas(cluster: Cluster, tmp_path: Path) -> None:
    """The command of each quota is run, and what it prints is read."""
    commands: dict[str, tuple[list[str], str, str]] = {
        "told": (["echo", "resource=bytes used=1 limit=2"], GOOD, "is told: bytes"),
        "no-such-quota": (["no-such-quota", "{username}"], BAD, "no-such-quota"),
        "failing": (["sh", "-c", "echo no database >&2; exit 3"], BAD, "no database"),
        "garbled": (["echo", "resource=bytes used=some"], BAD, "makes no sense"),
    }
    here = cluster.scratch / "check-quotas"
    for name in commands:
        (here / name).mkdir(parents=True, exist_ok=True)
    paths = [
        {"path": str(here / name), "data_type": "scratch", "quota": {"command": command, "format": "pairs"}}
        for name, (command, _, _) in commands.items()
    ]
    status, lines = walk(cluster, tmp_path, file_systems=paths)
    assert status == 1
    for name, (_, mark, words) in commands.items():
        (found,) = [line for line in lines if "quota of" in line[1] and str(here / name) in line[1]]
        assert (found[0], words in found[1]) == (mark, True), lines


def test_object_stores(cluster: Cluster, tmp_path: Path) -> None:
    """Each object store is asked, and its secret is not shown."""
    with ObjectStore(tmp_path / "s3") as store:
        good = store.settings()
        wrong = store.settings(name="wrong key", secret_access_key="another")
        down = store.settings(name="down", private_url=f"http://127.0.0.1:{cluster.take_port()}", timeout=2)
        status, lines = walk(cluster, tmp_path, data_operation={"data_transfer": [good]})
        assert status == 0
        assert only(lines, "the object store test store answers and accepts the key")[0] == GOOD
        for settings, words in ((wrong, "wrong key refused"), (down, "down does not answer")):
            status, lines = walk(cluster, tmp_path, data_operation={"data_transfer": [settings]})
            mark, text = only(lines, words)
            assert (status, mark) == (1, BAD)
            assert "secret_access_key" in text
            assert "another" not in text


def test_who_logs_in(cluster: Cluster, tmp_path: Path) -> None:
    """The check logs in by the service account, or by the token that it is given."""
    bob = cluster.user("bob")
    token = cluster.token(bob)
    status, lines = walk(cluster, tmp_path, env={"HPCGATE_TOKEN": token}, service_account=None)
    assert status == 0
    only(lines, f"{bob.name} logs in")
    (tmp_path / "token").write_text(token + "\n")
    status, lines = walk(cluster, tmp_path, "--token-file", str(tmp_path / "token"))
    assert status == 0
    only(lines, f"{bob.name} logs in")
    status, lines = walk(cluster, tmp_path, "--token", "x.y.z")
    assert status == 1
    mark, text = only(lines, "nobody to log in as")
    assert mark == BAD
    assert "hpcgate token --show" in text
    assert "service_account" not in text
    status, lines = walk(cluster, tmp_path, service_account=None)
    assert status == 0
    mark, text = only(lines, "left out, for there is nobody to log in as")
    assert mark == WARNING
    assert "HPCGATE_TOKEN" in text


def test_an_account_that_may_not_log_in(cluster: Cluster, tmp_path: Path) -> None:
    sshd = cluster.start_sshd(static_keys=False)
    status, lines = walk(cluster, tmp_path, ssh={"port": sshd.port, "host_keys": [sshd.host_public_key]})
    mark, text = only(lines, "demo: login: ")
    assert (status, mark) == (1, BAD)
    assert "sshd's log" in text
    sshd.stop()


def test_a_login_node_that_hangs(cluster: Cluster, tmp_path: Path) -> None:
    sshd = cluster.start_sshd()
    sshd.suspend()
    ssh = {"port": sshd.port, "host_keys": [sshd.host_public_key], "timeout": {"connection": 1, "login": 1}}
    status, _ = walk(cluster, tmp_path, ssh=ssh)
    assert status == 1
    sshd.resume()
    sshd.stop()


def test_json(cluster: Cluster, tmp_path: Path) -> None:
    """The findings are shown as JSON if asked for."""
    config = cluster.write_gateway_config(tmp_path / "config.yaml")
    argv = [sys.executable, "-m", "hpcgate.cli", "check", str(config), "--connect", "--json"]
    document = json.loads(subprocess.run(argv, capture_output=True, text=True, check=True, timeout=300).stdout)
    assert document["status"] == 0
    assert [finding for finding in document["findings"] if finding["outcome"] != "ok"] == []
    checks = {finding["check"] for finding in document["findings"]}
    assert checks == {
        "keys", "token endpoint", "clock", "host key", "login", "MaxSessions", "MaxStartups", "SFTP", "scheduler",
        "file system",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("answer", "mark", "words"),
    [
        (b'{"allowed": true}', GOOD, "lets"),
        (b'{"allowed": false}', WARNING, "does not let"),
        (None, BAD, "the authorization service: "),
    ],
)
def test_the_authorization_service(
    cluster: Cluster, tmp_path: Path, answer: bytes | None, mark: str, words: str
) -> None:
    """What the authorization service answers is judged."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            body = answer or b""
            self.send_response(200 if answer else 500)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{server.server_address[1]}/stores/1/check"
        status, lines = walk(cluster, tmp_path, settings={"auth": {"authorization": {"url": url}}})
        server.shutdown()
        thread.join()
    found = only(lines, "the authorization service")
    assert found[0] == mark
    assert words in found[1]
    assert status == int(mark == BAD)
