"""The command line, as a process."""

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

HPCGATE = [sys.executable, "-m", "hpcgate.cli"]


def run(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*HPCGATE, *arguments], capture_output=True, text=True, timeout=300, check=False, **options)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "hpcgate.yaml"
    settings = {
        "auth": {"authentication": {"token_url": "http://127.0.0.1:9/token"}},
        "ssh_credentials": {"type": "SSHService", "url": "http://127.0.0.1:9"},
        "clusters": [
            {
                "name": "daint",
                "ssh": {"host": "127.0.0.1", "port": 9},
                "scheduler": {"type": "slurm", "version": "22.05.8"},
            }
        ],
    }
    path.write_text(yaml.safe_dump(settings))
    return path


def test_help_lists_the_commands() -> None:
    done = run("--help")
    assert done.returncode == 0
    for command in ("serve", "check", "demo", "openapi", "token", "version", "config"):
        assert command in done.stdout


def test_version() -> None:
    """`version` prints the version of the package."""
    from hpcgate import __version__

    assert run("version").stdout.strip() == __version__


def test_check(config: Path) -> None:
    """`check` says ok, or names each mistake and fails."""
    good = run("check", str(config))
    assert good.returncode == 0
    assert "ok" in good.stdout
    config.write_text(config.read_text().replace("token_url", "token_uri").replace("port: 9", "port: nine"))
    bad = run("check", str(config))
    assert bad.returncode == 1
    assert "token_uri" in bad.stdout
    assert "clusters[0].ssh.port" in bad.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        "version",
        "check CONFIG",
        "openapi",
        "config schema",
        "maintenance list --config CONFIG",
        "serve --config CONFIG",
    ],
)
def test_no_command_looks_for_garbage_while_it_loads_or_ends(config: Path, arguments: str) -> None:
    """What a command loads stays until it ends: to look through it again and again was a quarter of its time."""
    program = (
        "import atexit, gc, sys, uvicorn; from hpcgate.cli import main; looks = [];"
        "uvicorn.Config.bind_socket = lambda _: sys.exit();"
        "atexit.register(lambda: print(len(looks), gc.get_freeze_count() > 0, file=sys.stderr));"
        "gc.callbacks.append(lambda phase, _: looks.append(phase));"
        "main()"
    )
    words = arguments.replace("CONFIG", str(config)).split()
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1] == "0 True"


@pytest.mark.parametrize("variable", ["YAML_CONFIG_FILE", "INPUT_YAML_CONFIG_FILE"])
def test_check_takes_the_file_that_the_environment_names(config: Path, variable: str) -> None:
    done = run("check", env={**os.environ, variable: str(config)})
    assert (done.returncode, done.stdout.splitlines()[0]) == (0, "ok: 1 system")


@pytest.mark.parametrize("option", ["--token", "--token-file"])
def test_check_refuses_a_token_that_it_would_not_use(config: Path, option: str) -> None:
    done = run("check", str(config), option, "abc")
    assert done.returncode == 2
    assert "--connect" in done.stderr
    # In the environment it may stand for other commands.
    assert run("check", str(config), env={**os.environ, "HPCGATE_TOKEN": "abc"}).returncode == 0


def test_serve_refuses_a_bad_configuration(config: Path) -> None:
    config.write_text("auth: {}\n")
    done = run("serve", "--config", str(config))
    assert done.returncode == 1
    assert "ssh_credentials" in done.stderr
    assert "Traceback" not in done.stderr


def test_openapi(config: Path, tmp_path: Path) -> None:
    """`openapi` prints the document, or writes it to a file."""
    document = json.loads(run("openapi").stdout)
    assert "/filesystem/{system_name}/ops/ls" in document["paths"]
    output = tmp_path / "openapi.json"
    assert run("openapi", "--config", str(config), "--output", str(output)).returncode == 0
    assert json.loads(output.read_text())["paths"].keys() == document["paths"].keys()


def test_config_schema() -> None:
    """`config schema` prints a JSON schema."""
    assert json.loads(run("config", "schema").stdout)["type"] == "object"


def test_token_from_nobody() -> None:
    """`token` says that the endpoint does not answer, and never the secret."""
    done = run("token", "--token-url", "http://127.0.0.1:9/token", "--client-id", "me", "--client-secret", "s3cret")
    assert done.returncode == 1
    assert "token endpoint" in done.stderr
    assert "s3cret" not in done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serve_until_a_signal(config: Path, number: signal.Signals) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with subprocess.Popen(
        [*HPCGATE, "serve", "--config", str(config), "--port", str(port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as server:
        try:
            for _ in range(600):
                try:
                    answer = httpx.get(f"http://127.0.0.1:{port}/status/liveness/")
                    break
                except httpx.ConnectError:
                    time.sleep(0.1)
            assert answer.status_code == 200
            assert httpx.get(
                f"http://127.0.0.1:{port}/status/systems", headers={"Authorization": "Bearer x.y.z"}
            ).json()
            server.send_signal(number)
            output, _ = server.communicate(timeout=600)
        finally:
            server.kill()
    assert "ssh.host_keys.unverified" in output
    assert "daint" in output
    assert "Traceback" not in output


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        ("check /nowhere", 1, "/nowhere"),
        ("check /nowhere --connect", 1, "/nowhere"),
        ("check", 2, "config"),
        ("openapi --output /nowhere/here", 1, "Cannot write /nowhere/here: No such file or directory"),
        ("openapi --config /nowhere", 1, "/nowhere"),
        ("serve --config /nowhere", 1, "/nowhere"),
        ("serve --config CONFIG --tls-key x", 2, "--tls-cert"),
        ("serve --config CONFIG --tls-cert /nowhere --port 0", 1, "/nowhere"),
        ("serve --config CONFIG --port 65536", 2, "--port"),
        ("serve --config CONFIG --port TAKEN", 3, '"port": TAKEN, "event": "server.cannot_listen"'),
        ("serve --config CONFIG --port 0 --host 192.0.2.1", 3, "Cannot assign requested address"),
        ("token", 2, "--token-url"),
        ("token --token-url http://127.0.0.1:9/", 2, "--client-id"),
        ("token --config CONFIG --system daint", 1, "no service_account"),
        ("token --config CONFIG --system elsewhere", 1, "There is no system elsewhere; the configuration has daint"),
        ("token --show --token-file /nowhere", 1, "/nowhere: No such file or directory"),
        ("maintenance list --config CONFIG", 1, "state_directory"),
        ("config", 2, "schema"),
        ("", 2, "serve"),
        ("nonsense", 2, "nonsense"),
        ("version --nonsense", 2, "--nonsense"),
    ],
)
def test_errors_are_a_line_and_a_status(config: Path, arguments: str, status: int, words: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        argv = [{"CONFIG": str(config), "TAKEN": port}.get(word, word) for word in arguments.split()]
        done = run(*argv)
    assert done.returncode == status, done.stdout + done.stderr
    assert words.replace("TAKEN", port) in done.stdout + done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    if status == 1:
        assert len((done.stdout + done.stderr).strip().splitlines()) == 1


def test_traces_without_their_packages(config: Path, tmp_path: Path) -> None:
    config.write_text(config.read_text() + "tracing: {endpoint: 'http://127.0.0.1:9/v1/traces'}\n")
    (tmp_path / "opentelemetry.py").write_text("raise ImportError('no such package')\n")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = run("serve", "--config", str(config), "--port", "0", env=environment)
    assert done.returncode == 1
    assert done.stderr.startswith(f"{config}: tracing.endpoint: ")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("typed", "completed"),
    [("ch", "check"), ("serve --ho", "--host"), ("maintenance s", "set"), ("check x --con", "--connect")],
)
def test_completion(typed: str, completed: str) -> None:
    """The shell completes commands and options."""
    words = f"hpcgate {typed}"
    environment = {
        **os.environ,
        "_HPCGATE_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split()) - 1),
    }
    program = Path(sys.executable).parent / "hpcgate"
    done = subprocess.run([str(program)], capture_output=True, text=True, timeout=300, check=True, env=environment)
    assert completed in done.stdout.split()


def test_completion_can_be_installed(tmp_path: Path) -> None:
    program = Path(sys.executable).parent / "hpcgate"
    environment = {**os.environ, "HOME": str(tmp_path)}
    script = f"{program} --install-completion; :"  # a shell that is there to be found
    subprocess.run(["bash", "-c", script], capture_output=True, timeout=300, check=True, env=environment)
    (installed,) = tmp_path.glob(".bash_completions/*")
    assert "_hpcgate_completion" in installed.read_text()
    subprocess.run(["bash", "-n", str(installed)], check=True)


def test_what_a_token_says(config: Path) -> None:
    def part(content: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(content).encode()).rstrip(b"=").decode()

    exp = int(time.time()) + 3 * 3600 + 60
    token = f"{part({'alg': 'RS256'})}.{part({'preferred_username': 'alice', 'exp': exp})}.c2lnbmF0dXJl"
    done = run("token", "--show", input=f"{token}\n")
    assert done.returncode == 0
    document, end = json.JSONDecoder().raw_decode(done.stdout)
    assert document == {"header": {"alg": "RS256"}, "claims": {"preferred_username": "alice", "exp": exp}}
    assert ", 3 h from now" in done.stdout[end:]
    assert "not verified" in done.stdout
    assert "c2lnbmF0dXJl" not in done.stdout
    opaque = run("token", "--show", "--token", "opaque")
    assert opaque.returncode == 0
    assert "not a JWT" in opaque.stdout
    refused = run("token", "--show", "--config", str(config), input=token)
    assert refused.returncode == 1
    assert "\N{BALLOT X} refused, with status 503: The identity provider's keys are not loaded yet" in refused.stdout


def test_the_port_of_the_metrics_is_taken(config: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        config.write_text(config.read_text() + f"\nmetrics: {{port: {port}}}\n")
        done = run("serve", "--config", str(config), "--port", "0")
    assert done.returncode == 3
    assert f'"port": {port}, ' in done.stdout + done.stderr
    assert '"event": "metrics.cannot_listen"' in done.stdout + done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        "check FILE",
        "serve --config FILE --tls-cert FILE --tls-key FILE",
        "openapi --config FILE",
        "token --config FILE --system daint",
        "token --config FILE --show --token-file FILE",
        "maintenance list --config FILE",
    ],
)
def test_a_file_that_may_not_be_read(arguments: str, tmp_path: Path) -> None:
    """Whatever reads it tells, with status 1: the command line is not wrong. As root every file may be read."""
    file = tmp_path / "file"
    file.write_text("[")
    no_access = "import os; from hpcgate.cli.commands import app; os.access = lambda *_, **__: False; app()"
    given = [str(file) if word == "FILE" else word for word in arguments.split()]
    done = subprocess.run([sys.executable, "-c", no_access, *given], capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
