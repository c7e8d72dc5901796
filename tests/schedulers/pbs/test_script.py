"""Scripts as they are submitted, run by real shells; what qsub would read of them, by its rules."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcgate.errors import BadRequest
from hpcgate.schedulers.base import JobDescription
from hpcgate.schedulers.pbs import qsub, script
from tests.schedulers.described import described

NASTY = {
    "COMMAS": "a,b,,c",
    "QUOTES": "\"double\" 'single' `back`",
    "NEWLINES": "one\ntwo\n",
    "DIRECTIVE": "\n#PBS -q other\n",
    "CRLF": "a\r\nb\r\n",
    "EQUALS": "=a=b",
    "EMPTY": "",
    "DOLLAR": "$HOME $(id) \\n \\ !",
    "BLANKS": "  x  ",
    "UTF8": "é日本",
    "CONTROL": "\x01\x1b[31m\x7f",
    "PATH": "/nowhere:/usr/bin:/bin",
    "IFS": ":",
    "TRAILING": "foo\\",
}
DUMP = "import os,sys\nsys.stdout.buffer.write(b'\\0'.join(k+b'='+v for k,v in os.environb.items()))\n"


def _run(content: bytes, directory: Path, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run a script as pbs_mom does: the login shell is told its path, in the home directory."""
    path = directory / "1.SC"
    path.write_bytes(content)
    path.chmod(0o700)
    return subprocess.run(
        ["/bin/bash"],
        input=f"{path}\n".encode(),
        capture_output=True,
        cwd="/",
        env={"PATH": os.environ["PATH"], "HOME": "/", "PBS_O_WORKDIR": str(directory), **environment},
        check=False,
        timeout=600,
    )


def _job(environment: Mapping[str, str] | None = None, **fields: str) -> JobDescription:
    return described("/", environment=environment or {}, **fields)


def _python(shebang: str = "") -> str:
    return f"{shebang or '#!' + sys.executable}\n#PBS -N dump\n{DUMP}"


def _seen(done: subprocess.CompletedProcess[bytes]) -> dict[str, str]:
    assert done.stderr == b""
    pairs = (item.decode().partition("=") for item in done.stdout.split(b"\0"))
    return {name: value for name, _, value in pairs}


SHELL_SCRIPT = f"""#!/bin/sh
#PBS -N dump
# a comment

#PBS -q workq
exec {sys.executable} -c "{DUMP.replace(chr(10), ";").rstrip(";").replace(chr(92), chr(92) * 2)}"
"""


@pytest.mark.parametrize("text", [SHELL_SCRIPT, SHELL_SCRIPT.replace("/bin/sh", "/usr/bin/env bash"), _python()])
def test_the_environment_arrives_as_it_is(text: str, tmp_path: Path) -> None:
    seen = _seen(_run(script.composed(text.encode(), _job(NASTY)), tmp_path))
    assert {name: seen.get(name) for name in NASTY} == NASTY
    assert not [name for name in seen if "hpcgate" in name]


@pytest.mark.parametrize("text", [SHELL_SCRIPT, _python(), SHELL_SCRIPT.partition("\n")[2]])
def test_directives_survive_in_their_order(text: str) -> None:
    before = script.directives(text.encode())
    assert before
    assert script.directives(script.composed(text.encode(), _job(NASTY, standard_input="/x"))) == before


def test_a_shell_script_keeps_its_own_lines(tmp_path: Path) -> None:
    content = script.composed(SHELL_SCRIPT.encode(), _job(NASTY)).decode()
    assert content.startswith("#!/bin/sh\n#PBS -N dump\n# a comment\n\n#PBS -q workq\n")
    assert content.endswith(SHELL_SCRIPT.splitlines(keepends=True)[-1])


def test_what_comes_after_the_first_command_is_no_directive() -> None:
    text = b"#!/bin/sh\n#PBS -N one\necho\n#PBS -N two\n"
    assert script.directives(text) == [b"#PBS -N one"]
    assert script.directives(script.composed(text, _job(NASTY))) == [b"#PBS -N one"]
    assert script.directives(b": skipped\n#PBS -N one\n") == [b"#PBS -N one"]


@pytest.mark.parametrize(
    "text",
    [
        b"#!/bin/sh\n#PBS -l select=1 \\\n:ncpus=2\necho ran\n",
        b"#!/bin/sh\n: <<X\n#PBS -N inside\nX\n#PBS -q q\necho ran\n",
        b"#!/bin/sh\n# a path that ends in \\\necho ran\n",
        b"#!/bin/sh\n#PBS -N last",
        b"",
        b"\n\necho ran\n",
        b"#PBS -S /bin/sh\necho ran\n",
    ],
)
def test_odd_beginnings(text: bytes, tmp_path: Path) -> None:
    """A script with an odd beginning keeps its directives, and runs."""
    content = script.composed(text, _job({"A": "x"}))
    assert script.directives(content) == script.directives(text)
    done = _run(content, tmp_path)
    assert (b"ran" in done.stdout) == (b"ran" in text), done.stderr
    assert _run(script.composed(text + b"\nprintenv A\n", _job({"A": "a b"})), tmp_path).stdout.endswith(b"a b\n")


def test_another_shell_by_directive(tmp_path: Path) -> None:
    text = f"#PBS -S {sys.executable}\n{DUMP}".encode()
    content = script.composed(text, _job(NASTY))
    assert _seen(_run(content, tmp_path))["QUOTES"] == NASTY["QUOTES"]


@pytest.mark.parametrize("kind", ["shell", "python"])
def test_the_job_begins_where_it_was_submitted_and_reads_its_input(kind: str, tmp_path: Path) -> None:
    name = "in \"put' $(id)"
    (tmp_path / name).write_text("from the file\n")
    text = "#!/bin/sh\npwd\ncat\nexit 7\n"
    if kind == "python":
        text = f"#!{sys.executable}\nimport os, sys\nprint(os.getcwd(), flush=True)\nprint(input())\nsys.exit(7)\n"
    done = _run(script.composed(text.encode(), _job(standard_input=name)), tmp_path, TMPDIR=str(tmp_path))
    assert done.stdout.decode() == f"{tmp_path}\nfrom the file\n"
    assert done.returncode == 7
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.SC", name]


@pytest.mark.parametrize("kind", ["shell", "python"])
def test_without_its_directory_or_input_the_job_does_not_run(kind: str, tmp_path: Path) -> None:
    text = b"#!/bin/sh\necho ran\n" if kind == "shell" else f"#!{sys.executable}\nprint('ran')\n".encode()
    done = _run(script.composed(text, _job()), tmp_path, PBS_O_WORKDIR="/nonexistent")
    assert done.stdout == b""
    assert done.returncode != 0
    done = _run(script.composed(text, _job(standard_input="nothing")), tmp_path)
    assert done.stdout == b""
    assert done.returncode != 0


@pytest.mark.parametrize("environment", [{"A B": "x"}, {"": "x"}, {"1A": "x"}, {"A": "\0"}, {"A": "\udc80"}])
def test_what_no_environment_can_hold_is_refused(environment: dict[str, str]) -> None:
    with pytest.raises(BadRequest):
        script.composed(b"", _job(environment))


_VALUES = st.dictionaries(
    st.from_regex(r"T_[A-Za-z0-9_]{0,8}", fullmatch=True),
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
    max_size=5,
)


@settings(max_examples=40, deadline=None)
@given(environment=_VALUES, python=st.booleans())
def test_any_environment_arrives(
    environment: dict[str, str], python: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever is in the environment arrives in the job as it was."""
    text = _python() if python else SHELL_SCRIPT
    content = script.composed(text.encode(), _job(environment))
    assert script.directives(content) == script.directives(text.encode())
    seen = _seen(_run(content, tmp_path_factory.mktemp("job")))
    assert {name: seen[name] for name in environment} == environment


@given(st.binary(), _VALUES)
def test_any_script_keeps_its_directives(text: bytes, environment: dict[str, str]) -> None:
    assert script.directives(script.composed(text, _job(environment))) == script.directives(text)


_LINES = st.lists(
    st.sampled_from(
        [
            b"#!/bin/sh",
            b"#!/usr/bin/python3",
            b"#PBS -N x",
            b" #PBS -q y",
            b"#PBS -l a \\",
            b"# c \\",
            b"",
            b": x",
            b"ls",
        ]
    ),
    max_size=8,
)


@given(_LINES)
def test_any_beginning_keeps_its_directives(lines: list[bytes]) -> None:
    text = b"\n".join(lines)
    assert script.directives(script.composed(text, _job({"A": "x\ny"}))) == script.directives(text)


def test_the_command(tmp_path: Path) -> None:
    """Each field of a job is one argument of qsub."""
    job = described(
        "/work dir",
        script="#!/bin/sh\n",
        name="-x; id",
        account="$(id)",
        partition="workq",
        reservation="R12.server",
        constraints="select=1:ncpus=2",
        standard_output="out put",
        standard_error="err",
    )
    argv = qsub.command(job, b"")
    assert argv[4:7] == [b"/work dir", "qsub", "-f"]
    assert argv[7:] == [
        *("-N", "-x; id", "-q", "R12", "-A", "$(id)", "-l", "select=1:ncpus=2", "-o", "out put", "-e", "err"),
    ]
    assert "-V" not in argv
    assert "-v" not in argv
    with pytest.raises(BadRequest):
        qsub.command(described("/", script="", name="a\0b"), b"")


@pytest.mark.parametrize(
    ("path", "content", "name"),
    [
        ("/a/job-1.sh", b"#!/bin/sh\n", "job-1.sh"),
        ("/a/job-1.sh", b"#!/bin/sh\n#PBS -N mine\n", None),
        ("/a/job-1.sh", b"#!/bin/sh\n#PBS -l a=b -Nmine\n", None),
        ("/a/my job", b"", None),
    ],
)
def test_a_job_is_named_after_its_file(path: str, content: bytes, name: str | None) -> None:
    argv = qsub.command(described("/", script_path=path), content)
    assert ("-N" in argv) == (name is not None)
    assert name is None or argv[argv.index("-N") + 1] == name


def test_the_reader_enters_the_directory_and_says_why_not(tmp_path: Path) -> None:
    fake = tmp_path / "qsub"
    fake.write_text(
        '#!/bin/sh\npwd\nprintf "%s|" "$@"\nprintenv | grep -E "^(LC_ALL|LANGUAGE|OLDPWD|SSH_|PBS_SERVER)"\ncat\n'
    )
    fake.chmod(fake.stat().st_mode | stat.S_IXUSR)
    login = {"SSH_CONNECTION": "1 2 3 4", "SSH_CLIENT": "1 2 3", "OLDPWD": "/", "LANGUAGE": "C", "PBS_SERVER": "x"}
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "LC_ALL": "C.UTF-8", **login}
    argv = qsub.command(described(str(tmp_path), script="", name="a b"), b"")
    done = subprocess.run(argv, input=b"script", capture_output=True, env=environment, check=False)
    assert done.stdout.decode() == f"{tmp_path}\n-f|-N|a b|script"
    argv = qsub.command(described("/nonexistent", script=""), b"")
    done = subprocess.run(argv, capture_output=True, env=environment, check=False)
    assert done.returncode == qsub.NO_DIRECTORY
    assert "/nonexistent" in qsub.refusal(done.stdout.decode())
    assert not qsub.refusal(done.stdout.decode()).startswith("qsub:")


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("#PBS -z", "#"),
        ("#PBS -z -N a", "#PBS  -N a"),
        ("#PBS -hz", "#PBS -h"),
        ("#PBS -zN a", "#PBS -N a"),
        ("#PBS -N -z", "#PBS -N -z"),
        ("#PBS -A 'a -z b'", "#PBS -A 'a -z b'"),
        ("#PBS -Az -l nodes=1", "#PBS -Az -l nodes=1"),
        ("#PBS -l walltime=1 -z\t-m n", "#PBS -l walltime=1 \t-m n"),
        ("#PBS -N a \\\n-z", "#PBS -N a \\\n"),
        ("##PBS -z", "##PBS -z"),
        ("echo\n#PBS -z", "echo\n#PBS -z"),
    ],
)
def test_no_directive_keeps_the_id_from_being_printed(line: str, wanted: str) -> None:
    assert script.telling(f"#!/bin/sh\n{line}\nexit 1\n".encode()).decode() == f"#!/bin/sh\n{wanted}\nexit 1\n"
