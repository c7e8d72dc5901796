"""A small OpenID provider on Authlib's authorization server: ``python -m hpcgate.demo.idp_server SETTINGS.json``.

Client credentials, authorization code with PKCE, refresh tokens; RFC 9068 access tokens; discovery, JWKS, userinfo,
introspection (RFC 7662), revocation (RFC 7009); and ``POST /admin/rotate``. Whoever may pick a user may be any user: it
is for demos and tests on the loopback interface.

The token endpoint takes form fields beyond the standard: ``alg``, ``typ``, ``lifetime`` (seconds), ``audience``, and
``opaque`` for an access token that only introspection can tell something of. The authorization endpoint takes
``approve=USER``, which answers as if that user had been picked on the page.

Authlib ships no type information, hence the suppressions below.
"""

from __future__ import annotations

import hmac
import json
import logging
import os
import secrets
import sys
import threading
import time
import urllib.parse
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from authlib.integrations.flask_oauth2 import AuthorizationServer  # type: ignore[import-untyped]
from authlib.oauth2 import OAuth2Error, OAuth2Request  # type: ignore[import-untyped]
from authlib.oauth2.rfc6749 import AuthorizationCodeMixin, ClientMixin, TokenMixin, grants  # type: ignore[import-untyped]
from authlib.oauth2.rfc6750 import BearerTokenGenerator  # type: ignore[import-untyped]
from authlib.oauth2.rfc7009 import RevocationEndpoint  # type: ignore[import-untyped]
from authlib.oauth2.rfc7636 import CodeChallenge  # type: ignore[import-untyped]
from authlib.oauth2.rfc7662 import IntrospectionEndpoint  # type: ignore[import-untyped]
from flask import Flask, Response, jsonify, render_template_string, request
from werkzeug.serving import make_server

from hpcgate.demo.idp import access_token_claims
from hpcgate.demo.problems import DemoError
from hpcgate.demo.signing import KeyRing

_CODE_LIFETIME = 60
"""Seconds between the consent and the exchange of its code."""
_REFRESH_LIFETIME = 86_400
_LOOPBACK = {"127.0.0.1", "localhost", "::1"}

_PAGE = """<!doctype html>
<html lang="en"><head><title>hpcgate demo: sign in</title><meta charset="utf-8"></head>
<body style="font-family: sans-serif; max-width: 30em; margin: 4em auto">
<h1>Who are you today?</h1>
<p><b>{{ client }}</b> wants to act for you with the scope <b>{{ scope or "openid" }}</b>.</p>
<form method="post">
{% for user in users %}<p><button name="user" value="{{ user }}">{{ user }}</button></p>{% endfor %}
<p><button name="user" value="">Refuse</button></p>
</form></body></html>
"""


@dataclass(frozen=True, slots=True)
class Account:
    """A person who can sign in."""

    username: str

    def get_user_id(self) -> str:
        """Return the subject identifier."""
        return self.username


@dataclass(frozen=True, slots=True)
class Client(ClientMixin):  # type: ignore[misc]
    """A registered client; the methods are what Authlib asks of one."""

    client_id: str
    secret: str
    username: str | None
    """The user that its own tokens speak for."""
    public: bool
    scopes: tuple[str, ...]

    def get_client_id(self) -> str:
        """Return its id."""
        return self.client_id

    def get_default_redirect_uri(self) -> None:
        """Redirect addresses are always given in the request."""

    def get_allowed_scope(self, scope: str | None) -> str:
        """Return those of the wanted scopes that exist."""
        return " ".join(name for name in (scope or "").split() if name in self.scopes)

    def check_redirect_uri(self, redirect_uri: str) -> bool:
        """Only addresses on this machine will do (RFC 8252, section 7.3)."""
        parts = urllib.parse.urlsplit(redirect_uri)
        return parts.scheme in ("http", "https") and parts.hostname in _LOOPBACK

    def check_client_secret(self, client_secret: str) -> bool:
        """Compare the secret in constant time."""
        return hmac.compare_digest(self.secret.encode(), client_secret.encode())

    def check_endpoint_auth_method(self, method: str, endpoint: str) -> bool:
        """Confidential clients prove themselves by either way of sending their secret, public ones not at all."""
        return method == "none" if self.public else method in ("client_secret_basic", "client_secret_post")

    def check_response_type(self, response_type: str) -> bool:
        """Only the code flow."""
        return response_type == "code"

    def check_grant_type(self, grant_type: str) -> bool:
        """A public client has no tokens of its own."""
        own = ("client_credentials",) if self.username is not None else ()
        return grant_type in ("authorization_code", "refresh_token", *own)


@dataclass(frozen=True, slots=True)
class Code(AuthorizationCodeMixin):  # type: ignore[misc]
    """An authorization code that waits to be exchanged."""

    code: str
    client_id: str
    redirect_uri: str
    scope: str
    user: Account
    code_challenge: str | None
    code_challenge_method: str | None
    nonce: str | None
    made: float = field(default_factory=time.time)

    def get_redirect_uri(self) -> str:
        """Return the address that the request for the token must repeat."""
        return self.redirect_uri

    def get_scope(self) -> str:
        """Return the granted scope."""
        return self.scope


@dataclass(slots=True)
class RefreshToken(TokenMixin):  # type: ignore[misc]
    """A refresh token that was issued."""

    client: Client
    scope: str
    user: Account
    expires: float
    revoked: bool = False

    def check_client(self, client: Client) -> bool:
        """Tell whether it was issued to this client."""
        return client.client_id == self.client.client_id

    def get_scope(self) -> str:
        """Return the granted scope."""
        return self.scope

    def get_expires_in(self) -> int:
        """Return its lifetime in seconds."""
        return _REFRESH_LIFETIME

    def is_expired(self) -> bool:
        """Tell whether its time is over."""
        return time.time() > self.expires

    def is_revoked(self) -> bool:
        """Tell whether it was used already."""
        return self.revoked

    def get_user(self) -> Account:
        """Return whose it is."""
        return self.user

    def get_client(self) -> Client:
        """Return whom it was issued to."""
        return self.client


@dataclass(slots=True)
class IssuedToken(TokenMixin):  # type: ignore[misc]
    """An access token as introspection and revocation see it."""

    text: str
    claims: dict[str, Any]

    def check_client(self, client: Client) -> bool:
        """Tell whether it was issued to this client."""
        return bool(self.claims.get("client_id") == client.client_id)

    def is_expired(self) -> bool:
        """Tell whether its time is over; `Provider.issued` gives none of those."""
        return bool(self.claims["exp"] <= time.time())

    def is_revoked(self) -> bool:
        """Tell whether it was revoked; `Provider.issued` gives none of those."""
        return False


class Provider:
    """All that the provider knows: settings, keys, clients, and what it has issued."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.issuer: str = settings["issuer"]
        self.audience: str = settings["audience"]
        self.scopes: tuple[str, ...] = tuple(settings["scopes"])
        self.lifetime: int = settings["lifetime"]
        self.typ: str = settings["typ"]
        self.admin_secret: str = settings["admin_secret"]
        self.keys = KeyRing(Path(settings["keys"]))
        self.users = {name: Account(name) for name in settings["users"]}
        self.clients = {
            entry["id"]: Client(entry["id"], entry["secret"], entry["username"], entry["public"], self.scopes)
            for entry in settings["clients"]
        }
        self.codes: dict[str, Code] = {}
        self.refresh_tokens: dict[str, RefreshToken] = {}
        self.id_tokens: dict[str, str | None] = {}
        self.lock = threading.Lock()
        self.opaque: dict[str, dict[str, Any]] = {}
        self.revoked: set[str] = set()

    def access_token(self, client: Client, grant_type: str, user: Account | None, scope: str) -> str:
        """Return a signed access token; the form fields of the request may alter it."""
        username = user.username if user is not None else client.username
        if username is None:
            raise DemoError("no user for this token")
        form = request.form
        claims = access_token_claims(
            self.issuer,
            form.get("audience", self.audience),
            username,
            client.client_id,
            lifetime=self.expires_in(client, grant_type),
            scope=scope,
        )
        if form.get("opaque"):
            text = secrets.token_urlsafe(32)
            self.opaque[text] = claims
            return text
        return self.keys.key(form.get("alg")).token(claims, alg=form.get("alg"), typ=form.get("typ", self.typ))

    def issued(self, text: str) -> IssuedToken | None:
        """Return an access token that was issued here and is good still."""
        claims = self.opaque.get(text) or _verified_claims(self, f"Bearer {text}")
        if claims is None or claims["exp"] <= time.time() or claims["jti"] in self.revoked:
            return None
        return IssuedToken(text, claims)

    def expires_in(self, client: Client, grant_type: str) -> int:
        """Return the lifetime in seconds of the token that is asked for."""
        return int(request.form.get("lifetime", self.lifetime))

    def id_token(self, client: Client, user: Account, nonce: str | None) -> str:
        """Return a signed ID token (OpenID Connect Core, section 2)."""
        claims = access_token_claims(
            self.issuer, client.client_id, user.username, client.client_id, lifetime=self.lifetime, scope="openid"
        )
        claims = {name: claims[name] for name in ("iss", "sub", "aud", "exp", "iat", "preferred_username")}
        if nonce is not None:
            claims["nonce"] = nonce
        return self.keys.key().token(claims, typ="JWT")

    def save_token(self, token: dict[str, Any], oauth: OAuth2Request) -> None:
        """Remember a refresh token; access tokens speak for themselves."""
        if "refresh_token" in token:
            self.refresh_tokens[token["refresh_token"]] = RefreshToken(
                oauth.client, token.get("scope", ""), oauth.user, time.time() + _REFRESH_LIFETIME
            )

    def metadata(self) -> dict[str, Any]:
        """Return the discovery document (OpenID Connect Discovery, section 3)."""
        return {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.issuer}/authorize",
            "token_endpoint": f"{self.issuer}/token",
            "userinfo_endpoint": f"{self.issuer}/userinfo",
            "jwks_uri": f"{self.issuer}/jwks",
            "introspection_endpoint": f"{self.issuer}/introspect",
            "revocation_endpoint": f"{self.issuer}/revoke",
            "scopes_supported": list(self.scopes),
            "response_types_supported": ["code"],
            "grant_types_supported": ["authorization_code", "client_credentials", "refresh_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256"],
            "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post", "none"],
            "code_challenge_methods_supported": ["S256"],
            "claims_supported": ["sub", "iss", "aud", "exp", "iat", "preferred_username", "username"],
        }


def _authorization_server(app: Flask, provider: Provider) -> AuthorizationServer:
    server = AuthorizationServer(app, provider.clients.get, provider.save_token)
    server.register_token_generator(
        "default",
        BearerTokenGenerator(
            provider.access_token,
            refresh_token_generator=lambda **_: secrets.token_urlsafe(32),
            expires_generator=provider.expires_in,
        ),
    )
    methods = ["client_secret_basic", "client_secret_post", "none"]

    class ClientCredentials(grants.ClientCredentialsGrant):  # type: ignore[misc]
        TOKEN_ENDPOINT_AUTH_METHODS = methods

    class AuthorizationCode(grants.AuthorizationCodeGrant):  # type: ignore[misc]
        TOKEN_ENDPOINT_AUTH_METHODS = methods

        def save_authorization_code(self, code: str, oauth: OAuth2Request) -> None:
            payload = oauth.payload
            provider.codes[code] = Code(
                code=code,
                client_id=oauth.client.client_id,
                redirect_uri=payload.redirect_uri,
                scope=payload.scope,
                user=oauth.user,
                code_challenge=payload.data.get("code_challenge"),
                code_challenge_method=payload.data.get("code_challenge_method"),
                nonce=payload.data.get("nonce"),
            )

        def query_authorization_code(self, code: str, client: Client) -> Code | None:
            found = provider.codes.get(code)
            if found is None or found.client_id != client.client_id or time.time() > found.made + _CODE_LIFETIME:
                return None
            return found

        def delete_authorization_code(self, authorization_code: Code) -> None:
            provider.codes.pop(authorization_code.code, None)

        def authenticate_user(self, authorization_code: Code) -> Account:
            return authorization_code.user

    class Refresh(grants.RefreshTokenGrant):  # type: ignore[misc]
        TOKEN_ENDPOINT_AUTH_METHODS = methods
        INCLUDE_NEW_REFRESH_TOKEN = True

        def authenticate_refresh_token(self, refresh_token: str) -> RefreshToken | None:
            found = provider.refresh_tokens.get(refresh_token)
            return found if found is not None and not found.revoked and not found.is_expired() else None

        def authenticate_user(self, refresh_token: RefreshToken) -> Account:
            return refresh_token.user

        def revoke_old_credential(self, refresh_token: RefreshToken) -> None:
            # A public client's is good once (RFC 9700, section 2.2.2). Others prove themselves each time: JupyterHub
            # uses one of its own again and again.
            refresh_token.revoked = refresh_token.client.public

    class IdToken:
        """Adds the ID token to the answer where the scope asks for it."""

        def __call__(self, grant: AuthorizationCode) -> None:
            grant.register_hook("after_create_token_response", self.add)

        @staticmethod
        def add(grant: AuthorizationCode, response: tuple[int, dict[str, Any], Any]) -> None:
            _, token, _ = response
            if "openid" in token.get("scope", "").split():
                code = grant.request.authorization_code
                token["id_token"] = provider.id_token(grant.request.client, code.user, code.nonce)

    class Introspect(IntrospectionEndpoint):  # type: ignore[misc]
        CLIENT_AUTH_METHODS = methods[:2]

        def check_permission(self, token: IssuedToken, client: Client, request: OAuth2Request) -> bool:
            return True

        def query_token(self, token_string: str, token_type_hint: str | None) -> IssuedToken | None:
            return provider.issued(token_string)

        def introspect_token(self, token: IssuedToken) -> dict[str, Any]:
            return {"active": True, "token_type": "Bearer", **token.claims}

    class Revoke(RevocationEndpoint):  # type: ignore[misc]
        CLIENT_AUTH_METHODS = methods[:2]

        def query_token(self, token_string: str, token_type_hint: str | None) -> IssuedToken | None:
            return provider.issued(token_string)

        def revoke_token(self, token: IssuedToken, request: OAuth2Request) -> None:
            provider.revoked.add(token.claims["jti"])

    class OnlyS256(CodeChallenge):  # type: ignore[misc]
        SUPPORTED_CODE_CHALLENGE_METHOD = ("S256",)

    server.register_grant(ClientCredentials)
    server.register_grant(AuthorizationCode, [OnlyS256(required=True), IdToken()])
    server.register_grant(Refresh)
    server.register_endpoint(Introspect)
    server.register_endpoint(Revoke)
    return server


def create_app(settings: dict[str, Any]) -> Flask:
    """Return the provider as a WSGI application."""
    app = Flask("hpcgate-demo-idp", static_folder=None)
    provider = Provider(settings)
    server = _authorization_server(app, provider)

    @app.get("/.well-known/openid-configuration")
    def discovery() -> Response:
        return jsonify(provider.metadata())

    @app.get("/jwks")
    def jwks() -> Response:
        return Response(provider.keys.jwks_file.read_text(), mimetype="application/json")

    @app.post("/token")
    def token() -> Any:
        return server.create_token_response()

    @app.after_request
    def shared(response: Response) -> Response:
        # The gateway's /docs asks for tokens from the browser, which is another origin.
        if request.path == "/token":
            response.headers["Access-Control-Allow-Origin"] = request.headers.get("Origin", "*")
            response.headers["Access-Control-Allow-Headers"] = "Authorization, Content-Type, X-Requested-With"
        return response

    @app.post("/introspect")
    def introspect() -> Any:
        return server.create_endpoint_response(IntrospectionEndpoint.ENDPOINT_NAME)

    @app.post("/revoke")
    def revoke() -> Any:
        return server.create_endpoint_response(RevocationEndpoint.ENDPOINT_NAME)

    @app.route("/authorize", methods=["GET", "POST"])
    def authorize() -> Any:
        try:
            grant = server.get_consent_grant()
        except OAuth2Error as error:
            return server.handle_error_response(server.create_oauth2_request(None), error)
        chosen = request.form.get("user") if request.method == "POST" else request.args.get("approve")
        if chosen is None:
            client = grant.client.client_id
            return render_template_string(_PAGE, client=client, scope=grant.request.payload.scope, users=provider.users)
        return server.create_authorization_response(grant_user=provider.users.get(chosen), grant=grant)

    @app.get("/userinfo")
    def userinfo() -> Any:
        claims = _verified_claims(provider, request.headers.get("Authorization", ""))
        if claims is None:
            return Response(status=401, headers={"WWW-Authenticate": 'Bearer error="invalid_token"'})
        return jsonify({name: claims[name] for name in ("sub", "preferred_username", "username")})

    @app.post("/admin/rotate")
    def rotate() -> Any:
        if not hmac.compare_digest(request.headers.get("Authorization", ""), f"Bearer {provider.admin_secret}"):
            return Response(status=401)
        with provider.lock:
            provider.keys.rotate(drop=bool((request.get_json(silent=True) or {}).get("drop")))
        return jsonify({"keys": [key.kid for key in provider.keys.published() if key.current]})

    return app


def _verified_claims(provider: Provider, authorization: str) -> dict[str, Any] | None:
    """Return the claims of a bearer token that is one of ours and still good, else None."""
    from joserfc import jwt
    from joserfc.errors import JoseError
    from joserfc.jwk import KeySet

    scheme, _, text = authorization.partition(" ")
    if scheme.lower() != "bearer":
        return None
    try:
        keys = KeySet.import_key_set(json.loads(provider.keys.jwks_file.read_text()))
        decoded = jwt.decode(text, keys, algorithms=[key.alg for key in provider.keys.published()])
        jwt.JWTClaimsRegistry(iss={"essential": True, "value": provider.issuer}).validate(decoded.claims)
    except (JoseError, ValueError):
        return None
    return dict(decoded.claims)


def main() -> None:
    """Serve until a signal ends the process."""
    settings = json.loads(Path(sys.argv[1]).read_text())
    # Authlib insists on https otherwise; this one listens on the loopback interface.
    os.environ["AUTHLIB_INSECURE_TRANSPORT"] = "1"
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(message)s")
    make_server(settings["host"], settings["port"], create_app(settings), threaded=True).serve_forever()


if __name__ == "__main__":
    main()
