"""The keeper: nothing survives it, whoever dies first."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hpcgate.demo.keeper import (
    JOURNAL,
    PrivilegeSeparation,
    clear_orphans,
    descendants,
    mounts_below,
    remove_tree,
    undo_all,
)
from hpcgate.demo.problems import DemoError
from hpcgate.demo.processes import Daemon, Keeper, wait_until

ENVIRONMENT = {"PATH": "/usr/bin:/bin"}


@pytest.fixture
def keeper(tmp_path: Path) -> Iterator[Keeper]:
    keeper = Keeper(tmp_path)
    yield keeper
    keeper.stop()


def daemon(keeper: Keeper, script: str, **options: object) -> Daemon:
    log = keeper.directory / "daemon.log"
    ready = options.pop("ready", lambda daemon: "ready" in daemon.output())
    return Daemon(keeper, "daemon", ["sh", "-c", script], log=log, ready=ready, **options)  # type: ignore[arg-type]


def gone(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state in "ZX"


def _runs(server: Daemon) -> bool:
    return server.running


def test_a_daemon_starts_when_ready_and_stops_by_term(keeper: Keeper) -> None:
    server = daemon(keeper, "trap 'echo bye; exit 3' TERM; echo ready; while :; do sleep 0.05; done")
    server.start()
    pid = server.pid
    assert server.running
    assert os.getpgid(pid) == pid
    assert "pid" in repr(server)
    with pytest.raises(DemoError, match="already running"):
        server.start()
    server.stop()
    assert not _runs(server)
    assert gone(pid)
    assert "bye" in server.output()
    assert keeper.status(pid) == 3
    assert "stopped" in repr(server)
    server.stop()
    with pytest.raises(DemoError, match="not running"):
        _ = server.pid
    server.start()
    assert server.output() == "ready\n"


def test_one_that_ignores_term_is_killed_after_its_grace(keeper: Keeper) -> None:
    server = daemon(keeper, "trap '' TERM; echo ready; while :; do sleep 0.05; done")
    server.start()
    pid = server.pid
    server.stop(grace=0.2)
    assert keeper.status(pid) == -signal.SIGKILL


def test_one_that_ends_at_once_is_an_error_that_quotes_its_log(keeper: Keeper) -> None:
    with pytest.raises(DemoError, match=r"(?s)daemon ended with status 7; the end of its log:.*no such luck"):
        daemon(keeper, "echo no such luck >&2; exit 7").start()


def test_one_that_is_never_ready_is_an_error_and_is_killed(keeper: Keeper) -> None:
    server = daemon(keeper, "echo still busy; exec sleep 60", timeout=2)
    with pytest.raises(DemoError, match=r"(?s)not so after 2.*still busy"):
        server.start()
    assert not server.running
    assert descendants(keeper.pid) == []


def test_a_program_that_does_not_exist_is_an_error(keeper: Keeper) -> None:
    with pytest.raises(DemoError, match="no-such-program"):
        keeper.spawn(["/no-such-program"], log=keeper.directory / "log", env={}, cwd=keeper.directory)


def test_a_suspended_one_stands_still_with_its_children_and_can_be_stopped(keeper: Keeper) -> None:
    counter = keeper.directory / "counter"
    server = daemon(keeper, f"(while :; do echo >> {counter}; sleep 0.01; done) & echo ready; wait", with_tree=True)
    server.start()
    wait_until(counter.exists, "the child counts", 120)
    server.suspend()
    time.sleep(0.05)
    before = counter.stat().st_size
    time.sleep(0.1)
    assert counter.stat().st_size == before
    server.resume()
    wait_until(lambda: counter.stat().st_size > before, "the child goes on", 120)
    server.suspend()
    server.stop()
    assert descendants(keeper.pid) == []


def test_a_command_is_run_to_its_end(keeper: Keeper) -> None:
    log = keeper.directory / "log"
    keeper.run(["sh", "-c", "echo done; sleep 0.1"], log=log, env=ENVIRONMENT, timeout=600)
    assert log.read_text() == "done\n"
    with pytest.raises(DemoError, match=r"(?s)ended with status 4.*done\nworse"):
        keeper.run(["sh", "-c", "echo worse; exit 4"], log=log, env=ENVIRONMENT, timeout=600)


def test_stopping_takes_away_detached_processes_and_the_directory(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path)
    (keeper.directory / "closed").mkdir()
    (keeper.directory / "closed" / "file").touch()
    (keeper.directory / "closed").chmod(0)
    server = daemon(keeper, "setsid sh -c 'trap \"\" TERM HUP; sleep 60 & wait' & echo ready; exec sleep 60")
    with pytest.raises(DemoError, match="ended with status 0"):
        daemon(keeper, "(setsid sleep 60 &) ; exit 0", ready=lambda _: False).start()
    server.start()
    wait_until(lambda: len(descendants(keeper.pid)) >= 3, "they have started", 120)
    pids = descendants(keeper.pid)
    assert keeper.stop() == []
    assert all(map(gone, pids))
    assert gone(keeper.pid)
    assert list(tmp_path.iterdir()) == []
    assert keeper.stop() == []
    with pytest.raises(DemoError, match="is gone"):
        keeper.status(1)


DEMO = """
import signal, sys, time
from pathlib import Path
from hpcgate.demo.processes import Keeper
# The tests may have been started by nohup, and their children ignore what it ignores.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
keeper = Keeper(Path(sys.argv[1]))
keeper.spawn(["sleep", "60"], log=keeper.directory / "log", env={"PATH": "/usr/bin:/bin"}, cwd=keeper.directory)
print(keeper.pid, flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_nothing_is_left_when_the_demo_is_killed(number: signal.Signals, tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", DEMO, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    ) as demo:
        assert demo.stdout is not None
        keeper = int(demo.stdout.readline())
        children = descendants(keeper)
        assert children
        assert len(list(tmp_path.iterdir())) == 1
        # As a terminal does: to the whole process group.
        os.killpg(demo.pid, number)
    wait_until(lambda: gone(keeper), "the keeper has ended", 120)
    assert all(map(gone, children))
    assert list(tmp_path.iterdir()) == []


def test_a_keeper_told_to_end_clears_up_and_the_demo_hears_of_it(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path)
    server = daemon(keeper, "echo ready; exec sleep 60")
    server.start()
    child = server.pid
    os.kill(keeper.pid, signal.SIGTERM)
    wait_until(lambda: list(tmp_path.iterdir()) == [], "the directory is gone", 120)
    assert gone(child)
    keeper.stop()


def test_daemons_die_with_a_killed_keeper_and_the_next_one_removes_its_directory(tmp_path: Path) -> None:
    killed, alive = Keeper(tmp_path), Keeper(tmp_path)
    server = daemon(killed, "echo ready; exec sleep 60")
    server.start()
    child = server.pid
    os.kill(killed.pid, signal.SIGKILL)
    wait_until(lambda: gone(child), "the daemon has died", 120)
    assert killed.directory.exists()
    problems = killed.stop()
    assert "gone before the end" in problems[0]
    following = Keeper(tmp_path)
    try:
        assert not killed.directory.exists()
        assert alive.directory.exists()
    finally:
        following.stop()
        alive.stop()


def test_only_own_unlocked_journals_are_orphans(tmp_path: Path) -> None:
    alive = Keeper(tmp_path)
    for name, journal in (("hpcgate-demo-none", None), ("hpcgate-demo-half", '["mount", "/no'), ("other", "")):
        directory = tmp_path / name
        directory.mkdir()
        if journal is not None:
            (directory / JOURNAL).write_text(journal)
    (tmp_path / "hpcgate-demo-link").symlink_to(tmp_path / "other")
    try:
        assert clear_orphans(tmp_path) == [str(tmp_path / "hpcgate-demo-half")]
        assert not (tmp_path / "hpcgate-demo-half").exists()
        assert (tmp_path / "hpcgate-demo-none").exists()
        assert (tmp_path / "other" / JOURNAL).exists()
        assert alive.directory.exists()
    finally:
        alive.stop()


def test_the_last_demo_removes_the_privilege_separation_directory_if_a_demo_made_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PrivilegeSeparation, "_used_by_others", staticmethod(lambda: False))
    path = tmp_path / "sshd"
    one, other = PrivilegeSeparation(path), PrivilegeSeparation(path)
    one.acquire()
    one.acquire()
    other.acquire()
    assert path.stat().st_mode & 0o777 == 0o755
    one.release()
    assert path.exists()
    other.release()
    other.release()
    assert not path.exists()


def test_a_privilege_separation_directory_of_the_machine_stays(tmp_path: Path) -> None:
    path = tmp_path / "sshd"
    path.mkdir()
    share = PrivilegeSeparation(path)
    share.acquire()
    share.release()
    assert path.exists()


def test_it_stays_while_another_sshd_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PrivilegeSeparation, "_used_by_others", staticmethod(lambda: True))
    share = PrivilegeSeparation(tmp_path / "sshd")
    share.acquire()
    share.release()
    assert share.directory.exists()


def test_nothing_is_deleted_through_a_bind_mount(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("kept")
    directory = tmp_path / "demo"
    point = directory / "with blank"
    point.mkdir(parents=True)
    subprocess.run(["mount", "--bind", str(precious), str(point)], check=True)
    try:
        assert mounts_below(str(directory)) == [str(point)]
        assert str(point) in remove_tree(directory)[0]
        assert (precious / "file").read_text() == "kept"
    finally:
        assert undo_all([("mount", str(point))]) == []
    assert mounts_below(str(directory)) == []
    assert remove_tree(directory) == []
    assert not directory.exists()
    assert (precious / "file").exists()
