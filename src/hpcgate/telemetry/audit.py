"""The audit log's file: one JSON line a record, whole or not at all, and a new file when it is moved away."""

import os
from pathlib import Path
from typing import Any

import structlog

log = structlog.get_logger(__name__)


class AuditFile:
    """A file that lines are appended to, each in one write, so that several processes may share it.

    logrotate(8) may move it away at any time: the next line begins a new file.

    Args:
        path: The file, made with mode 0640 if it is not there.

    Raises:
        OSError: It cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._failing = False
        self._file = -1
        self._identity: tuple[int, int] | None = None
        self._open()

    def __repr__(self) -> str:
        """Tell which file."""
        return f"<AuditFile {self._path}>"

    def write(self, line: str) -> None:
        """Append a line. If that fails, the ordinary log says so, once until it works again."""
        try:
            if self._moved():
                self._open()
            content = line.encode("utf-8", "backslashreplace") + b"\n"
            written = os.write(self._file, content)
            if written != len(content):
                raise OSError(f"only {written} of {len(content)} bytes were written")
        except OSError as error:
            if not self._failing:
                log.error("audit.write_failed", file=str(self._path), reason=str(error))
            self._failing = True
            return
        if self._failing:
            log.warning("audit.write_works_again", file=str(self._path))
            self._failing = False

    def close(self) -> None:
        """Close the file."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _moved(self) -> bool:
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return True
        return (found.st_dev, found.st_ino) != self._identity

    def _open(self) -> None:
        file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        self.close()
        found = os.fstat(file)
        self._file, self._identity = file, (found.st_dev, found.st_ino)


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
