"""Access tokens by the client credentials grant (RFC 6749, section 4.4)."""

import asyncio
import base64
from dataclasses import dataclass, field
from typing import Literal

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
        pair = base64.b64encode(f"{client_id}:{client_secret}".encode())
        headers["Authorization"] = f"Basic {pair.decode()}"
    else:
        form |= {"client_id": client_id, "client_secret": client_secret}
    try:
        async with (
            asyncio.timeout(TIMEOUT),
            aiohttp.ClientSession() as http,
            http.post(token_url, data=form, headers=headers) as answer,
        ):
            body = await answer.json(content_type=None)
            if answer.status != 200:
                reason = body.get("error_description") or body.get("error") if isinstance(body, dict) else None
                raise TokenRefused(f"The token endpoint answered {answer.status}: {reason or answer.reason}")
            return AccessToken(body["access_token"], body.get("expires_in"))
    except TimeoutError:
        raise TokenRefused(f"The token endpoint did not answer within {TIMEOUT:g} s.") from None
    except (aiohttp.ClientError, ValueError, KeyError, TypeError) as error:
        raise TokenRefused(f"The token endpoint could not be used: {type(error).__name__}") from error
