"""The settings of authentication and authorisation."""

import re
from collections.abc import Mapping
from string import Formatter
from types import MappingProxyType
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from hpcgate.config.api_keys import ApiKeySettings
from hpcgate.config.base import FROZEN, Model
from hpcgate.config.introspection import IntrospectionSettings
from hpcgate.config.names import NamesFile
from hpcgate.config.policy import PolicySettings, Values
from hpcgate.config.values import HttpUrl, KeyUrl, Pause, RegularExpression, Seconds, Signature


class OidcSettings(Model):
    """How tokens are verified."""

    scopes: Annotated[Mapping[str, str], *FROZEN] = Field(
        default_factory=lambda: MappingProxyType({}), description="Scopes shown in the OpenAPI, with text."
    )
    token_url: HttpUrl = Field(description="The token endpoint, for the service accounts and for the OpenAPI page.")
    authorization_url: HttpUrl | None = Field(
        None, description="The authorization endpoint, for people who log in on the OpenAPI page (/docs)."
    )
    docs_client_id: str | None = Field(
        None,
        description="A public client of the IdP's for that page: authorization code with PKCE, redirected to"
        " /docs/oauth2-redirect.",
    )
    token_endpoint_auth_method: Literal["client_secret_basic", "client_secret_post"] = Field(
        "client_secret_basic", description="How a service account shows its secret at the token endpoint."
    )
    public_certs: tuple[KeyUrl, ...] = Field(
        (), description="Where the IdP's keys are: JWKS documents by file://, http:// or https:// URL."
    )
    jwk_algorithm: Signature | None = Field(
        None, description="The algorithm of keys that do not name theirs in `alg`; otherwise it follows from the key."
    )
    username_claim: str = Field(
        "preferred_username", min_length=1, description="The claim that holds the user name, a nested one as `a.b`."
    )
    username_lowercase: bool = Field(
        False,
        description="Take the letters A to Z of that claim as a to z, before all else that makes a local name of it.",
    )
    min_token_ttl: Pause = Field(0, description="Seconds that a token must still be valid.")
    leeway: Pause = Field(5, description="Seconds of clock skew allowed for exp and nbf; iat is not judged.")
    require_expiry: bool = Field(True, description="Refuse tokens without an exp claim.")
    issuer: str | None = Field(None, description="The iss claim that tokens must carry; unchecked if unset.")
    audience: str | None = Field(None, description="A value that the aud claim must hold; unchecked if unset.")
    required_scopes: tuple[str, ...] = Field((), description="Scopes that a token must have, all of them.")
    required_claims: Annotated[Mapping[str, Values], *FROZEN] = Field(
        default_factory=lambda: MappingProxyType({}),
        description="Claims that a token must have, nested ones as `a.b`, each with one of its values; no values: any.",
    )
    token_types: tuple[str, ...] = Field(
        (), description="The header's typ must be one of these, such as at+jwt (RFC 9068); unchecked if unset."
    )
    introspection: IntrospectionSettings | None = Field(
        None, description="Asking the IdP about tokens, opaque ones above all; such are refused if unset."
    )
    username_match: RegularExpression | None = Field(
        None,
        description="A regular expression for the whole username_claim; its named groups are for username_template.",
    )
    username_template: str | None = Field(
        None,
        min_length=1,
        description="The local user name made of the claim: {claim}, and the named groups of username_match.",
    )
    username_map: NamesFile | None = Field(
        None,
        description="A file with lines of a claim's value, in double quotes if it holds blanks, and the local name; "
        "read again when it changes.",
    )
    username_pattern: RegularExpression = Field(
        r"[a-z_][a-z0-9_.-]{0,62}\$?",
        description="The regular expression that a whole user name must match.",
    )
    denied_users: tuple[str, ...] = Field(
        (
            "root", "bin", "daemon", "adm", "lp", "sync", "shutdown", "halt", "mail", "operator", "games", "ftp",
            "nobody", "sys", "sshd", "slurm", "munge", "mysql", "postgres", "systemd-network", "dbus", "polkitd",
        ),
        description="User names that are never served, whatever the token says; root is never served in any case.",
    )  # fmt: skip
    jwks_refresh: Seconds = Field(300, description="Seconds between refreshes of the IdP's keys in the background.")
    jwks_cooldown: Seconds = Field(5, description="Least seconds between refreshes for an unknown key id.")
    jwks_timeout: Seconds = Field(5, description="Seconds that fetching one key document may take.")

    @model_validator(mode="after")
    def _one_mapping(self) -> Self:
        if self.username_map is not None and (self.username_template or self.username_match):
            raise ValueError("username_map stands alone, without username_match and username_template")
        if self.username_template is not None:
            groups = re.compile(self.username_match or "").groupindex
            try:
                self.username_template.format_map(dict.fromkeys(("claim", *groups), "x"))
                fields = [field for _, field, _, _ in Formatter().parse(self.username_template)]
            except (KeyError, ValueError, IndexError, AttributeError, TypeError):
                fields = [""]
            if not all(field is None or field.isidentifier() for field in fields):
                known = ", ".join(f"{{{name}}}" for name in ("claim", *groups))
                raise ValueError(f"username_template may hold {known}, and no other braces")
        return self


class OpenFgaSettings(Model):
    """Authorisation by an OpenFGA service."""

    url: HttpUrl = Field(description="The check endpoint.")
    timeout: Seconds | None = Field(1, description="Seconds to wait for an answer; null waits 60.")
    max_connections: int = Field(100, ge=0, description="Most connections to the service; 0 means no limit.")
    cache: Pause = Field(0, description="Seconds that a decision is kept.")


class AuthSettings(Model):
    """Authentication, and authorisation where it is wanted."""

    authentication: OidcSettings = Field(description="How tokens are verified.")
    authorization: OpenFgaSettings | None = Field(None, description="Who may use which system; anyone if unset.")
    policy: PolicySettings | None = Field(
        None, description="Who may do what, where, in addition to authorization; anything if unset."
    )
    api_keys: tuple[ApiKeySettings, ...] = Field(
        (), description="Keys that are accepted in the header X-API-Key where no token is sent; none by default."
    )

    @field_validator("api_keys")
    @classmethod
    def _keys_differ(cls, value: tuple[ApiKeySettings, ...]) -> tuple[ApiKeySettings, ...]:
        for what in ("name", "hash"):
            held = [getattr(key, what) for key in value]
            if twice := next((key.name for key in value if held.count(getattr(key, what)) > 1), None):
                raise ValueError(f"two have the same {what}, {twice} among them")
        return value
