"""Where lines go, what is added to them, and what is taken out."""

import asyncio
import io
import json
import os
import re
from collections.abc import Iterator
from datetime import datetime, timedelta
from http import HTTPStatus
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import asyncssh
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr
from starlette.types import Message, Receive, Scope, Send
from structlog.processors import TimeStamper, add_log_level

from hpcgate.auth import Principal
from hpcgate.config import LoggerSettings
from hpcgate.config.audit import AuditSettings
from hpcgate.credentials.base import Credential
from hpcgate.http import envelope
from hpcgate.http.envelope import Envelope
from hpcgate.http.request_log import RequestLines
from hpcgate.server.logs import _RENDERERS, MAX_TEXT, Lines, PlainLines, configure_logging
from hpcgate.telemetry import journal
from hpcgate.telemetry.audit import AuditFile
from hpcgate.telemetry.journal import Journal

QUIET = LoggerSettings.model_validate({"level": "error"})
WHO = {"user": "alice", "client_id": "portal", "token_id": "t-1", "source": "192.0.2.1"}


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    before = journal.current.get()
    yield
    journal.current.set(before)
    structlog.reset_defaults()


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_audit_events_go_to_the_file_whatever_the_level(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "audit.jsonl"
    configure_logging(QUIET, AuditSettings(to=str(path)))
    journal.current.set(Journal("r-1", "c-1", paths=[], who=WHO))
    structlog.get_logger("hpcgate.audit").info("certificate.issued", serial=7, user="alice-local")
    structlog.get_logger("hpcgate.audit").bind(rule="no-rm").warning("denied")
    structlog.get_logger("hpcgate.other").info("quiet")
    issued, denied = lines(path.read_text())
    assert issued["event"] == "certificate.issued"
    assert (issued["serial"], issued["user"], issued["request_id"]) == (7, "alice-local", "r-1")
    assert denied["event"] == "denied"
    assert {name: denied[name] for name in WHO} == WHO
    assert denied["rule"] == "no-rm"
    assert capsys.readouterr().out == ""


def test_audit_events_to_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(QUIET, AuditSettings(to="stdout"))
    structlog.get_logger("hpcgate.audit").info("denied", rule="no-rm")
    (line,) = lines(capsys.readouterr().out)
    assert (line["event"], line["rule"]) == ("denied", "no-rm")


def test_audit_events_without_an_audit_log(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(LoggerSettings(), AuditSettings())
    structlog.get_logger("hpcgate.audit").info("denied", rule="no-rm")
    (line,) = lines(capsys.readouterr().out)
    assert (line["event"], line["level"]) == ("denied", "info")


def test_a_line_after_the_request_is_none_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(LoggerSettings())
    notes = Journal("r-1", "c-1")
    journal.current.set(notes)
    log = structlog.get_logger("hpcgate.test")
    log.info("during")
    notes.open = False
    log.info("afterwards")
    during, afterwards = lines(capsys.readouterr().out)
    assert (during["request_id"], during["correlation_id"]) == ("r-1", "c-1")
    assert "request_id" not in afterwards


@pytest.mark.parametrize("form", ["json", "console"])
def test_secrets_are_known_by_their_types(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(LoggerSettings.model_validate({"format": form}))
    key = asyncssh.generate_private_key("ssh-ed25519")
    hidden = "hidden-value"
    structlog.get_logger("hpcgate.test").info(
        "all",
        secret=SecretStr(hidden),
        nested={"list": [SecretStr(hidden), (hidden.encode(),)]},
        who=Principal("alice", hidden, {"jti": hidden}),
        credential=Credential(key),
        key=key,
        content=hidden.encode(),
        plain="shown",
    )
    written = capsys.readouterr().out
    assert hidden not in written
    assert "shown" in written
    assert "alice" in written
    assert f"<{len(hidden)} bytes>" in written
    if form == "json":
        (line,) = lines(written)
        assert [line[name] for name in ("secret", "credential", "key")] == ["***"] * 3


def test_what_others_say_makes_no_long_line(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(LoggerSettings())
    said = "words " * 100_000
    try:
        raise ValueError(said)
    except ValueError as error:
        structlog.get_logger("hpcgate.test").warning(
            "all", text=said, within={"list": [said, (said,)], "number": 7}, exc_info=error
        )
    written = capsys.readouterr().out
    (line,) = lines(written)
    assert len(written) < 8 * MAX_TEXT
    assert line["text"].startswith("words words")
    assert line["within"]["number"] == 7
    assert line["exception"].startswith("Traceback")
    assert line["exception"].endswith("words ")


def test_a_file_that_cannot_be_written_is_told_once() -> None:
    output = io.StringIO()
    structlog.configure(
        processors=[structlog.processors.JSONRenderer()], logger_factory=structlog.WriteLoggerFactory(file=output)
    )
    file = AuditFile(Path("/dev/full"))
    for _ in range(3):
        file.write("{}")
    file.close()
    failed, lost = lines(output.getvalue())
    assert (failed["event"], failed["reason"][-23:]) == ("audit.write_failed", "No space left on device")
    assert (lost["event"], lost["lines"]) == ("audit.lines_lost", 3)


def test_what_a_full_disk_has_cut_off_is_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As often as it is full, wherever it cuts; a line that is cut off ends there, and is repeated whole."""
    path = tmp_path / "audit.jsonl"
    file = AuditFile(path)
    write, room = os.write, [5, 0, 3, 40]

    def full(descriptor: int, content: bytes) -> int:
        if descriptor != file._file or not room:
            return write(descriptor, content)
        return write(descriptor, content[: room.pop(0)])

    monkeypatch.setattr(os, "write", full)
    given = [json.dumps({"number": number, "text": "x" * 20}).encode() + b"\n" for number in range(4)]
    left = list(given)
    while left:
        del left[: file._append(left)]
    whole = [line for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"}\n")]
    assert whole == given
    file.close()


def test_two_processes_may_share_a_file(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    one, other = AuditFile(path), AuditFile(path)
    for number in range(50):
        one.write(json.dumps({"one": number}))
        other.write(json.dumps({"other": number}))
    assert len(lines(path.read_text())) == 100
    path.rename(tmp_path / "audit.jsonl.1")
    one.write("{}")
    other.write("{}")
    assert path.read_text() == "{}\n{}\n"


def test_any_path_can_be_noted() -> None:
    notes = Journal("r-1", "c-1", paths=[])
    journal.current.set(notes)
    for path in ("/a", "/a", "/\u00e9\U0001f600", "/\udcff", "/\ud800x", *(f"/{number}" for number in range(1000))):
        journal.note_path(path)
    assert notes.paths is not None
    assert notes.paths[:4] == ["/a", "/\u00e9\U0001f600", "/\ufffd", "/\ufffdx"]
    assert len(notes.paths) == journal.MAX_ENTRIES


@pytest.mark.parametrize("to", ["relative.log", "/nowhere/at/all/audit.log", "/tmp", "STDOUT"])
def test_a_destination_that_is_none(to: str) -> None:
    with pytest.raises(ValueError, match=r"must be stdout or|cannot write"):
        AuditSettings(to=to)


@pytest.mark.parametrize(
    ("path", "shown"), [("/plain", "/plain"), ("/é", "/é"), ("/a\udcff", "/a\ufffd"), ("/\ud800x", "/\ufffdx")]
)
def test_paths_are_shown_as_every_reader_takes_them(path: str, shown: str) -> None:
    assert journal.readable(path) == shown


async def test_lines_keep_their_order_and_go_out_together() -> None:
    file = io.StringIO()
    lines = Lines(file)
    for number in range(100):
        lines.info(str(number))
    lines.warning("last")
    assert await asyncio.to_thread(lines.drain)
    assert file.getvalue().splitlines() == [*map(str, range(100)), "last"]
    await asyncio.to_thread(lines.info, "of a thread")
    assert await asyncio.to_thread(lines.drain)
    assert file.getvalue().endswith("of a thread\n")


@given(
    st.dictionaries(
        st.sampled_from(["path", "user", "status", "seconds"]),
        st.one_of(
            st.text(st.characters()), st.integers(), st.floats(), st.none(), st.booleans(), st.lists(st.integers())
        ),
    )
)
def test_a_line_of_the_access_log_is_what_the_processors_make(fields: dict[str, Any]) -> None:
    lines: list[str] = []
    PlainLines(lines.append).info("http.request", **fields)
    slow = structlog.wrap_logger(
        SimpleNamespace(info=lines.append),
        [add_log_level, TimeStamper(fmt="iso", utc=True), *_RENDERERS["json"]],
    )
    slow.info("http.request", **fields)
    plain, expected = (line.rpartition(', "timestamp": "') for line in lines)
    assert plain[0] == expected[0]
    assert abs(datetime.fromisoformat(expected[2][:-2]) - datetime.fromisoformat(plain[2][:-2])) < timedelta(minutes=1)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z\"}", plain[2])


@given(
    st.fixed_dictionaries(
        {name: st.text(st.characters()) for name in ("method", "path", "request_id", "correlation_id")}
        | {name: st.none() | st.text(st.characters()) for name in ("user", "client")}
        | {"status": st.integers(100, 599) | st.sampled_from(HTTPStatus), "seconds": st.floats(0, 1e6)}
    )
)
def test_the_line_of_a_request_is_what_the_processors_make(fields: dict[str, Any]) -> None:
    lines: list[str] = []
    PlainLines(lines.append).request(**fields)
    slow = structlog.wrap_logger(SimpleNamespace(info=lines.append), [add_log_level, *_RENDERERS["json"]])
    order = ("method", "path", "status", "seconds", "user", "client", "request_id", "correlation_id")
    slow.info("http.request", **{name: fields[name] for name in order})
    assert lines[0].rpartition(', "timestamp": "')[0] + "}" == lines[1]


@pytest.mark.parametrize(("level", "there"), [("debug", True), ("info", True), ("warning", False)])
def test_the_access_log_has_the_level_info(level: str, there: bool, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(LoggerSettings.model_validate({"level": level}))
    structlog.get_logger("hpcgate.access").info("http.request", path="/a")
    assert ('"http.request"' in capsys.readouterr().out) is there


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_header_that_is_replaced_is_told_of(
    form: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is not a line of the access log, which takes those of requests alone."""
    configure_logging(LoggerSettings.model_validate({"format": form}))
    # Another test may have had it bound to other settings.
    monkeypatch.setattr(envelope, "log", structlog.get_logger(*envelope.log._logger_factory_args))
    sent: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x-odd", b"a\nb")]})
        await send({"type": "http.response.body", "body": b""})

    async def receive() -> Message:
        raise AssertionError

    async def send(message: Message) -> None:
        sent.append(message)

    asked: Scope = {"type": "http", "method": "GET", "path": "/odd", "headers": [], "state": {}}
    asyncio.run(Envelope(app, app_version="2.5.7", lines=RequestLines(access=False))(asked, receive, send))
    # The main thread waits for it, and so for the line before it.
    structlog.get_logger("hpcgate.test").info("behind")
    written = capsys.readouterr().out
    assert (b"x-odd", b"a?b") in sent[0]["headers"]
    assert "http.header_replaced" in written
    assert "/odd" in written
