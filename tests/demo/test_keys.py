"""Keys and certificates, judged by OpenSSH's own ssh-keygen."""

from __future__ import annotations

import stat
import subprocess
import time
from pathlib import Path

import pytest

from hpcgate.demo.keys import Key, KeyType, write_private


def keygen(*arguments: str | Path, check: bool = True) -> str:
    done = subprocess.run(["ssh-keygen", *arguments], capture_output=True, text=True, check=False, timeout=600)
    if check:
        assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
def test_ssh_keygen_derives_the_public_key_from_the_private_one(kind: KeyType, tmp_path: Path) -> None:
    key = Key.make("somebody", kind)
    path = key.write(tmp_path / "key")
    assert keygen("-y", "-f", path).split()[:2] == key.public_line.split()[:2]
    assert (tmp_path / "key.pub").read_text() == key.public_line + "\n"
    assert key.public_line.endswith(" somebody")


def test_a_private_key_is_for_its_owner_only_even_where_a_file_was_open_to_all(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("old")
    path.chmod(0o644)
    Key.make("x").write(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "OPENSSH PRIVATE KEY" in path.read_text()
    assert stat.S_IMODE(write_private(tmp_path / "new", b"secret").stat().st_mode) == 0o600


def test_a_passphrase_is_needed_to_read_an_encrypted_key(tmp_path: Path) -> None:
    key = Key.make("x")
    path = key.write(tmp_path / "key", passphrase="open sesame")
    assert keygen("-y", "-P", "open sesame", "-f", path).split()[:2] == key.public_line.split()[:2]
    assert "incorrect passphrase" in keygen("-y", "-P", "wrong", "-f", path, check=False)


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
def test_a_certificate_names_its_principals_and_its_time(kind: KeyType, tmp_path: Path) -> None:
    authority, key = Key.make("ca"), Key.make("alice", kind)
    path = tmp_path / "cert.pub"
    path.write_text(authority.certify(key, ["alice", "al"], lifetime=600, force_command="/bin/true") + "\n")
    shown = keygen("-L", "-f", path)
    authority_print = keygen("-lf", _public(authority, tmp_path)).split()[1]
    assert "user certificate" in shown
    assert authority_print in shown
    principals = shown.partition("Principals:")[2].partition("Critical Options:")[0].split()
    assert principals == ["alice", "al"]
    assert "force-command /bin/true" in shown
    assert "permit-pty" in shown
    begin, end = (
        time.mktime(time.strptime(moment, "%Y-%m-%dT%H:%M:%S"))
        for moment in shown.partition("Valid: from ")[2].splitlines()[0].split(" to ")
    )
    assert begin <= time.time() - 55
    assert time.time() + 590 <= end <= time.time() + 601


def test_a_certificate_of_the_past_is_over(tmp_path: Path) -> None:
    authority, key = Key.make("ca"), Key.make("alice")
    path = tmp_path / "cert.pub"
    path.write_text(authority.certify(key, ["alice"], valid_after=time.time() - 3600, lifetime=60) + "\n")
    end = keygen("-L", "-f", path).partition(" to ")[2].split()[0]
    assert time.mktime(time.strptime(end, "%Y-%m-%dT%H:%M:%S")) < time.time() - 3000


def test_a_host_certificate_has_no_rights_of_users(tmp_path: Path) -> None:
    path = tmp_path / "cert.pub"
    path.write_text(Key.make("ca").certify(Key.make("host"), ["localhost"], host=True) + "\n")
    shown = keygen("-L", "-f", path)
    assert "host certificate" in shown
    assert "permit-pty" not in shown


def _public(key: Key, directory: Path) -> Path:
    path = directory / "public"
    path.write_text(key.public_line + "\n")
    return path
