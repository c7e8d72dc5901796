from __future__ import annotations

import asyncio
import os
import socket
import threading
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from hpcgate.config.watched import Watched
from hpcgate.demo.keys import Key
from hpcgate.demo.sshd import Sshd
from hpcgate.errors import HostKeyRefused
from hpcgate.ssh import host_keys
from hpcgate.ssh.host_keys import HostKeys
from hpcgate.threads import Threads
from tests.ssh.conftest import MakePool
from tests.ssh.nodes import Keys, LoginNodes, principal


def fingerprint(key: Key) -> str:
    return asyncssh.import_public_key(key.public_line).get_fingerprint()


async def login(make_pool: MakePool, sshd: Sshd, nodes: LoginNodes, **changes: object) -> None:
    async with make_pool(sshd, **changes).lease(principal(nodes.alice)) as session:
        assert (await session.run(["true"])).ok


async def test_the_pinned_key(make_pool: MakePool, sshd: Sshd, nodes: LoginNodes) -> None:
    """A login node is accepted by the key that is pinned, and by no other."""
    await login(make_pool, sshd, nodes, host_keys=(sshd.host_public_key,))
    await login(make_pool, sshd, nodes, host_keys=(Key.make("old").public_line, sshd.host_public_key))
    await login(make_pool, sshd, nodes, host_keys=(sshd.known_hosts_line,), strict_host_keys=True)


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
async def test_another_key_is_refused_by_its_fingerprint_and_nothing_of_the_credential_is_used(
    make_pool: MakePool, nodes: LoginNodes, sshd: Sshd, kind: str
) -> None:
    expected = Key.make("expected", kind)  # type: ignore[arg-type]
    before = len(sshd.log())
    with pytest.raises(HostKeyRefused) as caught:
        await login(make_pool, sshd, nodes, host_keys=(expected.public_line,))
    message = caught.value.message
    assert f"seen {fingerprint(sshd.host_key)}" in message
    assert f"expected {fingerprint(expected)}" in message
    assert "login node of demo" in message
    assert caught.value.status == 424
    await asyncio.sleep(0.1)
    assert "publickey for" not in sshd.log()[before:]
    assert f"user {nodes.alice.name}" not in sshd.log()[before:]


async def test_a_known_hosts_file_in_all_its_forms(
    make_pool: MakePool, sshd: Sshd, nodes: LoginNodes, tmp_path: Path
) -> None:
    file = tmp_path / "known_hosts"
    key = sshd.host_public_key
    port = sshd.port
    for content in (
        sshd.known_hosts_line,
        f"# comment\n\n[127.0.0.1]:{port},[login.example]:22 {key}\n",
        f"127.0.0.1 {key}\n",
        f"* {key}\n",
    ):
        file.write_text(content)
        await login(make_pool, sshd, nodes, host_keys=(), known_hosts=str(file))
    hashed = tmp_path / "hashed"
    hashed.write_text(sshd.known_hosts_line + "\n")
    process = await asyncio.create_subprocess_exec(
        "ssh-keygen", "-H", "-f", str(hashed), stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    )
    assert await process.wait() == 0
    assert "|1|" in hashed.read_text()
    await login(make_pool, sshd, nodes, host_keys=(), known_hosts=str(hashed))


async def test_a_name_whose_address_alone_is_known(
    make_pool: MakePool, sshd: Sshd, nodes: LoginNodes, tmp_path: Path
) -> None:
    file = tmp_path / "known_hosts"
    file.write_text(sshd.known_hosts_line)
    await login(make_pool, sshd, nodes, host="localhost", host_keys=(), known_hosts=str(file))


async def test_known_hosts_that_do_not_know_it_or_have_revoked_it(
    make_pool: MakePool, sshd: Sshd, nodes: LoginNodes, tmp_path: Path
) -> None:
    file = tmp_path / "known_hosts"
    file.touch()
    pool = make_pool(sshd, host_keys=(), known_hosts=str(file))
    file.unlink()

    async def refused() -> str:
        with pytest.raises(HostKeyRefused) as caught:
            async with pool.lease(principal(nodes.alice)):
                pass
        return caught.value.message

    assert "cannot be read" in await refused()
    file.write_text(f"other.example {sshd.host_public_key}\n")
    assert "has no key" in await refused()
    file.write_text(f"{sshd.known_hosts_line}\n@revoked * {sshd.host_public_key}\n")
    assert "revoked" in await refused()
    file.write_text("one word\nnonsense\n@strange a b\n")
    assert "cannot be read" in await refused()
    file.write_text(f"[127.0.0.1]:{sshd.port} {Key.make('x').public_line}\n")
    assert fingerprint(sshd.host_key) in await refused()
    file.write_text(sshd.known_hosts_line)
    async with pool.lease(principal(nodes.alice)) as session:
        assert (await session.run(["true"])).ok


async def test_host_certificates(make_pool: MakePool, nodes: LoginNodes, tmp_path: Path) -> None:
    """A login node is accepted by a certificate of a trusted authority."""
    authority, key = Key.make("host-ca"), Key.make("host")
    certificate = nodes.directory / "ssh" / "host-cert.pub"
    certificate.write_text(authority.certify(key, ["127.0.0.1"], host=True) + "\n")
    node = nodes.start(host_key=key, extra=f"HostCertificate {certificate}\n")
    await login(make_pool, node, nodes, host_keys=(f"@cert-authority {authority.public_line}",))
    await login(make_pool, node, nodes, host_keys=(f"@cert-authority * {authority.public_line}",))
    await login(make_pool, node, nodes, host_keys=(key.public_line,))
    await login(make_pool, node, nodes, host_keys=())
    file = tmp_path / "known_hosts"
    file.write_text(f"@cert-authority * {authority.public_line}\n")
    await login(make_pool, node, nodes, host_keys=(), known_hosts=str(file))
    other = Key.make("other-ca")
    with pytest.raises(HostKeyRefused) as caught:
        await login(make_pool, node, nodes, host_keys=(f"@cert-authority {other.public_line}",))
    assert fingerprint(other) in caught.value.message
    file.write_text(f"@cert-authority * {authority.public_line}\n@revoked * {authority.public_line}\n")
    with pytest.raises(HostKeyRefused):
        await login(make_pool, node, nodes, host_keys=(), known_hosts=str(file))
    node.stop()
    certificate.write_text(authority.certify(key, ["elsewhere"], host=True) + "\n")
    node.start()
    with pytest.raises(HostKeyRefused):
        await login(make_pool, node, nodes, host_keys=(f"@cert-authority {authority.public_line}",))
    node.stop()


async def test_the_first_key_seen_is_pinned_for_everybody(
    make_pool: MakePool, nodes: LoginNodes, capsys: pytest.CaptureFixture[str]
) -> None:
    node = nodes.start()
    pool = make_pool(node, host_keys=(), timeout={"idle_timeout": 0.05}, failed_login_pause=0)
    pool.warn()
    assert "ssh.host_keys.unverified" in capsys.readouterr().out

    async def use(user: str) -> None:
        async with pool.lease(principal(user)) as session:
            assert (await session.run(["true"])).ok

    await asyncio.gather(use(nodes.alice.name), use(nodes.bob.name))
    assert capsys.readouterr().out.count("ssh.host_keys.pinned") == 1
    while pool.stats.connections:
        await asyncio.sleep(0.02)
    node.stop()
    impostor = nodes.start(host_key=Key.make("impostor"), port=node.port)
    for user in (nodes.alice.name, nodes.bob.name):
        with pytest.raises(HostKeyRefused) as caught:
            await use(user)
        assert fingerprint(impostor.host_key) in caught.value.message
        assert fingerprint(node.host_key) in caught.value.message
    impostor.stop()


async def test_strict_refuses_the_unknown() -> None:
    with pytest.raises(HostKeyRefused, match="strict_host_keys"):
        await HostKeys("demo", "jump host", strict=True).trusted("jump.example", 22)


async def test_verified_systems_do_not_warn(
    make_pool: MakePool, sshd: Sshd, nodes: LoginNodes, capsys: pytest.CaptureFixture[str]
) -> None:
    make_pool(sshd).warn()
    assert capsys.readouterr().out == ""
    make_pool(sshd, proxy_host="jump.example").warn()
    assert "jump host" in capsys.readouterr().out


async def test_the_jump_host_is_verified_as_well(make_pool: MakePool, nodes: LoginNodes) -> None:
    jump = nodes.start(allow_tcp_forwarding=True)
    node = nodes.start()
    via = {"proxy_host": jump.host, "proxy_port": jump.port}
    keys: Keys = nodes.keys()
    pool = make_pool(node, keys, **via, proxy_host_keys=(jump.host_public_key,))
    async with pool.lease(principal(nodes.alice)) as session:
        assert (await session.run(["true"])).ok
    wrong = make_pool(node, **via, proxy_host_keys=(Key.make("x").public_line,))
    with pytest.raises(HostKeyRefused, match="jump host of demo"):
        async with wrong.lease(principal(nodes.alice)):
            pass
    behind = make_pool(node, **via, proxy_host_keys=(jump.host_public_key,), host_keys=(Key.make("x").public_line,))
    with pytest.raises(HostKeyRefused, match="login node of demo"):
        async with behind.lease(principal(nodes.alice)):
            pass
    jump.stop()
    node.stop()


async def test_a_key_that_cannot_be_read() -> None:
    with pytest.raises(HostKeyRefused, match="cannot be read"):
        await HostKeys("demo", "login node", ("nonsense",)).trusted("x", 22)


async def test_what_hangs_while_keys_are_looked_for_holds_one_thread(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A name that DNS is slow for, and a file on a file system that hangs: neither takes the threads of all others."""
    file = tmp_path / "known_hosts"
    file.write_text(f"192.0.2.1 {Key.make('x').public_line}\n")
    asked: list[str] = []
    answered = asyncio.Event()

    async def getaddrinfo(self: object, host: str, port: int, **_: object) -> list[object]:
        asked.append(host)
        await answered.wait()
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", port))]

    monkeypatch.setattr(asyncio.base_events.BaseEventLoop, "getaddrinfo", getaddrinfo)
    asyncio.get_running_loop().set_default_executor(Threads("one", 1))
    policy = HostKeys("demo", "login node", known_hosts=str(file))
    waiting = [asyncio.create_task(policy.trusted("slow.example.org", 22)) for _ in range(20)]
    while not asked:
        await asyncio.sleep(0)
    assert await asyncio.to_thread(lambda: "free") == "free"
    answered.set()
    assert all(len(trusted.keys) == 1 for trusted in await asyncio.gather(*waiting))
    assert asked == ["slow.example.org"]

    asyncio.get_running_loop().set_default_executor(Threads("two", 2))
    hangs, begun = threading.Event(), threading.Semaphore(0)
    read = Watched.read

    def hanging(watched: Watched[Any]) -> object:
        begun.release()
        hangs.wait()
        return read(watched)

    monkeypatch.setattr(Watched, "read", hanging)
    waiting = [asyncio.create_task(policy.trusted("192.0.2.1", 22)) for _ in range(20)]
    try:
        async with asyncio.timeout(300):
            assert await asyncio.to_thread(begun.acquire)
            waiting[0].cancel()
            assert await asyncio.to_thread(begun.acquire, blocking=False) is False
    finally:
        hangs.set()
    assert [len(trusted.keys) for trusted in await asyncio.gather(*waiting[1:])] == [1] * 19


async def test_a_known_hosts_file_that_hangs_has_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_keys, "PATIENCE", 0.1)
    file = tmp_path / "known_hosts"
    os.mkfifo(file)
    try:
        for _ in range(2):
            with pytest.raises(HostKeyRefused, match=r"nothing came within 0\.1 s"):
                await HostKeys("demo", "login node", known_hosts=str(file)).trusted("192.0.2.1", 22)
    finally:
        os.close(os.open(file, os.O_RDWR))
