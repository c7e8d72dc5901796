"""Secrets in settings: given as they are, or by the file that holds them."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, SecretStr

PREFIX = "secret_file:"


def _load(value: Any) -> Any:
    if isinstance(value, str) and value.startswith(PREFIX):
        return Path(value.removeprefix(PREFIX)).read_text().removesuffix("\n")
    return value


Secret = Annotated[SecretStr, BeforeValidator(_load)]
"""A string that never shows in a repr; ``secret_file:/path`` reads it from a file."""
