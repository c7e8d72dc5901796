"""The logs of the process: what goes into each line, and where the lines go.

Three kinds of lines have loggers of their own: ``hpcgate.access``, ``f7t_v2_tracing_log`` (named as in FirecREST, whose
logging configuration files name it) and ``hpcgate.audit``.
"""

import atexit
import json
import logging
import math
import os
import select
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from json.encoder import encode_basestring_ascii as _text
from pathlib import Path
from types import MappingProxyType
from typing import Any, TextIO, cast

import structlog
from pydantic import SecretBytes, SecretStr

from hpcgate.auth import Principal
from hpcgate.config import LoggerSettings
from hpcgate.config.audit import STDOUT, AuditSettings
from hpcgate.credentials.base import KEYS, Credential
from hpcgate.http.request_log import AccessLog
from hpcgate.telemetry import journal
from hpcgate.telemetry.audit import AuditFile, AuditLogger
from hpcgate.telemetry.containment import FAULTS
from hpcgate.telemetry.writer import WRITERS, Writer

AUDIT = "hpcgate.audit"
ACCESS = "hpcgate.access"
LOG_CONFIG = "UVICORN_LOG_CONFIG"
"""The environment variable that names a file for the standard library's logging, as uvicorn and FirecREST have it."""

MAX_TEXT = 4096
"""Characters of a text in a line, and of each half of a traceback: what others say goes into these. Lines of the access
and the audit log are left whole, since what goes into those has bounds of its own."""

_HARMLESS = frozenset({str, int, float, bool, type(None)})
_SHORT = frozenset({int, float, bool, type(None)})


def configure_logging(settings: LoggerSettings, audit: AuditSettings | None = None) -> None:
    """Send our log lines to standard output, as JSON or for people, and audit lines where they belong.

    If ``UVICORN_LOG_CONFIG`` is set, all but the audit lines go to the standard library's loggers, for the file that it
    names says what becomes of them.

    Raises:
        OSError: The audit log's file cannot be written.
    """
    level = logging.getLevelNamesMapping()[settings.level.upper()]
    standard = bool(os.environ.get(LOG_CONFIG))
    filtering: Any = structlog.make_filtering_bound_logger(level)
    audited = _audit_bound(audit)

    rendered = _STANDARD if standard else _RENDERERS[settings.format]
    stamped = (structlog.processors.add_log_level, structlog.processors.TimeStamper(fmt="iso", utc=True), *rendered)

    plain = settings.format == "json" and not standard and level <= logging.INFO

    def bound(logger: Any, processors: Any, context: Any) -> Any:
        if isinstance(logger, AccessLines):
            if plain:
                return PlainLines(logger.info)
            # Its lines have their ids, and nothing that must not be read.
            return filtering(logger, stamped, context)
        if audited is not None and isinstance(logger, AuditLogger):
            return audited(logger, _AUDIT_PROCESSORS, context)
        return filtering(logger, processors, context)

    structlog.configure(
        processors=[identify, redact, shorten, *stamped],
        wrapper_class=cast("type[structlog.typing.BindableLogger]", bound),
        logger_factory=_factory(audit, standard=standard),
        cache_logger_on_first_use=True,
    )


def take_over_libraries() -> None:
    """Give what libraries log by the standard library our form, unless ``UVICORN_LOG_CONFIG`` says what becomes of it.

    For a process of our own: it replaces all handlers that there are.
    """
    if not os.environ.get(LOG_CONFIG):
        logging.basicConfig(handlers=[Bridge()], level=logging.WARNING, force=True)


def hand_over() -> None:
    """Have a thread call the handlers that a logging configuration has made: a file or a service of theirs may hang."""
    writer = WRITERS.add(Writer("handlers", _handle, on_dropped=_tell_dropped))
    loggers = [logging.root, *logging.root.manager.loggerDict.values()]
    made = {id(handler): handler for one in loggers if isinstance(one, logging.Logger) for handler in one.handlers}
    instead = {key: Deferred(handler, writer) for key, handler in made.items()}
    for one in loggers:
        if isinstance(one, logging.Logger):
            one.handlers = [instead[id(handler)] for handler in one.handlers]
    # It waits for the lock of each handler, which one that hangs holds.
    atexit.unregister(logging.shutdown)
    atexit.register(_shut_down, writer)


def _shut_down(writer: Writer[tuple[logging.Handler, logging.LogRecord]]) -> None:
    if not writer.close():
        logging.shutdown()


def _handle(records: Sequence[tuple[logging.Handler, logging.LogRecord]]) -> int:
    for handler, record in records:
        try:
            handler.handle(record)
        except Exception:  # of the site's own: the next record may go well
            FAULTS.count("log")
    return len(records)


class Deferred(logging.Handler):
    """Stands for a handler, which a thread calls.

    Args:
        handler: The handler.
        writer: Has the thread.
    """

    def __init__(self, handler: logging.Handler, writer: Writer[tuple[logging.Handler, logging.LogRecord]]) -> None:
        super().__init__(handler.level)
        self._deferred = handler
        self._writer = writer

    def emit(self, record: logging.LogRecord) -> None:
        """Hand a record over."""
        self._writer.put((self._deferred, record), len(str(record.msg)))


class Bridge(logging.Handler):
    """Takes what libraries log by the standard library, so that all lines of the process have one form."""

    def emit(self, record: logging.LogRecord) -> None:
        """Hand a record over; its name is the event."""
        try:
            structlog.get_logger(record.name).log(
                record.levelno, record.name, message=record.getMessage(), exc_info=record.exc_info
            )
        except Exception:
            self.handleError(record)


class Lines:
    """The logger at the end of the processors: hands its lines to a thread that writes them.

    Args:
        file: Where they go.
    """

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._writer = WRITERS.add(Writer("log", self._write, on_dropped=_tell_dropped))

    def msg(self, message: str) -> None:
        """Have a line written soon."""
        self._writer.put(message, len(message))

    log = debug = info = warn = warning = error = critical = exception = fatal = failure = err = msg

    def drain(self) -> bool:
        """Wait for a moment until all is written, and say whether it is."""
        return self._writer.drain()

    def _write(self, lines: Sequence[str]) -> int:
        text = "\n".join((*lines, ""))
        try:
            write_whole(self._file, text)
        except (OSError, ValueError):  # a full disk, or nobody reads any more: no reason to fail what goes on
            FAULTS.count("log")
        return len(lines)


def write_whole(file: TextIO, text: str) -> None:
    """Write text past the file's buffer, whose lock the end of the process would wait for.

    Raises:
        OSError: It cannot be written.
    """
    try:
        descriptor = file.fileno()
    except (OSError, ValueError):  # no file of the system's
        file.write(text)
        file.flush()
        return
    data = memoryview(text.encode(file.encoding or "utf-8", "backslashreplace"))
    while data:
        try:
            data = data[os.write(descriptor, data) :]
        except BlockingIOError:  # somebody who shares it has set it so
            select.select((), (descriptor,), ())


def _tell_dropped(lines: int) -> None:
    structlog.get_logger(__name__).error("log.lines_dropped", lines=lines)


class AccessLines:
    """The same lines for the access log, a logger of its own so that fewer processors need look at them."""

    def __init__(self, lines: Lines) -> None:
        self.info = lines.msg


class PlainLines(AccessLog):
    """Makes the lines of the access log, which are all alike, as the processors would in a sixth of their time.

    Args:
        write: Where they go.
    """

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._second = 0
        self._until_second = ""

    def request(
        self,
        method: str,
        path: str,
        status: int,
        seconds: float,
        user: str | None,
        client: str | None,
        request_id: str,
        correlation_id: str,
    ) -> None:
        """Write the line of one request."""
        who = "null" if user is None else _text(user)
        where = "null" if client is None else _text(client)
        self._write(
            f'{{"method": {_text(method)}, "path": {_text(path)}, "status": {status:d}, "seconds": {seconds!r}, '
            f'"user": {who}, "client": {where}, "request_id": {_text(request_id)}, '
            f'"correlation_id": {_text(correlation_id)}, "event": "http.request", "level": "info", '
            f'"timestamp": "{self._timestamp()}"}}'
        )

    def info(self, event: str, **fields: Any) -> None:
        """Write any other line."""
        values = [
            f'"{name}": {_text(value) if type(value) is str else _plain(value)}, ' for name, value in fields.items()
        ]
        end = f'"event": {_plain(event)}, "level": "info", "timestamp": "{self._timestamp()}"}}'
        self._write(f"{{{''.join(values)}{end}")

    def _timestamp(self) -> str:
        second, microsecond = divmod(time.time_ns() // 1000, 1_000_000)
        if second != self._second:
            self._second, self._until_second = second, f"{datetime.fromtimestamp(second, UTC):%Y-%m-%dT%H:%M:%S}"
        return f"{self._until_second}.{microsecond:06d}Z"


def _plain(value: Any) -> str:
    """Return a value of the access log as JSON."""
    kind = type(value)
    if kind is str:
        return _text(value)
    if kind is int or (kind is float and math.isfinite(value)):
        return repr(value)
    return "null" if value is None else _encode(value)


def _factory(audit: AuditSettings | None, *, standard: bool) -> Any:
    """Return what makes the logger at the end of the processors, by its name."""
    output = Lines(sys.stdout)
    atexit.register(WRITERS.close)
    access = AccessLines(output)
    auditor = None
    if audit is not None and audit.to is not None:
        auditor = AuditLogger(output.msg if audit.to == STDOUT else AuditFile(Path(audit.to)).write)

    def factory(*args: Any) -> Any:
        name = args[0] if args else "hpcgate"
        if name == AUDIT and auditor is not None:
            return auditor
        if standard:
            return logging.getLogger(name)
        return access if name == ACCESS else output

    return factory


def _audit_bound(audit: AuditSettings | None) -> Any:
    # No level keeps an audit line back.
    return None if audit is None or audit.to is None else structlog.make_filtering_bound_logger(logging.NOTSET)


def identify(_: Any, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Add the ids of the request that the line belongs to, if it belongs to one."""
    notes = journal.current.get()
    if notes is not None and notes.open:
        event.setdefault("request_id", notes.request_id)
        event.setdefault("correlation_id", notes.correlation_id)
    return event


def redact(_: Any, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Replace what must not be read in a log: secrets, keys and contents, known by their types."""
    for name, value in event.items():
        if type(value) not in _HARMLESS:
            event[name] = _redacted(value)
    return event


def _redacted(value: Any) -> Any:
    if isinstance(value, KEYS):
        return "***"
    match value:
        case SecretStr() | SecretBytes() | Credential():
            return "***"
        case Principal():
            return value.username
        case bytes() | bytearray() | memoryview():
            return f"<{len(value)} bytes>"
        case Mapping():
            return {key: _redacted(item) for key, item in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_redacted(item) for item in value] if not _is_exc_info(value) else value
    return value


def shorten(_: Any, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Cut long texts."""
    for name, value in event.items():
        if type(value) not in _SHORT:
            event[name] = _shortened(value)
    return event


def _shortened(value: Any) -> Any:
    match value:
        case str():
            return value if len(value) <= MAX_TEXT else f"{value[:MAX_TEXT]}..."
        case dict():
            return {key: _shortened(item) for key, item in value.items()}
        case list():
            return [_shortened(item) for item in value]
    return value


def _tell_error(logger: Any, name: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Put a traceback as text where the error stands; of a long one without its middle."""
    event = structlog.processors.format_exc_info(logger, name, event)
    text = event.get("exception", "")
    if len(text) > 2 * MAX_TEXT:
        event["exception"] = f"{text[:MAX_TEXT]}\n...\n{text[-MAX_TEXT:]}"
    return event


def _is_exc_info(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 3 and isinstance(value[1], BaseException)


def _who(_: Any, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    notes = journal.current.get()
    if notes is not None and notes.open:
        for name, value in notes.who.items():
            event.setdefault(name, value)
    return event


def _to_standard(_: Any, __: str, event: structlog.typing.EventDict) -> tuple[tuple[dict[str, Any]], dict[str, Any]]:
    """Hand the line over as a mapping, which JSON formatters take apart and others print."""
    return ({"message": event.pop("event", ""), **event},), {}


# Plain tracebacks: prettier ones show the values of local variables, and tokens are among them.
_encode = json.JSONEncoder(default=repr).encode


def _json(event: structlog.typing.EventDict, **_: Any) -> str:
    # json.dumps with any option makes an encoder for each call.
    return _encode(event)


_RENDERERS: Mapping[str, tuple[Any, ...]] = MappingProxyType(
    {
        "json": (_tell_error, structlog.processors.JSONRenderer(_json)),
        "console": (structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback),),
    }
)
_STANDARD = (_tell_error, _to_standard)
_AUDIT_PROCESSORS = (
    identify,
    _who,
    redact,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.JSONRenderer(),
)
