"""The command line, as a process."""

import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
import yaml

HPCGATE = [sys.executable, "-m", "hpcgate.cli"]


def run(*arguments: str, **options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*HPCGATE, *arguments], capture_output=True, text=True, timeout=60, check=False, **options)


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
    from hpcgate import __version__

    assert run("version").stdout.strip() == __version__


def test_check(config: Path) -> None:
    good = run("check", str(config))
    assert good.returncode == 0
    assert "ok" in good.stdout
    config.write_text(config.read_text().replace("token_url", "token_uri").replace("port: 9", "port: nine"))
    bad = run("check", str(config))
    assert bad.returncode == 1
    assert "token_uri" in bad.stdout
    assert "clusters[0].ssh.port" in bad.stdout


def test_serve_refuses_a_bad_configuration(config: Path) -> None:
    config.write_text("auth: {}\n")
    done = run("serve", "--config", str(config))
    assert done.returncode == 1
    assert "ssh_credentials" in done.stderr
    assert "Traceback" not in done.stderr


def test_openapi(config: Path, tmp_path: Path) -> None:
    document = json.loads(run("openapi").stdout)
    assert "/filesystem/{system_name}/ops/ls" in document["paths"]
    output = tmp_path / "openapi.json"
    assert run("openapi", "--config", str(config), "--output", str(output)).returncode == 0
    assert json.loads(output.read_text())["paths"].keys() == document["paths"].keys()


def test_config_schema() -> None:
    assert json.loads(run("config", "schema").stdout)["type"] == "object"


def test_token_from_nobody() -> None:
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
            for _ in range(100):
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
            output, _ = server.communicate(timeout=20)
        finally:
            server.kill()
    assert "ssh.host_keys.unverified" in output
    assert "daint" in output
    assert "Traceback" not in output
