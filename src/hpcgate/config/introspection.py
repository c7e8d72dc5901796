"""The settings of token introspection (RFC 7662)."""

from typing import Literal

from pydantic import Field

from hpcgate.config.base import Model
from hpcgate.config.secrets import Secret
from hpcgate.config.values import HttpUrl, Pause, Seconds


class IntrospectionSettings(Model):
    """Asking the IdP about tokens that do not speak for themselves."""

    url: HttpUrl = Field(description="The introspection endpoint.")
    client_id: str = Field(min_length=1, description="The client that hpcgate is there.")
    client_secret: Secret = Field(description="Its secret.")
    auth_method: Literal["client_secret_basic", "client_secret_post"] = Field(
        "client_secret_basic", description="How the secret is shown."
    )
    tokens: Literal["opaque", "all"] = Field(
        "opaque", description="Ask about tokens that are not JWTs; or about all, whose revocation is noticed then."
    )
    timeout: Seconds = Field(5, description="Seconds to wait for an answer.")
    cache: Pause = Field(
        60, description="Most seconds that an answer is kept, and so that a revoked token still works; never after exp."
    )
    max_connections: int = Field(32, ge=1, description="Most connections to the endpoint.")
