"""Probes that cannot run, whatever the reason, leave the next round to run."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from hpcgate.auth import Principal
from hpcgate.config import Settings, plugin
from hpcgate.errors import Unavailable
from hpcgate.health.board import HealthBoard
from hpcgate.health.prober import Prober
from hpcgate.transfers.base import Script, TransferJob


class Account:
    """A service account whose token cannot be had, for this reason and that."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)

    async def principal(self) -> Principal:
        raise self.errors.pop(0)


async def no_job(principal: Principal, script: Script, account: str | None) -> TransferJob:
    raise AssertionError


def settings(**probing: Any) -> Settings:
    cluster = {
        "name": "daint",
        "ssh": {"host": "127.0.0.1", "port": 9},
        "scheduler": {"type": "slurm", "version": "22.05.8"},
        "probing": probing,
    }
    return Settings.model_validate(
        {
            "auth": {"authentication": {"token_url": "http://127.0.0.1:9/token"}},
            "ssh_credentials": {"type": "SSHService", "url": "http://127.0.0.1:9"},
            "clusters": [cluster],
        }
    )


@pytest.fixture
async def make() -> AsyncIterator[Any]:
    made: list[Prober] = []

    def make(account: Any, board: HealthBoard, **probing: Any) -> Prober:
        given = settings(**probing)
        credentials = plugin("hpcgate.credentials", "SSHService")(given.ssh_credentials)
        made.append(Prober(given.clusters[0], credentials, account, no_job, board))
        return made[-1]

    yield make
    for prober in made:
        await prober.close()


async def test_every_error_is_one_round_s(make: Any) -> None:
    board = HealthBoard("daint")
    prober = make(Account(Unavailable("no token"), ZeroDivisionError()), board, services={"ssh": {}})
    for message in ("no token", "The probes could not run"):
        await prober.round()
        assert [(one.service, one.healthy, one.message) for one in board.results] == [("exception", False, message)]
    assert board.last_round is not None


async def test_no_account_is_said_and_nobody_is_sick(make: Any) -> None:
    board = HealthBoard("daint")
    await make(None, board, services={"ssh": {}, "scheduler": {}}).round()
    (result,) = board.results
    assert result.message == "There is no service account to probe with"
    board.require(("ssh", "scheduler"))


async def test_nothing_to_probe(make: Any) -> None:
    """A prober is idle where nothing is configured that could be probed."""
    assert make(None, HealthBoard("daint")).idle
    # No file systems and no store: these services are configured, but there is nothing of theirs.
    assert make(None, HealthBoard("daint"), services={"filesystem": {}, "s3": {}}).idle
    assert not make(None, HealthBoard("daint"), services={"scheduler": {"timeout": None}}).idle
