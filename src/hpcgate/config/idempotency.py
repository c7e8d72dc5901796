"""The settings of submissions that happen once (``Idempotency-Key``)."""

from typing import Annotated

from pydantic import AfterValidator, Field

from hpcgate.config.base import Model
from hpcgate.config.values import Seconds

USERNAME = "{username}"


def _directory(value: str) -> str:
    if not value.startswith("~/") and not (value.startswith("/") and USERNAME in value):
        raise ValueError(f"must begin with ~/, or be an absolute path that holds {USERNAME}")
    return value.rstrip("/")


class IdempotencySettings(Model):
    """Submissions that happen once however often they are sent."""

    required: bool = Field(
        False, description="Whether what submits a job is refused without an Idempotency-Key, where there can be one."
    )
    lifetime: Seconds = Field(
        24 * 3600, ge=3600, description="Seconds for which a key stands for its submission; then it is a new one."
    )
    directory: Annotated[str, AfterValidator(_directory)] = Field(
        "~/.local/state/hpcgate/submissions",
        description="Where on the login node a user's receipts are kept: in the home directory (~/), or at a path that"
        " holds {username}. All login nodes of a system must see the same one. It is made private.",
    )
    most_receipts: int = Field(
        50_000, ge=1, description="Most receipts of a user, counted every ten minutes; more submissions are told 429."
    )
