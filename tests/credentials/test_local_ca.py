"""What the built-in authority writes into certificates."""

import asyncio
import io
import os
import resource
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import asyncssh
import pytest
from pydantic import ValidationError

from hpcgate.auth import Principal
from hpcgate.credentials import local_ca, token_agent
from hpcgate.credentials.certificates import contents
from hpcgate.credentials.local_ca import LocalCa, LocalCaSettings
from hpcgate.demo.packages import program
from hpcgate.errors import CredentialRefused, Unavailable

KEY = asyncssh.generate_private_key("ssh-ed25519").export_private_key("openssh").decode()


def source(**settings: Any) -> LocalCa:
    return LocalCa(LocalCaSettings.model_validate({"type": "LocalCA", "ca_key": KEY, **settings}))


async def said(who: Principal, **settings: Any) -> Any:
    certificate = (await source(**settings).credential(who)).certificate
    assert certificate is not None
    return contents(certificate)


async def test_a_certificate_has_as_many_names_as_sshd_takes() -> None:
    names = [f"project-{number}" for number in range(257)]
    alice = Principal("alice", "token", {"most": names[:256], "more": names})
    assert (await said(alice, principals_claim="most")).principals == tuple(names[:256])
    with pytest.raises(CredentialRefused, match="more than 256 names"):
        await said(alice, principals_claim="more")


@pytest.mark.parametrize("jti", ["a b", "x user=root", "x\nuser=root", "\ud800", "é", "x" * 10_000])
async def test_an_id_of_the_token_passes_for_nothing_else(jti: str) -> None:
    """The key id is what an auditor reads in sshd's log."""
    key_id = (await said(Principal("alice", "token", {"jti": jti}))).key_id
    words = key_id.split(" ")
    assert words[:2] == ["hpcgate", "user=alice"]
    assert len(words) == 3
    assert words[2].startswith("jti=")
    assert words[2].count("=") == 1
    assert len(key_id) < 300


async def test_principals() -> None:
    """A certificate is for the names of the setting, or for those of the claim."""
    alice = Principal("alice", "token", {"names": ["a", "b"], "name": "c", "none": [], "odd": [1]})
    assert (await said(alice)).principals == ("alice",)
    assert (await said(alice, principals=["{username}", "hpc-{username}"])).principals == ("alice", "hpc-alice")
    assert (await said(alice, principals_claim="names")).principals == ("a", "b")
    assert (await said(alice, principals_claim="name")).principals == ("c",)
    for claim in ("none", "odd", "missing"):
        with pytest.raises(CredentialRefused, match=f"claim {claim}"):
            await said(alice, principals_claim=claim)


@pytest.mark.parametrize(
    "settings",
    [{"ca_key": None}, {"agent_socket": "/run/agent"}, {"lifetime": 30}, {"source_address": ["nowhere"]}],
)
def test_settings_that_cannot_be(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        source(**settings)


async def test_a_key_that_cannot_be_read() -> None:
    with pytest.raises(CredentialRefused, match="cannot be read") as refused:
        await source(ca_key="no key").credential(Principal("alice", "token"))
    assert "no key" not in str(refused.value)


async def test_an_agent_that_stands_still_for_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer that came too late is not taken for the next one's."""
    socket = tmp_path / "agent"
    agent = subprocess.Popen([program("ssh-agent"), "-D", "-a", str(socket)], stdout=subprocess.DEVNULL)
    try:
        async with asyncio.timeout(300):
            while not socket.exists():
                await asyncio.sleep(0.01)
        async with await asyncssh.connect_agent(str(socket)) as client:
            await client.add_keys([asyncssh.import_private_key(KEY)])
        asked = source(ca_key=None, agent_socket=str(socket))
        assert (await asked.credential(Principal("alice", "token"))).certificate is not None
        monkeypatch.setattr(local_ca, "_PATIENCE", 0.3)
        os.kill(agent.pid, signal.SIGSTOP)
        waiting = (asked.credential(Principal(name, "token")) for name in ("bob", "carol", "dave"))
        for late in await asyncio.gather(*waiting, return_exceptions=True):
            assert isinstance(late, Unavailable)
            assert "in time" in late.message
            assert late.headers == {"Retry-After": "5"}
        os.kill(agent.pid, signal.SIGCONT)
        monkeypatch.setattr(local_ca, "_PATIENCE", 10)
        for name in ("bob", "carol"):
            certificate = (await asked.credential(Principal(name, "token"))).certificate
            assert certificate is not None
            assert contents(certificate).principals == (name,)
        await asked.close()
    finally:
        agent.kill()
        agent.wait()


def framed(content: bytes) -> bytes:
    return len(content).to_bytes(4, "big") + content


PUBLIC = asyncssh.import_private_key(KEY).public_data
ONE_KEY = framed(b"\x0c" + (1).to_bytes(4, "big") + framed(PUBLIC) + framed(b"ca"))
"""An agent's answer that it has one key (draft-ietf-sshm-ssh-agent, section 3.5)."""
MUCH = b"x" * 1_000_000

AGENTS: dict[str, tuple[bytes, ...]] = {
    # What an agent says to one question after another; much of it goes on without end.
    "keys without end": ((2**32 - 1).to_bytes(4, "big") + MUCH,),
    "a signature without end": (ONE_KEY, (2**31).to_bytes(4, "big") + MUCH),
    "nothing": (framed(b""),),
    "no": (framed(b"\x05"),),
    "what it was not asked": (framed(b"\x0e" + framed(b"x")),),
    "more keys than there are": (framed(b"\x0c" + b"\xff" * 4 + framed(PUBLIC) + framed(b"ca")),),
    "a key that is none": (framed(b"\x0c" + (1).to_bytes(4, "big") + framed(b"\xff" * 40) + framed(b"ca")),),
    "a comment that is no text": (
        framed(b"\x0c" + (1).to_bytes(4, "big") + framed(PUBLIC) + framed(b"\xff")),
        framed(b""),
    ),
    "a signature of nothing": (ONE_KEY, framed(b"\x0e" + framed(b""))),
    "a signature of another kind": (ONE_KEY, framed(b"\x0e" + framed(framed(b"ssh-rsa") + framed(b"x" * 64)))),
    "a signature that is none": (ONE_KEY, framed(b"\x0e" + framed(framed(b"ssh-ed25519") + framed(b"x" * 64)))),
    "a long signature": (ONE_KEY, framed(b"\x0e" + framed(framed(b"ssh-ed25519") + framed(b"x" * 200_000)))),
    "two answers at a time": (ONE_KEY + framed(b"\x0e" + framed(b"x")), framed(b"\x05")),
}


@pytest.mark.parametrize("name", AGENTS)
async def test_an_agent_that_lies_gives_no_certificate(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = AGENTS[name]
    lies: set[asyncio.Task[None]] = set()

    async def lie(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        lies.add(task)
        with suppress(OSError, asyncio.IncompleteReadError):
            for answer in answers:
                await reader.readexactly(int.from_bytes(await reader.readexactly(4), "big"))
                writer.write(answer)
                await writer.drain()
                while answer.endswith(MUCH):
                    writer.write(MUCH)
                    await writer.drain()
            await reader.read()
        writer.transport.abort()

    path = str(tmp_path / "agent")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    server = await asyncio.start_unix_server(lie, path)
    asked = source(ca_key=None, agent_socket=path)
    # Its time is longer than a test wants to wait.
    monkeypatch.setattr(local_ca, "_PATIENCE", 2)
    async with asyncio.timeout(300):
        with pytest.raises((CredentialRefused, Unavailable)):
            await asked.credential(Principal("alice", "token"))
        await asked.close()
        server.close()
        await asyncio.gather(*lies)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024


TOKEN = """
import asyncssh, os, pathlib, sys, threading
from hpcgate.credentials import token_agent

class Lying:
    def __init__(self, pair):
        self.pair = pair

    def __getattr__(self, name):
        return getattr(self.pair, name)

    def sign(self, data):
        if first:
            {sign}
        return self.pair.sign(data)

def load(provider, pin, **_):
    assert pin == "the PIN"
    if first:
        {load}
    return [Lying(pair) for pair in asyncssh.load_keypairs([asyncssh.import_private_key(key.read_text())])]

key = pathlib.Path(sys.argv[1])
tried = key.with_suffix(".tried")
first = not tried.exists()
tried.touch()
asyncssh.load_pkcs11_keys = load
token_agent.main()
"""


@pytest.mark.parametrize("where", ["load", "sign"])
@pytest.mark.parametrize(
    ("lie", "again"),
    [
        ("os.abort()", True),
        ("os.kill(os.getpid(), 11)", True),
        ("os._exit(0)", True),
        ("raise RuntimeError('no such token')", True),
        ("threading.Event().wait()", False),
        ("os.write(1, b'printed by a library')", True),
    ],
    ids=["abort", "crash", "exit", "error", "hang", "print"],
)
async def test_a_library_of_a_token_that_lies_ends_its_own_process_alone(
    where: str, lie: str, again: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is begun anew: at once where it has gone, for the next who asks where it had to be ended."""
    key = tmp_path / "ca"
    key.write_bytes(asyncssh.generate_private_key("ssh-ed25519").export_private_key())
    program = TOKEN.format(**{"load": "pass", "sign": "pass", where: lie})
    monkeypatch.setattr(local_ca, "_TOKEN_AGENT", (sys.executable, "-c", program, str(key)))
    asked = source(ca_key=None, pkcs11_provider="/a/library.so", pkcs11_pin="the PIN")
    try:
        if not again:
            # A process that has had no time to hang does not count.
            monkeypatch.setattr(local_ca, "_PATIENCE", 2)
            while not key.with_suffix(".tried").exists():
                with pytest.raises(Unavailable):
                    await asked.credential(Principal("alice", "token"))
        monkeypatch.setattr(local_ca, "_PATIENCE", 240)
        credential = await asked.credential(Principal("alice", "token"))
        assert credential.certificate is not None
        token = asked._token
        assert token is not None
        process = token._process
        assert process is not None
    finally:
        await asked.close()
    assert await process.wait() != 0


def test_a_message_to_a_token_s_process_has_a_bound() -> None:
    size = 256 * 1024
    assert token_agent.read_message(io.BytesIO(size.to_bytes(4, "big") + bytes(size))) == bytes(size)
    with pytest.raises(ValueError, match="a message of"):
        token_agent.read_message(io.BytesIO((size + 1).to_bytes(4, "big") + bytes(size + 1)))
