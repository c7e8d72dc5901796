"""What is refused because it could not be recorded."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import Request

from hpcgate.api.access import enter
from hpcgate.api.terms import Terms
from hpcgate.auth import Principal
from hpcgate.config.audit import AuditSettings
from hpcgate.config.groups import Group
from hpcgate.errors import Forbidden, Unavailable
from hpcgate.http.request_log import RequestLines
from hpcgate.telemetry import audit, journal
from hpcgate.telemetry.writer import Writer, Writers


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    before = journal.current.get()
    yield
    journal.current.set(before)


class Opened:
    """A gateway whose authorization lets nobody in: who comes so far is not refused for the audit log."""

    def __init__(self) -> None:
        self.authorizer = self

    def system(self, name: str) -> Any:
        return SimpleNamespace(name=name)

    async def authorize(self, principal: Principal, system: str) -> None:
        raise Forbidden("as far as that")


READ, WRITE, UNDECLARED = Terms(Group.FS_READ), Terms(Group.FS_WRITE), Terms()


@pytest.mark.parametrize(
    ("required", "reads", "waiting", "asked", "refused"),
    [
        (True, True, 5, READ, True),
        (True, True, 5, WRITE, True),
        (True, True, 4, WRITE, False),
        (True, False, 5, READ, False),
        (True, False, 5, WRITE, True),
        (True, False, 5, UNDECLARED, True),
        (True, False, 4, UNDECLARED, False),
        (False, True, 5, WRITE, False),
    ],
)
async def test_what_cannot_be_recorded_is_refused_if_it_has_to_be(
    required: bool, reads: bool, waiting: int, asked: Terms, refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    writers = Writers()
    monkeypatch.setattr(audit, "WRITERS", writers)
    # A file that takes nothing, and half of what may wait for it.
    writer = writers.add(Writer("audit", lambda _: 0, most_lines=10))
    for _ in range(waiting):
        writer.put(b"{}", 2)
    notes = RequestLines(audit=True, audit_reads=reads, audit_required=required).begin("r-1", "c-1")
    scope = {
        "type": "http", "method": "GET", "path": "/", "headers": [], "query_string": b"",
        "route": SimpleNamespace(path="/"), "app": SimpleNamespace(state=SimpleNamespace(gateway=Opened())),
        "state": {},
    }  # fmt: skip
    with pytest.raises(Unavailable if refused else Forbidden):
        await enter(Request(scope), asked, Principal("alice", "token"), "demo")
    # The refusal needs no room of those that are under way.
    assert (notes.operation is None) is refused


@pytest.mark.parametrize("to", [None, "stdout"])
def test_what_has_to_be_recorded_needs_a_file(to: str | None) -> None:
    with pytest.raises(ValueError, match="a file of its own"):
        AuditSettings(to=to, required=True)
