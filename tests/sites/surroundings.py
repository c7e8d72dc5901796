"""What users and sites have around our commands: the columns of the zoo's table. A new case is one line.

Each is set up in an account's start-up file and meets every operation of `tests.sites.operations.VERBS` in both ways of
file access. What is named in no `fails` comes out right. The page docs/operations/sites.md is made from these tables:
`make sites`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

VARIABLES: dict[str, dict[str, str]] = {
    "options of GNU tar": {"TAR_OPTIONS": "--verbose --exclude=old", "TAPE": "/nonexistent/tape", "TAR_FORMAT": "v7"},
    "options of compressors": {"GZIP": "-9 --verbose", "XZ_OPT": "-9 --verbose", "XZ_DEFAULTS": "-T2", "BZIP2": "-v"},
    "sizes in other units": {
        "BLOCK_SIZE": "human-readable", "BLOCKSIZE": "1M", "LS_BLOCK_SIZE": "K", "DF_BLOCK_SIZE": "M",
    },
    "names quoted otherwise": {"QUOTING_STYLE": "c", "LS_COLORS": "di=01;34", "CLICOLOR_FORCE": "1", "COLUMNS": "7"},
    "options of grep and less": {"GREP_OPTIONS": "--color=always", "GREP_COLOR": "7", "LESS": "-R", "PAGER": "less"},
    "POSIX by the letter": {"POSIXLY_CORRECT": "1", "_POSIX2_VERSION": "199209", "POSIX_ME_HARDER": "1"},
    "times otherwise": {
        "TZ": "Asia/Kathmandu", "TIME_STYLE": "+%s", "LC_TIME": "de_CH.UTF-8", "SOURCE_DATE_EPOCH": "1",
    },
    "another language": {"LANG": "de_CH.UTF-8", "LC_ALL": "de_CH.UTF-8", "LC_MESSAGES": "fr_FR", "LANGUAGE": "de:fr"},
    "a locale that is not there": {"LC_ALL": "xx_XX.BAD", "LANG": "xx_XX.BAD", "LOCPATH": "/nonexistent"},
    "a temporary directory that is not there": {
        "TMPDIR": "/nonexistent", "TMP": "/nonexistent", "TEMP": "/nonexistent",
    },
    "what a shell reads": {
        "ENV": "/nonexistent/env", "BASH_ENV": "/nonexistent/env", "CDPATH": "/", "IFS": "0/", "PS4": "$(exit)",
    },
    "options of bash": {
        "BASHOPTS": "", "GLOBIGNORE": "*", "TIMEFORMAT": "%R", "HISTFILE": "/nonexistent", "FIGNORE": "old",
    },
    "names that our scripts use": {
        "path": "mine", "base": "mine", "target": "mine", "new": "mine", "how": "-z", "follow": "-h", "pattern": "x",
        "status": "7", "said": "mine", "name": "mine", "parent": "/", "temporary": "mine", "source": "mine",
        "links": "-L",
    },
    "file's magic": {"MAGIC": "/nonexistent/magic"},
    "Python's": {
        "PYTHONHOME": "/nonexistent", "PYTHONPATH": "/nonexistent", "PYTHONSTARTUP": "/nonexistent",
        "PYTHONINSPECT": "1", "PYTHONVERBOSE": "1", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONWARNINGS": "error",
        "PYTHONIOENCODING": "utf-16",
    },
    "Perl's": {"PERL5OPT": "-Mnothing", "PERL5LIB": "/nonexistent"},
    "a library that is not there": {"LD_PRELOAD": "/nonexistent/libsite.so", "LD_LIBRARY_PATH": "/nonexistent"},
    "the loader's chatter": {"LD_BIND_NOW": "1", "LD_WARN": "1"},
    "the C library's tunables": {
        "MALLOC_PERTURB_": "165", "MALLOC_CHECK_": "3", "GLIBC_TUNABLES": "glibc.malloc.check=3",
    },
    "modules": {
        "MODULEPATH": "/nonexistent", "LOADEDMODULES": "a:b", "LMOD_SYSTEM_NAME": "x", "MODULESHOME": "/nonexistent",
    },
    "a function of bash, exported": {"BASH_FUNC_stat%%": "() { echo no; }", "BASH_FUNC_cat%%": "() { echo no; }"},
    "limits of bash": {
        "TMOUT": "1", "FUNCNEST": "1", "EXECIGNORE": "*", "BASH_COMPAT": "3.1", "BASH_XTRACEFD": "1", "OPTERR": "0",
    },
    "Turkish, and no UTF-8": {"LANG": "tr_TR", "LC_ALL": "tr_TR.ISO-8859-9", "LC_CTYPE": "ja_JP.SJIS"},
    "how Perl reads and writes": {"PERL_UNICODE": "SDA", "PERLIO": ":crlf", "PERL5DB": "BEGIN { die }"},
    "no memory for compressors": {"XZ_OPT": "--memlimit=1MiB --no-adjust", "XZ_DEFAULTS": "--memlimit=1MiB"},
    "OpenSSL's": {"OPENSSL_CONF": "/nonexistent/openssl.cnf", "OPENSSL_MODULES": "/nonexistent"},
    "a thousand variables": {f"SITE_{number}": "x" * 40 for number in range(1000)},
    "a value of several lines": {"PROMPT_COMMAND": "echo 1\necho 2", "EDITOR": "vi\n:hpcgate:4711:\n"},
    "a value of 100 KB": {"MODULE_CACHE": "x" * 100_000},
}  # fmt: skip
"""Variables that the start-up file exports."""


UMASKS = ("000", "077", "277", "777")


@dataclass(frozen=True, slots=True)
class Tools:
    """Programs that come before the login node's own on the user's PATH."""

    shims: Mapping[str, str]
    """Text of a shell script by name; ``{real}`` is the real program's path."""
    fails: Mapping[str, str] = field(default_factory=dict)
    """Operations that do not come out right, by name in `VERBS`, with words of their answer, which is 4xx or 501."""


def missing(*names: str, **fails: str) -> Tools:
    """Return tools that are not there, as the shell tells it."""
    return Tools({name: f'echo "sh: 1: {name}: not found" >&2; exit 127' for name in names}, fails)


CHATTER = 'echo "site: use is accounted" >&2; exec {real} "$@"'
TOOLS: dict[str, Tools] = {
    "every tool with a notice on standard error": Tools(
        {name: CHATTER for name in ("cat", "stat", "ls", "find", "mv", "mkdir", "rm", "chmod", "ln", "sha256sum", "dd")}
    ),
    "tar with a notice on standard error": Tools({"tar": CHATTER}),
    "rm that asks": Tools({"rm": 'exec {real} -i "$@"'}),
    "cp and mv that ask": Tools({"cp": 'exec {real} -i "$@"', "mv": 'exec {real} -i "$@"'}),
    "ls in colours": Tools({"ls": 'exec {real} --color=always -F "$@"'}),
    "grep in colours": Tools({"grep": 'exec {real} --color=always "$@"'}),
    "no python3": missing("python3"),
    "no perl": missing("perl"),
    "perl that complains of the locale": Tools(
        {"perl": 'echo "perl: warning: Setting locale failed." >&2; exec {real} "$@"'}
    ),
    "python3 and perl that greet": Tools({name: 'echo "Loading"; exec {real} "$@"' for name in ("python3", "perl")}),
    "a python3 that is too old": Tools(
        {"python3": """echo '  File "<string>", line 1' >&2; echo 'SyntaxError: invalid syntax' >&2; exit 1"""}
    ),
    "a perl without its modules": Tools({"perl": """echo "Can't locate Fcntl.pm in @INC" >&2; exit 2"""}),
    "groups without a name": Tools({"id": '{real} "$@"; echo "id: cannot find name for group ID 4711" >&2; exit 1'}),
    "no lists of access": missing("getfacl", "setfacl"),
    "compressors that talk": Tools({name: CHATTER for name in ("gzip", "bzip2", "xz")}),
    "every tool at a lower priority": Tools(
        {name: 'exec nice -n 5 {real} "$@"' for name in ("cat", "stat", "ls", "find", "mv", "dd", "tar", "sha256sum")}
    ),
    "tools that are started by their paths": Tools(
        {name: 'exec {real} "$@"' for name in ("cat", "stat", "ls", "find", "mv", "dd", "tar", "head", "tail", "cp")}
    ),
    "no find": missing("find", list_all="find", compress="find"),
    "no file": missing("file", file="file"),
    "no sha256sum": missing("sha256sum", checksum="sha256sum"),
}
"""Wrappers, versions and gaps of tools."""
