"""The identity provider: its keys, its token endpoint and its clock."""

import time
from urllib.parse import urlsplit

from hpcgate.auth.client_credentials import MAX_ANSWER
from hpcgate.auth.jwks import MAX_DOCUMENT, MAX_REDIRECTS, Jwks, Source
from hpcgate.config import OidcSettings
from hpcgate.diagnosis import clocks
from hpcgate.outbound.client import HttpClient, ServiceError, TooSlow
from hpcgate.ssh.survey import Finding

TIMEOUT = 10.0
"""Seconds that one answer may take."""


async def look_at_idp(settings: OidcSettings, jwks: Jwks) -> list[Finding]:
    """Fetch the keys and call the token endpoint, without a secret."""
    await jwks.renew()
    found = [_keys(source) for source in jwks.sources]
    if not found:
        found = [_no_keys(settings)]
    http = HttpClient(connections=1, by_proxy=True, reuse=False)
    try:
        found += await _token_endpoint(http, settings)
        seen = {urlsplit(settings.token_url).netloc}
        for source in jwks.sources:
            parts = urlsplit(source.url)
            if parts.scheme in ("http", "https") and source.failure is None and parts.netloc not in seen:
                seen.add(parts.netloc)
                found += await _key_server(http, source, settings.leeway)
    finally:
        await http.close()
    return found


def _no_keys(settings: OidcSettings) -> Finding:
    if settings.introspection is not None:
        return Finding(None, "there are no keys; the IdP is asked about each token", check="keys")
    advice = "set auth.authentication.public_certs to the IdP's jwks_uri"
    return Finding(False, "there are no keys, so no token will be accepted", advice, "keys")


def _keys(source: Source) -> Finding:
    if source.failure is not None:
        return Finding(
            False,
            f"no keys from {source.name}: {source.failure}",
            "compare auth.authentication.public_certs with jwks_uri of the IdP's .well-known/openid-configuration",
            "keys",
        )
    algorithms = ", ".join(sorted(frozenset[str]().union(*(key.algorithms for key in source.keys))))
    count = len(source.keys)
    return Finding(True, f"{count} key{'s' if count > 1 else ''} from {source.name}, for {algorithms}", check="keys")


async def _token_endpoint(http: HttpClient, settings: OidcSettings) -> list[Finding]:
    parts = urlsplit(settings.token_url)
    name = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    advice = "compare auth.authentication.token_url with token_endpoint of the IdP's .well-known/openid-configuration"
    check = "token endpoint"
    asked = time.time()
    try:
        answer = await http.ask(
            "POST", settings.token_url, seconds=TIMEOUT, most=MAX_ANSWER, form={"grant_type": "client_credentials"}
        )
    except TooSlow:
        return [Finding(False, f"the token endpoint {name} does not answer within {TIMEOUT:g} s", advice, check)]
    except ServiceError as error:
        return [Finding(False, f"the token endpoint {name} does not answer: {error}", advice, check)]
    answered = time.time()
    status, date = answer.status, answer.headers.get("Date")
    try:
        body = answer.json()
    except ValueError:
        body = None
    # RFC 6749, section 5.2: who shows no client is told so, in JSON.
    error_name = body.get("error") if isinstance(body, dict) else None
    if isinstance(error_name, str) and status in (400, 401):
        found = [Finding(True, f"the token endpoint {name} answers", check=check)]
    else:
        text = f"what answers at {name} is not a token endpoint: status {status} to a request without a client"
        found = [Finding(False, text, advice, check)]
    reading = clocks.of_date(date, asked, answered) if date else None
    if reading is not None:
        found.append(clocks.of_idp(parts.hostname or name, reading, settings.leeway))
    return found


async def _key_server(http: HttpClient, source: Source, leeway: float) -> list[Finding]:
    asked = time.time()
    try:
        answer = await http.ask("GET", source.url, seconds=TIMEOUT, most=MAX_DOCUMENT, redirects=MAX_REDIRECTS)
        date = answer.headers.get("Date")
        stored = "Age" in answer.headers
    except ServiceError:
        return []  # it gave its keys a moment ago; its clock stays unknown
    reading = clocks.of_date(date, asked, time.time()) if date and not stored else None
    name = urlsplit(source.url).hostname or source.name
    return [] if reading is None else [clocks.of_idp(name, reading, leeway)]
