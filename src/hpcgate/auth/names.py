"""From the claim that names the user to the local user name."""

import asyncio
import re
import time
from collections.abc import Mapping
from pathlib import Path
from string import ascii_lowercase, ascii_uppercase

import structlog

from hpcgate.config import OidcSettings
from hpcgate.config.names import MAX_FILE, NoNames, parse_names
from hpcgate.config.watched import Watched
from hpcgate.errors import Forbidden

_LOWER = str.maketrans(ascii_uppercase, ascii_lowercase)
"""ASCII alone: by Unicode the Kelvin sign is a k in lower case, and who gets a name with one would be another user."""
LOOK = 1.0
"""Seconds between looks at the file."""
PATIENCE = 5.0
"""Seconds that requests wait for the file; names that were read before count meanwhile and after."""

log = structlog.stdlib.get_logger(__name__)


class LocalNames:
    """Gives the local name of a user, by a template or by a file, or the claim as it is.

    Attributes:
        version: Changes whenever the file's content is taken anew: names given before may no longer hold.
    """

    def __init__(self, settings: OidcSettings) -> None:
        """Keep the settings; a file is read by the first `refresh`."""
        self._match = None if settings.username_match is None else re.compile(settings.username_match)
        self._template = settings.username_template
        self._lowercase = settings.username_lowercase
        self._path = path = settings.username_map
        self._file = None if path is None else Watched("names", _names_in, Path(path), most=MAX_FILE)
        self._names: Mapping[str, str] = {}
        self._next_look = -float("inf")
        self._lock = asyncio.Lock()
        self._told = ""
        self.version = 0

    @property
    def due(self) -> bool:
        """Whether `refresh` would look at the file."""
        return self._file is not None and time.monotonic() >= self._next_look

    async def refresh(self) -> None:
        """Take in the file if it has changed, looking once in `LOOK` seconds. One that is no good changes nothing."""
        if self._file is None or not self.due:
            return
        async with self._lock:
            if time.monotonic() < self._next_look:
                return
            await self._take(self._file)
            self._next_look = time.monotonic() + LOOK

    async def _take(self, file: Watched[Mapping[str, str]]) -> None:
        """Take in what the file says. While it hangs, requests wait for it once."""
        try:
            names = await file.look(0.0 if file.under_way else PATIENCE)
        except (OSError, ValueError) as error:
            reason = str(error) if isinstance(error, NoNames) else type(error).__name__
            if reason != self._told:
                log.error("names.failed", file=self._path, reason=reason, kept=len(self._names))
            self._told = reason
            return
        self._told = ""
        if names is not self._names:
            self._names = names
            self.version += 1
            log.info("names.read", file=self._path, names=len(names))

    def local(self, value: str) -> str:
        """Return the local name of the user with that claim.

        Raises:
            Forbidden: The file, or the expression, has no name for it.
        """
        if self._lowercase:
            value = value.translate(_LOWER)
        if self._file is not None:
            name = self._names.get(value)
            if name is None:
                raise Forbidden("The token's user has no local name here")
            return name
        groups: dict[str, str] = {}
        if self._match is not None:
            found = self._match.fullmatch(value)
            if found is None:
                raise Forbidden("The token's user has no local name here")
            groups = {name: text or "" for name, text in found.groupdict().items()}
        return value if self._template is None else self._template.format_map({"claim": value, **groups})


def _names_in(content: bytes) -> Mapping[str, str]:
    return parse_names(content.decode())
