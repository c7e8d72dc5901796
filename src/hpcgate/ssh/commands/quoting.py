"""The one place that turns an argument list into a line for the user's login shell.

sshd hands the line to the login shell with ``-c``, and that may be bash, dash, ksh, zsh, csh, tcsh or fish. They agree
on little more than single quotes around plain text: csh ends at a newline and expands ``!`` even inside quotes, fish
takes a backslash inside them as an escape. So the login shell only ever sees ``exec /bin/sh -c '...'`` with text from
which all that is gone, and `/bin/sh` (POSIX) does the rest; where an argument holds such a byte, the whole script is
written in octal and decoded by sh's own printf.

The script first says a word that was never said before, and its process id, on both outputs, see `opening`: what the
user's start-up files print is thereby told apart from what the command prints, a process group can be ended even where
sshd refuses to signal it, and nothing need be sent before it is sure who reads it. It says so in two lines, which must
come as they were printed, one right after the other: start-up files may send all output through a filter, or leave
something running that prints, too.
"""

import re
import secrets
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from hpcgate.errors import BadRequest

LOCALE = "C.UTF-8"
MAX_LINE = 120 * 1024
"""Bytes that a line may have: Linux allows one argument 128 KiB (execve(2), MAX_ARG_STRLEN)."""

WORD = "hpcgate"
_MAX_DIGITS = 20
_SAFE_IN_ALL_SHELLS = re.compile(r"[ -~]*")
_PLAIN = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 _./=:,@%+-")
_MISLEADING = "unset POSIXLY_CORRECT BLOCK_SIZE LS_BLOCK_SIZE TAR_OPTIONS PERL_UNICODE PERLIO FUNCNEST EXECIGNORE;"
"""Variables by which users change what the GNU tools take and print (coreutils manual, 2.3; tar manual, 3.4), how Perl
reads and writes (perlrun(1)), and which programs and how many functions a bash in sh's place takes (bash(1))."""
WHOLE_PATH = (
    "_hpcgate=;set -f;IFS=:;for _hpcgate_part in $PATH;do case $_hpcgate_part in "
    "/*)_hpcgate=$_hpcgate${_hpcgate:+:}$_hpcgate_part;;esac;done;unset IFS;set +f;PATH=$_hpcgate;"
    "unset _hpcgate _hpcgate_part;"
)
"""Takes from PATH what is empty or no whole path: there a script would find, where it stands, tools of whoever writes
there. Scripts that begin with `KEEPING_FUNCTIONS` see to that themselves, as what they execute is to have all of it."""
_LISTS = "PATH LD_LIBRARY_PATH LD_PRELOAD LD_AUDIT LOCPATH GCONV_PATH PERL5LIB PERLLIB PYTHONPATH FPATH"
WHOLE_PATHS = (
    f"set -f;for _hpcgate_list in {_LISTS};do eval _hpcgate_old='$'$_hpcgate_list;"
    "case :$_hpcgate_old in :)continue;;esac;_hpcgate=;"
    'case $_hpcgate_list in LD_LIBRARY_PATH)IFS=":;";;LD_PRELOAD)IFS=": ";;*)IFS=:;;esac;'
    "for _hpcgate_part in $_hpcgate_old;do case $_hpcgate_list:$_hpcgate_part in *:/*);;"
    # The loader looks for a mere name where it looks for libraries.
    "*:*/*|*:)continue;;LD_[PA]*);;*)continue;;esac;_hpcgate=$_hpcgate${_hpcgate:+:}$_hpcgate_part;done;"
    "unset IFS;eval $_hpcgate_list='$'_hpcgate;done;set +f;"
    "unset _hpcgate _hpcgate_part _hpcgate_list _hpcgate_old;"
)
"""Does as `WHOLE_PATH` with each list of directories that programs are made of: an empty part of LD_LIBRARY_PATH, which
many have, is the directory where a program is started (ld.so(8)), too."""
# What every system has is found even where a start-up file leaves no PATH, behind what the user has.
_FIND = "case :$PATH: in *:/usr/bin:*);;*)PATH=$PATH${PATH:+:}/usr/bin:/bin;export PATH;;esac;"
# What start-up files left running with the same input may read it, too (proc(5); what has started it is this process
# now). It is given the time to show itself by taking the first line, after which no more is sent meanwhile. What runs
# on without a parent is only found among all processes, which takes about 5 ms for each 1,000 of them.
_CHILDREN = (
    "_hpcgate=;read -r _hpcgate 2>/dev/null </proc/$$/task/$$/children;set --;"
    "for _hpcgate in $_hpcgate;do set -- $* /proc/$_hpcgate/fd/[0-9]*;done;"
)
_EVERYTHING = "set -- $* /proc/[0-9]*/fd/0;"
_SHARED = (
    "_hpcgate=:;for _hpcgate_fd;do case $_hpcgate_fd in /proc/$$/*)continue;;esac;"
    "[ $_hpcgate_fd -ef /proc/$$/fd/0 ]||continue;"
    "echo :{word}:shared:;_hpcgate='command -p sleep 1';break;done;set --;unset _hpcgate_fd;"
)
# sh reads a line byte by byte, so that the rest is there for the command. The variable is not exported.
_FEED = (
    "$_hpcgate;IFS= read -r _hpcgate||_hpcgate=;case $_hpcgate in {word});;*)echo :{word}:robbed:>&2;exit 1;;esac;"
    "unset _hpcgate;echo :{word}:fed:||exit;"
)
# What start-up files left running may still print. It is waited for, if it has the output at all (`quota &`): what it
# prints until then comes before the two lines, or between them if it goes on, and then they do not belong together.
_ALONE = (
    "echo :{word}:begins:||exit;for _hpcgate_pass in 1 2;do _hpcgate_held=;"
    "_hpcgate_kin=;read -r _hpcgate_kin 2>/dev/null </proc/$$/task/$$/children;for _hpcgate_kin in $_hpcgate_kin;do "
    "[ /proc/$_hpcgate_kin/fd/1 -ef /proc/$$/fd/1 ]&&_hpcgate_held=yes;done;"
    "case $_hpcgate_pass$_hpcgate_held in 1)break;;1yes)command -p sleep 0.3;;2)echo :{word}:begins:;;esac;done;"
    "unset _hpcgate_kin _hpcgate_pass _hpcgate_held;"
)
# Where one is the other, complaints would be taken for output. Not every sh knows -ef, nor every system /dev/fd.
_APART = "[ /dev/fd/1 -ef /dev/fd/2 ]&&echo :{word}:joined:&&exit 1;"
# Where sh is bash (Red Hat, SUSE), it takes over the options (SHELLOPTS) and the functions that bash has exported, also
# functions of the names of tools. They have no say in what is executed by ``exec``.
_OWN_WORDS = "set +efuC;unset -f command echo read printf [;"
_OWN_SCRIPTS = "case $BASH_VERSION in ?*)unset -f compgen;unset -f $(compgen -A function);set +efuCx +o pipefail;;esac;"
KEEPING_FUNCTIONS = "unset -f "
"""How a script begins that says itself which functions it does without, since what it executes is to have the others:
jobs have ``module`` from where they were submitted."""
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def new_word() -> str:
    """Return a word for one command to begin with, which no start-up file can have seen before."""
    return f"{WORD}-{secrets.token_hex(6)}"


@dataclass(frozen=True, slots=True)
class Steering:
    """The environment variables that steer a family of tools, and that a command is to run without.

    Attributes:
        prefixes: How their names begin: capital letters, digits and underscores.
        kept: Those that are left as they are all the same, by their whole names.
    """

    prefixes: tuple[str, ...]
    kept: tuple[str, ...] = ()

    def unsetting(self) -> str:
        """Return the line of POSIX shell that unsets them; it starts no other program.

        A word of a variable's value may look like a name, too: then a variable of that name, if there is one, begins
        with one of the prefixes itself.
        """
        keep = "|".join(("*[!A-Za-z0-9_]*", *self.kept))
        drop = "|".join(f"{prefix}*" for prefix in self.prefixes)
        return (
            "set -f;for _hpcgate in $(export -p);do _hpcgate=${_hpcgate%%=*};"
            f"case $_hpcgate in {keep}) ;;{drop}) unset $_hpcgate;;esac;done;unset _hpcgate;set +f;"
        )


Argv: TypeAlias = Sequence[str | bytes]
"""A command and its arguments; bytes are taken as they are, text is UTF-8."""


def shell_line(
    argv: Argv,
    env: Mapping[str, str] | None = None,
    without: Steering | None = None,
    *,
    word: str = WORD,
    fed: bool = False,
    thorough: bool = False,
    path: Sequence[str] = (),
) -> bytes:
    """Return the line that makes any login shell run `argv` with ``LC_ALL=C.UTF-8`` and `env` on top.

    Args:
        argv: The command and its arguments.
        env: Further environment variables.
        without: Variables of the user's own that are unset before.
        word: What the command is to say first, see `opening`.
        fed: Whether it has input, of which that word is the first line; otherwise it is not run, see `is_robbed`.
        thorough: Whether all processes are looked at for who else may read that input, not only the shell's children.
        path: Directories in which programs are looked for before the user's PATH.

    Raises:
        BadRequest: An argument holds a NUL byte, no argument at all, a name in `env` is none, or all is too long.
    """
    if not argv:
        raise BadRequest("No command given")
    # gettext(3) prefers LANGUAGE to LC_ALL, except in the plain C locale.
    settings = [("LC_ALL", LOCALE), ("LANGUAGE", ""), *(env or {}).items()]
    for name, _ in settings:
        if not _NAME.fullmatch(name):
            raise BadRequest(f"Not the name of an environment variable: {name!r}")
    exports = " ".join(f"{name}={shlex.quote(as_text(value))}" for name, value in settings)
    texts = [as_text(argument) for argument in argv]
    if texts[:2] == ["sh", "-c"] and len(texts) > 2 and not texts[2].startswith(KEEPING_FUNCTIONS):
        texts[2] = _OWN_SCRIPTS + texts[2]
    words = " ".join(map(shlex.quote, texts))
    unset = _MISLEADING + ("" if without is None else without.unsetting())
    first = "".join(f"{as_text(directory)}:" for directory in path)
    if not texts[2:] or not texts[2].startswith(KEEPING_FUNCTIONS):
        unset += WHOLE_PATHS
    find = f"{_FIND}PATH={shlex.quote(first)}$PATH;" if first else _FIND
    script = f"{_beginning(word, fed, thorough)}{unset}{find}export {exports};exec {words}"
    if not _SAFE_IN_ALL_SHELLS.fullmatch(script) or "!" in script or "\\" in script:
        script = f'unset -f printf;eval "$(printf %b "{_octal(script.encode("utf-8", "surrogateescape"))}")"'
    line = f"exec /bin/sh -c {shlex.quote(script)}".encode()
    if len(line) > MAX_LINE:
        raise BadRequest(f"The arguments of {called(argv)!r} are too long: {len(line)} bytes")
    return line


def _beginning(word: str, fed: bool, thorough: bool) -> str:
    """Return how the script begins, up to the end of what the login shell and its start-up files have to do with it."""
    apart = _APART.format(word=word)
    if fed:
        apart += _CHILDREN + (_EVERYTHING if thorough else "") + _SHARED.format(word=word)
    marks = f"{_ALONE.format(word=word)}echo :{word}:$$:||exit;echo :{word}:$$:>&2;"
    return f"{_OWN_WORDS}{apart}{marks}{_FEED.format(word=word) if fed else ''}"


def called(argv: Argv) -> str:
    """Return what a command is called in messages.

    Scripts for sh say by their ``$0`` which tool they stand for, and ``env -u NAME`` stands before another command.
    """
    first = argv[3] if list(argv[:2]) in (["sh", "-c"], ["env", "-u"]) and len(argv) > 3 else argv[0]
    return first if isinstance(first, str) else first.decode("utf-8", "replace")


def opening(output: bytes | bytearray, word: str = WORD, *, follows: bool = False) -> tuple[int, int] | None:
    """Find where the output of a command made by `shell_line` begins.

    Args:
        output: What has come.
        word: The command's.
        follows: Whether the mark counts only as it was printed, right after the line before it: so on standard output.

    Returns the offset of its first byte and its process id, or None if the mark is not there (yet). A start-up file
    that prints the command line prints the word too, but no process id.
    """
    head = f":{word}:".encode()
    before = head + b"begins:\n" if follows else b""
    at = output.find(before + head)
    while at >= 0:
        begin = at + len(before) + len(head)
        end = output.find(b":\n", begin, begin + _MAX_DIGITS + 2)
        if end > begin and output[begin:end].isdigit():
            return end + 2, int(output[begin:end])
        at = output.find(before + head, at + 1)
    return None


def is_robbed(errors: bytes | bytearray, word: str) -> bool:
    """Say whether a command made by `shell_line` was not run because its input is not what was sent to it."""
    return f":{word}:robbed:\n".encode() in errors


def feeding(output: bytes | bytearray, word: str) -> int | None:
    """Find where the output of a command that is fed begins, once it has read the first line of its input.

    Returns the offset of its first byte, or None if the command has not read that line (yet).
    """
    mark = f":{word}:fed:\n".encode()
    at = output.find(mark)
    return None if at < 0 else at + len(mark)


def is_shared(output: bytes | bytearray, word: str) -> bool:
    """Say whether something else has the input of a command made by `shell_line`, and may read it."""
    return f":{word}:shared:\n".encode() in output


def is_joined(output: bytes | bytearray, word: str) -> bool:
    """Say whether a command made by `shell_line` was not run because its outputs are one and the same."""
    return f":{word}:joined:\n".encode() in output


def as_text(argument: str | bytes) -> str:
    """Return an argument as text in which bytes that are not UTF-8 are lone surrogates (PEP 383)."""
    try:
        encoded = argument if isinstance(argument, bytes) else argument.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise BadRequest("An argument holds characters that have no UTF-8 form") from None
    if b"\0" in encoded:
        raise BadRequest("An argument holds a NUL byte")
    return encoded.decode("utf-8", "surrogateescape")


def _octal(script: bytes) -> str:
    return "".join(chr(byte) if byte in _PLAIN else f"\\0{byte:03o}" for byte in script)
