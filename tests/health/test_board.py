"""What probe results mean for requests."""

import time

import pytest

from hpcgate.errors import Unhealthy
from hpcgate.health.board import HealthBoard, ServiceHealth


def result(service: str, healthy: bool, path: str | None = None) -> ServiceHealth:
    return ServiceHealth(service, healthy, time.time(), 0.1, None if healthy else "broken", path)


def test_nothing_known_refuses_nothing() -> None:
    board = HealthBoard("daint")
    board.require(("ssh", "scheduler", "s3"))
    board.require_path("/home/alice")
    assert board.well
    assert board.results == ()


def test_the_contract_s_words() -> None:
    board = HealthBoard("daint")
    board.record(result("ssh", False))
    with pytest.raises(Unhealthy) as caught:
        board.require(("ssh",))
    assert caught.value.message == "The ssh service for the requested system (daint) is unhealthy."
    assert caught.value.status == 503
    assert int(caught.value.headers["Retry-After"]) > 0
    board.require(("scheduler",))


def test_recovery_counts_at_once() -> None:
    board = HealthBoard("daint")
    assert board.record(result("ssh", False))
    assert not board.record(result("ssh", False))
    assert not board.well
    assert board.record(result("ssh", True))
    board.require(("ssh",))
    assert board.well


def test_a_sick_file_system_leaves_the_others_alone() -> None:
    board = HealthBoard("daint", roots=["/home/", "/scratch", "/scratch/fast", "/"])
    board.record(result("filesystem", False, "/scratch"))
    for path in ("/home/alice", "/scratch/fast/x", "/scratches", "/"):
        board.require_path(path)
    for path in ("/scratch", "/scratch/x/y"):
        with pytest.raises(Unhealthy, match=r"^The filesystem service for the requested system \(daint\) is unhealthy"):
            board.require_path(path)
    board.record(result("filesystem", False, "/"))
    with pytest.raises(Unhealthy):
        board.require_path("/etc")


def test_grace_is_for_what_was_never_healthy() -> None:
    board = HealthBoard("daint", grace=3600)
    board.record(result("ssh", False))
    board.record(result("scheduler", True))
    board.require(("ssh", "scheduler"))
    assert [one.healthy for one in board.results] == [False, True]
    board.record(result("scheduler", False))
    with pytest.raises(Unhealthy):
        board.require(("scheduler",))
    board.record(result("ssh", True))
    board.record(result("ssh", False))
    with pytest.raises(Unhealthy):
        board.require(("ssh",))


def test_probing_that_fails_makes_nobody_sick() -> None:
    board = HealthBoard("daint")
    board.record(result("ssh", True))
    assert board.failed("The IdP is down")
    assert not board.failed("The IdP is down")
    board.require(("ssh",))
    assert [(one.service, one.healthy) for one in board.results] == [("ssh", True), ("exception", False)]
    board.works()
    assert [one.service for one in board.results] == ["ssh"]
