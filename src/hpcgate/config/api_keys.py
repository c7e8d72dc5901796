"""The settings of API keys."""

from typing import Annotated

from pydantic import AfterValidator, AwareDatetime, Field

from hpcgate.config.base import NARROWS, Model
from hpcgate.config.policy import Network
from hpcgate.config.secrets import FileText


def _hash(value: str) -> str:
    kind, _, digits = value.partition(":")
    if kind != "sha256" or len(digits) != 64 or not set(digits) <= set("0123456789abcdef"):
        raise ValueError("must be the hash that `hpcgate api-key` prints: sha256: and 64 digits, not the key itself")
    return value


class ApiKeySettings(Model):
    """A key that stands for a user, for clients that cannot get tokens."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9._@-]{1,64}$",
        description="What logs and audit records call it; a policy's rule knows it as the client.",
    )
    hash: Annotated[FileText, AfterValidator(_hash)] = Field(
        description="The hash of the key, as `hpcgate api-key` prints it with the key; or secret_file:PATH."
    )
    username: str = Field(min_length=1, description="The local user that it stands for.")
    scopes: tuple[str, ...] = Field((), description="The scopes that it has, as a token would.")
    networks: Annotated[tuple[Network, ...], NARROWS] = Field(
        (), description="The IP networks that it may come from; unset: any."
    )
    expires: AwareDatetime = Field(description="When it ends, with its offset from UTC, as 2027-06-30T00:00:00Z.")
