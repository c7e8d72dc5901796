"""Where metrics are served, and where not; what the settings demand."""

import importlib.util
import socket
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from pydantic import ValidationError

from hpcgate.config import Settings
from hpcgate.server.app import create_app

GENERAL = {
    "auth": {"authentication": {"token_url": "http://127.0.0.1:9/token"}},
    "ssh_credentials": {"type": "SSHService", "url": "http://127.0.0.1:9"},
}


def app_with(**settings: Any) -> FastAPI:
    return create_app(Settings.model_validate(GENERAL | settings))


async def get(app: FastAPI, path: str, **headers: str) -> httpx.Response:
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway") as client,
    ):
        return await client.get(path, headers=headers)


async def test_metrics_are_off_by_default() -> None:
    assert (await get(app_with(), "/metrics")).status_code == 404


async def test_a_path_of_the_api() -> None:
    app = app_with(metrics={"path": "/internal/metrics"})
    answer = await get(app, "/internal/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
    assert "hpcgate_ready 0.0" in answer.text
    assert "process_cpu_seconds_total" in answer.text
    assert "/internal/metrics" not in app.openapi()["paths"]


async def test_openmetrics_for_those_who_ask() -> None:
    app = app_with(metrics={"path": "/metrics"})
    answer = await get(app, "/metrics", Accept="application/openmetrics-text; version=1.0.0")
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert answer.text.endswith("# EOF\n")


async def test_a_port_that_is_taken_is_an_error_at_the_start() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        app = app_with(metrics={"port": taken.getsockname()[1]})
        with pytest.raises(OSError, match="address already in use"):
            await get(app, "/status/liveness/")


def test_traces_need_their_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValidationError, match=r"pip install 'hpcgate\[tracing\]'"):
        Settings.model_validate(GENERAL | {"tracing": {"endpoint": "http://127.0.0.1:4318/v1/traces"}})
    Settings.model_validate(GENERAL)


def test_the_collector_s_key_is_a_secret() -> None:
    settings = Settings.model_validate(GENERAL | {"tracing": {"headers": {"x-key": "s3cret"}}})
    assert "s3cret" not in repr(settings)
