"""What the coreutils tools say when something fails, and which of our errors that is.

Clients match on the words of the tools, whichever way a file was reached (contract, Statuses). This is the one table
of errno(3) values: `failure` composes a message from a number, `error_from_stderr` recognises the number in a message.
"""

import errno
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from hpcgate.errors import (
    AlreadyExists,
    BadRequest,
    CommandFailed,
    GatewayError,
    IsADirectory,
    LoginNodeError,
    NoSpace,
    NotADirectory,
    PathNotFound,
    PermissionDenied,
    ToolMissing,
)
from hpcgate.ssh.errors import fresh_copy

HIDDEN = ".hpcgate-"
"""What the names begin with that files have here until they get their own."""
_REASONS: dict[int, tuple[str, type[GatewayError]]] = {
    # The texts are glibc's strerror(3) in the C locale.
    errno.ENOENT: ("No such file or directory", PathNotFound),
    errno.EACCES: ("Permission denied", PermissionDenied),
    errno.EPERM: ("Operation not permitted", PermissionDenied),
    errno.EROFS: ("Read-only file system", PermissionDenied),
    errno.ENOTDIR: ("Not a directory", NotADirectory),
    errno.EISDIR: ("Is a directory", IsADirectory),
    errno.EEXIST: ("File exists", AlreadyExists),
    errno.ENOTEMPTY: ("Directory not empty", AlreadyExists),
    errno.ENOSPC: ("No space left on device", NoSpace),
    errno.EDQUOT: ("Disk quota exceeded", NoSpace),
    errno.ENAMETOOLONG: ("File name too long", BadRequest),
    errno.ELOOP: ("Too many levels of symbolic links", BadRequest),
    errno.EINVAL: ("Invalid argument", BadRequest),
    errno.EILSEQ: ("Invalid or incomplete multibyte or wide character", BadRequest),
    errno.ENXIO: ("No such device or address", BadRequest),
    errno.ENODEV: ("No such device", BadRequest),
    errno.EXDEV: ("Invalid cross-device link", BadRequest),
    errno.EMLINK: ("Too many links", BadRequest),
    errno.EBUSY: ("Device or resource busy", BadRequest),
    errno.ETXTBSY: ("Text file busy", BadRequest),
    errno.EFBIG: ("File too large", BadRequest),
    errno.EOVERFLOW: ("Value too large for defined data type", BadRequest),
    errno.EOPNOTSUPP: ("Operation not supported", BadRequest),
    errno.ENOSYS: ("Function not implemented", BadRequest),
    errno.ENOTTY: ("Inappropriate ioctl for device", BadRequest),
    errno.E2BIG: ("Argument list too long", BadRequest),
    errno.EIO: ("Input/output error", CommandFailed),
    errno.ESTALE: ("Stale file handle", CommandFailed),
    errno.ENOMEM: ("Cannot allocate memory", CommandFailed),
    # What file servers and their clients say: NFS, Lustre, GPFS, CIFS, autofs, FUSE. Keys are Kerberos's.
    errno.EKEYEXPIRED: ("Key has expired", PermissionDenied),
    errno.ENOKEY: ("Required key not available", PermissionDenied),
    errno.EKEYREVOKED: ("Key has been revoked", PermissionDenied),
    errno.EKEYREJECTED: ("Key was rejected by service", PermissionDenied),
    errno.EHOSTDOWN: ("Host is down", CommandFailed),
    errno.EHOSTUNREACH: ("No route to host", CommandFailed),
    errno.ETIMEDOUT: ("Connection timed out", CommandFailed),
    errno.ECONNREFUSED: ("Connection refused", CommandFailed),
    errno.ECONNRESET: ("Connection reset by peer", CommandFailed),
    errno.ENOTCONN: ("Transport endpoint is not connected", CommandFailed),
    errno.ESHUTDOWN: ("Cannot send after transport endpoint shutdown", CommandFailed),
    errno.ECONNABORTED: ("Software caused connection abort", CommandFailed),
    errno.EREMOTEIO: ("Remote I/O error", CommandFailed),
    errno.ENOLINK: ("Link has been severed", CommandFailed),
    errno.ECOMM: ("Communication error on send", CommandFailed),
    errno.EPROTO: ("Protocol error", CommandFailed),
    errno.ENOLCK: ("No locks available", CommandFailed),
    errno.EDEADLK: ("Resource deadlock avoided", CommandFailed),
    errno.EAGAIN: ("Resource temporarily unavailable", CommandFailed),
    errno.EINTR: ("Interrupted system call", CommandFailed),
    errno.ENODATA: ("No data available", CommandFailed),
    errno.EUCLEAN: ("Structure needs cleaning", CommandFailed),
    errno.EBADMSG: ("Bad message", CommandFailed),
    errno.ENFILE: ("Too many open files in system", CommandFailed),
    errno.EMFILE: ("Too many open files", CommandFailed),
}
_MAKESHIFT = re.compile(re.escape(HIDDEN) + r"|['\"\u2018 ](?:\.{1,2}/|/dev/fd/)|: write error: ")
_NUMBERS = {text: number for number, (text, _) in _REASONS.items()} | {
    # A shell's word for a command that SIGXFSZ ended, where a start-up file has set ulimit -f.
    "File size limit exceeded": errno.EFBIG,
    # dash's words (error.c, errmsg) where what is opened is not there, or what it is made in.
    "No such file": errno.ENOENT,
    "Directory nonexistent": errno.ENOENT,
    "directory nonexistent": errno.ENOENT,
}
_ENDING = re.compile("(" + "|".join(re.escape(text) for text in _NUMBERS) + r")\)?$")

# dash, ksh and busybox, bash, mksh; zsh; env; tar, of what compresses for it.
_MISSING = re.compile(
    r"(?:^|: )(?:exec: )?([\w.+-]+): (?:command |inaccessible or )?not found$"
    r"|command not found: ([\w.+-]+)$"
    r"|^env: ['\u2018]([\w.+-]+)['\u2019]: No such file or directory$"
    r"|^tar(?: \(child\))?: ([\w.+-]+): Cannot exec: No such file or directory$"
    r"|^tar: can't execute '([\w.+-]+)': No such file or directory$"
)
# dash; bash and ksh, which say EAGAIN's text; busybox.
_NO_PROCESS = re.compile(r"[Cc](?:annot|an't) fork|fork: (?:retry: )?Resource temporarily unavailable")

FAILURE = "Failure"
"""What OpenSSH's SFTP server says of all errors but four (sftp-server.c, errno_to_portable)."""
NOT_REGULAR = "Not a regular file"
"""Said of a FIFO, a socket or a device, which are never opened: the first would block, the last may never end."""


def reason(number: int) -> str:
    """Return strerror(3) of an errno value."""
    known = _REASONS.get(number)
    return known[0] if known else f"Unknown error {number}"


def failure(words: str, number: int) -> GatewayError:
    """Compose an error: ``failure("stat: cannot statx '/x'", errno.ENOENT)``."""
    text, kind = _REASONS.get(number, (f"Unknown error {number}", CommandFailed))
    return kind(f"{words}: {text}")


@contextmanager
def naming(path: bytes) -> Iterator[None]:
    """Have what fails within tell of the user's file, not of the name that it has until it is whole, or stands as."""
    try:
        yield
    except GatewayError as error:
        lines = error.message.splitlines()
        message = "\n".join(_naming(line, path) for line in lines)
        if message == "\n".join(lines):
            raise
        fresh = fresh_copy(error)
        fresh.message, fresh.args = message, (message,)
        raise fresh from error


def _naming(line: str, path: bytes) -> str:
    number = number_in([line])
    # A path at the beginning is that of something else: `hpcgate.ssh.files.footing`.
    if line.startswith("/") or not _MAKESHIFT.search(line):
        return line
    if number is None:
        return f"cp: error writing {quote(path)}: {FAILURE}" if line.endswith(f": {FAILURE}") else line
    doing = "error writing" if re.search("error writing|write error", line) else "cannot create regular file"
    return f"cp: {doing} {quote(path)}: {reason(number)}"


def number_in(lines: Iterable[str]) -> int | None:
    """Return the errno value that the first telling line of a tool ends with, or None."""
    for line in lines:
        match = _ENDING.search(line)
        if match:
            return _NUMBERS[match[1]]
    return None


_BY_PATH = re.compile(
    r"^(?:/[^\s:/]+)+/(?=(?:cat|chgrp|chmod|chown|cp|dd|file|find|head|id|ln|ls|mkdir|mktemp|mv|readlink|rm|rmdir|"
    r"sha\d+sum|md5sum|stat|sync|tail|tar|touch|truncate|bzip2|gzip|xz): )",
    re.MULTILINE,
)


def by_name(text: str) -> str:
    """Return what tools said with their names alone: one that a wrapper starts by its path says that in its place.

    >>> by_name("/usr/bin/stat: cannot statx 'x': No such file or directory")
    "stat: cannot statx 'x': No such file or directory"
    """
    return _BY_PATH.sub("", text)


def stderr_lines(stderr: bytes, tool: str) -> list[str]:
    """Return the lines that a tool wrote to standard error, without those of others such as login scripts."""
    lines = [line for line in by_name(stderr.decode("utf-8", "replace")).splitlines() if line.strip()]
    own = [line for line in lines if line.startswith(f"{tool}: ")]
    return own or [line for line in lines if not line.startswith("Try '")]


def missing(stderr: bytes) -> str | None:
    """Return the program that is not on the login node, if standard error tells of one."""
    for line in stderr.decode("utf-8", "replace").splitlines():
        if match := _MISSING.search(line):
            return next(group for group in match.groups() if group is not None)
    return None


def error_from_stderr(stderr: bytes, tool: str, *, otherwise: type[GatewayError] = CommandFailed) -> GatewayError:
    """Return the error that a tool's standard error tells of, in the tool's own words.

    Args:
        stderr: All that was written there.
        tool: The tool's name, which begins its lines.
        otherwise: The class of an error that no errno value is recognised in.
    """
    if (program := missing(stderr)) is not None:
        return ToolMissing(program)
    lines = stderr_lines(stderr, tool)
    number = number_in(lines)
    kind = otherwise if number is None else _REASONS[number][1]
    if any(_NO_PROCESS.search(line) for line in lines):
        return LoginNodeError(f"{lines[-1]}: the login node lets this user start no more processes (ulimit -u)")
    return kind("\n".join(lines[:8]) or f"{tool}: failed")


# gnulib's quotearg.c, shell_escape_always_quoting_style and, in `quote_if_needed`, shell_escape_quoting_style.
_PLAIN = re.compile(r"(?![~#]|[{}]$)(?:[A-Za-z0-9%+,\-./@_\]{}~#]|[^\x00-\x7f])+")
_DOUBLE_QUOTABLE = re.compile(r"[~#]?(?:[A-Za-z0-9%+,\-./:@_\] ']|[^\x00-\x7f])*")


def quote(path: bytes) -> str:
    """Quote a file name for a message as the coreutils tools do: always, for a shell (``'x'``, ``'a'$'\\n''b'``)."""
    text = path.decode("utf-8", "surrogateescape")
    if "'" in text and _DOUBLE_QUOTABLE.fullmatch(text) and text.isprintable():
        return f'"{text}"'
    quoted = ["'"]
    escaped = False
    for char in text:
        if char.isprintable():
            if escaped and char != "'":
                quoted.append("''")
            escaped = False
            quoted.append("'\\''" if char == "'" else char)
        else:
            if not escaped:
                quoted.append("'$'")
                escaped = True
            quoted.append(_escape(char))
    quoted.append("'")
    return "".join(quoted)


_ESCAPES = {"\a": "\\a", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\v": "\\v"}


def _escape(char: str) -> str:
    return _ESCAPES.get(char) or "".join(f"\\{byte:03o}" for byte in char.encode("utf-8", "surrogateescape"))


def quote_if_needed(path: bytes) -> str:
    """Quote a file name as `quote` does, but leave a plain one as it is (``cat: plain: Is a directory``)."""
    text = path.decode("utf-8", "surrogateescape")
    if _PLAIN.fullmatch(text) and text.isprintable():
        return text
    return quote(path)


def shown(path: bytes) -> str:
    """Return a file name for people and JSON: what is not UTF-8 is replaced by U+FFFD."""
    return path.decode("utf-8", "replace")


_OPEN = {
    "head": "head: cannot open {} for reading",
    "tail": "tail: cannot open {} for reading",
    "dd": "dd: failed to open {}",
}
_READ = {"head": "head: error reading {}", "tail": "tail: error reading {}", "dd": "dd: error reading {}"}


def unreadable(tool: str, path: bytes, number: int) -> GatewayError:
    """Compose the error of a tool that cannot read a file: cat, head, tail, dd, sha256sum."""
    table = _READ if number in (errno.EISDIR, errno.EIO) else _OPEN
    template = table.get(tool)
    if template is None:
        return failure(f"{tool}: {quote_if_needed(path)}", number)
    name = quote_if_needed(path) if tool == "dd" and table is _READ else quote(path)
    return failure(template.format(name), number)


def not_regular(tool: str, path: bytes) -> GatewayError:
    """Compose the error of a file that is neither a regular file nor a directory."""
    return BadRequest(f"{tool}: {quote_if_needed(path)}: {NOT_REGULAR}")
