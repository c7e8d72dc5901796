"""Maintenance windows, the notices of operators, and the command that leaves them."""

import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner, Result

from hpcgate.cli.commands import app
from hpcgate.cli.maintenance import moment
from hpcgate.config import MaintenanceWindow
from hpcgate.errors import UnderMaintenance
from hpcgate.health.maintenance import Calendar, Notices, NoticeWatch, Window, iso

NOW = 1_800_000_000.0


def window(**values: object) -> MaintenanceWindow:
    return MaintenanceWindow.model_validate(values)


def test_a_window_is_on_from_its_start_to_its_end() -> None:
    calendar = Calendar("daint", [Window(start=NOW, until=NOW + 60, reason="new disks")])
    assert calendar.current(NOW - 1) is None
    assert calendar.current(NOW) == Window(NOW, NOW + 60, "new disks")
    assert calendar.current(NOW + 60) is None
    assert calendar.windows(NOW + 59) != ()
    assert calendar.windows(NOW + 60) == ()


def test_windows_that_meet_end_with_the_last() -> None:
    calendar = Calendar("daint", [Window(NOW, NOW + 60, "first"), Window(NOW + 30, NOW + 90)])
    assert calendar.current(NOW + 40) == Window(NOW, NOW + 90, "first")
    calendar.note([Window(reason="flood")])
    assert calendar.current(NOW + 40) == Window(None, None, "flood")


def test_what_users_are_told() -> None:
    until = time.time() + 100
    calendar = Calendar("daint", [Window(until=until, reason="new disks")])
    with pytest.raises(UnderMaintenance) as caught:
        calendar.check()
    error = caught.value
    assert error.status == 503
    assert error.data == {"reason": "maintenance", "until": iso(until)}
    assert error.message == f"The system daint is under maintenance until {iso(until)}: new disks"
    assert 90 <= int(error.headers["Retry-After"]) <= 100
    endless = Calendar("daint", [Window()])
    with pytest.raises(UnderMaintenance, match=r"^The system daint is under maintenance\.$") as caught:
        endless.check()
    assert caught.value.data == {"reason": "maintenance", "until": None}
    assert caught.value.headers == {}
    Calendar("daint", [Window(until=time.time() - 1)]).check()


async def test_two_gateways_read_one_directory(tmp_path: Path) -> None:
    notices = Notices(tmp_path)
    calendars = [{"a/b": Calendar("A/b"), "other": Calendar("other")} for _ in range(2)]
    watches = [NoticeWatch(notices, each) for each in calendars]

    async def look() -> list[list[int]]:
        for watch in watches:
            await watch.look()
        return [[len(calendar.windows(NOW)) for calendar in each.values()] for each in calendars]

    assert await look() == [[0, 0], [0, 0]]
    notices.put("a/B", window(reason="one"))
    assert await look() == [[1, 0], [1, 0]]
    notices.put("a/b", window(reason="two"))
    assert await look() == [[1, 0], [1, 0]]
    assert calendars[0]["a/b"].current(NOW) == Window(reason="two")
    assert notices.remove("A/B")
    assert not notices.remove("A/B")
    assert await look() == [[0, 0], [0, 0]]


async def test_a_damaged_notice_leaves_what_was_said(tmp_path: Path) -> None:
    notices = Notices(tmp_path)
    calendar = Calendar("daint")
    watch = NoticeWatch(notices, {"daint": calendar})
    notices.put("daint", window(reason="one"))
    await watch.look()
    for damaged in ("{", "[]", '{"windows": [{"until": "soon"}]}', '{"windows": 3}'):
        notices.path("daint").write_text(damaged)
        os.utime(notices.path("daint"), ns=(1, hash(damaged) % 10**9))
        await watch.look()
        assert calendar.current(NOW) == Window(reason="one")
    notices.put("daint", window(reason="two"))
    await watch.look()
    assert calendar.current(NOW) == Window(reason="two")


def test_a_notice_is_never_half_written(tmp_path: Path) -> None:
    notices = Notices(tmp_path)
    notices.put("daint", window(reason="one"))
    assert [path.name for path in notices.directory.iterdir()] == ["daint.json"]
    assert notices.path("daint").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize(
    ("text", "seconds"), [("90m", 5400), ("4h", 14400), ("1d12h", 129600), (" 1h30m ", 5400), ("2d", 172800)]
)
def test_durations(text: str, seconds: int) -> None:
    """A duration is counted from now."""
    now = datetime(2027, 1, 1, tzinfo=UTC)
    assert moment(text, now) - now == timedelta(seconds=seconds)


def test_times_have_the_local_zone_unless_they_name_one() -> None:
    now = datetime.now().astimezone()
    assert moment("2027-02-01T06:00:00+01:00", now) == datetime(2027, 2, 1, 5, tzinfo=UTC)
    assert moment("2027-02-01T06:00", now) == datetime(2027, 2, 1, 6).astimezone()
    for wrong in ("", "soon", "4", "h", "4h4d", "12:00"):
        with pytest.raises(ValueError, match="is not a time"):
            moment(wrong, now)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "hpcgate.yaml"
    system = {"ssh": {"host": "127.0.0.1", "port": 9}, "scheduler": {"type": "slurm", "version": "22.05.8"}}
    settings = {
        "auth": {"authentication": {"token_url": "http://127.0.0.1:9/token"}},
        "ssh_credentials": {"type": "SSHService", "url": "http://127.0.0.1:9"},
        "state_directory": str(tmp_path / "state"),
        "clusters": [
            {"name": "Daint", **system},
            {"name": "eiger", **system, "maintenance": [{"start": "2100-01-01T06:00:00+01:00", "reason": "end"}]},
        ],
    }
    path.write_text(yaml.safe_dump(settings))
    return path


def run(config: Path, *arguments: str) -> Result:
    """Run the command in this process; `test_pages.py` runs it in one of its own."""
    return CliRunner().invoke(app, ["maintenance", *arguments, "--config", str(config)])


def test_the_command(config: Path) -> None:
    """The command writes notices that the gateway reads, and clears them."""
    notices = Notices(config.parent / "state")
    done = run(config, "set", "dAINT", "--until", "4h", "--reason", "new disks")
    assert done.exit_code == 0, done.stderr
    (found,) = notices.read("Daint")
    assert found.active(time.time())
    assert found.until is not None
    assert time.time() + 14300 < found.until < time.time() + 14401
    assert found.reason == "new disks"
    listed = run(config, "list").stdout.splitlines()
    assert listed[0].startswith("Daint: now, from ")
    assert listed[0].endswith(f"until {iso(found.until)}: new disks (operator)")
    assert listed[1] == "eiger: planned, from 2100-01-01T05:00:00Z until cleared: end (configuration)"
    assert run(config, "clear", "daint").stdout == "Daint: cleared\n"
    assert run(config, "clear", "daint").stdout == "Daint: nothing was set\n"
    assert notices.read("Daint") == ()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("set", "daint", "--until", "soon"), "is not a time"),
        (("set", "daint", "--from", "4h", "--until", "2h"), "until must be later than start"),
        (("set", "daint", "--until", "2020-01-01"), "it would be over already"),
        (("set", "dain"), "There is no system dain; the configuration has Daint, eiger."),
        (("clear", "dain"), "There is no system dain"),
    ],
)
def test_what_the_command_refuses(config: Path, arguments: tuple[str, ...], words: str) -> None:
    done = run(config, *arguments)
    assert (done.exit_code, done.stdout) == (1, "")
    assert words in done.stderr
    assert not (config.parent / "state").exists()


def test_without_a_state_directory(config: Path) -> None:
    settings = yaml.safe_load(config.read_text())
    del settings["state_directory"]
    config.write_text(yaml.safe_dump(settings))
    done = run(config, "list")
    assert done.exit_code == 1
    assert "state_directory" in done.stderr
