"""The demo's identity provider, spoken to as clients and gateways do."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import time
import urllib.parse
import warnings
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from joserfc import jwt
from joserfc.errors import InvalidKeyIdError, SecurityWarning
from joserfc.jwk import KeySet

from hpcgate.demo.cluster import Cluster
from hpcgate.demo.idp import AUDIENCE, WEB_CLIENT, Idp
from hpcgate.demo.problems import DemoError
from hpcgate.demo.users import User

REDIRECT = "http://127.0.0.1:8000/callback"


@pytest.fixture(scope="module")
def alice(cluster: Cluster) -> User:
    """The first user."""
    return cluster.user("alice")


@pytest.fixture
def http(cluster: Cluster) -> Iterator[httpx.Client]:
    """A client of the provider that follows no redirects."""
    with httpx.Client(base_url=cluster.idp.url, timeout=600, trust_env=False) as client:
        yield client


@pytest.fixture
def private_idp(cluster: Cluster) -> Iterator[Idp]:
    """A provider of the test's own, to be rotated and stopped without disturbing others."""
    directory = cluster.directory / f"idp-{secrets.token_hex(4)}"
    idp = Idp(cluster.keeper, directory, cluster.take_port, cluster.users)
    idp.start()
    yield idp
    idp.stop()


def read(token: str, http: httpx.Client) -> jwt.Token:
    """Verify a token with the published keys."""
    with warnings.catch_warnings():
        # joserfc warns that EdDSA has a newer name; identity providers still say EdDSA.
        warnings.simplefilter("ignore", SecurityWarning)
        keys = KeySet.import_key_set(http.get("/jwks").json())
        return jwt.decode(token, keys, algorithms=["RS256", "PS256", "ES256", "EdDSA"])


def authorization(username: str, scope: str = "openid profile", **more: str) -> tuple[dict[str, str], str]:
    """Return the query of an authorization request that picks the user, and the verifier for its code."""
    verifier = secrets.token_urlsafe(48)
    challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
    query = {
        "response_type": "code",
        "client_id": WEB_CLIENT,
        "redirect_uri": REDIRECT,
        "scope": scope,
        "state": "s1",
        "code_challenge": challenge,
        "code_challenge_method": "S256",
        "approve": username,
    }
    return query | more, verifier


def redirected(answer: httpx.Response) -> dict[str, str]:
    """Return the parameters that the answer carries to the client."""
    assert answer.status_code == 302, answer.text
    assert answer.headers["Location"].startswith(REDIRECT)
    return dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(answer.headers["Location"]).query))


def exchange(http: httpx.Client, code: str, verifier: str, **more: str) -> httpx.Response:
    """Give the code for tokens, as a public client unless there is more to say."""
    form = {"grant_type": "authorization_code", "code": code, "redirect_uri": REDIRECT, "client_id": WEB_CLIENT}
    return http.post("/token", data=form | {"code_verifier": verifier} | more)


def test_discovery_leads_to_every_endpoint(cluster: Cluster, http: httpx.Client) -> None:
    document = http.get("/.well-known/openid-configuration").json()
    assert document["issuer"] == cluster.idp.issuer
    assert document["token_endpoint"] == cluster.idp.token_url
    assert document["jwks_uri"] == cluster.idp.jwks_url
    assert document["authorization_endpoint"] == cluster.idp.authorize_url
    assert document["userinfo_endpoint"] == cluster.idp.userinfo_url
    algorithms = {key["alg"] for key in http.get("/jwks").json()["keys"]}
    assert algorithms == {"RS256", "PS256", "ES256", "EdDSA"}


@pytest.mark.parametrize("way", ["client_secret_basic", "client_secret_post"])
def test_client_credentials_give_an_rfc_9068_token_for_the_user(
    way: str, cluster: Cluster, http: httpx.Client, alice: User
) -> None:
    form = {"grant_type": "client_credentials", "scope": "openid unheard-of"}
    credentials: dict[str, Any] = {"auth": (alice.client_id, alice.client_secret)}
    if way == "client_secret_post":
        credentials = {}
        form |= {"client_id": alice.client_id, "client_secret": alice.client_secret}
    answer = http.post("/token", data=form, **credentials).json()
    assert answer["token_type"] == "Bearer"
    lifetime = cluster.options.token_lifetime
    assert answer["expires_in"] == lifetime
    assert "refresh_token" not in answer
    token = read(answer["access_token"], http)
    assert token.header["typ"] == "at+jwt"
    assert token.header["alg"] == "RS256"
    now = time.time()
    claims = token.claims
    assert claims.pop("jti")
    assert now - 10 <= claims.pop("iat") <= now + 1
    assert now + lifetime - 20 <= claims.pop("exp") <= now + lifetime + 1
    assert claims == {
        "iss": cluster.idp.issuer,
        "sub": alice.name,
        "aud": AUDIENCE,
        "client_id": alice.client_id,
        "scope": "openid",
        "preferred_username": alice.name,
        "username": alice.name,
    }


def test_a_wrong_secret_or_an_unknown_client_or_grant_is_refused(http: httpx.Client, alice: User) -> None:
    form = {"grant_type": "client_credentials"}
    for credentials in ((alice.client_id, "wrong"), ("nobody", alice.client_secret), (WEB_CLIENT, "")):
        answer = http.post("/token", data=form, auth=credentials)
        assert answer.status_code in (400, 401)
        assert answer.json()["error"] in ("invalid_client", "unauthorized_client")
    answer = http.post("/token", data={"grant_type": "password"}, auth=(alice.client_id, alice.client_secret))
    assert answer.json()["error"] == "unsupported_grant_type"


@pytest.mark.parametrize("alg", ["RS256", "PS256", "ES256", "EdDSA"])
def test_tokens_come_signed_as_asked(alg: str, cluster: Cluster, http: httpx.Client) -> None:
    token = cluster.token("bob", alg=alg, lifetime=5, audience="elsewhere", typ="JWT", scope="openid")
    decoded = read(token, http)
    assert (decoded.header["alg"], decoded.header["typ"]) == (alg, "JWT")
    assert decoded.claims["aud"] == "elsewhere"
    assert decoded.claims["exp"] - decoded.claims["iat"] == 5


def test_the_service_account_speaks_for_a_user_who_exists(cluster: Cluster, http: httpx.Client) -> None:
    idp = cluster.idp
    answer = idp.request_token({"grant_type": "client_credentials"}, idp.service_client_id, idp.service_client_secret)
    assert read(answer["access_token"], http).claims["preferred_username"] == cluster.users[0].name


def test_the_code_flow_with_pkce_gives_tokens_once(cluster: Cluster, http: httpx.Client, alice: User) -> None:
    query, verifier = authorization(alice.name, nonce="n1")
    answer = redirected(http.get("/authorize", params=query))
    assert answer["state"] == "s1"
    tokens = exchange(http, answer["code"], verifier).json()
    assert read(tokens["access_token"], http).claims["preferred_username"] == alice.name
    identity = read(tokens["id_token"], http).claims
    assert (identity["sub"], identity["aud"], identity["nonce"]) == (alice.name, WEB_CLIENT, "n1")
    assert exchange(http, answer["code"], verifier).json()["error"] == "invalid_grant"


def test_a_code_without_its_verifier_is_worthless_and_so_is_a_request_without_challenge(
    http: httpx.Client, alice: User
) -> None:
    query, _ = authorization(alice.name)
    code = redirected(http.get("/authorize", params=query))["code"]
    assert exchange(http, code, "x" * 64).json()["error"] == "invalid_grant"
    plain = query | {"code_challenge_method": "plain"}
    assert "code_challenge_method" in redirected(http.get("/authorize", params=plain))["error_description"]
    del query["code_challenge"]
    assert "code_challenge" in redirected(http.get("/authorize", params=query))["error_description"]


def test_a_person_picks_a_user_on_the_page_or_refuses(http: httpx.Client, cluster: Cluster, alice: User) -> None:
    query, verifier = authorization(alice.name)
    del query["approve"]
    page = http.get("/authorize", params=query)
    assert page.status_code == 200
    assert all(user.name in page.text for user in cluster.users)
    code = redirected(http.post("/authorize", params=query, data={"user": cluster.users[1].name}))["code"]
    tokens = exchange(http, code, verifier).json()
    assert read(tokens["access_token"], http).claims["sub"] == cluster.users[1].name
    assert redirected(http.post("/authorize", params=query, data={"user": ""}))["error"] == "access_denied"


def test_redirects_leave_this_machine_for_nobody(http: httpx.Client, alice: User) -> None:
    query, _ = authorization(alice.name, redirect_uri="https://attacker.example/callback")
    answer = http.get("/authorize", params=query)
    assert answer.status_code == 400
    assert "Location" not in answer.headers


def test_a_refresh_token_works_once(http: httpx.Client, alice: User) -> None:
    query, verifier = authorization(alice.name, scope="openid offline_access")
    code = redirected(http.get("/authorize", params=query))["code"]
    first = exchange(http, code, verifier).json()["refresh_token"]
    form = {"grant_type": "refresh_token", "client_id": WEB_CLIENT}
    renewed = http.post("/token", data=form | {"refresh_token": first}).json()
    assert read(renewed["access_token"], http).claims["sub"] == alice.name
    assert http.post("/token", data=form | {"refresh_token": first}).json()["error"] == "invalid_grant"
    assert "access_token" in http.post("/token", data=form | {"refresh_token": renewed["refresh_token"]}).json()


def test_a_refresh_token_of_a_client_with_a_secret_works_again(http: httpx.Client, alice: User) -> None:
    query, verifier = authorization(alice.name, scope="openid offline_access", client_id=alice.client_id)
    code = redirected(http.get("/authorize", params=query))["code"]
    proof = {"client_id": alice.client_id, "client_secret": alice.client_secret}
    first = exchange(http, code, verifier, **proof).json()["refresh_token"]
    for _ in range(3):
        renewed = http.post("/token", data={"grant_type": "refresh_token", "refresh_token": first, **proof}).json()
        assert read(renewed["access_token"], http).claims["sub"] == alice.name


def test_userinfo_is_for_good_tokens(cluster: Cluster, http: httpx.Client, alice: User) -> None:
    def ask(token: str) -> httpx.Response:
        return http.get("/userinfo", headers={"Authorization": f"Bearer {token}"})

    assert ask(cluster.token(alice)).json() == {
        "sub": alice.name,
        "preferred_username": alice.name,
        "username": alice.name,
    }
    assert ask(cluster.idp.mint(alice.name)).status_code == 200
    bad = (
        cluster.idp.mint(alice.name, exp=int(time.time()) - 10),
        cluster.idp.mint(alice.name, iss="https://elsewhere.example"),
        cluster.idp.mint(alice.name, alg="none"),
        cluster.idp.mint(alice.name, alg="HS256"),
        "rubbish",
    )
    for token in bad:
        answer = ask(token)
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"] == 'Bearer error="invalid_token"'
    assert http.get("/userinfo").status_code == 401


def test_minted_tokens_say_what_they_are_told(cluster: Cluster, http: httpx.Client) -> None:
    token = cluster.idp.mint("zoe", alg="ES256", typ=None, aud=["a", "b"], jti=None, groups=["x"], exp=2_000_000_000)
    decoded = read(token, http)
    assert "typ" not in decoded.header
    assert "jti" not in decoded.claims
    assert decoded.claims["aud"] == ["a", "b"]
    assert decoded.claims["groups"] == ["x"]
    assert decoded.claims["username"] == "zoe"
    head = cluster.idp.mint("zoe", kid="nobody-has-it").split(".")[0]
    assert json.loads(base64.urlsafe_b64decode(head + "=="))["kid"] == "nobody-has-it"
    assert json.loads(base64.urlsafe_b64decode(cluster.idp.mint("z").split(".")[0] + "=="))["typ"] == "at+jwt"


def test_rotation_keeps_old_tokens_good_until_their_keys_are_dropped(private_idp: Idp, alice: User) -> None:
    with httpx.Client(base_url=private_idp.url, timeout=600, trust_env=False) as http:
        old = private_idp.token(alice)
        private_idp.rotate()
        new = private_idp.token(alice)
        assert read(old, http).header["kid"] != read(new, http).header["kid"]
        private_idp.drop_old_keys()
        assert read(new, http)
        with pytest.raises(InvalidKeyIdError):
            read(old, http)
        private_idp.rotate(drop=True)
        with pytest.raises(InvalidKeyIdError):
            read(new, http)
        assert http.post("/admin/rotate", headers={"Authorization": "Bearer guess"}).status_code == 401
        assert private_idp.requests("/jwks") == 5


def test_a_stopped_provider_answers_nobody_but_tokens_can_still_be_minted(private_idp: Idp, alice: User) -> None:
    before = private_idp.token(alice)
    private_idp.stop()
    with pytest.raises(DemoError, match="refused"):
        private_idp.token(alice)
    minted = private_idp.mint(alice.name)
    private_idp.start()
    with httpx.Client(base_url=private_idp.url, timeout=600, trust_env=False) as http:
        assert read(before, http)
        assert read(minted, http)
    with pytest.raises(DemoError, match="no demo user"):
        private_idp.token("carol")
