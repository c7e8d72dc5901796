"""Conditional requests: entity tags, dates, and what a request makes depend on them (RFC 9110, section 13)."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime
from enum import Enum
from typing import Self

from hpcgate.errors import PreconditionFailed
from hpcgate.ssh.files.protocol import Attributes

_TAG = re.compile(r'[ \t,]*(W/)?("[\x21\x23-\x7e\x80-\U0010ffff]*")[ \t]*(?:,|$)')


@dataclass(frozen=True, slots=True)
class Validator:
    """What tells one state of a file from another.

    Attributes:
        etag: A strong entity tag, quotes included.
        modified: When it was modified, Unix seconds.
    """

    etag: str
    modified: int

    @classmethod
    def of(cls, attributes: Attributes) -> Self:
        """Return the validator of a file: inode number, size and time of modification, to the millisecond if known.

        A file that this gateway replaces gets another inode, but the next one may well get the first one's again. So
        one that is replaced twice, or written in place, in so short a time that no clock shows it looks the same.
        """
        state = (attributes.ino, attributes.size, attributes.mtime, attributes.fraction)
        return cls('"' + "-".join(f"{number:x}" for number in state) + '"', attributes.mtime)

    @property
    def headers(self) -> dict[str, str]:
        """The answer's headers that tell it."""
        return {"ETag": self.etag, "Last-Modified": http_date(self.modified)}


def http_date(seconds: int) -> str:
    """Return Unix seconds as an HTTP date; what no calendar holds is clamped."""
    return format_datetime(datetime.fromtimestamp(max(0, min(seconds, 253402300799)), UTC), usegmt=True)


def parse_date(text: str | None) -> int | None:
    """Return an HTTP date as Unix seconds, or None if it is none."""
    if not text:
        return None
    try:
        parsed = parsedate_to_datetime(text)
        return int((parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp())
    except (ValueError, OverflowError, TypeError):
        return None


def parse_tags(text: str) -> list[tuple[bool, str]]:
    """Return the entity tags of a list, each with whether it is weak; what follows a malformed one is left out."""
    tags: list[tuple[bool, str]] = []
    position = 0
    while match := _TAG.match(text, position):
        tags.append((match[1] is not None, match[2]))
        position = match.end()
    return tags


class ConditionResult(Enum):
    """What the conditions of a request say to it."""

    GO_ON = "go on"
    NOT_MODIFIED = "not modified"


@dataclass(frozen=True, slots=True)
class Conditions:
    """The conditional headers of a request, as they were sent."""

    if_match: str | None = None
    if_none_match: str | None = None
    if_modified_since: str | None = None
    if_unmodified_since: str | None = None
    if_range: str | None = None

    @classmethod
    def of(cls, headers: Mapping[str, str]) -> Self:
        """Take them from a request's headers, of which one may come in several lines (RFC 9110, section 5.3)."""
        found: dict[str, list[str]] = {}
        for name, value in headers.items():
            found.setdefault(name.lower().replace("-", "_"), []).append(value)
        return cls(**{name: ", ".join(found[name]) for name in cls.__dataclass_fields__ if name in found})

    @property
    def new_file_only(self) -> bool:
        """Whether there must be no file yet."""
        return (self.if_none_match or "").strip() == "*"

    def for_reading(self, current: Validator) -> ConditionResult:
        """Judge a GET or HEAD, in the order of RFC 9110, section 13.2.2.

        Raises:
            PreconditionFailed: It must not be carried out.
        """
        self._demand(current)
        if self.if_none_match is not None:
            return ConditionResult.NOT_MODIFIED if self._none_matches(current) else ConditionResult.GO_ON
        since = parse_date(self.if_modified_since)
        return (
            ConditionResult.NOT_MODIFIED if since is not None and current.modified <= since else ConditionResult.GO_ON
        )

    def for_writing(self, current: Validator | None) -> None:
        """Judge a request that replaces the file, or makes it where `current` is None.

        Raises:
            PreconditionFailed: It must not be carried out.
        """
        self._demand(current)
        if self.if_none_match is not None and current is not None and self._none_matches(current):
            raise PreconditionFailed("If-None-Match: there is such a file.")

    def range_holds(self, current: Validator) -> bool:
        """Say whether a Range is to be honoured: If-Range, if there is one, names the file's state."""
        if self.if_range is None:
            return True
        text = self.if_range.strip()
        if text.startswith(('"', "W/")):
            return text == current.etag
        # A date is a strong validator only if it is a second old or more by the clock of the answer's Date header
        # (RFC 9110, section 8.8.2.2); the login node's clock is not known here, so it has to be the exact one.
        return parse_date(text) == current.modified

    def _demand(self, current: Validator | None) -> None:
        if self.if_match is not None:
            wanted = self.if_match.strip()
            if current is None or (wanted != "*" and (False, current.etag) not in parse_tags(wanted)):
                raise PreconditionFailed("If-Match: the file is not, or no longer, what was named.")
        elif (before := parse_date(self.if_unmodified_since)) is not None and (
            current is None or current.modified > before
        ):
            raise PreconditionFailed("If-Unmodified-Since: the file has been modified.")

    def _none_matches(self, current: Validator) -> bool:
        text = (self.if_none_match or "").strip()
        return text == "*" or any(tag == current.etag for _, tag in parse_tags(text))
