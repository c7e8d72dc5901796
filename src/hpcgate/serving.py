"""One process that serves: uvicorn on uvloop, and the logs."""

import contextlib
import json
import logging
import os
import sys
import time

import structlog
import uvicorn
from uvicorn.config import STARTUP_FAILURE
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from hpcgate.app import create_app
from hpcgate.config import LoggerSettings, Settings
from hpcgate.middleware import new_id

GRACE = 30
"""Seconds that running requests have to finish after SIGTERM."""

MAX_HEAD = 64 * 1024
"""Bytes that may come of a request's head, its first line and headers, without completing it."""

ACCEPTORS = 16
"""Times that the listening socket is in the event loop.

libuv accepts one connection a socket each time round its loop. Under load one round takes long, and with one socket
the last of a hundred clients that connect at once would wait for a hundred rounds.
"""


def configure_logging(settings: LoggerSettings) -> None:
    """Send our log lines to standard output, as JSON or for people."""
    level = logging.getLevelNamesMapping()[settings.level.upper()]
    # Plain tracebacks: prettier ones show the values of local variables, and tokens are among them.
    renderers: list[structlog.typing.Processor] = (
        [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
        if settings.format == "json"
        else [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *renderers,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stdout),
        cache_logger_on_first_use=True,
    )


class Http(HttpToolsProtocol):
    """uvicorn's HTTP, with a bound on the head of a request, and with refusals in the shape of all others."""

    _in_head = False
    _head = 0

    def data_received(self, data: bytes) -> None:
        """Parse what came, unless a head that has begun before has become too long."""
        if self._in_head:
            self._head += len(data)
            if self._head > MAX_HEAD:
                self._refuse(431, "Request Header Fields Too Large", f"The headers take more than {MAX_HEAD} bytes.")
                return
        super().data_received(data)

    def on_message_begin(self) -> None:
        """A head begins."""
        self._in_head, self._head = True, 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """A head is whole."""
        self._in_head = False
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP."""
        self._refuse(400, "Bad Request", msg)

    def _refuse(self, status: int, phrase: str, message: str) -> None:
        if self.transport.is_closing():
            return
        body = {"errorType": "error", "message": message, "causedBy": None, "data": None, "user": None}
        content = json.dumps(body).encode()
        headers = {
            "Content-Type": "application/json",
            "Content-Length": str(len(content)),
            "Connection": "close",
            "F7T-Timestamp": repr(time.time()),
            "F7T-AppVersion": getattr(self.config.app, "version", ""),
            "X-Request-ID": new_id(),
            "X-Correlation-ID": new_id(),
        }
        lines = [f"HTTP/1.1 {status} {phrase}", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
        self.transport.write("\r\n".join(lines).encode() + content)
        self.transport.close()


def serve(settings: Settings, *, host: str, port: int) -> None:
    """Serve until a signal ends the process.

    Args:
        settings: A validated configuration.
        host: The address to listen on.
        port: The TCP port; 0 picks a free one, which the log names.
    """
    configure_logging(settings.logger)
    # asyncssh asks who runs it, and a container's arbitrary user id has no name.
    os.environ.setdefault("LOGNAME", "hpcgate")
    config = uvicorn.Config(
        create_app(settings),
        host=host,
        port=port,
        loop="uvloop",
        http=Http,
        ws="none",
        access_log=False,
        server_header=False,
        log_level="warning" if settings.logger.level in ("warning", "error") else "info",
        timeout_graceful_shutdown=GRACE,
    )
    listener = config.bind_socket()
    server = uvicorn.Server(config)
    with contextlib.suppress(KeyboardInterrupt):
        server.run(sockets=[listener, *(listener.dup() for _ in range(ACCEPTORS - 1))])
    if not server.started:
        sys.exit(STARTUP_FAILURE)
