"""One process that serves: uvicorn on uvloop."""

import asyncio
import contextlib
import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import cast

import structlog
import uvicorn
from uvicorn.config import STARTUP_FAILURE
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from yaml import YAMLError

from hpcgate.app import create_app
from hpcgate.config import Settings
from hpcgate.config.http import HttpSettings
from hpcgate.logs import LOG_CONFIG, configure_logging, take_over_libraries
from hpcgate.middleware import new_id
from hpcgate.server import Server
from hpcgate.tls import Tls, Unusable

log = structlog.get_logger(__name__)

ACCEPTORS = 16
"""Times that the listening socket is in the event loop.

libuv accepts one connection a socket each time round its loop. Under load one round takes long, and with one socket
the last of a hundred clients that connect at once would wait for a hundred rounds.
"""


class Http(HttpToolsProtocol):
    """uvicorn's HTTP, with bounds on heads and on slow clients, and with refusals in the shape of all others."""

    settings = HttpSettings()
    stopping = False
    """Whether every answer is its connection's last, for the process is about to end."""

    _in_head = False
    _head = 0
    _much = False
    _much_head = False
    _head_timer: asyncio.TimerHandle | None = None
    _send_timer: asyncio.TimerHandle | None = None
    _unsent = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Give the client some time for its first request."""
        super().connection_made(transport)
        self._head_timer = self.loop.call_later(self.settings.header_timeout, self._head_is_late)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended."""
        self._stop_head_timer()
        if self._send_timer is not None:
            self._send_timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what came, unless a head has become too long."""
        most = self.settings.max_header_size
        begun = self._in_head
        if begun:
            self._head += len(data)
            if self._head > most:
                self._refuse_head()
                return
        self._much = len(data) > most
        super().data_received(data)
        if self._in_head and not begun:
            self._head = len(data)
            if self._much:
                self._refuse_head()
                return
        # Most heads come whole, and need no timer. What is no part of a request must not stop the keep-alive timer.
        waiting = self._in_head or self.cycle is None or self.cycle.response_complete
        if waiting and self._head_timer is None and not self.transport.is_closing():
            self._head_timer = self.loop.call_later(self.settings.header_timeout, self._head_is_late)

    def on_message_begin(self) -> None:
        """A head begins."""
        self._in_head, self._head = True, 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """A head is whole."""
        self._in_head = False
        self._stop_head_timer()
        if (
            self._much
            and sum(len(name) + len(value) + 4 for name, value in self.headers) > self.settings.max_header_size
        ):
            self._much_head = True
            raise ValueError("too long")  # which the parser turns into what `send_400_response` is called for
        super().on_headers_complete()
        if self.stopping:
            self.cycle.keep_alive = False

    def pause_writing(self) -> None:
        """The client does not take what it is sent as fast as it comes: see that it takes anything at all."""
        super().pause_writing()
        if self._send_timer is None:
            self._watch_sending()

    def resume_writing(self) -> None:
        """The client has taken what it was sent."""
        super().resume_writing()
        if self._send_timer is not None:
            self._send_timer.cancel()
            self._send_timer = None

    def wind_up(self) -> None:
        """Have the answer that is under way be the last one, if its head is not out yet."""
        if self.cycle is not None and not self.cycle.response_started:
            self.cycle.keep_alive = False

    def resting(self) -> bool:
        """Say whether no request is under way."""
        return not self._in_head and (self.cycle is None or self.cycle.response_complete)

    def hang_up(self) -> None:
        """Close the connection."""
        self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP, and heads that came too long in one piece."""
        if self._much_head:
            self._refuse_head()
        else:
            self._refuse(400, "Bad Request", msg)

    def _refuse_head(self) -> None:
        most = self.settings.max_header_size
        self._refuse(431, "Request Header Fields Too Large", f"The headers take more than {most} bytes.")

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_is_late(self) -> None:
        self._head_timer = None
        seconds = self.settings.header_timeout
        if self._in_head:
            self._refuse(408, "Request Timeout", f"The headers did not arrive within {seconds:g} s.")
        else:
            self.transport.close()

    def _watch_sending(self) -> None:
        self._unsent = self.transport.get_write_buffer_size()
        self._send_timer = self.loop.call_later(self.settings.send_timeout, self._look_at_sending)

    def _look_at_sending(self) -> None:
        if self.transport.get_write_buffer_size() < self._unsent:
            self._watch_sending()
        else:
            log.warning("http.client_takes_nothing", client=self.client and self.client[0], unsent=self._unsent)
            self.transport.abort()

    def _refuse(self, status: int, phrase: str, message: str) -> None:
        if self.transport.is_closing():
            return
        log.info("http.refused", status=status, reason=message, client=self.client and self.client[0])
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


def serve(
    settings: Settings, *, host: str, port: int, tls_cert: Path | None = None, tls_key: Path | None = None
) -> None:
    """Serve until a signal ends the process.

    Args:
        settings: A validated configuration.
        host: The address to listen on.
        port: The TCP port; 0 picks a free one, which the log names.
        tls_cert: The certificate and its chain (PEM), to serve HTTPS.
        tls_key: Its private key; None is in the same file.

    Raises:
        Unusable: The certificate, or a file that logs go to or come from, is of no use.
    """
    try:
        configure_logging(settings.logger, settings.audit)
    except OSError as error:
        raise Unusable(f"cannot write the audit log {settings.audit.to}: {error.strerror}") from None
    take_over_libraries()
    tls = None if tls_cert is None else Tls(tls_cert, tls_key)
    # A core file would hold every token and key.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # asyncssh asks who runs it, and a container's arbitrary user id has no name.
    os.environ.setdefault("LOGNAME", "hpcgate")
    log_config = os.environ.get(LOG_CONFIG)
    proxies = list(settings.http.trusted_proxies)
    try:
        config = uvicorn.Config(
            create_app(settings),
            host=host,
            port=port,
            loop="uvloop",
            http=type("Http", (Http,), {"settings": settings.http}),
            ws="none",
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
    except (OSError, ValueError, TypeError, KeyError, ImportError, AttributeError, YAMLError) as error:
        if log_config is None:
            raise
        raise Unusable(f"{LOG_CONFIG}: cannot use {log_config}: {error}") from error
    listener = config.bind_socket()
    server = Server(config)
    server.tls, server.settings = tls, settings.http
    with contextlib.suppress(KeyboardInterrupt):
        server.run(sockets=[listener, *(listener.dup() for _ in range(ACCEPTORS - 1))])
    if not server.started:
        sys.exit(STARTUP_FAILURE)
