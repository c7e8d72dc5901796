"""The demo's OpenID provider, seen from the demo: it is started, asked for tokens, rotated and stopped here.

The provider itself, a process of its own, is `hpcgate.demo.idp_server`.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hpcgate.demo.keys import write_private
from hpcgate.demo.ports import HOST
from hpcgate.demo.problems import DemoError
from hpcgate.demo.processes import Daemon, Keeper
from hpcgate.demo.signing import KeyRing
from hpcgate.demo.users import User

AUDIENCE = "hpcgate-demo"
SCOPES = ("openid", "profile", "offline_access", "firecrest-v2")
WEB_CLIENT = "demo-web"
"""A public client for the authorization code flow with PKCE; any loopback redirect address is good."""
SERVICE_CLIENT = "demo-service-account"
SERVICE_ROLE = "health"
"""The role of the user that the service account is; the first user where there is none."""
_TIMEOUT = 10.0
"""Seconds for one request to the provider."""

_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Opens loopback addresses; never by a proxy that the environment names."""


class Idp:
    """A running OpenID provider with one confidential client a demo user, a public one, and a service account's."""

    def __init__(
        self,
        keeper: Keeper,
        directory: Path,
        take_port: Callable[[], int],
        users: Sequence[User],
        *,
        lifetime: int = 3600,
        typ: str = "at+jwt",
    ) -> None:
        """Make keys and configuration in ``directory``, a new directory.

        ``lifetime`` of tokens is in seconds; ``typ`` is what their header calls them, as RFC 9068 does by default.
        """
        directory.mkdir(mode=0o755)
        port = take_port()
        self.url = f"http://{HOST}:{port}"
        self.issuer = self.url
        self.token_url = f"{self.url}/token"
        self.authorize_url = f"{self.url}/authorize"
        self.userinfo_url = f"{self.url}/userinfo"
        self.jwks_url = f"{self.url}/jwks"
        self.introspection_url = f"{self.url}/introspect"
        self.revocation_url = f"{self.url}/revoke"
        self.discovery_url = f"{self.url}/.well-known/openid-configuration"
        self.lifetime = lifetime
        self.typ = typ
        self.keys = KeyRing(directory)
        self.jwks_file = self.keys.jwks_file
        self.service_client_id = SERVICE_CLIENT
        self.service_client_secret = secrets.token_urlsafe(24)
        self._admin_secret = secrets.token_urlsafe(24)
        self._users = tuple(users)
        self.keys.create()
        clients = [
            {"id": user.client_id, "secret": user.client_secret, "username": user.name, "public": False}
            for user in users
        ]
        clients.append(
            {
                "id": self.service_client_id,
                "secret": self.service_client_secret,
                # The health checks log in to the cluster, so the account behind them must exist there.
                "username": next((user.name for user in users if user.role == SERVICE_ROLE), users[0].name),
                "public": False,
            }
        )
        clients.append({"id": WEB_CLIENT, "secret": "", "username": None, "public": True})
        settings = {
            "host": HOST,
            "port": port,
            "issuer": self.issuer,
            "audience": AUDIENCE,
            "scopes": SCOPES,
            "lifetime": lifetime,
            "typ": typ,
            "keys": str(directory),
            "admin_secret": self._admin_secret,
            "users": [user.name for user in users],
            "clients": clients,
        }
        configuration = write_private(directory / "idp.json", json.dumps(settings).encode())
        self.daemon = Daemon(
            keeper,
            "idp",
            [sys.executable, "-m", "hpcgate.demo.idp_server", str(configuration)],
            log=directory / "idp.log",
            ready=lambda _: self._answers(),
            env=python_environment(),
        )

    def start(self) -> None:
        """Start the provider and wait until it answers."""
        self.daemon.start()

    def stop(self) -> None:
        """Stop the provider; its keys, and so `mint`, stay."""
        self.daemon.stop(grace=1.0)

    def token(
        self,
        user: User | str,
        *,
        alg: str | None = None,
        lifetime: int | None = None,
        audience: str | None = None,
        typ: str | None = None,
        scope: str = "openid profile",
        opaque: bool = False,
    ) -> str:
        """Get an access token from the token endpoint by the client credentials of the user's client.

        An ``opaque`` one is a random text, of which only introspection tells something.
        """
        account = self._user(user)
        form = {"grant_type": "client_credentials", "scope": scope}
        if opaque:
            form["opaque"] = "1"
        form |= {
            name: str(value)
            for name, value in (("alg", alg), ("lifetime", lifetime), ("audience", audience), ("typ", typ))
            if value is not None
        }
        return str(self.request_token(form, account.client_id, account.client_secret)["access_token"])

    def request_token(self, form: Mapping[str, str], client_id: str, client_secret: str) -> dict[str, Any]:
        """Post a form to the token endpoint with HTTP basic authentication and return its answer."""
        return self._post(self.token_url, form, client_id, client_secret)

    def _post(self, url: str, form: Mapping[str, str], client_id: str, client_secret: str) -> dict[str, Any]:
        basic = base64.b64encode(f"{client_id}:{client_secret}".encode()).decode()
        return self._request(url, urllib.parse.urlencode(form).encode(), {"Authorization": f"Basic {basic}"})

    def revoke(self, user: User | str, token: str) -> None:
        """Revoke an access token of the user's client; introspection tells so, the token itself does not."""
        account = self._user(user)
        self._post(self.revocation_url, {"token": token}, account.client_id, account.client_secret)

    def mint(
        self,
        username: str,
        *,
        alg: str | None = None,
        kid: str | None = None,
        typ: str | None = "",
        **claims: Any,
    ) -> str:
        """Sign a token with the provider's own key, without asking it; works while it is stopped.

        ``claims`` replace those that it would put in (a value of None leaves the claim out); ``alg`` and ``kid`` are
        put into the header even if no published key goes with them (see `hpcgate.demo.signing.SigningKey.token`); a
        ``typ`` of None leaves that out.
        """
        contents = access_token_claims(
            self.issuer, AUDIENCE, username, f"demo-{username}", lifetime=self.lifetime, scope="openid profile"
        )
        contents = {name: value for name, value in (contents | claims).items() if value is not None}
        return self.keys.key(alg, kid).token(contents, alg=alg, kid=kid, typ=self.typ if typ == "" else typ)

    def rotate(self, *, drop: bool = False) -> None:
        """Have the provider sign with new keys; the old ones stay published unless ``drop``."""
        body = json.dumps({"drop": drop}).encode()
        self._request(
            f"{self.url}/admin/rotate",
            body,
            {"Authorization": f"Bearer {self._admin_secret}", "Content-Type": "application/json"},
        )

    def drop_old_keys(self) -> None:
        """Stop publishing the keys that were rotated out."""
        self.keys.drop_old()

    def requests(self, path: str) -> int:
        """Return how often the path was asked for since the provider's start, by its log."""
        return sum(f" {path} " in line for line in self.daemon.output().splitlines())

    def _user(self, user: User | str) -> User:
        if isinstance(user, User):
            return user
        for known in self._users:
            if user in (known.name, known.role):
                return known
        raise DemoError(f"no demo user {user!r}")

    def _answers(self) -> bool:
        try:
            self._request(self.discovery_url)
        except DemoError:
            return False
        return True

    @staticmethod
    def _request(url: str, body: bytes | None = None, headers: Mapping[str, str] | None = None) -> dict[str, Any]:
        request = urllib.request.Request(url, body, dict(headers or {}))  # noqa: S310 - always http
        try:
            with _direct.open(request, timeout=_TIMEOUT) as response:
                answer: dict[str, Any] = json.load(response)
                return answer
        except urllib.error.HTTPError as error:
            with error:
                text = error.read().decode(errors="replace")
            raise DemoError(f"{url}: {error.code} {text}") from error
        except OSError as error:
            raise DemoError(f"{url}: {error}") from error


def access_token_claims(
    issuer: str, audience: str, username: str, client_id: str, *, lifetime: int, scope: str
) -> dict[str, Any]:
    """Return the claims of an access token as RFC 9068, section 2.2 has them, and the names of the user."""
    now = int(time.time())
    return {
        "iss": issuer,
        "sub": username,
        "aud": audience,
        "exp": now + lifetime,
        "iat": now,
        "jti": secrets.token_hex(16),
        "client_id": client_id,
        "scope": scope,
        "preferred_username": username,
        "username": username,
    }


def python_environment() -> dict[str, str]:
    """Return the variables by which a child process finds the same modules as this one."""
    names = ("PYTHONPATH", "VIRTUAL_ENV", "COVERAGE_PROCESS_START")
    return {"PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"} | {
        name: os.environ[name] for name in names if name in os.environ
    }
