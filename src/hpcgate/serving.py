"""One process that serves: uvicorn on uvloop, and the logs."""

import contextlib
import logging
import os
import sys

import structlog
import uvicorn
from uvicorn.config import STARTUP_FAILURE

from hpcgate.app import create_app
from hpcgate.config import LoggerSettings, Settings

GRACE = 30
"""Seconds that running requests have to finish after SIGTERM."""

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
        http="httptools",
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
