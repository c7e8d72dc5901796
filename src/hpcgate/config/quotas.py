"""The settings of file system quotas."""

from typing import Literal

from pydantic import Field, field_validator

from hpcgate.config.base import Model
from hpcgate.config.values import Seconds

QuotaFormat = Literal["json", "pairs", "quota", "lfs", "mmlsquota"]


class QuotaSettings(Model):
    """How the quotas of a file system are asked for."""

    command: tuple[str, ...] = Field(
        min_length=1,
        max_length=64,
        description="The command and its arguments, run on the login node as the user; {username} and {path} are filled"
        " in, and nothing is read by a shell.",
    )
    format: QuotaFormat = Field(
        "json",
        description="What it prints: json or pairs, as the page about schedulers has them, or what quota -w -p,"
        " lfs quota or mmlsquota -Y print.",
    )
    timeout: Seconds = Field(10, description="Seconds that it may take.")

    @field_validator("command")
    @classmethod
    def _words(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if any("\0" in word for word in value):
            raise ValueError("a word holds a NUL character")
        return value
