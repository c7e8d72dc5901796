"""No secret comes out: not in a log, an error, an answer, a repr, or a core trace."""

import asyncio
import base64
import copy
import pprint
import re
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog

from hpcgate.api.routes.status import public
from hpcgate.auth import Principal
from hpcgate.auth.jwks import Jwks
from hpcgate.auth.tokens import TokenVerifier
from hpcgate.config import ConfigError, LoggerSettings, Settings, load
from hpcgate.credentials.static import StaticKeys
from hpcgate.demo.cluster import Cluster, Gateway
from hpcgate.gateway.system import System
from hpcgate.server.logs import configure_logging
from tests.auth.idp import MAX_TOKEN
from tests.faults.vitals import eventually
from tests.log_lines import settled
from tests.transfers.object_store import SECRET_KEY, ObjectStore

REDIS_PASSWORD = "redis-password-never-shown"


@dataclass(frozen=True, slots=True)
class Guarded:
    """A gateway that holds secrets of every kind.

    Attributes:
        gateway: The process.
        config: Its configuration file.
        audit: Its audit log.
        token: A user's token.
        secrets: All that must not come out, by what it is.
    """

    gateway: Gateway
    config: Path
    audit: Path
    token: str
    secrets: dict[str, str]

    def assert_clean(self, text: str, where: str) -> None:
        """Fail, without showing it, if a secret is in the text."""
        leaked = [name for name, secret in self.secrets.items() if secret in text]
        assert not leaked, f"{where} shows {', '.join(leaked)}"


def key_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a private key that are no secret to nobody: not the first, which all keys have alike."""
    for line in path.read_text().splitlines()[2:]:
        if len(line) > 30 and not line.startswith("-"):
            yield line


@pytest.fixture(scope="module")
def guarded(cluster: Cluster, store: ObjectStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    audit = tmp_path_factory.mktemp("audit") / "audit.jsonl"
    config = cluster.write_gateway_config(
        cluster.directory / "guarded-gateway.yaml",
        clusters=[
            cluster.cluster_settings("demo", data_operation={"data_transfer": store.settings()}),
            cluster.cluster_settings("commands", ssh={"files": "commands"}),
            # A login node that is not there: errors of the connection.
            cluster.cluster_settings("gone", ssh={"port": 9}),
        ],
        app_debug=True,
        logger={
            "level": "debug",
            "enable_tracing_log": True,
            "loggable_request_headers": [{"input": "Authorization", "output": "authorization"}],
        },
        audit={"to": str(audit)},
        rate_limits={
            "per_user": {"status:read": {"rate": 1000, "burst": 100000}},
            "redis": {"url": f"redis://:{REDIS_PASSWORD}@127.0.0.1:9/0"},
        },
    )
    alice = cluster.user("alice")
    token = cluster.token(alice)
    secrets = {
        "the token": token,
        "the token's signature": token.rpartition(".")[2],
        "the token's claims": token.split(".")[1],
        "the service account's secret": (cluster.directory / "keys" / "service.client_secret").read_text().strip(),
        "a client's secret": alice.client_secret,
        "the S3 secret": SECRET_KEY,
        "Redis's password": REDIS_PASSWORD,
    }
    for number, line in enumerate(key_lines(alice.private_key)):
        secrets[f"line {number} of the private key"] = line
    assert any("private key" in name for name in secrets)
    gateway = cluster.start_gateway(config)
    yield Guarded(gateway, config, audit, token, secrets)
    gateway.stop()


def requests(cluster: Cluster) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield requests of every kind, good ones and those that fail in every layer."""
    home = str(cluster.user("alice").home)
    for system in ("demo", "commands", "gone", "nowhere"):
        yield "GET", f"/status/{system}/nodes", {}
        yield "GET", f"/status/{system}/userinfo", {}
        yield "GET", f"/compute/{system}/jobs", {}
        yield "GET", f"/compute/{system}/jobs/999999", {}
        yield "GET", f"/filesystem/{system}/ops/ls", {"params": {"path": home}}
        yield "GET", f"/filesystem/{system}/ops/stat", {"params": {"path": f"{home}/nowhere"}}
        yield "GET", f"/filesystem/{system}/ops/view", {"params": {"path": "/etc/shadow"}}
        yield "POST", f"/filesystem/{system}/ops/mkdir", {"json": {"path": "relative"}}
        yield "POST", f"/compute/{system}/jobs", {"json": {"job": {"workingDirectory": home, "script": "no script"}}}
        yield "POST", f"/compute/{system}/jobs", {"content": b"{no json"}
        yield (
            "POST",
            f"/filesystem/{system}/transfer/upload",
            {"json": {"path": f"{home}/x", "transferDirectives": {"transferMethod": "s3", "fileSize": 10}}},
        )
    yield "GET", "/status/systems", {}
    yield "GET", "/status/liveness/", {}
    yield "GET", "/openapi.json", {}


def test_no_answer_and_no_log_shows_a_secret(guarded: Guarded, cluster: Cluster) -> None:
    with httpx.Client(base_url=guarded.gateway.url, timeout=300) as http:
        for method, path, body in requests(cluster):
            answer = http.request(method, path, headers={"Authorization": f"Bearer {guarded.token}"}, **body)
            assert answer.status_code != 500, (method, path)
            guarded.assert_clean(f"{answer.headers}{answer.text}", f"the answer to {method} {path}")
        for spoilt in (guarded.token[:-4] + "AAAA", guarded.token + ".x", f"{guarded.token} {guarded.token}"):
            answer = http.get("/status/systems", headers={"Authorization": f"Bearer {spoilt}"})
            assert answer.status_code == 401
            guarded.assert_clean(f"{answer.headers}{answer.text}", "the answer to a spoilt token")
    log = settled(guarded.gateway.url, guarded.gateway.log)
    assert '"http.trace"' in log
    assert '"http.request"' in log
    guarded.assert_clean(log, "the log")
    eventually(lambda: '"action"' in guarded.audit.read_text(), 120)
    audit = guarded.audit.read_text()
    guarded.assert_clean(audit, "the audit log")


def test_a_crash_leaves_no_core(guarded: Guarded) -> None:
    # A core holds every token and key that the process held.
    limits = Path(f"/proc/{guarded.gateway.pid}/limits").read_text()
    assert re.search(r"^Max core file size +0 +0 ", limits, re.MULTILINE)


def values(thing: Any, seen: set[int]) -> Iterator[Any]:
    """Yield a thing of ours and, one after the other, all things of ours that it holds."""
    if id(thing) in seen or len(seen) > 20_000:
        return
    seen.add(id(thing))
    if isinstance(thing, dict):
        inner = list(thing.values())
    elif isinstance(thing, list | tuple | set | frozenset):
        inner = list(thing)
    elif type(thing).__module__.startswith("hpcgate."):
        yield thing
        slots = [name for kind in type(thing).__mro__ for name in getattr(kind, "__slots__", ())]
        inner = [*getattr(thing, "__dict__", {}).values(), *(getattr(thing, name, None) for name in slots)]
    else:
        return
    for each in inner:
        yield from values(each, seen)


async def test_no_repr_shows_a_secret(guarded: Guarded, cluster: Cluster) -> None:
    settings = load(guarded.config)
    verifier = TokenVerifier(settings.auth.authentication, Jwks(settings.auth.authentication), MAX_TOKEN)
    principal = Principal("alice", guarded.token, {"jti": "1", "secret": guarded.token})
    keys = StaticKeys(settings.ssh_credentials)  # type: ignore[arg-type]
    owner = Principal(cluster.user("alice").name, guarded.token)
    credential = await keys.credential(owner)
    systems = [System.from_settings(one, keys) for one in settings.clusters]
    found = list(values([settings, verifier, principal, keys, credential, systems], set()))
    assert any(isinstance(thing, Settings) for thing in found)
    assert len({type(thing) for thing in found}) > 25
    for thing in found:
        for text in (repr(thing), str(thing), pprint.pformat(thing), repr([thing])):
            guarded.assert_clean(text, f"a {type(thing).__name__}")
    guarded.assert_clean(settings.model_dump_json(), "the settings as JSON")
    guarded.assert_clean(str(settings.model_dump()), "the settings as a mapping")
    guarded.assert_clean("".join(public(one).model_dump_json() for one in settings.clusters), "the public settings")
    for system in systems:
        await system.close()


def crash(settings: Settings, token: str) -> None:
    """Fail with secrets in the local variables of every frame."""
    held = copy.copy(token)
    raise RuntimeError(f"something broke while {len(held)} characters were held and {settings.app_version} served")


@pytest.mark.parametrize("form", ["json", "console"])
def test_no_trace_of_a_crash_shows_a_secret(form: str, guarded: Guarded, capsys: pytest.CaptureFixture[str]) -> None:
    settings = load(guarded.config)
    configure_logging(LoggerSettings.model_validate({"format": form, "level": "debug"}))
    try:
        try:
            crash(settings, guarded.token)
        except RuntimeError as error:
            log = structlog.get_logger("hpcgate.test")
            log.error("crashed", exc_info=error, settings=settings, who=Principal("alice", guarded.token))
            log.error("crashed", exc_info=True, secret=settings.ssh_credentials, body=guarded.token.encode())
            plain = "".join(traceback.format_exception(error))
    finally:
        structlog.reset_defaults()
    written = capsys.readouterr().out
    assert written.count("RuntimeError: something broke") == 2
    guarded.assert_clean(written, "the log of a crash")
    guarded.assert_clean(plain, "a traceback")


def test_mistakes_of_a_configuration_show_no_secret(guarded: Guarded, tmp_path: Path) -> None:
    text = guarded.config.read_text()
    spoilt = tmp_path / "spoilt.yaml"
    changes = {
        "rate: 1000": "rate: none",
        "type: SSHStaticKeys": "type: SSHStaticKey",
        "private_key:": "private_keys:",
        "secret_access_key": "secret_access_keys",
    }
    for old, new in changes.items():
        assert old in text
        spoilt.write_text(text.replace(old, new))
        with pytest.raises(ConfigError) as error:
            load(spoilt)
        told = "".join(traceback.format_exception(error.value))
        guarded.assert_clean(told, f"the mistakes of a file with {new}")
        assert not re.search(r"input_value=", told)


def test_the_secrets_are_what_a_leak_would_show(guarded: Guarded) -> None:
    """Show that the search finds what it looks for."""
    claims = guarded.token.split(".")[1]
    assert b"preferred_username" in base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4))
    with pytest.raises(AssertionError, match="the token"):
        guarded.assert_clean(f"Bearer {guarded.token}", "this")
    assert asyncio.iscoroutinefunction(StaticKeys.credential)
