"""The built-in certificate authority before a real sshd: its key in a file, in an ssh-agent, in a PKCS#11 token."""

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from hpcgate.demo.cluster import Cluster, Gateway
from hpcgate.demo.keys import Key
from hpcgate.demo.packages import ensure_installed, program
from hpcgate.demo.sshd import Sshd
from tests.faults.vitals import eventually

Start = Callable[..., tuple[Gateway, httpx.Client, Sshd]]
LIBRARY = "/usr/lib/softhsm/libsofthsm2.so"
PIN = "123456"


@pytest.fixture
def start(cluster: Cluster) -> Iterator[Start]:
    """A function that starts a login node which trusts an authority, and a gateway that is this authority."""
    with ExitStack() as stack:

        def begin(
            authority: Key, env: dict[str, str] | None = None, ssh: dict[str, Any] | None = None, **settings: Any
        ) -> Any:
            trusted = cluster.directory / f"ca-{cluster.take_port()}.pub"
            trusted.write_text(authority.public_line + "\n")
            extra = f"TrustedUserCAKeys {trusted}\n    PermitTTY no"
            sshd = cluster.start_sshd(static_keys=False, match_extra=extra)
            config = cluster.write_gateway_config(
                trusted.with_suffix(".yaml"),
                clusters=[cluster.cluster_settings("demo", sshd=sshd, ssh=ssh or {})],
                ssh_credentials={"type": "LocalCA", "keys": None, **settings},
                audit={"to": str(trusted.with_suffix(".audit"))},
            )
            gateway = cluster.start_gateway(config, env=env)
            stack.callback(sshd.stop)
            stack.callback(gateway.stop)
            headers = {"Authorization": f"Bearer {cluster.token('alice')}"}
            http = stack.enter_context(httpx.Client(base_url=gateway.url, headers=headers, timeout=300))
            return gateway, http, sshd

        yield begin


def ask(http: httpx.Client, cluster: Cluster) -> httpx.Response:
    return http.get("/filesystem/demo/ops/stat", params={"path": str(cluster.user("alice").home)})


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
def test_a_key_in_the_configuration(start: Start, cluster: Cluster, tmp_path: Path, kind: Any) -> None:
    authority = Key.make("gateway-ca", kind)
    key = tmp_path / "ca"
    key.write_text(authority.private_text("a passphrase"))
    _, http, sshd = start(
        authority, ca_key=f"secret_file:{key}", passphrase="a passphrase", source_address=["127.0.0.0/8"]
    )
    assert ask(http, cluster).status_code == 200
    user = cluster.user("alice").name
    assert http.get("/status/demo/userinfo").json()["user"]["name"] == user
    # sshd logs the certificate's name: it leads to the token and the request.
    assert f"ID hpcgate user={user} jti=" in sshd.log()


def test_the_audit_log_has_the_certificate(start: Start, cluster: Cluster) -> None:
    authority = Key.make("gateway-ca")
    gateway, http, _ = start(authority, ca_key=authority.private_text(), lifetime=120)
    assert ask(http, cluster).status_code == 200
    audit = gateway.configuration.with_suffix(".audit")
    eventually(lambda: '"action"' in audit.read_text(), 120)  # the last line of the request
    lines = audit.read_text().splitlines()
    (issued,) = [line for line in map(json.loads, lines) if line["event"] == "certificate.issued"]
    assert issued["user"] == cluster.user("alice").name
    assert issued["principals"] == [cluster.user("alice").name]
    assert f"jti={issued['token_id']}" in issued["key_id"]
    assert issued["serial"] > 0
    assert authority.private_text().splitlines()[1] not in gateway.log.read_text() + str(lines)


def test_what_the_login_node_refuses(start: Start, cluster: Cluster) -> None:
    authority = Key.make("gateway-ca")
    for settings in ({"principals": ["somebody-else"]}, {"source_address": ["192.0.2.0/24"]}):
        _, http, _ = start(authority, ca_key=authority.private_text(), **settings)
        assert ask(http, cluster).status_code == 424


def test_another_authority(start: Start, cluster: Cluster) -> None:
    """Certificates of an authority that the login node does not trust are 424."""
    _, http, _ = start(Key.make("trusted"), ca_key=Key.make("not-trusted").private_text())
    assert ask(http, cluster).status_code == 424


def test_a_forced_command_sees_what_was_asked_for(start: Start, cluster: Cluster) -> None:
    """A site's own wrapper decides what runs."""
    authority = Key.make("gateway-ca")
    wrapper, seen = cluster.scratch / "wrapper", cluster.scratch / "wrapper.log"
    wrapper.write_text(
        f'#!/bin/sh\nprintf "%s\\n" "$SSH_ORIGINAL_COMMAND" >> {seen}\nexec sh -c "$SSH_ORIGINAL_COMMAND"\n'
    )
    wrapper.chmod(0o755)
    _, http, _ = start(
        authority, ssh={"files": "commands"}, ca_key=authority.private_text(), force_command=str(wrapper)
    )
    assert ask(http, cluster).status_code == 200
    assert seen.read_text()


def test_a_key_in_an_agent(start: Start, cluster: Cluster, tmp_path: Path) -> None:
    """The agent may go away and come back."""
    authority, other = Key.make("gateway-ca"), Key.make("other")
    socket = tmp_path / "agent"

    def agent() -> subprocess.Popen[bytes]:
        running = subprocess.Popen([program("ssh-agent"), "-D", "-a", str(socket)], stdout=subprocess.DEVNULL)
        environment = os.environ | {"SSH_AUTH_SOCK": str(socket)}
        for key in (other, authority):
            path = tmp_path / key.comment
            path.touch(0o600)
            path.write_text(key.private_text())
            for _ in range(100):
                added = subprocess.run(
                    [program("ssh-add"), str(path)], env=environment, capture_output=True, check=False
                )
                if added.returncode == 0:
                    break
            assert added.returncode == 0, added.stderr
        return running

    first = agent()
    _, http, _ = start(authority, agent_socket=str(socket), ca_public_key=authority.public_line, lifetime=60)
    assert ask(http, cluster).status_code == 200
    first.kill()
    first.wait()
    socket.unlink(missing_ok=True)
    bob = {"Authorization": f"Bearer {cluster.token('bob')}"}
    path = {"path": str(cluster.user("bob").home)}
    gone = http.get("/filesystem/demo/ops/stat", params=path, headers=bob)
    assert gone.status_code == 424
    assert "cannot sign" in gone.json()["message"]
    second = agent()
    try:
        deadline = time.monotonic() + 120  # a login that failed is not tried again for two seconds
        while (back := http.get("/filesystem/demo/ops/stat", params=path, headers=bob)).status_code != 200:
            if time.monotonic() > deadline:
                break
            time.sleep(0.2)
        assert back.status_code == 200, back.text
    finally:
        second.kill()
        second.wait()


def test_a_key_in_a_token(start: Start, cluster: Cluster, tmp_path: Path) -> None:
    """SoftHSM stands for a token of metal: the same interface, and the key cannot be taken out."""
    ensure_installed({"softhsm2-util": "softhsm2"}, lambda _: None)
    tokens = tmp_path / "tokens"
    tokens.mkdir()
    config = tmp_path / "softhsm2.conf"
    config.write_text(f"directories.tokendir = {tokens}\nobjectstore.backend = file\n")
    env = {"SOFTHSM2_CONF": str(config)}
    authority = Key.make("gateway-ca", "rsa")
    pem = tmp_path / "ca.pem"
    pem.touch(0o600)
    pem.write_bytes(authority.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    tool = [program("softhsm2-util")]
    subprocess.run(
        [*tool, "--init-token", "--free", "--label", "hpcgate", "--pin", PIN, "--so-pin", PIN],
        env=os.environ | env, check=True, capture_output=True,
    )  # fmt: skip
    subprocess.run(
        [*tool, "--import", str(pem), "--token", "hpcgate", "--label", "ca", "--id", "01", "--pin", PIN],
        env=os.environ | env, check=True, capture_output=True,
    )  # fmt: skip
    pem.unlink()
    gateway, http, _ = start(authority, env=env, pkcs11_provider=LIBRARY, pkcs11_pin=PIN, pkcs11_token="hpcgate")
    assert ask(http, cluster).status_code == 200, gateway.log.read_text()
