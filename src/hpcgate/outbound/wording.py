"""What others say, made fit to be shown: secrets masked first, and only then cut."""

import re

_MASK = "***"
_GRAM = 16
"""Characters of a secret in a row that give it away."""
_LEAST = 8
"""Characters of the shortest secret that is looked for; a shorter one is a part of any text."""
_RUN = re.compile(r"[A-Za-z0-9._~+/=-]{16,}")
"""What a token can be made of (RFC 6750, section 2.1), long enough to hold a piece of one."""
_JWT = re.compile(r"eyJ[A-Za-z0-9_-]{6,}(?:\.[A-Za-z0-9_-]*)*")
"""A JWT, or the beginning of one: base64url of ``{"``."""
_MAX_READ = 64 * 1024
"""Characters of a text that are looked at at all."""


def masked(text: str, *secrets: str) -> str:
    """Return a text without secrets, as `without` does, and without whatever looks like a JWT."""
    return _JWT.sub(_MASK, without(text, *secrets))


def without(text: str, *secrets: str) -> str:
    """Return a text without secrets, nor pieces of 16 characters of them.

    A piece counts because whoever wrote the text may have cut it already.
    """
    for secret in secrets:
        if len(secret) >= _LEAST:
            text = _without(text.replace(secret, _MASK), secret)
    return text


def _without(text: str, secret: str) -> str:
    # Whichever is shorter is taken apart: a message has a hundred characters, an answer thousands.
    pieces = {secret[at : at + _GRAM] for at in range(len(secret) - _GRAM + 1)} if len(text) > len(secret) else secret

    def hide(found: re.Match[str]) -> str:
        run = found[0]
        shown = any(run[at : at + _GRAM] in pieces for at in range(len(run) - _GRAM + 1))
        return _MASK if shown else run

    return _RUN.sub(hide, text)


def clipped(text: str, most: int, *secrets: str) -> str:
    """Return at most so many characters of a text, `masked` before it is cut; what is left out shows as ``...``."""
    text = masked(text[: max(_MAX_READ, 2 * most)], *secrets)
    return text if len(text) <= most else text[:most] + "..."


def one_line(text: str) -> str:
    """Return a text with blanks for line ends and for all that does not print."""
    return " ".join("".join(character if character.isprintable() else " " for character in text).split())
