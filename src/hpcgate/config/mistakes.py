"""What is wrong with a configuration, and where."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

Location = tuple[int | str, ...]

WHOLE_FILE = "(file)"


@dataclass(frozen=True, slots=True)
class Mistake:
    """One mistake in a configuration file.

    Attributes:
        file: The file, or the environment variable that should have named one.
        key: The dotted key, such as ``clusters[0].ssh.port``, or ``(file)`` for the file as a whole.
        message: What is wrong and what is allowed; never the value, which may be a secret.
    """

    file: Path | str
    key: str
    message: str

    def __str__(self) -> str:
        """Give the one line that a person reads."""
        return f"{self.file}: {self.key}: {self.message}"


class ConfigError(Exception):
    """A configuration cannot be used.

    Attributes:
        mistakes: All that is wrong with it, at least one.
    """

    def __init__(self, mistakes: Sequence[Mistake]) -> None:
        self.mistakes = tuple(mistakes)
        super().__init__("\n".join(map(str, mistakes)))


def dotted(location: Location) -> str:
    """Write a location as a person would: ``clusters[0].ssh.port``."""
    text = ""
    for part in location:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f".{part}" if text else part
    return text or WHOLE_FILE
