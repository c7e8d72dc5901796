"""The script as it is submitted: the given one, with a head that PBS has no options for.

The environment does not go through ``qsub -v``, which strips double quotes, doubles backslashes, refuses commas and
single quotes, and of 23.06.06 crashes on a mix of them; nor is there an option for the directory in which a job begins
(it is the home directory) or for its standard input. So all three stand in the script.

qsub reads directives up to the first line that is neither blank nor begins with ``#`` or ``:``. The head comes after
them, and before the first command. What is not a script for a POSIX shell (Python, csh) is carried inside of one, with
its directives copied to the top. OpenPBS 23.06 User's Guide, "Contents of a PBS job script".
"""

import re
import shlex
from collections.abc import Mapping

from hpcgate.errors import BadRequest
from hpcgate.schedulers.base import JobDescription
from hpcgate.schedulers.variables import check_variable
from hpcgate.ssh.commands.ending import ENDING
from hpcgate.ssh.commands.temporary import SAFE

MAX_SIZE = 4 * 1024 * 1024
"""Bytes of a script."""

_SHELLS = frozenset({b"sh", b"bash", b"dash", b"ash", b"ksh", b"ksh93", b"mksh", b"zsh"})
_DIRECTIVE = re.compile(rb"\s*#PBS(?:\s|$)")
_NAME_OPTION = re.compile(rb"\s-N")
_SHELL_OPTION = re.compile(rb"\s-S\s*([^\s,@:]+)")
_PLAIN = re.compile(r"[^\x00-\x1f\x7f]*")
_OCTAL = frozenset(b'abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 _./=:,@%+-#$(){}[]"|&;<>*?~^')

_CARRIER = (
    ENDING
    + SAFE
    + """
_hpcgate_script=
clear_up() { [ -z "$_hpcgate_script" ] || rm -f -- "$_hpcgate_script"; }
_hpcgate_script=$(mktemp -- "$(_hpcgate_temporary)/hpcgate.XXXXXXXX") || exit
printf '%b' '{octal}' >"$_hpcgate_script" && chmod 700 "$_hpcgate_script" || exit
(
{exports}exec {shell}"$_hpcgate_script"
)
"""
)


def directives(script: bytes) -> list[bytes]:
    """Return the lines that qsub takes directives from; one that ends in a backslash goes on in the next."""
    found = []
    lines = iter(script.split(b"\n"))
    for line in lines:
        whole = line
        while line.endswith(b"\\"):
            line = next(lines, b"")
            whole += b"\n" + line
        if _DIRECTIVE.match(whole):
            found.append(whole)
        elif whole.strip() and not whole.lstrip().startswith((b"#", b":")):
            break
    return found


_TOKEN = re.compile(rb"""(?:[^\s"']|"[^"]*"|'[^']*')+""")
_WITH_VALUE = frozenset(b"aAcCeJjklmMNopPqrRSuvW")


def waits(script: bytes) -> bool:
    """Return whether a directive may have qsub wait for the job's end (``-W block=true``)."""
    return any(b"block" in line for line in directives(script))


def telling(script: bytes) -> bytes:
    """Return the script with no directive that keeps qsub from printing the job's id (``-z``).

    It says nothing to the server, and without the id nobody could tell which job it is.
    """
    lines, head, continued = [], True, False
    for line in script.split(b"\n"):
        if head and (continued or _DIRECTIVE.match(line)):
            lines.append(_without_z(line, whole=not continued))
            continued = line.endswith(b"\\")
            continue
        head = head and (not line.strip() or line.lstrip().startswith((b"#", b":")))
        lines.append(line)
    return b"\n".join(lines)


def _without_z(line: bytes, *, whole: bool) -> bytes:
    """Return a line of directives without ``-z``, alone or among other letters; values stay as they are."""
    start = line.index(b"#PBS") + len(b"#PBS") if whole else 0
    parts, place, value = [line[:start]], start, False
    for match in _TOKEN.finditer(line, start):
        token = match[0]
        if value or not token.startswith(b"-") or token.startswith(b"--"):
            value = False
            continue
        kept = bytearray(b"-")
        for at, letter in enumerate(token[1:], 1):
            if letter in _WITH_VALUE:
                kept += token[at:]
                value = at == len(token) - 1
                break
            if letter != ord("z"):
                kept.append(letter)
        if bytes(kept) != token:
            parts += [line[place : match.start()], b"" if kept == b"-" else bytes(kept)]
            place = match.end()
    parts.append(line[place:])
    changed = b"".join(parts)
    return b"#" if whole and changed.strip() == b"#PBS" and changed != line else changed


def resources(script: bytes) -> list[str]:
    """Return what a script's directives ask for behind ``-l``, an item each."""
    found = []
    for line in directives(script):
        tokens = [re.sub(rb"[\"']", b"", match[0]) for match in _TOKEN.finditer(line)]
        for index, token in enumerate(tokens):
            value = token[2:] or (tokens[index + 1] if index + 1 < len(tokens) else b"")
            if token.startswith(b"-l"):
                found += value.decode("utf-8", "surrogateescape").split(",")
    return found


def names_itself(script: bytes) -> bool:
    """Return whether a directive gives the job its name."""
    return any(_NAME_OPTION.search(line) for line in directives(script))


def composed(script: bytes, job: JobDescription) -> bytes:
    """Return what to submit.

    Args:
        script: The script of the job.
        job: The rest of it: environment, standard input.

    Raises:
        BadRequest: A job cannot have one of the variables, or a text holds a NUL or is not Unicode.
    """
    script = telling(script)
    head = 'cd -- "$PBS_O_WORKDIR" || exit\n'
    if job.standard_input:
        head += _assignment("_hpcgate_stdin", job.standard_input) + '\nexec <"$_hpcgate_stdin" || exit\n'
    exports = _exports({**job.default_environment, **job.environment})
    marked = directives(script)
    shell = _interpreter(script, marked)
    end = _head_end(script)
    if shell.rpartition(b"/")[2] in _SHELLS and directives(script[:end]) == marked:
        # A comment begins the head, should the line before end in a backslash.
        inserted = f"# Set by the gateway:\n{head}{exports}# The job:\n".encode()
        begin = script[:end]
        return begin + (b"\n" if begin and not begin.endswith(b"\n") else b"") + inserted + script[end:]
    runner = "" if script.startswith(b"#!") else shlex.quote(shell.decode("utf-8", "surrogateescape")) + " "
    carrier = (
        _CARRIER.replace("{octal}", _octal(script)).replace("{exports}", exports).replace("{shell}", runner).encode()
    )
    return b"\n".join([b"#!/bin/sh", *marked, head.encode()]) + carrier


def _interpreter(script: bytes, marked: list[bytes]) -> bytes:
    """Return the program that is to run the script; without one it is the login shell, taken for a POSIX shell."""
    first = script.partition(b"\n")[0]
    if first.startswith(b"#!"):
        words = first[2:].split()
        if words and words[0].rpartition(b"/")[2] == b"env":
            words = [word for word in words[1:] if not word.startswith(b"-") and b"=" not in word]
        return words[0] if words else b""
    for line in marked:
        match = _SHELL_OPTION.search(line)
        if match is not None:
            return match[1]
    return b"sh"


def _head_end(script: bytes) -> int:
    """Return where the blank lines and comments at the beginning end."""
    end = 0
    for line in re.findall(rb"[^\n]*\n|[^\n]+$", script):
        if line.strip() and not line.lstrip().startswith(b"#"):
            return end
        if _DIRECTIVE.match(line) and line.rstrip(b"\r\n").endswith(b"\\"):
            return 0
        end += len(line)
    return end


def _exports(environment: Mapping[str, str]) -> str:
    lines = []
    for name, value in environment.items():
        check_variable(name, value)
        lines.append(f"{_assignment(name, value)}; export {name}\n")
    return "".join(lines)


def _assignment(name: str, value: str) -> str:
    """Return the line of shell that sets a variable to exactly this text.

    Control characters are written in octal, since qsub refuses a carriage return before a newline; the letter at the
    end keeps ``$(...)`` from taking newlines away.
    """
    if "\0" in value:
        raise BadRequest(f"The value of the environment variable {name} contains a NUL character")
    try:
        encoded = value.encode()
    except UnicodeEncodeError as error:
        raise BadRequest(f"The value of {name} is not valid Unicode: {error.reason}") from None
    if _PLAIN.fullmatch(value):
        return f"{name}={shlex.quote(value)}"
    return f"{name}=$(printf '%b' '{_octal(encoded)}x'); {name}=${{{name}%x}}"


def _octal(content: bytes) -> str:
    return "".join(chr(byte) if byte in _OCTAL else f"\\0{byte:03o}" for byte in content)
