"""The stand-in answers as the recorded servers did. A new answer of the stand-in's is a row here.

Compared are the exit status, what is said on standard error (without the usage, which releases lay out differently)
and, of documents, which attributes are shown in which order: the stand-in may show fewer, and none that no server
shows.
"""

from __future__ import annotations

import ast
import json
import os
import py_compile
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hpcgate.schedulers.pbs.documents import decoded, items
from tests.pbs.standin import COMMANDS
from tests.schedulers.pbs.recordings import RELEASES, recorded

SCRIPT = "#!/bin/sh\nexit 4\n"
LONG = "exec sleep 4711\n"
PROGRAM = Path(__file__).with_name("server.py")


@dataclass(frozen=True)
class Standin:
    """A stand-in's commands, and jobs in the states that the recordings are of."""

    commands: Path
    state: Path
    jobs: dict[str, str]

    def run(self, argv: list[str], stdin: str = SCRIPT, user: str | None = None) -> subprocess.CompletedProcess[bytes]:
        program, *arguments = (word.format(**self.jobs) for word in argv)
        return subprocess.run(
            # The interpreter of the tests may lie where no other user comes to.
            [sys.executable, "-IS", self.commands / program, *arguments]
            if user is None
            else ["/usr/bin/python3", "-IS", self.commands / "text" / program, *arguments],
            input=stdin.encode(),
            capture_output=True,
            check=False,
            cwd=self.state,
            env={"PBS_STANDIN": str(self.state), "TZ": "UTC0", "LC_ALL": "C.UTF-8"},
            user=user,
        )

    def show(self, *arguments: str) -> dict[str, Any]:
        """Return what qstat shows of the only job that it is asked for."""
        ((_, attributes),) = items(decoded(self.run(["qstat", "-x", "-f", "-F", "json", *arguments]).stdout), "Jobs")
        return attributes

    def until(self, job: str, state: str) -> None:
        deadline = time.monotonic() + 120
        while self.show(job)["job_state"] != state:
            assert time.monotonic() < deadline
            time.sleep(0.05)


@pytest.fixture(scope="module", params=RELEASES)
def standin(request: pytest.FixtureRequest) -> Iterator[tuple[str, Standin]]:
    # Not among pytest's own, which are closed to other users.
    with tempfile.TemporaryDirectory(prefix="standin-") as name:
        made = filled(Path(name), request.param)
        try:
            yield request.param, made
        finally:
            made.run(["qdel", "{running}"])
            made.until("{running}", "F")


def filled(directory: Path, release: str) -> Standin:
    """Return a stand-in with jobs in all the states that the recordings are of."""
    directory.chmod(0o755)
    for place in ("bin", "state/jobs", "state/locks", "state/spool"):
        (directory / place).mkdir(parents=True)
    for place in ("jobs", "locks", "spool"):
        (directory / "state" / place).chmod(0o1777)
    # Compiled once, not by each of its many processes.
    py_compile.compile(str(PROGRAM), cfile=str(directory / "bin/server"), doraise=True)
    (directory / "bin/text").mkdir()
    for place in ("bin", "bin/text", "state"):
        (directory / place).chmod(0o755)
    shutil.copy(PROGRAM, directory / "bin/text/server.py")
    for name in COMMANDS:
        (directory / "bin" / name).symlink_to("server")
        (directory / "bin/text" / name).symlink_to("server.py")
    if release == "master":
        (directory / "state/master").touch()
    made = Standin(directory / "bin", directory / "state", {})
    array = ["-J", "1-3"]
    kinds = {"held": [], "other": [], "array": array, "done": [], "gone": array, "altered": [], "released": []}
    for name, options in kinds.items():
        made.jobs[name] = made.run(["qsub", "-h", *options]).stdout.decode().strip()
    made.run(["qdel", "{done}"])
    made.run(["qdel", "{gone}"])
    made.jobs["sub9"] = made.jobs["array"].replace("[]", "[9]")
    made.jobs["bare"] = made.jobs["array"].partition("[")[0]
    made.jobs["sub1"] = made.jobs["array"].replace("[]", "[1]")
    for name, script in ({"running": LONG, "deleted": LONG} | ENDED).items():
        made.jobs[name] = made.run(["qsub"], script).stdout.decode().strip()
    for name in ("running", "deleted"):
        made.until(f"{{{name}}}", "R")
    made.run(["qdel", "{deleted}"])
    for name in ("deleted", *ENDED):
        made.until(f"{{{name}}}", "F")
    return made


ENDED = {"exit0": "exit 0\n", "exit3": "exit 3\n", "exit255": "exit 255\n", "kill9": "kill -9 $$\n"}
"""Jobs that end by themselves."""


WORDS: dict[str, list[str]] = {
    "qsub-err-queue": ["qsub", "-q", "nosuchq"],
    "qsub-err-closed-queue": ["qsub", "-q", "closedq"],
    "qsub-err-acl-queue": ["qsub", "-q", "aclq"],
    "qsub-err-walltime-over-queue": ["qsub", "-q", "smallq", "-l", "walltime=10:00:00"],
    "qsub-err-resource": ["qsub", "-l", "nosuchres=1"],
    "qsub-err-walltime-syntax": ["qsub", "-l", "walltime=soon"],
    "qsub-err-name-space": ["qsub", "-N", "two words"],
    "qsub-err-name-long": ["qsub", "-N", "n" * 300],
    "qsub-err-name-slash": ["qsub", "-N", "a/b"],
    "qsub-err-option2": ["qsub", "-Y"],
    "qsub-err-array-range": ["qsub", "-J", "3-1"],
    "qsub-err-env-syntax": ["qsub", "-v", "=x"],
    "nasty-env comma-raw": ["qsub", "-h", "-v", "A=x,y"],
    "nasty-env lead-comma": ["qsub", "-h", "-v", ",A=1"],
    "nasty-env trailing-comma": ["qsub", "-h", "-v", "A=1,"],
    "nasty-output é.out": ["qsub", "-h", "-o", "é.out"],
    "qsub-z": ["qsub", "-h", "-z"],
    "qsub-block": ["qsub", "-N", "blk", "-W", "block=true"],
    "qdel-unknown": ["qdel", "99999"],
    "qdel-badid": ["qdel", "abc"],
    "qsub-err-file-missing": ["qsub", "/home/fireuser/nosuch.sh"],
    "qsub-err-directive-option": ["qsub"],
    "qsub-err-directive-resource": ["qsub"],
    "qsub-stdin-crlf": ["qsub", "-h"],
    "qsub-err-date": ["qsub", "-a", "yesterday"],
    "qsub-err-W": ["qsub", "-W", "nosuch=1"],
    "qsub-err-depend-syntax": ["qsub", "-W", "depend=whenever:1"],
    "qsub-err-array-syntax": ["qsub", "-J", "a-b"],
    "qsub-err-array-toobig": ["qsub", "-J", "1-20000"],
    "qsub-err-array-single": ["qsub", "-J", "5"],
    "qsub-later": ["qsub", "-h", "-a", "2359"],
    "qsub-depend": ["qsub", "-h", "-W", "depend=afterok:{held}"],
    "qdel-finished": ["qdel", "{done}"],
    "qdel-array-again": ["qdel", "{gone}"],
    "qdel-empty": ["qdel", ""],
    "qdel-array-nobrackets": ["qdel", "{bare}"],
    "qdel-subjob-unknown": ["qdel", "{sub9}"],
    "qstat-json-unknown": ["qstat", "-f", "-F", "json", "99999"],
    "qstat-json-subjob-unknown": ["qstat", "-f", "-F", "json", "{sub9}"],
    "qstat-json-array-nobrackets": ["qstat", "-f", "-F", "json", "{bare}"],
    "qstat-json-finished-without-x": ["qstat", "-f", "-F", "json", "{done}"],
    "qstat-x-json-unknown": ["qstat", "-x", "-f", "-F", "json", "99999"],
    "qstat-json-badid2": ["qstat", "-f", "-F", "json", "12ab"],
    "qstat-json-array-finished-nox": ["qstat", "-f", "-F", "json", "{gone}"],
    "qstat-json-mixed": ["qstat", "-f", "-F", "json", "{held}", "99999.vm", "{other}"],
    "qstat-json-unknown-first": ["qstat", "-f", "-F", "json", "99999", "{held}"],
    "form qstat -F json": ["qstat", "-F", "json"],
    "version-qstat": ["qstat", "--version"],
    "qhold-queued": ["qhold", "{held}"],
    "qhold-unknown": ["qhold", "99999"],
    "qhold-finished": ["qhold", "{done}"],
    "qrls-unknown": ["qrls", "99999"],
    "qrls-finished": ["qrls", "{done}"],
    "qrerun": ["qrerun", "{held}"],
    "qsig-queued": ["qsig", "-s", "SIGUSR1", "{held}"],
    "qsig-suspend": ["qsig", "-s", "suspend", "{held}"],
    "qsig-badsignal": ["qsig", "-s", "NOSUCH", "{held}"],
    "qsig-unknown": ["qsig", "-s", "TERM", "99999"],
    "qsig-finished": ["qsig", "-s", "TERM", "{done}"],
    "qalter-comment": ["qalter", "-W", "comment=hi", "{held}"],
    "qalter-acct": ["qalter", "-A", "other", "{held}"],
    "qalter-name": ["qalter", "-N", "renamed", "{altered}"],
    "qalter-walltime-queued": ["qalter", "-l", "walltime=00:20:00", "{altered}"],
    "qalter-walltime-running": ["qalter", "-l", "walltime=00:20:00", "{running}"],
    "qalter-badres": ["qalter", "-l", "nosuch=1", "{held}"],
    "qhold-running": ["qhold", "{running}"],
    "qsig-number": ["qsig", "-s", "0", "{running}"],
    "qmove": ["qmove", "smallq", "{altered}"],
    "qrls": ["qrls", "{released}"],
    "qalter-unknown": ["qalter", "-N", "x", "99999"],
    "qalter-finished": ["qalter", "-N", "x", "{done}"],
    "qmove-unknown": ["qmove", "nosuchq", "{held}"],
    "form qselect -u nobody": ["qselect", "-u", "nobody"],
}
"""Recorded commands whose words and exit status count."""
SCRIPTS = {
    "qsub-err-directive-option": "#!/bin/bash\n#PBS --time=1\necho\n",
    "qsub-err-directive-resource": "#!/bin/bash\n#PBS -l nosuchres=1\necho\n",
    "qsub-stdin-crlf": "#!/bin/bash\r\necho\r\n",
}
"""What some of them were given."""


@pytest.mark.parametrize("label", WORDS)
def test_it_says_what_the_servers_said(standin: tuple[str, Standin], label: str) -> None:
    release, made = standin
    wanted = recorded(release, label)
    done = made.run(WORDS[label], SCRIPTS.get(label, SCRIPT))
    assert (done.returncode, words(done.stderr.decode())) == (wanted.exit_status, words(wanted.stderr))
    assert bool(done.stdout.strip()) is bool(wanted.stdout.strip())
    if not wanted.stdout.startswith(b"{") and wanted.stdout:
        assert words(done.stdout.decode()) == words(wanted.text)


def words(said: str) -> str:
    """Return what was said without the usage, ids being N."""
    said = re.split(r"^usage:", said, maxsplit=1, flags=re.MULTILINE)[0]
    return re.sub(r"\b\d+(\[\d*\])?(?=(\.vm)?\b)", r"N\1", said.replace("99999", "0")).rstrip()


FOREIGN: dict[str, list[str]] = {
    "qdel-foreign": ["qdel", "{held}"],
    "qsig-foreign": ["qsig", "-s", "TERM", "{held}"],
    "qalter-foreign": ["qalter", "-N", "x", "{held}"],
    "qhold-foreign": ["qhold", "{held}"],
    "qstat-json-foreign": ["qstat", "-f", "-F", "json", "{held}"],
    "qstat-json-foreign-hidden": ["qstat", "-f", "-F", "json", "{held}"],
    "qstat-json-all-foreign-hidden": ["qstat", "-f", "-F", "json"],
}
"""Recorded commands of a user who has no jobs."""


@pytest.mark.skipif(os.geteuid() != 0, reason="takes another user")
@pytest.mark.parametrize("label", FOREIGN)
def test_jobs_of_others_are_as_closed(standin: tuple[str, Standin], label: str) -> None:
    release, made = standin
    switch = made.state / "hide"
    if label.endswith("hidden"):
        switch.touch()
    try:
        done = made.run(FOREIGN[label], user="nobody")
    finally:
        switch.unlink(missing_ok=True)
    wanted = recorded(release, label)
    assert (done.returncode, words(done.stderr.decode())) == (wanted.exit_status, words(wanted.stderr))
    assert sections(decoded(done.stdout)) == sections(wanted.text)


DOWN: dict[str, list[str]] = {
    "server-down qsub": ["qsub"],
    "server-down qdel 0.vm": ["qdel", "{held}"],
    "server-down qalter -N x 0.vm": ["qalter", "-N", "x", "{held}"],
    "server-down qsig -s TERM 0.vm": ["qsig", "-s", "TERM", "{held}"],
    "server-down qselect": ["qselect"],
    "server-down qstat -f -F json": ["qstat", "-f", "-F", "json"],
    "server-down qstat -B -f -F json": ["qstat", "-B", "-f", "-F", "json"],
    "server-down qstat -Q -f -F json": ["qstat", "-Q", "-f", "-F", "json"],
    "server-down pbsnodes -a -F json": ["pbsnodes", "-a", "-F", "json"],
    "server-down pbs_rstat -F": ["pbs_rstat", "-F"],
}


@pytest.mark.parametrize("label", DOWN)
def test_a_server_that_is_down_is_as_silent(standin: tuple[str, Standin], label: str) -> None:
    release, made = standin
    switch = made.state / "down"
    switch.touch()
    try:
        done = made.run(DOWN[label])
    finally:
        switch.unlink()
    wanted = recorded(release, label)
    assert (done.returncode, words(done.stderr.decode())) == (wanted.exit_status, words(wanted.stderr))
    assert bool(done.stdout.strip()) is bool(wanted.stdout.strip())


def sections(text: str) -> list[str]:
    return [name for name in ("Jobs", "Queue", "Server", "nodes") if items(text, name)]


DOCUMENTS: dict[str, list[str]] = {
    "qstat-json-two-held": ["qstat", "-f", "-F", "json", "{held}", "{other}"],
    "qstat-json-two-held-rev": ["qstat", "-f", "-F", "json", "{other}", "{held}"],
    "qstat-json-array-held": ["qstat", "-f", "-F", "json", "{array}"],
    "qstat-json-array-held-t": ["qstat", "-f", "-F", "json", "-t", "{array}"],
    "qstat-json-subjob-queued": ["qstat", "-f", "-F", "json", "{sub1}"],
    "qstat-json-running": ["qstat", "-f", "-F", "json", "{running}"],
    "qstat-x-json-finished-ok": ["qstat", "-x", "-f", "-F", "json", "{exit0}"],
    "qstat-x-json-array-deleted": ["qstat", "-x", "-f", "-F", "json", "{gone}"],
    "server-json": ["qstat", "-B", "-f", "-F", "json"],
    "queues-json": ["qstat", "-Q", "-f", "-F", "json"],
    "nodes-json": ["pbsnodes", "-a", "-F", "json"],
}


@pytest.mark.parametrize("label", DOCUMENTS)
def test_its_documents_show_what_the_servers_showed(standin: tuple[str, Standin], label: str) -> None:
    release, made = standin
    wanted = recorded(release, label)
    done = made.run(DOCUMENTS[label])
    assert (done.returncode, done.stderr.decode()) == (wanted.exit_status, wanted.stderr)
    shown = decoded(done.stdout)
    assert sections(shown) == sections(wanted.text)
    for section in sections(shown):
        ours, theirs = items(shown, section), items(wanted.text, section)
        if section == "Jobs":
            assert len(ours) == len(theirs) or label.endswith("-t")
        _, attributes = ours[0]
        _, known = theirs[0]
        assert in_order(attributes, known), set(attributes) - set(known)
    if release == "master":
        json.loads(shown)


ENDS = {
    "qstat-json-running": "running",
    "qstat-x-json-ok": "exit0",
    "qstat-x-json-exit3": "exit3",
    "qstat-x-json-exit255": "exit255",
    "qstat-x-json-kill9": "kill9",
    "qstat-x-json-deleted-running": "deleted",
    "qstat-x-json-deleted-held": "done",
}
"""Recorded documents of jobs by how these ended, and ours that ended so."""


@pytest.mark.parametrize("label", ENDS)
def test_a_job_ends_as_the_servers_told_of_it(standin: tuple[str, Standin], label: str) -> None:
    release, made = standin
    ((_, theirs),) = items(recorded(release, label).text, "Jobs")
    ours = made.show(f"{{{ENDS[label]}}}")
    for name in ("job_state", "Exit_status", "Join_Path", "Priority", "Checkpoint", "Keep_Files"):
        assert ours.get(name) == theirs.get(name), name
    assert comment(ours) == comment(theirs)


def comment(job: dict[str, Any]) -> str:
    """Return the comment without the time and the place. Master says who deleted a job, as the stand-in does not."""
    found = str(job.get("comment", ""))
    return re.sub(r"at \w+ \w+ \d+ at [\d:]+| on \(.*?\)| by \S+$", "", found)


HISTORY: dict[str, tuple[list[str], str, str]] = {
    "qselect": (["qselect", "-x"], "qselect: {words}", ""),
    "qstat of all": (["qstat", "-x", "-f", "-F", "json"], "qstat: {words} ", "{{"),
    "qstat of one": (["qstat", "-x", "-f", "-F", "json", "{held}"], "qstat: {words} {held}", "{{"),
    "qstat at once": (["qstat", "-x", "-E", "-f", "-F", "json", "{held}"], "qstat: {words} {held}", "{{"),
}
"""What qselect.c and qstat.c, main, do at PBSE_JOBHISTNOTSET, and how the output begins: not recorded."""


@pytest.mark.parametrize("case", HISTORY)
def test_a_server_without_history_says_so_and_exits_with_0(standin: tuple[str, Standin], case: str) -> None:
    _, made = standin
    argv, said, output = HISTORY[case]
    switch = made.state / "nohistory"
    switch.touch()
    try:
        done = made.run(argv)
    finally:
        switch.unlink()
    said = said.format(words="PBS is not configured to maintain job history", **made.jobs)
    assert (done.returncode, done.stderr.decode()) == (0, said + "\n")
    assert done.stdout.decode().startswith(output.format())
    assert items(decoded(done.stdout), "Jobs") == []


def test_each_thing_that_it_says_names_where_it_is_from() -> None:
    """A recording that is compared with above, or a place in the source."""
    text = PROGRAM.read_text(encoding="utf-8")
    compared = {*WORDS, *DOWN, *FOREIGN, *DOCUMENTS}
    lines = text.splitlines()
    said = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call) and says(node)]
    assert len(said) > 30
    for call in said:
        first = call.lineno - 1
        while lines[first - 1].lstrip().startswith("#"):
            first -= 1
        notes = re.findall(r"# (recorded|source): (.*)", "\n".join(lines[first : call.end_lineno]))
        assert notes, f"server.py:{call.lineno} says something that no recording or source is named for"
        for kind, names in notes:
            if kind == "recorded":
                assert {*names.split(", ")} <= compared, (call.lineno, names)
            else:
                assert re.match(r"\w+\.c, ", names), (call.lineno, names)


def says(call: ast.Call) -> bool:
    """Return whether a call of the stand-in's writes words of an error."""
    name, words = ast.unparse(call.func), [ast.unparse(word) for word in call.args]
    errors = any(keyword.arg == "file" and ast.unparse(keyword.value) == "sys.stderr" for keyword in call.keywords)
    written = name == "sys.stderr.write" and not words[0].startswith("message")
    return errors or written or (name == "leave" and len(words) > 1)


def in_order(ours: dict[str, Any], theirs: dict[str, Any]) -> bool:
    rest = iter(theirs)
    return all(name in rest for name in ours)


ARGUMENTS: dict[str, tuple[str, list[str]]] = {
    "variables": ("nasty-env-json dup", ["qsub", "-h", "-v", "A=1,A=2"]),
    "a name": ("qstat-json-two-held", ["qsub", "-h", "-N", "two_a"]),
}
"""Recorded documents of jobs, and how these were submitted."""


@pytest.mark.parametrize("case", ARGUMENTS)
def test_the_server_keeps_the_command_line(standin: tuple[str, Standin], case: str) -> None:
    release, made = standin
    label, argv = ARGUMENTS[case]
    recording = items(recorded(release, label).text, "Jobs")
    job_id = made.run(argv).stdout.decode().strip()
    ((_, ours),) = items(decoded(made.run(["qstat", "-f", "-F", "json", job_id]).stdout), "Jobs")
    assert ours["Submit_arguments"] == recording[0][1]["Submit_arguments"] == " ".join(argv[1:])


def test_the_last_prefix_of_directives_counts(standin: tuple[str, Standin]) -> None:
    """Not recorded: OpenPBS's qsub.c, process_opts, says so of every option."""
    _, made = standin
    script = "#!/bin/sh\n#PBS -N theirs\n#mine -N ours\n"
    for prefixes, name in ((["#mine", "#PBS"], "theirs"), (["#PBS", "#mine"], "ours")):
        options = [word for prefix in prefixes for word in ("-C", prefix)]
        job_id = made.run(["qsub", "-h", *options], script).stdout.decode().strip()
        ((_, job),) = items(decoded(made.run(["qstat", "-f", "-F", "json", job_id]).stdout), "Jobs")
        assert job["Job_Name"] == name


EXPRESS: dict[str, tuple[list[str], Callable[[dict[str, str]], list[str]], int]] = {
    "all of them": (["{held}", "{other}"], lambda jobs: [jobs["held"], jobs["other"]], 0),
    "unknown ones left out": (["99999", "{held}", "99998"], lambda jobs: [jobs["held"]], 0),
    "only unknown ones": (["99998", "99999"], lambda jobs: [], 153),
    "one that it cannot read at the end": (["{held}", "9.nosuch"], lambda jobs: [], 1),
}
"""What qstat.c (main, E_opt) and req_stat.c (req_stat_job) of OpenPBS do with ``-E``, which was not recorded."""


@pytest.mark.parametrize("case", EXPRESS)
def test_ids_asked_for_at_once(standin: tuple[str, Standin], case: str) -> None:
    _, made = standin
    ids, shown, status = EXPRESS[case]
    done = made.run(["qstat", "-E", "-f", "-F", "json", *ids])
    assert [name for name, _ in items(decoded(done.stdout), "Jobs")] == shown(made.jobs)
    assert done.returncode == status
