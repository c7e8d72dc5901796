"""The settings of the audit log."""

from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from hpcgate.config.base import Model
from hpcgate.config.files import in_time

STDOUT = "stdout"


def destination(value: str) -> str:
    """Return where the audit log goes: ``stdout`` or the absolute path of a file.

    Raises:
        ValueError: It is neither, or the file's directory is not there.
    """
    if value == STDOUT:
        return value
    path = Path(value)
    if not path.is_absolute():
        raise ValueError("must be stdout or an absolute path")
    try:
        is_directory, has_parent = in_time(lambda: (path.is_dir(), path.parent.is_dir()))
    except OSError as error:
        raise ValueError(f"cannot write {value}: {error.strerror}") from None
    if is_directory or not has_parent:
        raise ValueError(f"cannot write {value}: {'it is a directory' if is_directory else 'there is no directory'}")
    return value


class AuditSettings(Model):
    """Who did what on which system, one JSON line each."""

    to: Annotated[str, AfterValidator(destination)] | None = Field(
        None, description="Where the lines go: stdout, or the absolute path of a file; unset writes none."
    )
    reads: bool = Field(True, description="Whether actions are recorded that only read.")
    required: bool = Field(
        False,
        description="Whether requests that would be recorded are refused, with 503, while the file takes no lines.",
    )

    @model_validator(mode="after")
    def _a_file(self) -> Self:
        if self.required and self.to in (None, STDOUT):
            raise ValueError("required is for an audit log in a file of its own: set audit.to to one")
        return self
