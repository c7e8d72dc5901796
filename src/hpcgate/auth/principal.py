"""The principal: who a request comes from, by its verified token."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from hpcgate.auth.claims import standing
from hpcgate.errors import NotSupported


@dataclass(frozen=True, slots=True)
class Principal:
    """One authenticated user, made from a verified token and passed down; never global.

    Attributes:
        username: The POSIX user name on the systems, already checked for plausibility.
        token: The raw bearer token, for the services that take it; never printed.
        claims: The verified claims.
        expires_at: When the token ends, Unix seconds, or None if it never does.
        request_id: The ``X-Request-ID`` of the request at hand, for the services further on.
        correlation_id: Its ``X-Correlation-ID``.
        api_key: The name of the API key that was shown instead of a token; then `token` is not one, and no secret.
        known_standing: What `standing` returns, worked out once; None to work it out anew.
    """

    username: str
    token: str = field(repr=False)
    claims: Mapping[str, Any] = field(repr=False, default_factory=dict)
    expires_at: float | None = None
    request_id: str | None = field(default=None, compare=False)
    correlation_id: str | None = field(default=None, compare=False)
    known_standing: str | None = field(default=None, repr=False, compare=False)
    api_key: str | None = None

    def asking(self, request_id: str, correlation_id: str) -> "Principal":
        """Return the same with a request's ids.

        It is called for each request, and a frozen object's own `__init__` takes three times as long.
        """
        other: Principal = object.__new__(Principal)
        for get, put in _KEPT:
            put(other, get(self))
        _PUT_REQUEST_ID(other, request_id)
        _PUT_CORRELATION_ID(other, correlation_id)
        return other

    @property
    def bearer(self) -> str:
        """The token, for a service that is shown it.

        Raises:
            NotSupported: There is none.
        """
        if self.api_key is not None:
            raise NotSupported("This needs a token of the user's, and an API key is not one")
        return self.token

    @property
    def standing(self) -> str:
        """What the token stands for beside the user's name, as a digest.

        Tokens of one user have the same if they say the same but for their times and ids; then what was found out or
        opened for one may serve the other. A token of which nothing is known stands for itself.
        """
        return self.known_standing or standing(self.token, self.claims)

    @property
    def client_id(self) -> str | None:
        """The OAuth2 client that the token was given to (RFC 9068; OpenID Connect's azp; Entra ID's appid)."""
        return self._text("azp", "client_id", "appid", "cid")

    @property
    def token_id(self) -> str | None:
        """What names the token without being it: jti (RFC 7519), or Entra ID's uti."""
        return self._text("jti", "uti")

    def _text(self, *names: str) -> str | None:
        for name in names:
            value = self.claims.get(name)
            if isinstance(value, str) and value:
                return value
        return None


_IDS = ("request_id", "correlation_id")
_SLOTS: Mapping[str, Any] = {one.name: vars(Principal)[one.name] for one in fields(Principal)}
_KEPT = [(slot.__get__, slot.__set__) for name, slot in _SLOTS.items() if name not in _IDS]
_PUT_REQUEST_ID, _PUT_CORRELATION_ID = (_SLOTS[name].__set__ for name in _IDS)
