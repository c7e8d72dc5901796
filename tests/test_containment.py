"""What one connection, or one part of the server's tick, gets wrong ends nothing else."""

from types import SimpleNamespace
from typing import Any, cast

import pytest
import uvicorn

from hpcgate import server as server_module
from hpcgate.server import Server
from hpcgate.serving import Http


def failing(*_: Any) -> None:
    raise RuntimeError("the handler is closed")


def test_a_client_who_left_is_refused_without_a_word() -> None:
    protocol = Http.__new__(Http)
    state = SimpleNamespace(total_requests=0)
    protocol.transport = cast("Any", SimpleNamespace(is_closing=lambda: True, write=failing, close=failing))
    protocol.server_state = cast("Any", state)
    cycle = SimpleNamespace(disconnected=False, response_complete=False)
    protocol._turn_away(cast("Any", cycle))
    assert cycle.response_complete
    assert state.total_requests == 1


async def test_a_part_of_the_tick_that_fails_is_told_once_and_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(
        server_module, "log", SimpleNamespace(exception=lambda event, *, part: told.append(f"{event} {part}"))
    )
    config = uvicorn.Config(cast("Any", None))
    config.encoded_headers = []
    server = Server(config)
    server.tls = cast("Any", SimpleNamespace(renew=failing))
    monkeypatch.setattr(server, "_look_at_load", failing)
    monkeypatch.setattr(server.reloader, "tick", failing)
    for counter in (0, 20, 40):
        assert await server.on_tick(counter) is False
    assert told == [f"server.tick_failed {part}" for part in ("admission", "tls", "reload")]
