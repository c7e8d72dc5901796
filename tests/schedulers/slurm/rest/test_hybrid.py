"""What hybrid mode asks of slurmrestd, and what of commands."""

from typing import Any

import pytest

from hpcgate.auth import Principal
from hpcgate.schedulers.slurm.job_ids import JobId
from hpcgate.schedulers.slurm.records import Record, Selection
from hpcgate.schedulers.slurm.rest.backend import SINGLY, Hybrid
from hpcgate.schedulers.slurm.settings import SlurmSettings

ALICE = Principal("alice", token="header.payload.signature")


@pytest.mark.parametrize("count", [1, SINGLY, SINGLY + 1, 1000])
async def test_the_history_of_many_jobs_is_one_command(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """However many there are; slurmrestd would be asked as often as there are jobs."""
    settings = SlurmSettings(
        type="slurm",
        version="22.05.8",
        connection_mode="hybrid",
        api_url="http://127.0.0.1:1",
        api_version="0.0.38",
    )
    pool: Any = None
    hybrid = Hybrid("demo", settings, pool)
    commands: list[Selection] = []
    requests: list[str] = []

    async def history(_: Principal, selection: Selection) -> list[Record]:
        commands.append(selection)
        return []

    async def database(_: Principal, path: str, *__: object) -> list[Record]:
        requests.append(path)
        return []

    monkeypatch.setattr(hybrid.commands, "history", history)
    monkeypatch.setattr(hybrid.client, "database", database)
    selection = Selection(ids=tuple(JobId(str(number + 1)) for number in range(count)))
    assert await hybrid.history(ALICE, selection) == []
    assert (len(requests), commands) == ((count, []) if count <= SINGLY else (0, [selection]))
