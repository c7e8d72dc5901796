"""What is wrong with a configuration, and where."""

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Location = tuple[int | str, ...]

WHOLE_FILE = "(file)"


@dataclass(frozen=True, slots=True)
class Mistake:
    """One mistake in a configuration file.

    Attributes:
        file: The file, or what stands in its place if there is none.
        key: The dotted key, such as ``clusters[0].ssh.port``, or ``(file)`` for the file as a whole.
        message: What is wrong and what is allowed; never the value, which may be a secret.
    """

    file: Path | str
    key: str
    message: str

    def __str__(self) -> str:
        """Give the one line that a person reads."""
        if isinstance(self.file, str) and self.key == WHOLE_FILE:
            return f"{self.file}: {self.message}"
        return f"{self.file}: {self.key}: {self.message}"


class ConfigError(Exception):
    """A configuration cannot be used.

    Attributes:
        mistakes: All that is wrong with it, at least one.
    """

    def __init__(self, mistakes: Sequence[Mistake]) -> None:
        self.mistakes = tuple(mistakes)
        super().__init__("\n".join(map(str, mistakes)))


def did_you_mean(given: Any, known: Iterable[str], least: float = 0.6) -> str:
    """Return the end of a message that suggests one of the known words, or nothing.

    Args:
        given: What was written; it is not repeated, for it may be a secret at the wrong place.
        known: What is allowed.
        least: How near it must be, from 0 to 1.
    """
    near = difflib.get_close_matches(given, known, 1, least) if isinstance(given, str) else ()
    return f"; did you mean {near[0]!r}?" if near else ""


def dotted(location: Location) -> str:
    """Write a location as a person would: ``clusters[0].ssh.port``."""
    text = ""
    for part in location:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f".{part}" if text else part
    return text or WHOLE_FILE
