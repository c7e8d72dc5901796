"""Words, quotes, letters and zones that are composed or parsed here, against the tools that they come from."""

import errno
import os
import re
import stat
import subprocess
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from hpcgate.errors import BadRequest, CommandFailed, NoSpace, PathNotFound, PermissionDenied
from hpcgate.filesystem.archive import archive_error
from hpcgate.ssh.files.command_output import parse_listing, permission_bits, unescape
from hpcgate.ssh.files.coreutils_errors import error_from_stderr, failure, quote, quote_if_needed
from hpcgate.ssh.files.login_node import LoginNode, _rule_file, local_time, parse_zone
from hpcgate.ssh.files.protocol import refuse_root
from hpcgate.ssh.runner import Completed

PIECES = ["'", '"', " ", "$", "`", "\\", "\n", "\t", "\x01", "-", "\udcff", "*", "~", "#", "!", ":", "é", "a", "B", "9"]
PIECES += ["=", "[", "]", "{", "}", "^", "&", "(", ",", "/", "?", "%"]
# The tools write some superfluous quotes where a name has both a quote and a character that cannot be printed.
NAMES = (
    st.lists(st.sampled_from(PIECES), min_size=1, max_size=10)
    .map("".join)
    .filter(lambda name: "'" not in name or name.isprintable())
    .filter(lambda name: name != "-")
)


def said_by(*argv: str) -> str:
    done = subprocess.run(
        argv, capture_output=True, check=False, env={"LC_ALL": "C.UTF-8", "PATH": "/usr/bin:/bin"}, cwd="/proc/self"
    )
    return os.fsdecode(done.stderr).removesuffix("\n")


@hypothesis_settings(max_examples=60, deadline=None, database=None, derandomize=True)
@example("it's")
@example("it's $x")
@example("\n")
@example("~")
@example("a:b")
@given(NAMES)
def test_names_are_quoted_as_the_tools_do(name: Any) -> None:
    path = os.fsencode("none/" + name)
    said = said_by("stat", "--", os.fsdecode(path))
    assert said == f"stat: cannot statx {quote(path)}: No such file or directory"
    said = said_by("cat", "--", os.fsdecode(path))
    assert said == f"cat: {quote_if_needed(path)}: No such file or directory"
    plain = os.fsencode(name.replace("/", "") or "x")
    said = said_by("cat", "--", os.fsdecode(plain))
    assert said == f"cat: {quote_if_needed(plain)}: No such file or directory"


def test_reasons_are_those_of_this_system() -> None:
    for number in (errno.ENOENT, errno.EACCES, errno.ELOOP, errno.ENOSPC, errno.EDQUOT, errno.ESTALE, errno.EXDEV):
        assert failure("x", number).message == f"x: {os.strerror(number)}"


def test_what_a_tool_says_decides_the_class() -> None:
    assert isinstance(error_from_stderr(b"rm: cannot remove 'x': No such file or directory\n", "rm"), PathNotFound)
    assert isinstance(
        error_from_stderr(b"rm: cannot remove 'No such file or directory': Permission denied", "rm"), PermissionDenied
    )
    assert isinstance(error_from_stderr(b"tar: x: Cannot write: Disk quota exceeded\n", "tar"), NoSpace)
    assert isinstance(error_from_stderr(b"chmod: something new\n", "chmod"), CommandFailed)
    assert isinstance(error_from_stderr(b"chmod: something new\n", "chmod", otherwise=BadRequest), BadRequest)
    noisy = b"Welcome! No such file or directory\nrm: cannot remove 'x': Permission denied\nTry 'rm --help'\n"
    assert error_from_stderr(noisy, "rm").message == "rm: cannot remove 'x': Permission denied"
    assert error_from_stderr(b"", "rm").message == "rm: failed"


@given(st.integers(0, 0o7777))
def test_permission_letters(bits: Any) -> None:
    """Letters of ls are read as the bits that they stand for."""
    assert permission_bits(stat.filemode(stat.S_IFREG | bits)[1:].encode()) == bits


@hypothesis_settings(max_examples=40, deadline=None, database=None, derandomize=True)
@given(st.sets(st.binary(min_size=1, max_size=60), min_size=1, max_size=6))
def test_listings_are_parsed_whatever_the_names(tmp_path_factory: Any, names: Any) -> None:
    top = os.fsencode(tmp_path_factory.mktemp("listing"))
    made = set()
    for name in names:
        clean = name.replace(b"\0", b"0").replace(b"/", b"_")
        if clean not in (b".", b"..", b"d"):
            os.symlink(b"to " + clean, top + b"/" + clean)
            made.add(clean)
    argv: list[str | bytes] = ["ls", "-lnUAR", "--quoting-style=c", "--time-style=+%s", "--", top]
    output = subprocess.run(argv, capture_output=True, check=True, env={"LC_ALL": "C.UTF-8"}).stdout
    entries, unknown = parse_listing(output, top)
    assert unknown == []
    assert {entry.name: entry.link_target for entry in entries} == {name: b"to " + name for name in made}


def test_rows_that_are_odd() -> None:
    output = (
        b"total 0\n"
        b'crw-rw-rw- 1 0 0 1, 3 1700000000 "null"\n'
        b'-rw-r-----+ 1 1000 1000 12 -5 "acl"\n'
        b'drwxr-xr-x. 2 1000 1000 4096 1700000000 "context"\n'
        b'l????????? ? ? ? ? ? "dangling"\n'
        b'-????????? ? ? ?    ?            ? "lost"\n'
    )
    entries, unknown = parse_listing(output, b"/x")
    assert [(entry.name, entry.size, entry.mtime, entry.mark) for entry in entries] == [
        (b"null", 0, 1700000000, ""),
        (b"acl", 12, -5, "+"),
        (b"context", 4096, 1700000000, "."),
    ]
    assert unknown == [b"dangling", b"lost"]
    assert unescape(rb"a\"b\\\n\377") == b'a"b\\\n\xff'


SUMMER, WINTER = 1_720_000_000, 1_700_000_000


@pytest.mark.parametrize("rule", ["CET-1CEST,M3.5.0,M10.5.0/3", "UTC0", "EST5EDT,M3.2.0,M11.1.0", "<+0530>-5:30"])
def test_zones_given_as_a_rule(rule: Any) -> None:
    zone = parse_zone(rule, b"")
    for seconds in (SUMMER, WINTER):
        said = subprocess.run(
            ["date", "-d", f"@{seconds}", "+%Y-%m-%dT%H:%M:%S"], env={"TZ": rule}, capture_output=True, check=True
        )
        assert local_time(seconds, zone) == said.stdout.decode().strip()


def test_zones_that_are_none() -> None:
    for setting, data in (("", b""), ("nonsense/zone", b""), ("", b"TZif"), ("", b"junk"), ("é", b"")):
        assert parse_zone(setting, data) is UTC


ZURICH = _rule_file("CET-1CEST,M3.5.0,M10.5.0/3")
FOOTER = ZURICH.rindex(b"\n", 0, -1)


@pytest.mark.parametrize(
    "data",
    [
        ZURICH[:-1],
        ZURICH[: FOOTER + 1],
        ZURICH[:FOOTER],
        ZURICH[:FOOTER] + b"x" + ZURICH[FOOTER + 1 :],
        ZURICH[: FOOTER + 1] + b"x" * 100_000,
        ZURICH[: FOOTER + 1] + b"\0" * 1000 + b"\n",
        ZURICH[:20] + b"\xff" * 24 + ZURICH[44:],
        ZURICH[:44],
        ZURICH + b"x" * 10_000_000,
    ],
    ids=range(9),
)
def test_zones_that_lie_come_to_an_end(data: Any) -> None:
    """Python's own reader goes on for ever for the end of the last line."""
    assert local_time(0, parse_zone("", data)).startswith("19")


@given(st.lists(st.tuples(st.integers(0, len(ZURICH) - 1), st.binary(max_size=4)), max_size=6), st.integers(0, 40))
def test_changed_zones_come_to_an_end(changes: Any, cut: Any) -> None:
    data = bytearray(ZURICH)
    for place, piece in changes:
        data[place : place + len(piece)] = piece
    zone = parse_zone("", bytes(data[: len(data) - cut]))
    for seconds in (0, SUMMER, 1 << 40, -(1 << 40), 1 << 62):
        assert len(local_time(seconds, zone)) == 19


def test_times_beyond_the_calendar() -> None:
    zone = ZoneInfo("Europe/Zurich")
    assert local_time(0, zone) == "1970-01-01T01:00:00"
    assert local_time(-5, UTC) == "1969-12-31T23:59:55"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", local_time(2**62, zone))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", local_time(-(2**62), zone))
    assert datetime.fromisoformat(local_time(-(2**62), zone)).year == 1


def test_one_user_s_view_is_not_another_s() -> None:
    node = LoginNode()
    node.view("alice").users[0] = "not root"
    assert node.view("bob").users == {}
    assert node.view("alice").users == {0: "not root"}


@pytest.mark.parametrize("path", [b"/", b"///", b"/a/.", b"/a/..", b"/a/./", b"..", b"."])
def test_what_rm_refuses(path: Any) -> None:
    """The root, and paths that end in dots, are not removed."""
    with pytest.raises(BadRequest, match=r"^rm: "):
        refuse_root(path)


@pytest.mark.parametrize("path", [b"/a", b"/a/", b"/...", b"/a/.b", b"/a..", b"/a/..b/"])
def test_what_rm_takes(path: Any) -> None:
    """Paths whose names only look like dots are removed."""
    refuse_root(path)


@pytest.mark.parametrize("words", ["File size limit exceeded", "sh: line 1:    42 File size limit exceeded"])
def test_a_limit_of_the_users_own_is_not_a_failure_of_ours(words: str) -> None:
    """By SIGXFSZ, where a start-up file has set ``ulimit -f``."""
    assert isinstance(error_from_stderr(words.encode() + b"\n", "cp"), BadRequest)


@pytest.mark.parametrize(
    "said", ["cannot create directory \u2018{}\u2019", "cannot create directory '{}'", "can't create directory '{}'"]
)
def test_a_directory_that_takes_nothing_is_named_in_the_words_of_any_mkdir(said: str) -> None:
    """Quotes are plain where the login node has no locale of UTF-8."""
    words = f"mkdir: {said.format('./.hpcgate-x')}: Permission denied\n"
    error = archive_error(Completed(("sh",), 2, b"", words.encode()), b"/a.tar", BadRequest, into=b"/closed")
    assert isinstance(error, PermissionDenied)
    assert error.message == "tar: /closed: Cannot open: Permission denied"


@pytest.mark.parametrize(
    "said", ["cp: 22: cannot open ./file: No such file", "sh: 3: cannot create ./a/b: Directory nonexistent"]
)
def test_dash_has_words_of_its_own_for_what_is_not_there(said: str) -> None:
    """Somebody else may have taken it away a moment ago."""
    assert isinstance(error_from_stderr(said.encode() + b"\n", "cp"), PathNotFound)
