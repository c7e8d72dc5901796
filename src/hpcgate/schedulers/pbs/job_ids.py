"""PBS's job ids: ``123``, ``123.server``, arrays ``123[].server``, subjobs ``123[4].server`` and ``123[1-9:2]``.

OpenPBS 23.06 User's Guide, "Job identifier".
"""

import re
from dataclasses import dataclass

from hpcgate.errors import JobNotFound

_ID = re.compile(
    r"(?P<base>[0-9]{1,12})"
    r"(?:\[(?P<indices>(?:[0-9]{1,10}(?:-[0-9]{1,10}(?::[0-9]{1,10})?)?)?)\])?"
    r"(?:\.(?P<server>[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,253}[A-Za-z0-9])?))?"
)
_RANGE = re.compile(r"([0-9]+)(?:-([0-9]+)(?::([0-9]+))?)?")


def _same_server(asked: str | None, shown: str | None) -> bool:
    """Return whether two names may be the same server's, one perhaps without its domain."""
    if asked is None or shown is None or asked == shown:
        return True
    return asked.startswith(shown + ".") or shown.startswith(asked + ".")


@dataclass(frozen=True, slots=True)
class JobId:
    """A job id, taken apart.

    Attributes:
        base: The number.
        indices: What stands in the brackets of an array or a subjob; empty for a whole array; None without brackets.
        server: The server's name, or None.
    """

    base: str
    indices: str | None = None
    server: str | None = None

    @classmethod
    def parse(cls, text: str) -> "JobId":
        """Take a job id apart.

        Raises:
            JobNotFound: It is none.
        """
        found = cls.read(text)
        if found is None:
            raise JobNotFound(text)
        return found

    @classmethod
    def read(cls, text: str) -> "JobId | None":
        """Take a job id apart, or return None if it is none."""
        match = _ID.fullmatch(text)
        return None if match is None else cls(match["base"].lstrip("0") or "0", match["indices"], match["server"])

    @property
    def is_array(self) -> bool:
        """Whether it names a whole array."""
        return self.indices == ""

    @property
    def key(self) -> tuple[str, str | None]:
        """What tells the jobs of one server apart."""
        return self.base, self.indices

    @property
    def index(self) -> str | None:
        """The index of the one subjob that it names."""
        return self.indices if self.indices and self.indices.isdigit() else None

    def matches(self, shown: "JobId") -> bool:
        """Return whether a job that PBS shows is one that this id names; a whole array names its subjobs, too."""
        if self.base != shown.base or not _same_server(self.server, shown.server):
            return False
        if self.indices == "":
            return shown.indices is not None
        match = _RANGE.fullmatch(self.indices or "")
        if match is None:
            return self.indices == shown.indices
        first, last, step = int(match[1]), int(match[2] or match[1]), int(match[3] or 1)
        return shown.index is not None and int(shown.index) in range(first, last + 1, step or 1)

    @property
    def argument(self) -> str:
        """The id for a command line."""
        brackets = "" if self.indices is None else f"[{self.indices}]"
        return f"{self.base}{brackets}{'' if self.server is None else '.' + self.server}"

    @property
    def order(self) -> tuple[int, int]:
        """A key that sorts jobs by number, an array before its subjobs."""
        return int(self.base), -1 if self.index is None else int(self.index)
