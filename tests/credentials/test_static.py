from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from hpcgate.auth import Principal
from hpcgate.credentials.static import StaticKeys, StaticKeysSettings
from hpcgate.demo.keys import Key
from hpcgate.errors import CredentialRefused

ALICE = Principal("alice", "token")


def source(**key: Any) -> StaticKeys:
    return StaticKeys(StaticKeysSettings.model_validate({"type": "SSHStaticKeys", "keys": {"alice": key}}))


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
async def test_a_plain_key(kind: Any) -> None:
    """A key without a certificate is a credential that does not expire."""
    key = Key.make("alice", kind)
    credential = await source(private_key=key.private_text()).credential(ALICE)
    assert credential.private_key.export_public_key("openssh").decode().split()[1] == key.public_line.split()[1]
    assert credential.certificate is None
    assert credential.expires_at is None
    assert "PRIVATE" not in repr(credential)


async def test_a_key_without_its_last_newline_and_one_with_escaped_newlines() -> None:
    text = Key.make("alice").private_text()
    for damaged in (text.strip(), text.replace("\n", "\\n")):
        assert (await source(private_key=damaged).credential(ALICE)).private_key is not None


async def test_an_encrypted_key_is_decrypted_once_however_many_ask() -> None:
    keys = source(privateKey=Key.make("alice").private_text("open sesame"), passphrase="open sesame")
    started = time.perf_counter()
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.005)
            ticks += 1

    ticking = asyncio.create_task(tick())
    many = await asyncio.gather(*(keys.credential(ALICE) for _ in range(50)))
    seconds = time.perf_counter() - started
    ticking.cancel()
    assert all(credential is many[0] for credential in many)
    assert ticks >= min(2, seconds / 0.02), "decrypting must not hold up the event loop"


@pytest.mark.parametrize("passphrase", ["wrong", None, ""])
async def test_a_passphrase_that_does_not_fit_is_refused_without_showing_it(passphrase: str | None) -> None:
    text = Key.make("alice").private_text("open sesame")
    with pytest.raises(CredentialRefused, match="alice") as caught:
        await source(private_key=text, passphrase=passphrase).credential(ALICE)
    assert "passphrase" in str(caught.value)
    assert "wrong" not in str(caught.value)
    assert "sesame" not in str(caught.value)


async def test_a_key_that_is_none_is_refused_without_showing_it() -> None:
    with pytest.raises(CredentialRefused, match="alice") as caught:
        await source(private_key="hunter2").credential(ALICE)
    assert "hunter2" not in str(caught.value)


async def test_a_user_without_a_key() -> None:
    with pytest.raises(CredentialRefused, match="No SSH key is configured for the user bob"):
        await source(private_key=Key.make("alice").private_text()).credential(Principal("bob", "token"))


async def test_a_certificate_from_a_file_and_when_it_ends(tmp_path: Path) -> None:
    authority = Key.make("ca", "rsa")
    for kind in ("ed25519", "ecdsa", "rsa"):
        key = Key.make("alice", kind)
        now = time.time()
        file = tmp_path / "cert.pub"
        file.write_text(authority.certify(key, ["alice"], lifetime=120) + "\n")
        credential = await source(private_key=key.private_text(), public_cert=f"secret_file:{file}").credential(ALICE)
        assert credential.certificate is not None
        assert credential.expires_at == pytest.approx(now + 120, abs=3)


async def test_a_certificate_of_another_key_is_refused() -> None:
    key = Key.make("alice")
    certificate = Key.make("ca").certify(Key.make("mallory"), ["alice"])
    with pytest.raises(CredentialRefused, match="another key"):
        await source(private_key=key.private_text(), public_cert=certificate).credential(ALICE)


async def test_a_certificate_that_is_none_is_refused() -> None:
    with pytest.raises(CredentialRefused, match="cannot be read"):
        await source(private_key=Key.make("alice").private_text(), public_cert="ssh-rsa").credential(ALICE)


def test_settings_do_not_show_secrets_and_know_their_keys() -> None:
    settings = StaticKeysSettings.model_validate(
        {"type": "SSHStaticKeys", "keys": {"a": {"private_key": "hunter2", "passphrase": "hunter3"}}}
    )
    assert "hunter" not in repr(settings)
    with pytest.raises(ValidationError):
        StaticKeysSettings.model_validate({"type": "SSHStaticKeys", "keys": {"a": {"key": "x"}}})
