"""How log lines are written."""

import json

import pytest
import structlog

from hpcgate.config import LoggerSettings
from hpcgate.logs import configure_logging


@pytest.fixture(autouse=True)
def _as_it_was() -> object:
    yield
    structlog.reset_defaults()


def fail(token: str) -> None:
    raise RuntimeError("no details")


@pytest.mark.parametrize("form", ["json", "console"])
def test_tracebacks_show_no_values(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(LoggerSettings.model_validate({"format": form}))
    try:
        fail("secret" + "-token")
    except RuntimeError as error:
        structlog.get_logger().error("request.crashed", exc_info=error)
    written = capsys.readouterr().out
    assert "request.crashed" in written
    assert "no details" in written
    assert "secret-token" not in written


def test_one_json_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(LoggerSettings())
    structlog.get_logger().info("http.request", path="/a\nb", status=200)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1
    line = json.loads(lines[0])
    assert (line["event"], line["path"], line["status"], line["level"]) == ("http.request", "/a\nb", 200, "info")
    assert line["timestamp"].endswith("Z")


def test_level(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(LoggerSettings.model_validate({"level": "warning"}))
    structlog.get_logger().info("quiet")
    structlog.get_logger().warning("loud")
    written = capsys.readouterr().out
    assert "quiet" not in written
    assert "loud" in written
