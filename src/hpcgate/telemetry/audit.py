"""The audit log's file: one JSON line a record, in order, and a new file when it is moved away."""

import errno
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import structlog

from hpcgate.telemetry.writer import WRITERS, Writer
from hpcgate.threads import within

log = structlog.get_logger(__name__)

OPENING = 10.0
"""Seconds that the file may take to be opened at the start."""
ENOUGH = 0.5
"""The share of what may wait from which on nothing more is begun that would have to be recorded: what is under way has
the other half."""


class AuditFile:
    """A file that lines are appended to by a thread, so that several processes may share it and none waits for it.

    logrotate(8) may move it away at any time: the next line begins a new file. What cannot be written is kept, up to
    the bounds of a `Writer`, and tried again.

    Args:
        path: The file, made with mode 0640 if it is not there.

    Raises:
        OSError: It cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._failing = False
        self._torn = False
        self._file = -1
        self._identity: tuple[int, int] | None = None
        try:
            within(OPENING, self._open)
        except TimeoutError:
            raise OSError(errno.ETIMEDOUT, f"it cannot be opened within {OPENING:g} s") from None
        self._writer = WRITERS.add(Writer("audit", self._append, on_dropped=_tell_dropped, on_lost=self._lost))

    def __repr__(self) -> str:
        """Tell which file."""
        return f"<AuditFile {self._path}>"

    def write(self, line: str) -> None:
        """Have a line appended. If that fails, the ordinary log says so, once until it works again."""
        content = line.encode("utf-8", "backslashreplace") + b"\n"
        self._writer.put(content, len(content))

    def close(self) -> None:
        """Write what is left, if that is possible in a moment, and close the file."""
        if not self._writer.close() and self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _append(self, lines: Sequence[bytes]) -> int:
        """Write what can be written and return how many lines that were."""
        try:
            if self._moved():
                self._open()
            # What a full disk has cut off ends here, and is repeated.
            content = b"\n" * self._torn + b"".join(lines)
            written = os.write(self._file, content)
        except OSError as error:
            self._failed(str(error))
            return 0
        if written == len(content):
            self._torn = False
            if self._failing:
                log.warning("audit.write_works_again", file=str(self._path))
                self._failing = False
            return len(lines)
        self._failed(f"only {written} of {len(content)} bytes were written")
        done = content[:written]
        whole = done.count(b"\n") - int(self._torn and written > 0)
        self._torn = self._torn if not done else not done.endswith(b"\n")
        return whole

    def _lost(self, lines: int) -> None:
        log.error("audit.lines_lost", file=str(self._path), lines=lines)

    def _failed(self, reason: str) -> None:
        if not self._failing:
            log.error("audit.write_failed", file=str(self._path), reason=reason)
        self._failing = True

    def _moved(self) -> bool:
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return True
        return (found.st_dev, found.st_ino) != self._identity

    def _open(self) -> None:
        file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        if self._file >= 0:
            os.close(self._file)
        found = os.fstat(file)
        self._file, self._identity = file, (found.st_dev, found.st_ino)
        self._torn = False


def is_behind() -> bool:
    """Say whether so much waits to be recorded that nothing more should be begun."""
    return any(writer.name == "audit" and writer.filled(ENOUGH) for writer in WRITERS)


def _tell_dropped(lines: int) -> None:
    log.error("audit.lines_dropped", lines=lines)
    # Who reads the audit log is told of the gap, too.
    structlog.get_logger("hpcgate.audit").warning("audit.lines_dropped", lines=lines)


class AuditLogger:
    """What structlog hands rendered audit lines to, whatever their level."""

    def __init__(self, write: Any) -> None:
        self._write = write

    def __repr__(self) -> str:
        """Tell where the lines go."""
        return f"<AuditLogger {self._write!r}>"

    def msg(self, line: str) -> None:
        """Write one line."""
        self._write(line)

    debug = info = warning = warn = error = critical = exception = fatal = log = msg
