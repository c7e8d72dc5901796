"""Secrets in settings: given as they are, or by the file that holds them."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, SecretStr

from hpcgate.config.files import read_text

PREFIX = "secret_file:"
MOST = 1024 * 1024
"""Bytes of a secret, at most."""


def read_secret(value: Any) -> Any:
    """Return the text of the file that a ``secret_file:PATH`` names, without blanks around it; else the value itself.

    Raises:
        ValueError: The file cannot be read; the message names it.
    """
    if not (isinstance(value, str) and value.startswith(PREFIX)):
        return value
    path = Path(value.removeprefix(PREFIX))
    try:
        return read_text(path.expanduser(), MOST).strip()
    except OSError as error:
        reason = error.strerror or type(error).__name__
    except UnicodeDecodeError:
        reason = "not UTF-8 text"
    except (RuntimeError, ValueError):
        reason = "not a usable path"
    raise ValueError(f"cannot read the secret file {path}: {reason}")


Secret = Annotated[SecretStr, BeforeValidator(read_secret)]
"""A string that never shows in a repr; ``secret_file:/path`` reads it from a file."""

FileText = Annotated[str, BeforeValidator(read_secret)]
"""A public text that, like a secret, may be given as ``secret_file:/path``."""
