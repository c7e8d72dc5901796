"""Environment variables that a job is to have."""

import re

from hpcgate.errors import BadRequest

LONGEST = 128 * 1024
"""Bytes of ``NAME=value`` and the NUL that ends it: execve(2), MAX_ARG_STRLEN. With a longer one nothing can start."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

LOGIN = ("OLDPWD", "SSH_CLIENT", "SSH_CONNECTION", "SSH_ORIGINAL_COMMAND", "SSH_TTY")
"""Variables of the login, none of a job's business."""


def check_variable(name: str, value: str) -> None:
    """Return if a job can have the variable.

    Raises:
        BadRequest: The name is not an identifier, the value holds a NUL or is not Unicode, or it is too long.
    """
    if not _NAME.fullmatch(name):
        raise BadRequest(f"env: not a valid name of an environment variable: {name!r}")
    if "\0" in value:
        raise BadRequest(f"env: the value of {name} contains a NUL character")
    try:
        size = len(f"{name}={value}".encode()) + 1
    except UnicodeEncodeError as error:
        raise BadRequest(f"env: the value of {name} is not valid Unicode: {error.reason}") from None
    if size > LONGEST:
        raise BadRequest(f"env: {name} is too long: {size} bytes, and at most {LONGEST} fit")
