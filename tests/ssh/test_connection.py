from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from typing import Any, cast

import asyncssh
import pytest

from hpcgate.auth import Principal
from hpcgate.credentials.base import Credential, CredentialSource
from hpcgate.demo.keys import Key
from hpcgate.demo.sshd import Sshd
from hpcgate.errors import (
    ConnectionLost,
    CredentialRefused,
    GatewayError,
    LoginNodeUnreachable,
    TimedOut,
)
from hpcgate.ssh.login import CIPHERS, Client
from tests.ssh.conftest import MakePool
from tests.ssh.nodes import LoginNodes, principal, processes


class Fixed(CredentialSource):
    """Gives everybody the same credential."""

    def __init__(self, key: Key, certificate: str | None = None) -> None:
        self.given = Credential(
            asyncssh.import_private_key(key.private_text()),
            asyncssh.import_certificate(certificate) if certificate is not None else None,
        )

    async def credential(self, principal: Principal) -> Credential:
        return self.given


async def use(pool: Any, user: Any) -> None:
    async with pool.lease(principal(user)) as session:
        assert (await session.run(["true"])).ok


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
async def test_a_certificate_takes_one_attempt_whatever_its_kind(
    make_pool: MakePool, nodes: LoginNodes, kind: Any
) -> None:
    node = nodes.start(static_keys=False, max_auth_tries=1)
    key = Key.make("new", kind)
    await use(make_pool(node, Fixed(key, nodes.authority.certify(key, [nodes.alice.name]))), nodes.alice)
    assert node.log().count("Accepted publickey") == 1
    assert "Failed" not in node.log()
    node.stop()


async def test_a_plain_rsa_key_takes_one_attempt(make_pool: MakePool, nodes: LoginNodes) -> None:
    key = Key.make("rsa", "rsa")
    keys = nodes.directory / "ssh" / "authorized_keys" / nodes.alice.name
    before = keys.read_text()
    keys.write_text(before + key.public_line + "\n")
    try:
        await use(make_pool(nodes.start(max_auth_tries=1), Fixed(key)), nodes.alice)
    finally:
        keys.write_text(before)


@pytest.mark.parametrize("max_auth_tries", [1, 6])
async def test_a_refused_credential_is_offered_once(
    make_pool: MakePool, nodes: LoginNodes, max_auth_tries: int
) -> None:
    node = nodes.start(max_auth_tries=max_auth_tries, extra="LogLevel VERBOSE\n")
    key = Key.make("stranger")
    for certificate in (None, Key.make("other-ca").certify(key, [nodes.alice.name])):
        pool = make_pool(node, Fixed(key, certificate))
        with pytest.raises(CredentialRefused) as caught:
            await use(pool, nodes.alice)
        assert caught.value.status == 424
        assert caught.value.message == f"The login node of demo refused the SSH credential of {nodes.alice.name}"
        assert pool.stats.logins_failed == 1
    async with asyncio.timeout(300):
        while node.log().count("Failed publickey") < 2:
            await asyncio.sleep(0.02)
    assert node.log().count("Connection from") == 2
    assert node.log().count("Failed publickey") == 2
    node.stop()


async def test_an_expired_certificate_and_an_unknown_user(make_pool: MakePool, nodes: LoginNodes, sshd: Sshd) -> None:
    key = Key.make("late")
    late = nodes.authority.certify(key, [nodes.alice.name], valid_after=time.time() - 500, lifetime=100)
    with pytest.raises(CredentialRefused):
        await use(make_pool(sshd, Fixed(key, late)), nodes.alice)
    with pytest.raises(CredentialRefused):
        await use(make_pool(sshd, Fixed(key)), "nobody-of-this-name")


async def test_aes_gcm_is_chosen(make_pool: MakePool, nodes: LoginNodes, sshd: Sshd) -> None:
    async with make_pool(sshd).lease(principal(nodes.alice)) as session:
        ssh = session.connection.ssh
        assert ssh.get_extra_info("send_cipher") == ssh.get_extra_info("recv_cipher") == CIPHERS[0]
        assert CIPHERS[0] == "aes128-gcm@openssh.com"


async def test_a_port_where_nobody_listens(make_pool: MakePool, nodes: LoginNodes) -> None:
    node = nodes.start()
    node.stop()
    with pytest.raises(LoginNodeUnreachable, match="connection refused") as caught:
        await use(make_pool(node), nodes.alice)
    assert str(node.port) not in caught.value.message


async def test_a_name_that_does_not_exist(make_pool: MakePool, nodes: LoginNodes, sshd: Sshd) -> None:
    with pytest.raises(LoginNodeUnreachable, match="name or service not known"):
        await use(make_pool(sshd, host="no-such-host.invalid", timeout={"connection": 10}), nodes.alice)


async def test_something_that_is_no_sshd(make_pool: MakePool, nodes: LoginNodes, sshd: Sshd) -> None:
    async def http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 100)
        writer.close()

    server = await asyncio.start_server(http, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(GatewayError) as caught:
        await use(make_pool(sshd, port=port, timeout={"connection": 1}), nodes.alice)
    assert caught.value.status == 424
    server.close()
    await server.wait_closed()


async def test_a_login_node_that_says_nothing(make_pool: MakePool, nodes: LoginNodes, sshd: Sshd) -> None:
    async def silence(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silence, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    started = time.perf_counter()
    with pytest.raises(LoginNodeUnreachable, match="timed out"):
        await use(make_pool(sshd, port=port, timeout={"connection": 0.3}), nodes.alice)
    assert time.perf_counter() - started > 0.25
    server.close()
    await server.wait_closed()


async def test_a_login_that_hangs_has_a_time_out_of_its_own(make_pool: MakePool, nodes: LoginNodes) -> None:
    node = nodes.start(
        extra=f"AuthorizedPrincipalsCommand /bin/sleep 300\nAuthorizedPrincipalsCommandUser {nodes.bob.name}\n"
    )
    key = Key.make("x")
    pool = make_pool(node, Fixed(key, nodes.authority.certify(key, [nodes.alice.name])), timeout={"login": 0.5})
    # sshd itself would wait for two minutes.
    async with asyncio.timeout(300):
        with pytest.raises(LoginNodeUnreachable, match="timed out"):
            await use(pool, nodes.alice)
    assert pool.stats.logins_failed == 1
    node.stop()


async def test_a_frozen_login_node(make_pool: MakePool, nodes: LoginNodes) -> None:
    node = nodes.start()
    pool = make_pool(node, timeout={"command_execution": 4, "connection": 4, "keep_alive": 2})
    await use(pool, nodes.alice)
    node.suspend()
    deadline = time.monotonic() + 120
    with pytest.raises(TimedOut):
        await use(pool, nodes.alice)
    with pytest.raises(LoginNodeUnreachable, match="timed out"):
        await use(pool, nodes.bob)
    while pool.stats.connections:
        assert time.monotonic() < deadline, "three lost keep-alives end a connection"
        await asyncio.sleep(0.05)
    node.resume()
    await use(pool, nodes.alice)
    node.stop()


async def test_a_command_under_way_when_the_login_node_dies(make_pool: MakePool, nodes: LoginNodes) -> None:
    node = nodes.start()
    pool = make_pool(node)

    async def work() -> None:
        async with pool.lease(principal(nodes.alice)) as session:
            await session.run(["sleep", "4718"], timeout=300)

    async with pool.lease(principal(nodes.alice)) as session:
        await session.files()
    many = [asyncio.create_task(work()) for _ in range(5)]
    async with asyncio.timeout(120):
        while len([line for line in processes(nodes.alice) if line == "sleep 4718"]) < 5:
            await asyncio.sleep(0.05)
    node.restart()
    outcomes = await asyncio.gather(*many, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {ConnectionLost}
    assert pool.stats.connections == 0
    await use(pool, nodes.alice)
    node.stop()


async def test_reads_survive_a_restart_and_writes_are_not_repeated(make_pool: MakePool, nodes: LoginNodes) -> None:
    node = nodes.start()
    pool = make_pool(node)
    attempts: list[str] = []

    def work(name: str) -> Any:
        async def perform(session: Any) -> bytes:
            attempts.append(name)
            if attempts.count(name) == 1:
                await asyncio.to_thread(node.restart)
            return bytes((await session.run(["echo", name])).stdout)

        return perform

    assert await pool.perform(principal(nodes.alice), work("read"), retry=True) == b"read\n"
    with pytest.raises(ConnectionLost):
        await pool.perform(principal(nodes.alice), work("write"), retry=False)
    assert attempts == ["read", "read", "write"]
    node.stop()


async def test_through_a_jump_host(make_pool: MakePool, nodes: LoginNodes) -> None:
    jump = nodes.start(allow_tcp_forwarding=True)
    node = nodes.start()
    via = {"proxy_host": jump.host, "proxy_port": jump.port, "proxy_host_keys": (jump.host_public_key,)}
    pool = make_pool(node, **via, timeout={"idle_timeout": 0.3})
    async with pool.lease(principal(nodes.alice)) as session:
        assert (await session.run(["id", "-un"])).stdout.decode().strip() == nodes.alice.name
        assert (await (await session.files()).stat(b"/etc")).size
    assert f"Accepted publickey for {nodes.alice.name}" in jump.log()
    deadline = time.monotonic() + 120
    while jump.log().count("Disconnected from user") < 1:
        assert time.monotonic() < deadline, "the connection to the jump host ends with the one that it carries"
        await asyncio.sleep(0.05)

    await use(pool, nodes.alice)
    jump.stop()
    with pytest.raises(LoginNodeUnreachable, match="jump host"):
        await use(pool, nodes.bob)
    jump.start()
    await use(pool, nodes.alice)
    node.stop()
    with pytest.raises(LoginNodeUnreachable, match="login node of demo cannot be reached through the jump host"):
        await use(make_pool(node, **via), nodes.alice)
    closed = nodes.start(allow_tcp_forwarding=False)
    via = {"proxy_host": closed.host, "proxy_port": closed.port, "proxy_host_keys": (closed.host_public_key,)}
    with pytest.raises(LoginNodeUnreachable, match="through the jump host"):
        await use(make_pool(node, **via), nodes.alice)
    jump.stop()
    closed.stop()


def test_what_a_login_node_says_of_a_login_is_one_short_line() -> None:
    key = cast("Any", SimpleNamespace(signed=True))
    client = Client(cast("Any", None), cast("Any", None), "node", 22, key, lambda: None)
    client.auth_banner_received("expired\n" * 100_000, "")
    assert len(client.said) < 310
    assert "\n" not in client.said
