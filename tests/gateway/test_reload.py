"""Gateways that follow one another in one process."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from joserfc.jwk import RSAKey
from structlog.testing import capture_logs

from hpcgate.auth import Principal
from hpcgate.config import ConfigError, Mistake, Settings
from hpcgate.gateway.gateway import Gateway
from hpcgate.gateway.reload import Gateways, Reloader, fixed_changes
from hpcgate.ssh.pool import Pool
from hpcgate.telemetry.base import SILENT


@pytest.fixture
def settings(tmp_path: Path) -> Callable[..., Settings]:
    key = RSAKey.generate_key(2048, {"kid": "one"}, private=False)
    (tmp_path / "jwks.json").write_text(json.dumps({"keys": [key.as_dict(private=False)]}))

    def make(**changes: Any) -> Settings:
        certs = [f"file://{tmp_path / 'jwks.json'}"]
        return Settings.model_validate(
            {
                "auth": {"authentication": {"token_url": "http://127.0.0.1/token", "public_certs": certs}},
                "ssh_credentials": {"type": "SSHService", "url": "http://127.0.0.1:9"},
                "clusters": [
                    {
                        "name": "daint",
                        "ssh": {"host": "127.0.0.1", "port": 9},
                        "scheduler": {"type": "slurm", "version": "22.05.8"},
                        "service_account": {"client_id": "x", "secret": "y"},
                        "probing": {"services": {"ssh": {"timeout": 1}}},
                    }
                ],
                "state_directory": str(tmp_path),
                **changes,
            }
        )

    return make


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(300):
        while not is_so():
            await asyncio.sleep(0.01)


async def test_no_task_is_left(settings: Callable[..., Settings]) -> None:
    served: list[Gateway] = []
    at_first = asyncio.all_tasks()
    async with Gateways(settings(), SILENT, served.append) as gateways:
        await until(lambda: served[0].tokens.ready)
        await asyncio.sleep(0.1)
        usual = len(asyncio.all_tasks())
        for _ in range(5):
            assert await gateways.reload(settings, list)
            await until(lambda: "0 before" in repr(gateways))
        await until(lambda: len(asyncio.all_tasks()) <= usual)
        assert len(set(map(id, served))) == 6
    assert asyncio.all_tasks() == at_first


async def test_the_old_one_waits_for_its_requests_and_goes_with_the_process(settings: Callable[..., Settings]) -> None:
    served: list[Gateway] = []
    request = asyncio.create_task(asyncio.Event().wait())
    with capture_logs() as logs:
        async with Gateways(settings(), SILENT, served.append) as gateways:
            assert await gateways.reload(settings, lambda: [request])
            await asyncio.sleep(0.1)
            assert "config.old_gateway_closed" not in [line["event"] for line in logs]
            # What holds for the whole process is shared, and what runs on the old one still counts.
            assert served[0].admission is served[1].admission
            with (
                served[0].streams.hold("upload", Principal("alice", ""), "x"),
                served[1].streams.hold("upload", Principal("alice", ""), "x"),
            ):
                assert served[1].admission.count_uncounted() == 2
            assert served[0].locks is served[1].locks
            assert served[0].uploads is served[1].uploads
    assert "config.old_gateway_closed" in [line["event"] for line in logs]
    request.cancel()


async def test_the_old_one_is_not_kept_for_longer_than_it_may_take(settings: Callable[..., Settings]) -> None:
    """Streams without an end are told at once; any other request is cut off after `streams.max_after_reload`."""
    served: list[Gateway] = []
    ended: list[str] = []

    async def endless(serving: Gateway) -> None:
        with serving.streams.hold("events", Principal("alice", ""), "daint", endless=True) as stream:
            await stream.closing.wait()
            ended.append(stream.reason)

    async def slow() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("cut off")

    hasty = settings(streams={"max_after_reload": 0.2})
    async with Gateways(hasty, SILENT, served.append) as gateways:
        requests = [asyncio.create_task(endless(served[0])), asyncio.create_task(slow())]
        await asyncio.sleep(0)
        assert await gateways.reload(lambda: hasty, lambda: requests)
        await until(lambda: "0 before" in repr(gateways))
        assert ended == ["reload", "cut off"]


async def test_what_did_not_change_is_handed_on_and_closed_by_the_last(
    settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[Pool] = []

    async def close(pool: Pool) -> None:
        closed.append(pool)

    served: list[Gateway] = []
    rate = {"per_user": {"status:read": {"rate": 1, "burst": 20}}}
    async with Gateways(settings(rate_limits=rate), SILENT, served.append) as gateways:

        async def reload(**changes: Any) -> tuple[bool, bool, bool]:
            assert await gateways.reload(lambda: settings(**changes), list)
            await until(lambda: "0 before" in repr(gateways))
            one, other = served[-2].carried_over, served[-1].carried_over
            assert served[-1].rates is other.rates.value
            return (
                one.systems["daint"] is other.systems["daint"],
                one.credentials is other.credentials,
                (one.rates is other.rates),
            )

        monkeypatch.setattr(Pool, "close", close)
        first = served[0].systems["daint"].pool
        assert await reload(rate_limits=rate) == (True, True, True)
        assert await reload(streams={"max_streams": 3}) == (True, True, False)
        assert first not in closed
        url = {"ssh_credentials": {"type": "SSHService", "url": "http://127.0.0.1:10"}}
        assert await reload(**url) == (False, False, True)
        assert first in closed
        second = served[-1].systems["daint"].pool
        # What operators have said of maintenance holds for one directory.
        assert await reload(**url, state_directory=None) == (False, True, True)
        assert second in closed
        third = served[-1].systems["daint"].pool
        # A refused configuration takes nothing along.
        served[-1].stopping = True
        assert not await gateways.reload(lambda: settings(**url, state_directory=None), list)
        assert third not in closed
    assert closed.count(third) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"policy": {"rules": [], "default": "deny"}},
        {"authorization": {"url": "http://127.0.0.1:9/check", "cache": 60}},
        {"authentication": {"issuer": "https://one.example.org"}},
        {"authentication": {"denied_users": ["alice"]}},
        {"authentication": {"username_template": "u{claim}"}},
        {},
    ],
    ids=str,
)
async def test_who_may_is_found_out_anew_after_a_reload(
    settings: Callable[..., Settings], change: dict[str, Any]
) -> None:
    """Connections stay; tokens that were verified, and decisions, are forgotten, whatever has changed."""
    served: list[Gateway] = []
    base = settings().model_dump(mode="python", exclude_unset=True)["auth"]
    auth = {**base, **change, "authentication": {**base["authentication"], **change.get("authentication", {})}}
    async with Gateways(settings(), SILENT, served.append) as gateways:
        assert await gateways.reload(lambda: settings(auth=auth), list)
        before, after = served
        assert after.systems["daint"] is before.systems["daint"]
        assert after.settings.auth == settings(auth=auth).auth
        for name in ("tokens", "jwks", "authorizer", "policy"):
            assert getattr(after, name) is not getattr(before, name)
        assert repr(after.tokens) == "<TokenVerifier 0 tokens remembered>"
        assert after.policy._settings == after.settings.auth.policy


async def test_what_is_not_taken_up_writes_nothing_on_the_board(settings: Callable[..., Settings]) -> None:
    token_url = {"token_url": "http://127.0.0.1:9/token", "public_certs": settings().auth.authentication.public_certs}
    async with Gateway.open(settings()) as before, asyncio.timeout(300):
        board = before.systems["daint"].board
        while board.last_round is None:
            await asyncio.sleep(0.01)
        before.rest()
        board.works()
        async with Gateway.open(settings(auth={"authentication": token_url}), before=before) as after:
            assert after.systems["daint"].board is board
            await asyncio.sleep(0.2)
            assert board.well
            after.follow(before)
            while board.well:
                await asyncio.sleep(0.01)


async def test_who_waits_at_a_system_of_two_gateways_counts_once(
    settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Pool, "waiting", 3)
    async with Gateway.open(settings()) as before:
        async with Gateway.open(settings(), before=before) as after:
            assert after.uncounted(before) == 3
        async with Gateway.open(settings(state_directory=None), before=before) as after:
            assert after.uncounted(before) == 6


async def test_what_cannot_be_opened_changes_nothing(
    settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    def mistaken() -> Settings:
        raise ConfigError([Mistake("a.yaml", "clusters[0].name", "is required but missing")])

    served: list[Gateway] = []
    async with Gateways(settings(), SILENT, served.append) as gateways:
        # A gateway that cannot verify tokens itself gives way to any other.
        await until(lambda: served[0].jwks.complete)
        with capture_logs() as logs:
            assert not await gateways.reload(mistaken, list)
            no_keys = {"authentication": {"token_url": "http://127.0.0.1/", "public_certs": ["file:///nowhere"]}}
            monkeypatch.setattr("hpcgate.gateway.reload._MARGIN", -4.8)
            assert not await gateways.reload(lambda: settings(auth=no_keys), list)
            with monkeypatch.context() as broken:
                broken.setattr("hpcgate.gateway.system.System.from_settings", lambda *_: 1 / 0)
                other = {"type": "SSHService", "url": "http://127.0.0.1:10"}
                assert not await gateways.reload(lambda: settings(ssh_credentials=other), list)
            served[0].stopping = True
            assert not await gateways.reload(settings, list)
        assert [line for line in logs if line["event"] == "config.mistake"] == [
            {
                "event": "config.mistake",
                "log_level": "error",
                "file": "a.yaml",
                "key": "clusters[0].name",
                "reason": "is required but missing",
            }
        ]
        assert len([line for line in logs if line["event"] == "config.reload_refused"]) == 4
        assert len(served) == 1


def test_what_is_fixed(settings: Callable[..., Settings]) -> None:
    """Changes to settings that a reload cannot take up are named."""
    other = settings(http={"keep_alive": 7}, apis_root_path="/x", clusters=[], streams={"max_streams": 3})
    assert sorted(fixed_changes(settings(), other)) == ["apis_root_path", "http.keep_alive"]
    assert not list(fixed_changes(settings(), settings()))


async def test_reloads_asked_for_meanwhile_are_one_more() -> None:
    begun = 0
    go_on = asyncio.Event()

    async def reload() -> None:
        nonlocal begun
        begun += 1
        await go_on.wait()
        if begun == 1:
            raise RuntimeError("a fault")

    reloader = Reloader(reload)
    for _ in range(5):
        reloader.ask()
        reloader.tick()
        await asyncio.sleep(0)
    assert begun == 1
    go_on.set()
    for _ in range(5):
        await asyncio.sleep(0)
        reloader.tick()
    assert begun == 2
    await reloader.stop()
