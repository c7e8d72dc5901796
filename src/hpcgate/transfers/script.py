"""From values and a body to a job script, with nothing of a request ever read as shell."""

import re
import shlex
from collections.abc import Sequence

from hpcgate.errors import BadRequest
from hpcgate.ssh.commands.ending import ENDING
from hpcgate.ssh.commands.quoting import WHOLE_PATHS
from hpcgate.ssh.files.footing import ENTER
from hpcgate.ssh.files.remote_path import RemotePath
from hpcgate.transfers.base import Script

_PLAIN = re.compile(r"[^\x00-\x1f\x7f]*")
# Lone surrogates, which stand for bytes that are not UTF-8, are in names of files only. Behind a comma another
# attribute would begin where a site has ``#PBS -W group_list={account}``, and stage files in and out.
_ACCOUNT = re.compile(r"[^\s\x00-\x1f\x7f\"'\\`$#,\ud800-\udfff]{1,255}")
_UNSET = re.compile(r"[\x00-\x1f\x7f\\]")
_SET_APART = frozenset((*range(0x20), ord("\\"), *range(0x7F, 0x100)))

PREAMBLE = (
    WHOLE_PATHS
    + """
LC_ALL=C.UTF-8
export LC_ALL
unset TAR_OPTIONS
fail() { printf '%s\\n' "$1" >&2; exit "${2:-1}"; }
"""
    + ENDING
    + """\
unstage() { :; }
clear_up() { unstage; }
"""
)
"""The beginning of every body. However the script ends, ``clear_up`` runs, which bodies may define anew."""


STAGE = (
    ENTER
    + """\
hidden= staged=
stage() {
  hidden=$(umask 077; mktemp -d -- .hpcgate-XXXXXXXX) || exit
  enter "${home%/}/$hidden"
  if [ $((0$(stat -c %a ..) & 022)) -ne 0 ]; then
    # Others may have put another directory there.
    [ -O . ] && [ $((0$(stat -c %a .) & 077)) -eq 0 ] && [ -z "$(ls -A)" ] || fail "$hidden was moved"
  fi
  staged=$(stat -c %d:%i .) || exit
}
unstage() {
  if [ -z "$staged" ]; then
    # Still empty, and here or already entered.
    [ -z "$hidden" ] || rmdir -- "./$hidden" 2>/dev/null || rmdir -- "../$hidden" 2>/dev/null
  elif [ "$(stat -c %d:%i .)" = "$staged" ]; then
    [ ! -d ./new ] || chmod -R u+rwX ./new 2>/dev/null
    rm -rf -- ./new ./new.* ./names
    rmdir -- "../$hidden"
  fi
}
"""
)
"""``settle`` (`hpcgate.ssh.files.footing.ENTER`) goes to the directory of a file, links followed as they may be for
writing, and sets `base`; ``beside`` does so without following a link in the last place.

``stage`` makes a directory there for the user alone and goes to it: ``./new`` is what is to become ``../$base``. Names
in it cannot be led astray. The script stays there, and the directory is gone however it ends.
"""


def assignment(name: str, value: str | RemotePath) -> str:
    """Return the shell line that sets a variable to exactly this text, or to the bytes of this path.

    sbatch refuses scripts with a carriage return, and a newline in one confuses whoever reads it: control characters
    are written in octal. The letter at the end keeps ``$(...)`` from taking newlines away.

    Raises:
        BadRequest: The value holds a NUL, or is not valid Unicode.
    """
    if isinstance(value, bytes):
        return _of_path(name, value)
    if "\0" in value:
        raise BadRequest("A value for a job script cannot hold a NUL character.")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise BadRequest(f"A value for a job script is not valid Unicode: {error.reason}") from None
    if _PLAIN.fullmatch(value):
        return f"{name}={shlex.quote(value)}"
    return _in_octal(name, _UNSET.sub(lambda found: _octal(ord(found[0])), value))


def _of_path(name: str, path: bytes) -> str:
    try:
        return assignment(name, path.decode())
    except UnicodeDecodeError:
        # The script is text. Its bytes that are not UTF-8 are in octal, and so are all others that are not ASCII.
        return _in_octal(name, "".join(_octal(byte) if byte in _SET_APART else chr(byte) for byte in path))


def _octal(number: int) -> str:
    return f"\\0{number:03o}"


def _in_octal(name: str, octal: str) -> str:
    return f"{name}=$(printf '%b' {shlex.quote(octal + 'x')}); {name}=${{{name}%x}}"


def directives_for(directives: Sequence[str], account: str | None) -> tuple[list[str], str | None]:
    """Fill in the account, and return it too if no directive takes it.

    Raises:
        BadRequest: A directive needs an account and there is none, or it cannot be one.
    """
    if not account:
        if any("{account}" in line for line in directives):
            raise BadRequest("An account is required for transfers on this system.")
        return list(directives), None
    if not _ACCOUNT.fullmatch(account):
        raise BadRequest(f"Not a valid account: {account!r}")
    filled = [line.replace("{account}", account) for line in directives]
    return filled, account if filled == list(directives) else None


def job_script(directives: Sequence[str], script: Script) -> str:
    """Return a whole script. Directives end where commands begin, so that no value can pass for one."""
    lines = ["#!/bin/sh", *directives, PREAMBLE.rstrip("\n")]
    lines += [assignment(name, path) for name, path in script.paths.items()]
    lines += [assignment(name, value) for name, value in script.values.items()]
    return "\n".join(lines) + "\n" + script.body
