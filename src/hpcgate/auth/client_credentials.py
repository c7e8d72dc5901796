"""Access tokens by the client credentials grant (RFC 6749, section 4.4)."""

import base64
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import quote_plus

from hpcgate.outbound.client import BadAddress, HttpClient, ServiceError, TooSlow
from hpcgate.outbound.wording import clipped, one_line

TIMEOUT = 10.0
"""Seconds that the token endpoint may take."""
MAX_ANSWER = 256 * 1024
"""Most bytes of its answer."""
MAX_WORDS = 300
"""Most characters of what it says of a refusal."""
MAX_LIFE = 10 * 365 * 86400.0
"""Seconds; a token of which more is said is not believed to have that long."""


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
    # By the proxy of the environment, if one is named, as the IdP's keys. A redirect would carry the secret along.
    http = HttpClient(connections=1, by_proxy=True, reuse=False)
    try:
        answer = await http.ask("POST", token_url, seconds=TIMEOUT, most=MAX_ANSWER, headers=headers, form=form)
    except TooSlow:
        raise TokenRefused(f"The token endpoint did not answer within {TIMEOUT:g} s.") from None
    except BadAddress as error:
        raise TokenRefused("The address of the token endpoint is not a URL.") from error
    except ServiceError as error:
        raise TokenRefused(f"The token endpoint could not be used: {error}") from error
    finally:
        await http.close()
    try:
        said = answer.json()
    except ValueError:
        said = None
    answered = said if isinstance(said, dict) else {}
    if answer.status != 200:
        words = answered.get("error_description") or answered.get("error") or answer.reason
        words = clipped(one_line(words if isinstance(words, str) else ""), MAX_WORDS, client_secret)
        raise TokenRefused(f"The token endpoint answered {answer.status}: {words}")
    token = answered.get("access_token")
    if not isinstance(token, str):
        raise TokenRefused("The response did not come from a token endpoint: it has no access_token.")
    return AccessToken(token, _seconds(answered.get("expires_in")))


def _seconds(value: object) -> float | None:
    """Return for how long a token is valid, None where that is not said in seconds (some IdPs send a string)."""
    try:
        seconds = float(value) if isinstance(value, (int, float, str)) and not isinstance(value, bool) else None
    except (ValueError, OverflowError):
        return None
    return seconds if seconds is not None and 0 <= seconds <= MAX_LIFE else None
