"""Services that sign, and lie: a credential is used only if it is one to log this user in with."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

import asyncssh
import pytest
from asyncssh.asn1 import der_encode
from asyncssh.public_key import SSHOpenSSHCertificateV01
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import SSHCertificateBuilder, SSHCertificateType
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from hpcgate.auth import Principal
from hpcgate.credentials.certificates import Expectation, checked, contents, user_certificate
from hpcgate.credentials.deic_ca import DeicCa, DeicCaSettings
from hpcgate.credentials.keygen_service import KeygenService, KeygenServiceSettings
from hpcgate.credentials.signing import SigningService
from hpcgate.credentials.static import UserKey, _read
from hpcgate.credentials.vault import Vault, VaultSettings
from hpcgate.errors import CredentialRefused, GatewayError, Unavailable
from tests.outbound.lies import LIES, answer, liar, says

TOKEN = "eyJhbGciOiJFUzI1NiJ9." + "cGF5bG9hZA" * 60 + "." + "c2ln" * 20
ALICE = Principal("alice", TOKEN)
CA = asyncssh.generate_private_key("ssh-ed25519")
OTHER_CA = asyncssh.generate_private_key("ssh-ed25519")
OTHER = asyncssh.generate_private_key("ssh-ed25519")


def now() -> int:
    """Return the time, which goes on between the tests' being collected and their turn."""
    return int(time.time())


Make = Callable[[asyncssh.SSHKey], str]


def text(certificate: asyncssh.SSHCertificate) -> str:
    return certificate.export_certificate("openssh").decode()


def user(key: asyncssh.SSHKey, ca: asyncssh.SSHKey = CA, **said: Any) -> str:
    usual: dict[str, Any] = {"principals": ["alice"], "valid_after": now() - 60, "valid_before": now() + 3600}
    return text(ca.generate_user_certificate(key, "id", **(usual | said)))


def with_option(key: asyncssh.SSHKey, option: str) -> str:
    """Return a certificate with an option that asyncssh does not make."""
    # asyncssh keeps a key as cryptography has it, private or public.
    public: Any = getattr(key.pyca_key, "public_key", lambda: key.pyca_key)()
    builder = SSHCertificateBuilder().valid_after(now() - 60).valid_before(now() + 3600).public_key(public)
    builder = builder.type(SSHCertificateType.USER).valid_principals([b"alice"]).serial(1).key_id(b"id")
    return builder.add_critical_option(option.encode(), b"x").sign(cast("Any", CA.pyca_key)).public_bytes().decode()


def backwards(key: asyncssh.SSHKey) -> str:
    """Return a certificate that ends before it begins."""
    algorithm = b"ssh-ed25519-cert-v01@openssh.com"
    return text(
        SSHOpenSSHCertificateV01.generate(
            CA, algorithm, key, 1, 1, "id", ["alice"], now() + 30, now() + 20, {}, b"ssh-ed25519", None
        )
    )


def broken(key: asyncssh.SSHKey) -> str:
    """Return a certificate whose signature is not one."""
    kind, data = user(key).split()[:2]
    return f"{kind} {data[:-8]}AAAA{data[-4:]}"


REFUSED: dict[str, tuple[Make, str]] = {
    "host": (lambda key: text(CA.generate_host_certificate(key, "id", principals=["alice"])), "for hosts"),
    "another key": (lambda key: user(OTHER), "another key"),
    "another user": (lambda key: user(key, principals=["bob"]), "alice is not among"),
    "several others": (lambda key: user(key, principals=["bob", "root", "alice2", "Alice"]), "alice is not among"),
    "nobody by name": (lambda key: user(key, principals=[]), "for nobody by name"),
    "ended": (lambda key: user(key, valid_after=now() - 3600, valid_before=now() - 1), "has expired"),
    "ended before it began": (backwards, "has expired"),
    "not yet": (lambda key: user(key, valid_after=now() + 600), "is not valid yet"),
    "for years": (lambda key: user(key, valid_before=now() + 400 * 86400), "valid for longer"),
    "for ever": (lambda key: text(CA.generate_user_certificate(key, "id", principals=["alice"])), "valid for longer"),
    "unknown critical option": (lambda key: with_option(key, "own@example.org"), "critical option"),
    "broken signature": (broken, "cannot be read"),
    "a public key": (lambda key: key.export_public_key("openssh").decode(), "cannot be read"),
    "nothing": (lambda key: "", "cannot be read"),
    "too long": (lambda key: user(key) + " " + "x" * 100_000, "cannot be read"),
    "half": (lambda key: user(key)[:200], "cannot be read"),
    "X.509": (lambda key: "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----", "cannot be read"),
}
"""By name: what is given out for a key, and what is said of it."""


def sources(url: str, **changes: Any) -> list[SigningService]:
    vault = VaultSettings.model_validate(
        {"type": "Vault", "url": url, "role": "r", "token": "hvs.own-token-of-it", **changes}
    )
    return [
        KeygenService(KeygenServiceSettings(url=url, **changes)),
        DeicCa(DeicCaSettings(url=url, **changes)),
        Vault(VaultSettings.model_validate(vault)),
    ]


async def asked(make: Make, kind: int, **changes: Any) -> Any:
    """Return the credential that a service of that kind gives alice, which signs by `make`."""

    async def sign(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head, sent = service.asked[-1], json.loads(service.bodies[-1])
        if b"/api/v1/ssh-keys" in head:
            key = asyncssh.generate_private_key("ssh-ed25519")
            pair = {"privateKey": key.export_private_key("openssh").decode(), "publicKey": make(key)}
            writer.write(answer(json.dumps({"sshKey": pair}).encode(), "201 Created"))
        elif b"/v1/ssh/sign/" in head:
            signed = make(asyncssh.import_public_key(sent["public_key"]))
            writer.write(answer(json.dumps({"data": {"signed_key": signed}}).encode()))
        else:
            writer.write(answer(make(asyncssh.import_public_key(sent["PublicKey"])).encode()))

    async with liar(sign) as service:
        made = sources(service.url, timeout=30, **changes)
        try:
            return await made[kind].credential(ALICE)
        finally:
            for source in made:
                await source.close()


@pytest.mark.parametrize("kind", [0, 1, 2], ids=["SSHService", "SSHCA", "Vault"])
@pytest.mark.parametrize("name", REFUSED)
async def test_a_certificate_that_is_not_one_for_this_user_now_is_refused(kind: int, name: str) -> None:
    make, words = REFUSED[name]
    with pytest.raises(CredentialRefused, match=words) as caught:
        await asked(make, kind)
    assert caught.value.status == 424
    assert "alice" in caught.value.message


GOOD: dict[str, tuple[Make, dict[str, Any]]] = {
    "plain": (user, {}),
    "one of several": (lambda key: user(key, principals=["staff", "alice"]), {}),
    "a clock that is ahead": (lambda key: user(key, valid_after=now() + 30), {}),
    "another name by the settings": (
        lambda key: user(key, principals=["hpc-alice"]),
        {"accepted_principals": ["{username}", "hpc-{username}"]},
    ),
    "any name by the settings": (lambda key: user(key, principals=["bob"]), {"accepted_principals": ["*"]}),
    "no name by the settings": (lambda key: user(key, principals=[]), {"accepted_principals": ["*"]}),
    "without end by the settings": (
        lambda key: text(CA.generate_user_certificate(key, "id", principals=["alice"])),
        {"max_lifetime": None},
    ),
    "critical options that sshd knows": (
        lambda key: user(key, force_command="/opt/wrapper", source_address=["192.0.2.0/24"]),
        {},
    ),
    "the configured authority": (user, {"ca_public_keys": [CA.export_public_key("openssh").decode().strip()]}),
}


@pytest.mark.parametrize("name", GOOD)
async def test_a_certificate_that_is_good(name: str) -> None:
    make, changes = GOOD[name]
    credential = await asked(make, 1, **changes)
    assert credential.certificate is not None


async def test_an_authority_that_is_not_configured() -> None:
    keys = [OTHER_CA.export_public_key("openssh").decode().strip()]
    for kind in range(3):
        with pytest.raises(CredentialRefused, match="an authority that is not configured"):
            await asked(user, kind, ca_public_keys=keys)


@pytest.mark.parametrize("kind", ["ecdsa-sha2-nistp256", "ecdsa-sha2-nistp521", "ssh-rsa", "ssh-ed25519"])
def test_keys_of_each_kind_are_read(kind: str) -> None:
    key, authority = asyncssh.generate_private_key(kind), asyncssh.generate_private_key(kind)
    said = user(key, authority, force_command="/bin/x")
    certificate = user_certificate(said, key, "It")
    assert checked(certificate, Expectation(("alice",)), "It").principals == ("alice",)
    assert contents(certificate).options == (("force-command", "/bin/x"),)


KEY = asyncssh.generate_private_key("ssh-ed25519")
GOOD_LINE = user(KEY)


@given(st.text(max_size=200) | st.binary(max_size=200).map(lambda data: data.decode("latin-1")))
@example("ssh-ed25519-cert-v01@openssh.com AAAA")
@example("ssh-ed25519-cert-v01@openssh.com " + "A" * 4000)
@example(GOOD_LINE + " " + "x" * 64 * 1024)
def test_nonsense_is_no_certificate(said: str) -> None:
    with pytest.raises(CredentialRefused):
        user_certificate(said, KEY, "It")


@given(st.integers(40, len(GOOD_LINE) - 2), st.characters(codec="ascii"))
def test_a_changed_certificate_is_none_or_the_same(place: int, character: str) -> None:
    """Whatever one character of it becomes, it is refused as ours are, or says what was signed."""
    changed = GOOD_LINE[:place] + character + GOOD_LINE[place + 1 :]
    try:
        certificate = user_certificate(changed, KEY, "It")
        assert contents(certificate).principals == ("alice",)
    except CredentialRefused:
        pass


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True) | st.text(max_size=30) | st.just("x" * 9000),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["sshKey", "privateKey", "publicKey", "data", "signed_key", "auth", "client_token", "errors", "message"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    said=JSON, status=st.sampled_from(["200 OK", "201 Created", "400 Bad", "403 No", "500 Oh"]), kind=st.integers(0, 2)
)
async def test_wrong_types_in_each_field(said: Any, status: str, kind: int) -> None:
    """Whatever JSON a service sends, what comes of it is an error of ours."""
    async with liar(says(answer(json.dumps(said).encode(), status))) as service:
        made = sources(service.url, timeout=30)
        try:
            with pytest.raises((CredentialRefused, Unavailable)):
                await made[kind].credential(ALICE)
        finally:
            for source in made:
                await source.close()


@pytest.mark.parametrize("name", LIES)
async def test_a_lie_in_http_is_a_503_in_time(name: str) -> None:
    async with liar(LIES[name]) as service:
        made = sources(service.url, timeout=0.7)
        for source in made:
            async with asyncio.timeout(300):
                with pytest.raises(GatewayError) as caught:
                    await source.credential(ALICE)
            assert caught.value.status == 503
            await source.close()


@pytest.mark.parametrize(("size", "status"), [(256 * 1024, 424), (256 * 1024 + 1, 503)])
async def test_an_answer_is_read_to_its_bound_and_no_further(size: int, status: int) -> None:
    async with liar(says(answer(b"{}".ljust(size)))) as service:
        for source in sources(service.url, timeout=200):
            with pytest.raises(GatewayError) as caught:
                await source.credential(ALICE)
            assert caught.value.status == status
            await source.close()


RSA = asyncssh.generate_private_key("ssh-rsa", key_size=1024)
_numbers = cast(RSAPrivateKey, RSA.pyca_key).private_numbers()
_parts = [_numbers.p, _numbers.q, _numbers.dmp1, _numbers.dmq1, _numbers.iqmp]
NEGATIVE = der_encode((0, _numbers.public_numbers.n, _numbers.public_numbers.e, -_numbers.d, *_parts))


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=4), st.integers(0, 2**16), st.booleans())
@example(NEGATIVE, -1, False)
def test_a_changed_private_key_is_none_or_refused(change: bytes, at: int, cut: bool) -> None:
    """Whatever the readers of keys stumble over, a negative exponent for one, is no error of the gateway's."""
    head, *lines, tail = RSA.export_private_key("pkcs1-pem").decode().splitlines()
    whole = base64.b64decode("".join(lines))
    place = at % len(whole)
    changed = change if at < 0 else whole[:place] + change + (b"" if cut else whole[place + len(change) :])
    text = "\n".join((head, base64.b64encode(changed).decode(), tail))
    it = KeygenService(KeygenServiceSettings(url="http://127.0.0.1:9"))
    with pytest.raises(CredentialRefused):
        it._read(text, "no certificate", ALICE)
    with suppress(CredentialRefused):
        _read("alice", UserKey.model_validate({"private_key": text}))


@pytest.mark.parametrize("before", [0, 10, 200, 290, 299, 1000])
@pytest.mark.parametrize("echo", [TOKEN, TOKEN[:40], TOKEN[100:180], "hvs.own-token-of-it"])
@pytest.mark.parametrize("body", ["plain", "message", "errors"])
async def test_an_echo_of_a_token_is_masked_before_it_is_cut(before: int, echo: str, body: str) -> None:
    words = "x" * before + " no: " + echo + " is bad"
    said = {"plain": words, "message": json.dumps({"message": words}), "errors": json.dumps({"errors": [words]})}[body]
    async with liar(says(answer(said.encode(), "403 Forbidden"))) as service:
        vault = sources(service.url, timeout=30)[2]
        with pytest.raises(CredentialRefused) as caught:
            await vault.credential(ALICE)
        await vault.close()
    assert echo[:16] not in caught.value.message
    assert len(caught.value.message) < 500


async def test_a_key_of_more_than_any_has_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []
    monkeypatch.setattr(asyncssh, "import_private_key", looked.append)
    pair = {"privateKey": "x" * 8193, "publicKey": "x"}
    async with liar(says(answer(json.dumps({"sshKey": pair}).encode(), "201 Created"))) as service:
        source = sources(service.url, timeout=30)[0]
        with pytest.raises(CredentialRefused, match="no usable key"):
            await source.credential(ALICE)
        await source.close()
    assert not looked
