from __future__ import annotations

import ast
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import hpcgate
from hpcgate.errors import BadRequest
from hpcgate.ssh.commands.quoting import MAX_LINE, WHOLE_PATHS, Steering, called, opening, shell_line
from tests.sites.shells import shell_program

AWKWARD = st.text(alphabet="'\"\\ $`!*?~{}()<>|&;#%^\n\r\ta-=é\U0001f600\udcff[]@:/").map(
    lambda text: text.encode("utf-8", "surrogateescape")
)
ANY = st.binary(max_size=255).map(lambda data: data.replace(b"\0", b"0"))


def run(shell: str, argv: list[str | bytes], env: dict[str, str] | None = None) -> bytes:
    done = subprocess.run([shell, "-c", shell_line(argv, env)], capture_output=True, check=True)
    begin = opening(done.stdout)
    assert begin is not None
    error_begin = opening(done.stderr)
    assert error_begin is not None
    assert begin[1] == error_begin[1]
    return done.stdout[begin[0] :]


@settings(max_examples=120, deadline=None)
@given(st.lists(AWKWARD | ANY, min_size=1, max_size=5), st.sampled_from(["bash", "dash"]))
@example([b"it's"], "dash")
@example([b"$(id)", b"`id`", b"-n", b"--", b""], "bash")
@example([b"a\nb", b"\xff\xfe", b"!!", b"\\"], "bash")
def test_every_argument_arrives_as_it_is(arguments: list[bytes], shell: str) -> None:
    assert run(shell, ["printf", "%s\\0", *arguments]) == b"".join(argument + b"\0" for argument in arguments)


def test_text_and_bytes_mix_and_lone_surrogates_are_bytes() -> None:
    assert run("sh", ["printf", "%s|", "é", b"\xe9", "\udce9"]) == b"\xc3\xa9|\xe9|\xe9|"


def test_a_shell_that_is_none_of_posix_sees_only_plain_text() -> None:
    # csh ends at a newline and expands ! within quotes; fish takes a backslash in single quotes as an escape.
    line = shell_line(["printf", "%s", "a\nb!c\\d'\xe9", b"\xff"])
    body = line.removeprefix(b"exec /bin/sh -c '").removesuffix(b"'")
    assert b"'" not in body
    assert b"!" not in line
    assert all(0x20 <= byte < 0x7F for byte in line)
    assert b"\\\\" not in line
    assert b"!" not in shell_line(["echo", "!"])
    assert b"\\" not in shell_line(["echo", "it's plain"])


PATHS = {
    "": "/usr/bin:/bin",
    ":": "/usr/bin:/bin",
    ":/usr/bin:/bin": "/usr/bin:/bin",
    ".:/usr/bin:/bin": "/usr/bin:/bin",
    "/a b::/usr/bin:bin:./x:/c*:": "/a b:/usr/bin:/c*",
    "/usr/bin:/bin:": "/usr/bin:/bin:",
    "/opt/x:/usr/bin": "/opt/x:/usr/bin",
}


@pytest.mark.parametrize("shell", ["dash", "bash", "busybox", "ksh93"])
@pytest.mark.parametrize("given", PATHS)
def test_no_program_is_taken_from_where_a_command_stands(given: str, shell: str, tmp_path: Path) -> None:
    program = [shell_program(shell), *(["sh"] if shell == "busybox" else [])]
    line = shell_line(["sh", "-c", 'printf %s "$PATH"; ls >/dev/null'])
    script = shlex.split(line.decode())[3]
    (tmp_path / "ls").write_text("#!/bin/sh\ntouch ran\n")
    (tmp_path / "ls").chmod(0o755)
    done = subprocess.run([*program, "-c", script], capture_output=True, env={"PATH": given}, cwd=tmp_path, check=True)
    begin = opening(done.stdout)
    assert begin is not None
    assert done.stdout[begin[0] :].decode().rstrip(":") == PATHS[given].rstrip(":")
    assert not (tmp_path / "ran").exists()


LISTS = [
    ("LD_LIBRARY_PATH", "/opt/x:", "/opt/x"),
    ("LD_LIBRARY_PATH", ":", ""),
    ("LD_LIBRARY_PATH", ":/a b;;/c;./d:e/f:.", "/a b:/c"),
    ("LD_AUDIT", "./libaudit.so:x/y.so", ""),
    ("LOCPATH", "locale:/opt/locale", "/opt/locale"),
    ("GCONV_PATH", "./x", ""),
    ("PERL5LIB", ".:/opt/perl:lib", "/opt/perl"),
    ("PERLLIB", "lib", ""),
    ("PYTHONPATH", ":/opt/python", "/opt/python"),
    ("FPATH", "functions", ""),
    ("HOME", "as it is:", "as it is:"),
]
"""A list of directories, what a user has in it, and what commands have of that."""


@pytest.mark.parametrize("shell", ["dash", "bash", "busybox", "ksh93"])
@pytest.mark.parametrize(("name", "given", "left"), LISTS)
def test_no_library_is_taken_from_where_a_command_stands(
    name: str, given: str, left: str, shell: str, tmp_path: Path
) -> None:
    """What lies there is no library: a program for which the loader finds it there does not begin."""
    program = [shell_program(shell), *(["sh"] if shell == "busybox" else [])]
    line = shell_line(
        [
            "sh",
            "-c",
            f'printf %s "${{{name}-unset}}|${{LD_PRELOAD-unset}}"; cd "$1" && /usr/bin/env pwd',
            "sh",
            tmp_path.as_posix(),
        ]
    )
    script = shlex.split(line.decode())[3]
    for library in ("libc.so.6", "libselinux.so.1", "ld-linux.so.2"):
        (tmp_path / library).write_text("no library\n")
    done = subprocess.run(
        [*program, "-c", script], capture_output=True, env={"PATH": "/usr/bin:/bin", name: given}, cwd="/", check=True
    )
    begin = opening(done.stdout)
    assert begin is not None
    assert done.stdout[begin[0] :].decode() == f"{left}|unset{tmp_path}\n"


def test_of_what_is_loaded_before_only_names_and_whole_paths_are_left() -> None:
    script = WHOLE_PATHS + "printf %s $LD_PRELOAD"
    given = "LD_PRELOAD='libm.so.6 ./x.so:/opt/y.so  a/z.so:'; "
    assert (
        subprocess.run(["sh", "-c", given + script], capture_output=True, check=True).stdout == b"libm.so.6:/opt/y.so"
    )


def test_locale_and_environment() -> None:
    """Commands run under a fixed locale, with the variables that they are given."""
    assert run("bash", ["sh", "-c", 'printf %s "$LC_ALL|$X"'], {"X": "a 'b' $c"}) == b"C.UTF-8|a 'b' $c"
    assert run("bash", ["sh", "-c", 'printf %s "$LC_ALL"'], {"LC_ALL": "C"}) == b"C"


@pytest.mark.parametrize(
    ("argv", "env"),
    [
        (["a\0b"], None),
        ([b"a\0b"], None),
        (["\ud800"], None),
        ([], None),
        (["ls", "x" * MAX_LINE], None),
        (["ls"], {"A B": "x"}),
        (["ls"], {"A;id": "x"}),
        (["ls"], {"A": "x\0"}),
    ],
)
def test_what_no_command_can_carry_is_refused(argv: list[str | bytes], env: dict[str, str] | None) -> None:
    with pytest.raises(BadRequest):
        shell_line(argv, env)


@pytest.mark.parametrize(
    ("argv", "name"),
    [
        (["ls"], "ls"),
        ([b"ls"], "ls"),
        (["sh", "-c", "exec chown", "chown"], "chown"),
        (["env", "-u", "LC_ALL", "srun", "--overlap"], "srun"),
        (["sh"], "sh"),
        (["env"], "env"),
    ],
)
def test_who_says_too_much_is_told_so_by_the_name_of_the_tool(argv: list[str | bytes], name: str) -> None:
    assert called(argv) == name
    with pytest.raises(BadRequest, match=f"The arguments of '{name}' are too long"):
        shell_line([*argv, "x" * MAX_LINE])


def test_what_start_up_files_print_is_told_apart() -> None:
    assert opening(b"Welcome!\n:hpcgate:") is None
    assert opening(b"Welcome, no newline:hpcgate:123:\nout") == (33, 123)


MARKS = {
    ":w:begins:\n:w:7:\nout": "out",
    "Welcome:w:begins:\n:w:7:\nout": "out",
    ":w:begins:\nquota: 4711\n:w:begins:\n:w:7:\nout": "out",
    ":w:begins:\n:w:begins:\n:w:7:\nout": "out",
    ":w:begins:\nquota: 4711\n:w:7:\nout": None,
    "12:00 :w:begins:\n12:00 :w:7:\n12:00 out": None,
    ":w:begins:\r\n:w:7:\r\n": None,
    ":w:7:\nout": None,
    ":w:begins:\n:w:7:": None,
}


@pytest.mark.parametrize("output", MARKS)
def test_a_command_begins_where_both_lines_came_as_they_were_printed(output: str) -> None:
    """What is printed by the way, or a filter, comes between them or changes them."""
    begin = opening(output.encode(), "w", follows=True)
    assert (None if begin is None else output[begin[0] :]) == MARKS[output]


STEERING = Steering(("TOOL_", "OTHER"), kept=("TOOL_CONF",))


@pytest.mark.parametrize("shell", ["sh", "bash", "dash", "bash --posix", "busybox sh", "mksh", "ksh93"])
def test_steering_variables_are_unset_and_all_else_is_kept(shell: str) -> None:
    """Names and values that a word-splitting shell could trip over included."""
    words = shell.split()
    words[0] = shell_program(words[0])
    kept = {
        "PATH": "/usr/bin:/bin",
        "TOOL_CONF": "/etc/tool.conf",
        "A_TOOL_": "x",
        "GLOB": "TOOL_* OTHER_?",
        "QUOTED": "a 'TOOL_b c' \"TOOL_d=\n TOOL_CONF=e\\",
        "IFS": ":",
        "v": "1",
    }
    unset = {"TOOL_A": "1", "TOOL_": "2", "OTHER": "x y\nz", "TOOL_lower9": "", "TOOL_SPACED": " TOOL_CONF "}
    line = shell_line(["env", "-0"], {"SET": "1", "TOOL_SET": "2"}, STEERING).decode()
    script = shlex.split(line)[3]
    done = subprocess.run([*words, "-c", script], env=kept | unset, capture_output=True, check=True)
    begin = opening(done.stdout)
    assert begin is not None
    seen = dict(pair.split(b"=", 1) for pair in done.stdout[begin[0] :].split(b"\0") if pair)
    wanted = {name.encode(): value.encode() for name, value in (kept | {"SET": "1", "TOOL_SET": "2"}).items()}
    wanted.pop(b"IFS")
    assert {name: seen.get(name) for name in wanted} == wanted
    assert not [name for name in unset if name.encode() in seen]


def scripts() -> Iterator[tuple[str, int, list[ast.expr]]]:
    """Yield the words of each command in the gateway's own code that is a script for sh, with its file and line."""
    source = Path(hpcgate.__file__).parent
    for file in source.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if (
                isinstance(node, ast.List)
                and len(node.elts) > 2
                and [getattr(word, "value", None) for word in node.elts[:2]] == ["sh", "-c"]
            ):
                yield str(file.relative_to(source)), node.lineno, node.elts


def test_every_script_says_which_tool_it_stands_for() -> None:
    """Messages about time and size name a command by its ``$0``: `hpcgate.ssh.commands.quoting.called`."""
    found = [(file, line, words) for file, line, words in scripts() if not file.startswith("demo/")]
    assert len(found) > 20
    nameless = [
        (file, line) for file, line, words in found if len(words) > 3 and getattr(words[3], "value", "") == "sh"
    ]
    short = [(file, line) for file, line, words in found if len(words) < 4]
    assert (nameless, short) == ([], [])
