"""The keys' way from the IdP, and what happens when it is blocked."""

import asyncio
import json
import os
import ssl
from collections.abc import Callable, MutableMapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from hpcgate.auth import Jwks
from hpcgate.auth.jwks import MAX_DOCUMENT
from hpcgate.config import OidcSettings

from .conftest import Serve, eventually
from .idp import Idp, jwk, private_key

Logs = list[MutableMapping[str, Any]]
Make = Callable[..., OidcSettings]


def _age(jwks: Jwks) -> float | None:
    return jwks.age


def failures(logs: Logs) -> list[str]:
    return [event["reason"] for event in logs if event["event"] == "jwks.failed"]


async def test_the_start_does_not_wait_for_the_idp(idp: Idp, settings: Make) -> None:
    idp.delay = 0.3
    async with Jwks(settings()) as jwks:
        assert not jwks.ready
        assert _age(jwks) is None
        await eventually(lambda: jwks.ready)
        age = _age(jwks)
        assert age is not None
        assert 0 <= age < 5
        assert [key.kid for key in jwks.candidates("RSA-0")] == ["RSA-0"]


async def test_an_idp_that_is_down_at_the_start_is_asked_until_it_is_up(idp: Idp, settings: Make, logs: Logs) -> None:
    idp.status = 502
    async with Jwks(settings(jwks_cooldown=0.01, jwks_refresh=600)) as jwks:
        await eventually(lambda: idp.requests >= 3)
        assert not jwks.ready
        assert not jwks.complete
        idp.status = 200
        await eventually(lambda: jwks.ready)
    assert set(failures(logs)) == {"HTTP status 502"}


async def test_nobody_at_the_address_is_a_failure_that_is_logged(closed_port: int, settings: Make, logs: Logs) -> None:
    async with Jwks(settings(public_certs=(f"http://127.0.0.1:{closed_port}/jwks",))) as jwks:
        await eventually(lambda: bool(failures(logs)))
        assert not jwks.ready


async def test_keys_are_refreshed_in_the_background(idp: Idp, settings: Make) -> None:
    async with Jwks(settings(jwks_refresh=0.02)) as jwks:
        await eventually(lambda: jwks.has("RSA-0"))
        idp.keys = [jwk("RSA", 1)]
        await eventually(lambda: jwks.has("RSA-1"))
        assert not jwks.has("RSA-0")
        assert len(jwks.identities) == 1


async def test_a_source_that_fails_keeps_its_last_good_keys(idp: Idp, settings: Make, logs: Logs) -> None:
    async with Jwks(settings(jwks_refresh=0.01, jwks_timeout=0.1)) as jwks:
        await eventually(lambda: jwks.ready)
        for fault in (
            {"status": 500},
            {"body": b"<html>"},
            {"body": b'{"keys": []}'},
            {"delay": 0.5},
            {"location": "/jwks"},
        ):
            healthy = {name: getattr(idp, name) for name in fault}
            for name, value in fault.items():
                setattr(idp, name, value)
            # One answer may have been on its way already.
            before = len(failures(logs)) + 1
            await eventually(lambda before=before: len(failures(logs)) > before)  # type: ignore[misc]
            assert jwks.has("RSA-0")
            for name, value in healthy.items():
                setattr(idp, name, value)
        idp.keys = [jwk("RSA", 1)]
        await eventually(lambda: jwks.has("RSA-1") and not jwks.has("RSA-0"))
    assert "no answer within jwks_timeout" in failures(logs)


async def test_sources_are_independent(idp: Idp, settings: Make, tmp_path: Path) -> None:
    """A source of keys that fails or is slow keeps no other one from being read."""
    file = tmp_path / "a key.json"
    missing = tmp_path / "none"
    file.write_text(json.dumps({"keys": [jwk("P-256", 5)]}))
    sources = (missing.as_uri(), idp.url, file.as_uri(), "ldap://127.0.0.1/")
    given = settings().model_copy(update={"public_certs": sources, "jwks_refresh": 0.02})
    idp.delay = 1
    async with Jwks(given) as jwks:
        await eventually(lambda: jwks.has("P-256-5"))
        assert not jwks.has("RSA-0")
        await eventually(lambda: jwks.has("RSA-0"))
        assert jwks.ready
        assert not jwks.complete
        assert "2/4" in repr(jwks)
        missing.write_text(json.dumps({"keys": [jwk("P-256", 6)]}))
        await eventually(lambda: jwks.has("P-256-6"))
        assert jwks.has("P-256-5")


@pytest.mark.parametrize("spelling", ["file://{}", "file://localhost{}", "FILE://{}"])
async def test_a_file_may_be_named_in_each_way(settings: Make, tmp_path: Path, spelling: str) -> None:
    file = tmp_path / "jwks.json"
    file.write_text(json.dumps({"keys": [jwk("RSA")]}))
    given = settings().model_copy(update={"public_certs": (spelling.format(file),)})
    async with Jwks(given) as jwks:
        await eventually(lambda: jwks.ready)


@pytest.mark.parametrize("kind", ["fifo", "directory", "device", "huge", "padded"])
async def test_a_file_that_never_ends_blocks_nothing(settings: Make, tmp_path: Path, logs: Logs, kind: str) -> None:
    path = tmp_path / "source"
    match kind:
        case "fifo":
            os.mkfifo(path)
        case "directory":
            path.mkdir()
        case "device":
            path = Path("/dev/zero")
        case "huge":
            with path.open("wb") as file:
                file.truncate(MAX_DOCUMENT + 1)
        case "padded":
            # Its beginning is a good document.
            path.write_text(json.dumps({"keys": [jwk("RSA")]}).ljust(2 * MAX_DOCUMENT))
    async with Jwks(settings(public_certs=(path.as_uri(),))) as jwks:
        await eventually(lambda: bool(failures(logs)))
        assert not jwks.ready


async def test_a_document_is_read_to_its_bound_and_no_further(serve: Serve, settings: Make, logs: Logs) -> None:
    sent = 0

    async def endless(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse()
        await response.prepare(request)
        while sent < 1000 * MAX_DOCUMENT:
            await response.write(b" " * 65536)
            sent += 65536
        return response

    server = await serve(endless)
    async with Jwks(settings(public_certs=(str(server.make_url("/jwks")),), jwks_refresh=60, jwks_cooldown=60)):
        await eventually(lambda: bool(failures(logs)))
    assert failures(logs) == [f"more than {MAX_DOCUMENT} bytes"]
    assert sent < 100 * MAX_DOCUMENT


async def test_a_redirect_is_followed(idp: Idp, settings: Make) -> None:
    idp.location = "/elsewhere"
    async with Jwks(settings()) as jwks:
        await eventually(lambda: jwks.ready)
    assert idp.requests == 2


@pytest.mark.parametrize("location", ["/jwks", "file:///etc/passwd", "ftp://127.0.0.1/x"])
async def test_a_redirect_that_leads_nowhere_is_a_failure(idp: Idp, settings: Make, logs: Logs, location: str) -> None:
    idp.location = location
    async with Jwks(settings(jwks_cooldown=60)) as jwks:
        await eventually(lambda: bool(failures(logs)))
        assert not jwks.ready
    assert idp.requests <= 6


async def test_a_redirect_from_https_to_http_is_refused(idp: Idp, settings: Make, logs: Logs, tmp_path: Path) -> None:
    key = private_key("P-256")
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, now - timedelta(1), now + timedelta(1))
    (tmp_path / "certificate").write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM))
    (tmp_path / "key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_side.load_cert_chain(tmp_path / "certificate", tmp_path / "key")

    async def secure(request: web.Request) -> web.StreamResponse:
        return web.Response(status=302, headers={"Location": idp.url})

    # The certificate of the test's own server is not one that the machine trusts.
    untrusting = ssl.create_default_context()
    untrusting.check_hostname = False
    untrusting.verify_mode = ssl.CERT_NONE
    runner = web.AppRunner(_application(secure))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=server_side)
    await site.start()
    port = runner.addresses[0][1]
    try:
        jwks = Jwks(settings(public_certs=(f"https://127.0.0.1:{port}/jwks",), jwks_cooldown=60))
        (http,) = jwks._http.values()
        http.trust = untrusting
        async with jwks:
            await eventually(lambda: bool(failures(logs)))
            assert not jwks.ready
    finally:
        await runner.cleanup()
    assert failures(logs) == ["redirected from https to http"]


def _application(handler: Any) -> web.Application:
    application = web.Application()
    application.router.add_get("/jwks", handler)
    return application


async def test_simultaneous_renewals_share_one_fetch(idp: Idp, settings: Make) -> None:
    async with Jwks(settings(jwks_cooldown=0.05)) as jwks:
        await eventually(lambda: jwks.ready)
        await asyncio.sleep(0.06)
        idp.delay = 0.1
        before = idp.requests
        assert all(await asyncio.gather(*(jwks.renew() for _ in range(200))))
        assert idp.requests == before + 1


async def test_a_renewal_within_the_cool_down_does_nothing(idp: Idp, settings: Make) -> None:
    async with Jwks(settings(jwks_cooldown=60)) as jwks:
        await jwks.renew()  # joins the first fetch, up to its very end
        assert jwks.ready
        assert not any(await asyncio.gather(*(jwks.renew() for _ in range(200))))
        assert idp.requests == 1
        assert 1 <= jwks.retry_after <= 60


async def test_whoever_is_cancelled_leaves_the_fetch_to_the_others(idp: Idp, settings: Make) -> None:
    idp.delay = 0.2
    async with Jwks(settings(jwks_cooldown=60)) as jwks:
        first, second = asyncio.create_task(jwks.renew()), asyncio.create_task(jwks.renew())
        await eventually(lambda: idp.requests == 1)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert await second
        assert jwks.ready
    assert idp.requests == 1


async def test_closing_during_a_fetch_leaves_no_task(idp: Idp, settings: Make) -> None:
    idp.delay = 30
    async with Jwks(settings()) as jwks:
        waiting = asyncio.create_task(jwks.renew())
        await eventually(lambda: idp.requests == 1)
    await waiting
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("jwks")]
    assert not await jwks.renew()
    await jwks.close()


async def test_keys_outlive_the_closing(idp: Idp, settings: Make) -> None:
    async with Jwks(settings()) as jwks:
        await eventually(lambda: jwks.ready)
    assert jwks.has("RSA-0")


async def test_no_source_at_all_is_said_at_the_start(settings: Make, logs: Logs) -> None:
    async with Jwks(settings(public_certs=())) as jwks:
        assert not jwks.ready
        assert not jwks.complete
    assert logs[0]["event"] == "jwks.none"


async def test_the_log_holds_neither_keys_nor_the_password_of_a_url(idp: Idp, settings: Make, logs: Logs) -> None:
    secret = idp.url.replace("http://", "http://someone:hunter2@") + "?token=hunter3"
    async with Jwks(settings(public_certs=(secret,), jwks_refresh=0.01)) as jwks:
        await eventually(lambda: jwks.ready)
        for change in ({"status": 404}, {"location": secret}, {"location": "http://["}, {"body": b"hunter4"}):
            ((name, value),) = change.items()
            healthy = getattr(idp, name)
            setattr(idp, name, value)
            before = len(failures(logs)) + 1
            await eventually(lambda before=before: len(failures(logs)) > before)  # type: ignore[misc]
            setattr(idp, name, healthy)
    text = repr(logs)
    assert "hunter" not in text
    assert jwk("RSA")["n"][:20] not in text
    assert {event["event"] for event in logs} == {"jwks.refresh", "jwks.failed"}
    assert logs[0]["keys"] == 6
    assert logs[0]["source"].endswith("/jwks")


async def test_a_key_chooses_by_id_and_falls_back_to_those_without(idp: Idp, settings: Make) -> None:
    idp.keys = [jwk("RSA"), jwk("RSA", 1, kid=None), jwk("RSA", 2, kid="RSA-0"), jwk("P-256")]
    async with Jwks(settings()) as jwks:
        await eventually(lambda: jwks.ready)
        assert len(jwks.candidates("RSA-0")) == 2
        assert [key.kid for key in jwks.candidates("unknown")] == [None]
        assert len(jwks.candidates(None)) == 4
        assert not jwks.has(None)
