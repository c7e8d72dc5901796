"""A key service over HTTP, in a thread: what SSHService talks to, with an authority that the login node trusts.

The real one cannot be installed. This one reads the user from the token, unchecked, and signs for that user.
"""

import base64
import json
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

import asyncssh


class KeyService:
    """Makes keys and certificates for the user whom the token names; a context manager.

    Attributes:
        issued: How many certificates each user got.
    """

    def __init__(self, authority: str, lifetime: int) -> None:
        self.issued: Counter[str] = Counter()
        self._authority = asyncssh.import_private_key(authority)
        self._lifetime = lifetime
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                """Answer ``POST /api/v1/ssh-keys``."""
                self.rfile.read(int(self.headers["Content-Length"]))
                payload = self.headers["Authorization"].removeprefix("Bearer ").split(".")[1]
                claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
                body = json.dumps({"sshKey": service.pair(claims["preferred_username"])}).encode()
                self.send_response(201)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def pair(self, user: str) -> dict[str, str]:
        """Return a new private key and its certificate."""
        key = asyncssh.generate_private_key("ssh-ed25519")
        certificate = self._authority.generate_user_certificate(
            key, user, principals=[user], valid_before=int(time.time()) + self._lifetime
        )
        self.issued[user] += 1
        return {
            "privateKey": key.export_private_key("openssh").decode(),
            "publicKey": certificate.export_certificate("openssh").decode(),
        }

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
