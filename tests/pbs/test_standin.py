"""The stand-in answers as the recorded servers did. A new answer of the stand-in's is a row here.

Compared are the exit status, what is said on standard error (without the usage, which releases lay out differently)
and, of documents, which attributes are shown in which order: the stand-in may show fewer, and none that no server
shows.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hpcgate.schedulers.pbs.documents import decoded, items
from tests.pbs.standin import COMMANDS
from tests.schedulers.pbs.recordings import RELEASES, recorded

SCRIPT = "#!/bin/sh\nexit 4\n"
PROGRAM = Path(__file__).with_name("server.py")


@dataclass(frozen=True)
class Standin:
    """A stand-in's commands, and jobs in the states that the recordings are of."""

    commands: Path
    state: Path
    jobs: dict[str, str]

    def run(self, argv: list[str], stdin: str = SCRIPT) -> subprocess.CompletedProcess[bytes]:
        program, *arguments = (word.format(**self.jobs) for word in argv)
        return subprocess.run(
            [sys.executable, "-IS", self.commands / program, *arguments],
            input=stdin.encode(),
            capture_output=True,
            check=False,
            cwd=self.state,
            env={"PBS_STANDIN": str(self.state), "TZ": "UTC0", "LC_ALL": "C.UTF-8"},
        )


@pytest.fixture(scope="module", params=RELEASES)
def standin(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Standin]:
    directory = tmp_path_factory.mktemp("standin")
    for place in ("bin", "state/jobs", "state/locks", "state/spool"):
        (directory / place).mkdir(parents=True)
    for name in COMMANDS:
        (directory / "bin" / name).symlink_to(PROGRAM)
    if request.param == "master":
        (directory / "state/master").touch()
    made = Standin(directory / "bin", directory / "state", {})
    array = ["-J", "1-3"]
    for name, options in {"held": [], "other": [], "array": array, "done": [], "gone": array}.items():
        made.jobs[name] = made.run(["qsub", "-h", *options]).stdout.decode().strip()
    made.run(["qdel", "{done}"])
    made.run(["qdel", "{gone}"])
    made.jobs["sub9"] = made.jobs["array"].replace("[]", "[9]")
    made.jobs["sub1"] = made.jobs["array"].replace("[]", "[1]")
    return str(request.param), made


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
    "qdel-finished": ["qdel", "{done}"],
    "qdel-subjob-unknown": ["qdel", "{sub9}"],
    "qstat-json-unknown": ["qstat", "-f", "-F", "json", "99999"],
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
    "qalter-unknown": ["qalter", "-N", "x", "99999"],
    "qalter-finished": ["qalter", "-N", "x", "{done}"],
    "qmove-unknown": ["qmove", "nosuchq", "{held}"],
    "form qselect -u nobody": ["qselect", "-u", "nobody"],
}
"""Recorded commands whose words and exit status count."""


@pytest.mark.parametrize("label", WORDS)
def test_it_says_what_the_servers_said(standin: tuple[str, Standin], label: str) -> None:
    release, made = standin
    wanted = recorded(release, label)
    done = made.run(WORDS[label])
    assert (done.returncode, words(done.stderr.decode())) == (wanted.exit_status, words(wanted.stderr))
    assert bool(done.stdout.strip()) is bool(wanted.stdout.strip())
    if not wanted.stdout.startswith(b"{") and wanted.stdout:
        assert words(done.stdout.decode()) == words(wanted.text)


def words(said: str) -> str:
    """Return what was said without the usage, ids being N."""
    said = re.split(r"^usage:", said, maxsplit=1, flags=re.MULTILINE)[0]
    return re.sub(r"\b\d+(\[\d*\])?(?=(\.vm)?\b)", r"N\1", said.replace("99999", "0")).rstrip()


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
