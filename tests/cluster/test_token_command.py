"""`hpcgate token` with the demo's identity provider."""

import subprocess
import sys
from pathlib import Path
from typing import Any

from hpcgate.demo.cluster import Cluster


def token(*arguments: str, input: str = "") -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "hpcgate.cli", "token", *arguments]
    return subprocess.run(argv, input=input, capture_output=True, text=True, check=False, timeout=300)


def config(cluster: Cluster, path: Path, **authentication: Any) -> str:
    return str(cluster.write_gateway_config(path / "config.yaml", auth={"authentication": authentication}))


def test_a_token_of_a_client(cluster: Cluster) -> None:
    alice = cluster.user("alice")
    client = ["--client-id", alice.client_id, "--client-secret", alice.client_secret]
    done = token("--token-url", cluster.idp.token_url, *client)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count(".") == 2
    wrong = token("--token-url", cluster.idp.token_url, *client[:-1], "another")
    assert wrong.returncode == 1
    assert "401" in wrong.stderr
    assert "another" not in wrong.stderr


def test_no_token_to_show() -> None:
    empty = token("--show", input=" \n")
    assert (empty.returncode, empty.stdout, empty.stderr) == (1, "", "No token was given.\n")


def test_a_service_account_asks_for_its_scope(cluster: Cluster, tmp_path: Path) -> None:
    demo = cluster.cluster_settings("demo")
    demo["service_account"] |= {"scope": "openid profile"}
    file = str(cluster.write_gateway_config(tmp_path / "config.yaml", clusters=[demo]))
    for options, scopes in (((), "openid profile"), (("--scope", "profile"), "profile")):
        granted = token("--config", file, "--system", "demo", *options)
        assert (granted.returncode, granted.stderr) == (0, "")
        shown = token("--show", input=granted.stdout)
        assert f'"scope": "{scopes}"' in shown.stdout


def test_a_service_account_and_what_the_gateway_makes_of_its_token(cluster: Cluster, tmp_path: Path) -> None:
    file = config(cluster, tmp_path)
    granted = token("--config", file, "--system", "DEMO")
    assert (granted.returncode, granted.stderr) == (0, "")
    shown = token("--show", "--config", file, input=granted.stdout)
    assert shown.returncode == 0
    assert f"\N{CHECK MARK} accepted, as the user {cluster.user('alice').name}" in shown.stdout
    for settings, why in (
        ({"issuer": "https://elsewhere.example.org"}, "401: Token issuer not accepted"),
        ({"required_scopes": ["rare"]}, "403: The token lacks a required scope"),
        ({"denied_users": [cluster.user("alice").name]}, "403: The user"),
    ):
        refused = token("--show", "--config", config(cluster, tmp_path, **settings), input=granted.stdout)
        assert refused.returncode == 1
        assert f"refused, with status {why}" in refused.stdout
        assert refused.stderr == ""
