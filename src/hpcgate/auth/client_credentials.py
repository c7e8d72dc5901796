"""Access tokens by the client credentials grant (RFC 6749, section 4.4)."""

import asyncio
import base64
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import quote_plus

import aiohttp

TIMEOUT = 10.0
"""Seconds that the token endpoint may take."""


class TokenRefused(Exception):
    """The token endpoint gave no token; the message is fit to be shown and holds no secret."""


@dataclass(frozen=True, slots=True)
class AccessToken:
    """A token and for how many seconds it is valid, if the IdP says so."""

    access_token: str = field(repr=False)
    expires_in: float | None = None


async def fetch_token(
    token_url: str,
    client_id: str,
    client_secret: str,
    *,
    scope: str | None = None,
    method: Literal["client_secret_basic", "client_secret_post"] = "client_secret_post",
) -> AccessToken:
    """Get a token.

    Raises:
        TokenRefused: The IdP refused, answered something else, or did not answer.
    """
    form = {"grant_type": "client_credentials"}
    if scope:
        form["scope"] = scope
    headers = {}
    if method == "client_secret_basic":
        # Each is form-encoded first (section 2.3.1).
        pair = base64.b64encode(f"{quote_plus(client_id)}:{quote_plus(client_secret)}".encode())
        headers["Authorization"] = f"Basic {pair.decode()}"
    else:
        form |= {"client_id": client_id, "client_secret": client_secret}
    try:
        async with (
            asyncio.timeout(TIMEOUT),
            # By the proxy of the environment, if one is named, as the IdP's keys.
            aiohttp.ClientSession(trust_env=True) as http,
            http.post(token_url, data=form, headers=headers) as answer,
        ):
            status, reason = answer.status, answer.reason
            try:
                body = await answer.json(content_type=None)
            except ValueError:
                body = None
    except TimeoutError:
        raise TokenRefused(f"The token endpoint did not answer within {TIMEOUT:g} s.") from None
    except aiohttp.InvalidURL as error:
        raise TokenRefused("The address of the token endpoint is no URL.") from error
    except aiohttp.ClientError as error:
        raise TokenRefused(f"The token endpoint could not be used: {_words(error)}") from error
    answered = body if isinstance(body, dict) else {}
    if status != 200:
        words = answered.get("error_description") or answered.get("error") or reason
        raise TokenRefused(f"The token endpoint answered {status}: {words}")
    token = answered.get("access_token")
    if not isinstance(token, str):
        raise TokenRefused("What answered is no token endpoint: there is no access_token in it.")
    return AccessToken(token, answered.get("expires_in"))


def _words(error: aiohttp.ClientError) -> str:
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return str(error.certificate_error)
    if isinstance(error, aiohttp.ClientConnectorError):
        return error.os_error.strerror or str(error.os_error)
    return type(error).__name__
