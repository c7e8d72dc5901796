"""One process that serves: uvicorn on uvloop, with our own HTTP protocol and lifecycle."""

import asyncio
import contextlib
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import cast

import structlog
import uvicorn
from uvicorn.config import STARTUP_FAILURE
from yaml import YAMLError

from hpcgate.config import Settings
from hpcgate.http.envelope import security_headers
from hpcgate.server import garbage
from hpcgate.server.absence import ask_whether_there
from hpcgate.server.answers import Answers
from hpcgate.server.app import Application, create_app
from hpcgate.server.front import ALWAYS, Front
from hpcgate.server.http_protocol import Http
from hpcgate.server.lifecycle import Server
from hpcgate.server.logs import LOG_CONFIG, configure_logging, hand_over, take_over_libraries
from hpcgate.server.look_ups import make_room_for_look_ups
from hpcgate.server.sink import LINGER, LINGER_BYTES, Ends
from hpcgate.server.sockets import MAX_MESSAGE, PING_EVERY, Sockets
from hpcgate.server.starting import Starting
from hpcgate.server.tls import Tls, Unusable

log = structlog.get_logger(__name__)


ACCEPTORS = 16
"""Times that the listening socket is in the event loop.

libuv accepts one connection a socket each time round its loop. Under load one round takes long, and with one socket
the last of a hundred clients that connect at once would wait for a hundred rounds.
"""


def _front(settings: Settings, app: Application) -> Front:
    """Return what the connections of one process share, before its gateway is open."""
    http = settings.http
    # Over TLS alone, which is not known here: what is refused can do without.
    extra = security_headers(hsts_max_age=0) if http.security_headers else ()
    always = {f"{settings.apis_root_path}{path}" for path in ALWAYS}
    if settings.metrics.path is not None:
        always.add(f"{settings.apis_root_path}{settings.metrics.path}")
    hint = b"/status/" if settings.metrics.path is None else b"/"
    lines = b"".join(b"%s: %s\r\n" % header for header in extra)
    return Front(http, speaks=app.speaks, always=ALWAYS | always, hint=hint, answers=Answers(app.version, lines))


def serve(
    settings: Settings,
    *,
    host: str,
    port: int,
    tls_cert: Path | None = None,
    tls_key: Path | None = None,
    load: Callable[[], Settings] | None = None,
    starting: Starting | None = None,
) -> None:
    """Serve until a signal ends the process.

    Args:
        settings: A validated configuration.
        host: The address to listen on.
        port: The TCP port; 0 picks a free one, which the log names.
        tls_cert: The certificate and its chain (PEM), to serve HTTPS.
        tls_key: Its private key; None is in the same file.
        load: Reads the configuration anew, on SIGHUP.
        starting: Watches over the start until the server does so by itself.

    Raises:
        Unusable: The certificate, or a file that logs go to or come from, is of no use.
    """
    _tell(starting, "opening the logs")
    _open_logs(settings)
    _tell(starting, "reading the certificate")
    tls = None if tls_cert is None else Tls(tls_cert, tls_key)
    _tell(starting, "making the application")
    # A core file would hold every token and key.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # asyncssh asks who runs it, and a container's arbitrary user id has no name.
    os.environ.setdefault("LOGNAME", "hpcgate")
    app, log_config = create_app(settings), os.environ.get(LOG_CONFIG)
    front = _front(settings, app)
    with _understood(log_config):
        config = _configured(settings, app, front, host, port, tls, log_config)
    if log_config:
        hand_over()
    _tell(starting, f"looking for the address {host}")
    try:
        listener = config.bind_socket()
    except SystemExit:
        # uvicorn has told why, but not where.
        log.error("server.cannot_listen", host=host, port=port)
        raise
    ask_whether_there(listener)
    _run(config, front, listener, settings, tls, load, starting)


@contextlib.contextmanager
def _understood(log_config: str | None) -> Iterator[None]:
    """Say of an error that it is of the site's own configuration of logging, if there is one."""
    try:
        yield
    except (OSError, ValueError, TypeError, KeyError, ImportError, AttributeError, YAMLError) as error:
        if log_config is None:
            raise
        raise Unusable(f"{LOG_CONFIG}: cannot use {log_config}: {error}") from error


def _open_logs(settings: Settings) -> None:
    try:
        configure_logging(settings.logger, settings.audit)
    except OSError as error:
        raise Unusable(f"cannot write the audit log {settings.audit.to}: {error.strerror}") from None
    take_over_libraries()


def _configured(
    settings: Settings, app: Application, front: Front, host: str, port: int, tls: Tls | None, log_config: str | None
) -> uvicorn.Config:
    """Return what uvicorn is told. It reads the site's own configuration of logging, if there is one."""
    proxies = list(settings.http.trusted_proxies)
    return uvicorn.Config(
        app,
        host=host,
        port=port,
        loop="uvloop",
        http=cast("type[asyncio.Protocol]", partial(Http, front=front)),
        ws=Sockets,
        ws_max_size=MAX_MESSAGE,
        ws_ping_interval=PING_EVERY,
        ws_ping_timeout=PING_EVERY,
        # Compressed, a message may be a thousand times as long as what came of it.
        ws_per_message_deflate=False,
        # A logging configuration of the site's decides on uvicorn's own access log, too.
        access_log=bool(log_config),
        log_config=log_config,
        server_header=False,
        proxy_headers=bool(proxies),
        forwarded_allow_ips=proxies,
        ssl_context_factory=None if tls is None else (lambda *_: tls.context),
        log_level="warning" if settings.logger.level in ("warning", "error") else "info",
        timeout_keep_alive=cast("int", settings.http.keep_alive),
    )


def _run(
    config: uvicorn.Config,
    front: Front,
    listener: socket.socket,
    settings: Settings,
    tls: Tls | None,
    load: Callable[[], Settings] | None,
    starting: Starting | None,
) -> None:
    garbage.set_up()
    make_room_for_look_ups()
    server = Server(config, front)
    server.tls, server.settings, server.load = tls, settings.http, load
    server.ends = Ends(LINGER_BYTES, LINGER)
    signal.signal(signal.SIGHUP, lambda *_: server.reloader.ask())
    if starting is not None:
        starting.over()
    with contextlib.suppress(KeyboardInterrupt):
        server.run(sockets=[listener, *(listener.dup() for _ in range(ACCEPTORS - 1))])
    if not server.started:
        sys.exit(STARTUP_FAILURE)


def _tell(starting: Starting | None, doing: str) -> None:
    if starting is not None:
        starting.doing = doing
