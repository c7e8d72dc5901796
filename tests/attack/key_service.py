"""A key service over HTTP, in a thread, with an authority that the login node trusts: for SSHService and SSHCA.

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
        asked_by: How often a client's tokens asked for one.
    """

    def __init__(self, authority: str, lifetime: int) -> None:
        self.issued: Counter[str] = Counter()
        self.asked_by: Counter[str] = Counter()
        self._authority = asyncssh.import_private_key(authority)
        self._lifetime = lifetime
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                """Answer ``POST /api/v1/ssh-keys``, or ``POST /sign`` as DeiC's authority does."""
                sent = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                signs = self.path == "/sign"
                token = sent["OTT"] if signs else self.headers["Authorization"].removeprefix("Bearer ")
                payload = token.split(".")[1]
                claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
                user = claims["preferred_username"]
                service.asked_by[claims["client_id"]] += 1
                if signs:
                    body = service.certify(asyncssh.import_public_key(sent["PublicKey"]), user).encode()
                else:
                    body = json.dumps({"sshKey": service.pair(user)}).encode()
                self.send_response(201)
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

    def certify(self, key: asyncssh.SSHKey, user: str) -> str:
        """Return a certificate of the key for the user."""
        self.issued[user] += 1
        certificate = self._authority.generate_user_certificate(
            key, user, principals=[user], valid_before=int(time.time()) + self._lifetime
        )
        return certificate.export_certificate("openssh").decode()

    def pair(self, user: str) -> dict[str, str]:
        """Return a new private key and its certificate."""
        key = asyncssh.generate_private_key("ssh-ed25519")
        return {"privateKey": key.export_private_key("openssh").decode(), "publicKey": self.certify(key, user)}

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Listen no more. Can be called twice."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
