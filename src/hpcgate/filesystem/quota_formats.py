"""What commands print of quotas: two formats of the gateway's own for a site's script, and those of the usual tools.

Each parser returns the quotas, an empty list where the tool says that there is none, and None where it says nothing of
the kind. A ValueError or LookupError means that it cannot be read.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import unquote

from hpcgate.outbound.documents import with_whole_characters

MANY: Final = 1000
"""Most quotas of one command."""
_MOST: Final = 2**63 - 1
_LONGEST: Final = 1024
"""Characters of a name."""


@dataclass(frozen=True, slots=True)
class Quota:
    """How much of one thing may be used of a file system.

    Attributes:
        resource: ``bytes`` or ``files``, or a word of the site's own.
        scope: Whose quota it is: ``user``, ``group``, ``project``, ``fileset``, or a word of the site's own.
        name: The name of that, None if it was not told.
        source: What of the file system, as the command calls it: a device, a directory.
        used: In bytes, or how many.
        limit: None where there is none.
        soft_limit: What may be passed for a while; None where there is none.
    """

    resource: str
    scope: str
    used: int
    limit: int | None = None
    soft_limit: int | None = None
    name: str | None = None
    source: str | None = None

    @property
    def left(self) -> int | None:
        """What may be used besides; None without a limit."""
        return None if self.limit is None else max(0, self.limit - self.used)


# The gateway's own.

_KEYS: Mapping[str, str] = MappingProxyType(
    {
        "resource": "resource",
        "scope": "scope",
        "name": "name",
        "source": "source",
        "used": "used",
        "limit": "limit",
        "softLimit": "soft_limit",
        "soft_limit": "soft_limit",
    }
)


def _quota(values: Mapping[str, Any]) -> Quota:
    """Return a quota by the names that a site's script gives to its parts; those that nobody knows are passed over."""
    known = {_KEYS[name]: value for name, value in values.items() if name in _KEYS and value is not None}
    texts = {name: _word(known[name]) for name in ("resource", "scope", "name", "source") if name in known}
    numbers = {name: _whole(known[name]) for name in ("used", "limit", "soft_limit") if name in known}
    return Quota(**{"resource": "bytes", "scope": "user"} | texts, **numbers)  # type: ignore[arg-type]


def _word(value: Any) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= _LONGEST:
        raise ValueError("a text is wanted")
    return value


def _whole(value: Any) -> int:
    number = _number(value) if isinstance(value, str) else value
    if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number <= _MOST:
        raise ValueError("a whole number is wanted")
    return number


def parse_json(text: str) -> list[Quota] | None:
    """Read objects, one a line, or one list of them."""
    if not text.strip():
        return None
    # No answer could hold half of a surrogate pair.
    text = with_whole_characters(text)
    if text.lstrip().startswith("["):
        found = json.loads(text)
    else:
        found = [json.loads(line) for line in text.splitlines() if line.strip()]
    return [_quota(item) for item in found]


_PAIR = re.compile(r'(?<![A-Za-z_])([A-Za-z_]+)=("[^"]*"|\S*)')


def parse_pairs(text: str) -> list[Quota] | None:
    """Read lines of ``resource=bytes used=123 limit=456``; a value with blanks stands between double quotes."""
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        return None
    return [_quota({name: value.strip('"') for name, value in _PAIR.findall(line) if value}) for line in lines]


# Tools'. Zero is no limit to them, and blocks are of 1 KiB.

_KIB = 1024


def _number(text: str) -> int:
    """Return a number, be it marked as over quota (``12*``) or as an estimate (``[12]``)."""
    digits = text.strip().rstrip("*").strip("[]").rstrip("*")
    if not digits.isdecimal() or not digits.isascii() or len(digits) > 19:
        raise ValueError(f"not a number: {text[:40]!r}")
    return int(digits)


def _limit(text: str, unit: int = 1) -> int | None:
    return _number(text) * unit or None


def _both(scope: str, name: str | None, source: str | None, blocks: list[str], files: list[str]) -> Iterator[Quota]:
    """Yield a quota of bytes and one of files, each from what is used, the soft and the hard limit."""
    for resource, unit, (used, soft, hard) in (("bytes", _KIB, blocks), ("files", 1, files)):
        yield Quota(resource, scope, _number(used) * unit, _limit(hard, unit), _limit(soft, unit), name, source)


_HEADING = re.compile(
    r"Disk quotas for (user|usr|group|grp|project|prj) ([^\n]{1,256}?) \([ugp]id \d+\):[ \t]*(.*)$", re.MULTILINE
)
_SCOPES = {"usr": "user", "grp": "group", "prj": "project"}


def _sections(text: str) -> Iterable[tuple[str, str | None, str, str]]:
    """Return scope, name, what stands behind the heading, and what stands beneath it, of each heading."""
    headings = list(_HEADING.finditer(text))
    if not headings:
        # Without one (``-q``) it is the user's.
        return [("user", None, "", text)]
    ends = [*(heading.start() for heading in headings[1:]), len(text)]
    return [
        (_SCOPES.get(heading[1], heading[1]), heading[2], heading[3].strip(), text[heading.end() : end])
        for heading, end in zip(headings, ends, strict=True)
    ]


def parse_quota(text: str) -> list[Quota] | None:
    """Read what ``quota -w -p`` prints: quota(1) of Linux's quota-tools, with a grace time in each row."""
    found: list[Quota] = []
    said = False
    for scope, name, behind, beneath in _sections(text):
        said |= behind == "none"
        for line in beneath.splitlines():
            fields = line.split()
            if len(fields) < 9 or fields[-8] in ("blocks", "space"):
                continue
            used, soft, hard, _, files, files_soft, files_hard, _ = fields[-8:]
            found += _both(scope, name, " ".join(fields[:-8]), [used, soft, hard], [files, files_soft, files_hard])
            said = True
    return found if said else None


def parse_lfs(text: str) -> list[Quota] | None:
    """Read what ``lfs quota`` prints, with ``-q`` or without: a long name has its numbers on the next line."""
    found: list[Quota] = []
    for scope, name, _, beneath in _sections(text):
        words: list[str] = []
        for line in beneath.splitlines():
            fields = line.split()
            if not fields or fields[:2] == ["Filesystem", "kbytes"]:
                continue
            if fields[0].startswith("/"):
                words = []
            elif not words:
                continue
            words += fields
            if len(words) < 9:
                continue
            source, used, soft, hard, _, files, files_soft, files_hard, _ = words[:9]
            found += _both(scope, name, source, [used, soft, hard], [files, files_soft, files_hard])
            words = []
    return found or None


_TYPES = {"USR": "user", "GRP": "group", "FILESET": "fileset"}


def parse_mmlsquota(text: str) -> list[Quota] | None:
    """Read what ``mmlsquota -Y`` of IBM Storage Scale prints: fields between colons, named by a header."""
    names: list[str] = []
    found: list[Quota] = []
    for line in text.splitlines():
        fields = line.split(":")
        if fields[0] != "mmlsquota" or len(fields) < 4:
            continue
        if fields[2] == "HEADER":
            names = fields
            continue
        row = dict(zip(names, map(unquote, fields), strict=False))
        found += _both(
            _TYPES.get(row["quotaType"], row["quotaType"]),
            row.get("name") or row.get("filesetname") or None,
            row.get("filesystemName") or None,
            [row["blockUsage"], row["blockQuota"], row["blockLimit"]],
            [row["filesUsage"], row["filesQuota"], row["filesLimit"]],
        )
    return found if names else None


PARSERS: Mapping[str, Callable[[str], list[Quota] | None]] = MappingProxyType(
    {
        "json": parse_json,
        "pairs": parse_pairs,
        "quota": parse_quota,
        "lfs": parse_lfs,
        "mmlsquota": parse_mmlsquota,
    }
)
