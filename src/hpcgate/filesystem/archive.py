"""What compress and extract share: how tar's words become errors."""

import errno
import re

from hpcgate.errors import BadRequest, GatewayError
from hpcgate.ssh.files.coreutils_errors import (
    HIDDEN,
    NOT_REGULAR,
    by_name,
    error_from_stderr,
    not_regular,
    number_in,
    quote_if_needed,
    reason,
)
from hpcgate.ssh.runner import Completed

# What tar adds to the reason, which the line before has given.
_NOISE = (
    "tar: Error is not recoverable",
    "tar: Exiting with failure status",
    "tar: Child returned status",
    "tar: Removing leading",
    "tar: -: Cannot write: Broken pipe",
)

# The archive is there, and so is the directory: what is not there is what the archive says of itself.
_NO_LINK = ("tar: ", ": Cannot hard link to ", ": No such file or directory")
# GNU's, in UTF-8 and where there is no such locale, and busybox's.
_OWN_DIRECTORY = re.compile(rf"mkdir: can(?:not|'t) create directory ['\u2018]\./{re.escape(HIDDEN)}")
_CUT_SHORT = re.compile(r"Wrote only \d+ of \d+ bytes$")


def archive_error(
    done: Completed,
    path: bytes,
    otherwise: type[GatewayError],
    *,
    temporary: bytes | None = None,
    into: bytes | None = None,
) -> GatewayError:
    """Return the error that a failed tar tells of, in its own words and those of its compressor.

    Args:
        done: The command.
        path: Of the archive.
        otherwise: The class of an error that is not an errno value.
        temporary: The name that the archive has until it is whole.
        into: The directory that it is unpacked into, in which it has a hidden one of its own until then.
    """
    text = by_name(done.stderr.decode("utf-8", "replace").replace("tar (child): ", "tar: "))
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith(_NOISE)]
    if NOT_REGULAR in lines:
        return not_regular("tar", path)
    if any(line.startswith(("find: failed to compile", "find: bad regex")) for line in lines):
        otherwise = BadRequest
    # A write that is cut short: the next one would have said why.
    lines = [f"{line}: {reason(errno.ENOSPC)}" if _CUT_SHORT.search(line) else line for line in lines]
    if temporary is not None:
        of_target = re.compile(f"{re.escape(temporary.decode())}|/dev/fd/4|^mv: ")
        lines = [_opening(line, path) if of_target.search(line) else line for line in lines]
    if into is not None:
        lines = [_opening(line, into) if _OWN_DIRECTORY.match(line) else line for line in lines]
    words = "\n".join(lines[:8]) or text.strip() or "tar: failed"
    begins, within, ends = _NO_LINK
    if lines and lines[0].startswith(begins) and within in lines[0] and lines[0].endswith(ends):
        return BadRequest(words)
    return error_from_stderr(words.encode(), "", otherwise=otherwise)


def _opening(line: str, path: bytes) -> str:
    number = number_in([line])
    return line if number is None else f"tar: {quote_if_needed(path)}: Cannot open: {reason(number)}"
