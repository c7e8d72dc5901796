"""Sites as they are: users' own variables and the wrappers around Slurm's commands, by HTTP on the real Slurm.

A new case is a line of a table. What a user has stands in the start-up file of the account; wrappers stand in a
directory that the start-up file puts before the tools, or that the login node's PATH begins with.
"""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import httpx
import pytest

from hpcgate.demo.cluster import Cluster
from hpcgate.demo.packages import program
from tests.people import Person
from tests.schedulers.slurm.test_variables import TOOLS, input_variables

SLEEP = "#!/bin/bash\nexec sleep 300\n"


class Site:
    """An account's start-up file and wrappers, and requests of its user's."""

    def __init__(self, cluster: Cluster, person: Person, directory: Path) -> None:
        self.cluster = cluster
        self.person = person
        self.http = person.http
        self.directory = directory
        self.home = str(person.user.home)

    def start_up(self, variables: Mapping[str, str] | None = None, **wrappers: str) -> None:
        """Write the start-up file: variables and wrappers, whose text has ``{real}`` for the real program."""
        lines = [f"export {name}={shlex.quote(value)}" for name, value in (variables or {}).items()]
        for name, text in wrappers.items():
            wrapper = self.directory / name
            text = text.replace("{real}", program(name)).replace("{squeue}", program("squeue"))
            wrapper.write_text(f"#!/bin/sh\n{text}\n")
            wrapper.chmod(0o755)
        if wrappers:
            lines.append(f"PATH={self.directory}:$PATH")
        self.cluster.as_user(self.person.user, ["tee", ".bashrc"], input="\n".join([*lines, ""]))

    def started_up(self, variables: Mapping[str, str] | None = None, **wrappers: str) -> Self:
        """Write the start-up file and return the same site."""
        self.start_up(variables, **wrappers)
        return self

    def clear(self) -> None:
        self.cluster.as_user(self.person.user, ["rm", "-f", ".bashrc"])
        for wrapper in self.directory.iterdir():
            wrapper.unlink()

    def submit(self, script: str = SLEEP, *, system: str = "demo", **job: Any) -> httpx.Response:
        body = {"script": script, "workingDirectory": self.home, **job}
        if "scriptPath" in job:
            del body["script"]
        return self.http.post(f"/compute/{system}/jobs", json={"job": body})

    def job(self, job_id: str, system: str = "demo") -> dict[str, Any]:
        answer = self.http.get(f"/compute/{system}/jobs/{job_id}")
        assert answer.status_code == 200, answer.text
        job: dict[str, Any]
        (job,) = answer.json()["jobs"]
        return job

    def cancel(self, job_id: str, system: str = "demo") -> None:
        answer = self.http.delete(f"/compute/{system}/jobs/{job_id}")
        assert answer.status_code == 204, answer.text

    def ids(self) -> set[str]:
        """Return the ids of all of the user's jobs, by Slurm itself."""
        argv = ["squeue", "-h", "-a", "-t", "all", "-o", "%F", "-u", self.person.user.name]
        return set(self.cluster.slurm.run(argv).split())

    @contextmanager
    def submits(self, count: int = 1) -> Iterator[list[str]]:
        """Check that so many jobs were submitted within, whose ids are then in the list; they are cancelled."""
        before = self.ids()
        new: list[str] = []
        yield new
        new += sorted(self.ids() - before, key=int)
        for job_id in new:
            self.cluster.slurm.run(["scancel", job_id])
        assert len(new) == count


LASTING = {
    "by a wrapper",
    "by a wrapper that keeps the id",
    "one that goes on for long",
    "one that stays behind",
}
"""Cases that are waited for as long as the settings say."""


@pytest.fixture(scope="module")
def sooner(cluster: Cluster, alice: Person) -> Iterator[httpx.Client]:
    """Requests of the first user to a gateway that waits for a command of Slurm's for 20 seconds, not a minute."""
    systems = [cluster.cluster_settings("demo", scheduler={"timeout": 20})]
    gateway = cluster.start_gateway(cluster.write_gateway_config(cluster.directory / "sooner.yaml", clusters=systems))
    with httpx.Client(base_url=gateway.url, headers=alice.http.headers, timeout=600) as client:
        yield client
    gateway.stop()


@pytest.fixture
def site(cluster: Cluster, alice: Person, request: pytest.FixtureRequest) -> Iterator[Site]:
    directory = cluster.scratch / "wrappers"
    directory.mkdir(exist_ok=True)
    directory.chmod(0o755)
    made = Site(cluster, alice, directory)
    if hasattr(request.node, "callspec") and request.node.callspec.params.get("case") in LASTING:
        made.http = request.getfixturevalue("sooner")
    made.clear()
    yield made
    made.clear()


def everything(value: str) -> dict[str, str]:
    """Return a value for each variable of the manual pages but those that say where the cluster is."""
    kept = {"SLURM_CONF"}
    return {name: value for tool in TOOLS for name in input_variables(tool) - kept if not name.startswith("SBATCH_")}


VARIABLES = {
    "a clause of squeue": {"SQUEUE_PARTITION": "debug", "SQUEUE_STATES": "CG", "SQUEUE_USERS": "root"},
    "a format of squeue": {"SQUEUE_FORMAT": "%i", "SQUEUE_FORMAT2": "jobid", "SQUEUE_SORT": "x", "SQUEUE_NAMES": "n"},
    "arrays apart": {"SQUEUE_ARRAY": "1", "SQUEUE_LOCAL": "1", "SQUEUE_FEDERATION": "1"},
    "what scancel is to spare": {"SCANCEL_STATE": "PENDING", "SCANCEL_NAME": "other", "SCANCEL_PARTITION": "debug"},
    "a scancel that asks": {"SCANCEL_INTERACTIVE": "1", "SCANCEL_VERBOSE": "1"},
    "a signal for the batch shell alone": {"SCANCEL_BATCH": "1", "SCANCEL_HURRY": "1", "SCANCEL_CTLD": "1"},
    "another cluster": {"SLURM_CLUSTERS": "x", "SBATCH_CLUSTERS": "x"},
    "times in words": {"SLURM_TIME_FORMAT": "relative", "SLURM_BITSTR_LEN": "3", "TZ": "Asia/Kathmandu"},
    "chatter": {"SLURM_DEBUG_FLAGS": "all", "SBATCH_DEBUG": "2", "SLURM_DEBUG": "3"},
    "scontrol": {"SCONTROL_ALL": "1", "SCONTROL_FUTURE": "1", "SCONTROL_LOCAL": "1", "SCONTROL_SIBLING": "1"},
    "values that make no sense": {"SBATCH_IGNORE_PBS": "maybe", "SBATCH_REQUEUE": "maybe"},
    "json": {"SLURM_JSON": "compact", "SLURM_YAML": "compact"},
    "all of them, as words": {},
    "all of them, as numbers": {},
}


@pytest.mark.parametrize("case", VARIABLES)
def test_the_users_own_variables_change_nothing(site: Site, case: str) -> None:
    variables = VARIABLES[case]
    if not variables:
        variables = everything("x" if case.endswith("words") else "1")
    before = site.submit(name="before")
    assert before.status_code == 201, before.text
    site.start_up(variables)
    ids = {before.json()["jobId"]}
    if VARIABLES[case]:
        answer = site.submit(name="within")
        assert answer.status_code == 201, answer.text
        ids.add(answer.json()["jobId"])
    listed = {job["jobId"]: job for job in site.http.get("/compute/demo/jobs").json()["jobs"]}
    assert ids <= set(listed)
    for job_id in ids:
        job = site.job(job_id)
        assert job["name"] in ("before", "within")
        assert abs(job["time"]["start"] - time.time()) < 3600 if job["time"]["start"] else True
        (metadata,) = site.http.get(f"/compute/demo/jobs/{job_id}/metadata").json()["jobs"]
        assert metadata["script"] == SLEEP
        site.cancel(job_id)
        assert site.job(job_id)["status"]["state"] in ("CANCELLED", "COMPLETING")
    for path in ("nodes", "partitions", "reservations", "userinfo"):
        answer = site.http.get(f"/status/demo/{path}")
        assert answer.status_code == 200, answer.text


def test_variables_of_a_submission_count(site: Site) -> None:
    site.start_up({"SBATCH_PARTITION": "debug", "SBATCH_TIMELIMIT": "7", "SLURM_MPI_TYPE": "none"})
    output = f"{site.home}/variables.out"
    script = f"#!/bin/sh\nenv >{output}.new && mv {output}.new {output}\nsleep 300\n"
    with site.submits() as new:
        answer = site.submit(script)
        assert answer.status_code == 201, answer.text
        job = site.job(answer.json()["jobId"])
        assert (job["partition"], job["time"]["limit"]) == ("debug", 420)
        assert "SLURM_MPI_TYPE=none" in read(site, output)
    assert new == [answer.json()["jobId"]]


def read(site: Site, path: str, seconds: float = 120) -> str:
    """Return the text of a file of the user's, once there is one."""
    deadline = time.monotonic() + seconds
    while True:
        done = site.cluster.as_user(site.person.user, ["cat", path], check=False)
        if done.returncode == 0:
            site.cluster.as_user(site.person.user, ["rm", path])
            return done.stdout
        assert time.monotonic() < deadline, f"no {path}"
        time.sleep(0.1)


WRAPPERS = {
    "a banner before": 'echo "Welcome, 4711 users"; exec {real} "$@"',
    "a number before": 'echo 4711; exec {real} "$@"',
    "a number behind": '{real} "$@"; echo 4711',
    "a number with a cluster before": 'echo "4711;other"; exec {real} "$@"',
    "a sentence before": 'echo "Submitted batch job 4711 last time"; exec {real} "$@"',
    "numbers all around": 'printf "1\\n2\\n3\\n"; {real} "$@"; printf "4\\n5\\n"',
    "a cost on standard error": '{real} "$@"; echo "cost: 12.50 CHF" >&2; echo 1250 >&2',
    "colours": 'id=$({real} "$@") && printf "\\033[1;32m%s\\033[0m\\n" "$id"',
    "a carriage return": 'id=$({real} "$@") && printf "%s\\r\\n" "$id"',
    "blanks": 'id=$({real} "$@") && printf "   %s   \\n" "$id"',
    "no --parsable": 'for a; do shift; [ "$a" = --parsable ] || set -- "$@" "$a"; done; exec {real} "$@"',
    "a sentence of its own": 'id=$({real} "$@") && echo "Job $id was submitted. Cost: 4711"',
    "no word of the id": '{real} "$@" >/dev/null && echo "Your job was submitted"',
    "no word at all": '{real} "$@" >/dev/null',
    "another number for it": '{real} "$@" >/dev/null && echo 4711',
    "a comment of its own": 'exec {real} --comment=site "$@"',
    "no comment": 'for a; do shift; case $a in --comment=*) ;; *) set -- "$@" "$a";; esac; done; exec {real} "$@"',
    "no comment and a number": (
        'echo 4711; for a; do shift; case $a in --comment=*) ;; *) set -- "$@" "$a";; esac; done; exec {real} "$@"'
    ),
    "no comment and no id": (
        'for a; do shift; case $a in --comment=*) ;; *) set -- "$@" "$a";; esac; done; '
        '{real} "$@" >/dev/null && echo "The job was submitted"'
    ),
    "a failure of its own behind": '{real} "$@"; echo "cannot write the log" >&2; exit 1',
    "a failure without the id": '{real} "$@" >/dev/null; echo "cannot write the log" >&2; exit 1',
    "a failure in the words of a controller that is away": (
        '{real} "$@" >/dev/null; echo "squeue: error: Unable to contact slurm controller (connect failure)" >&2; exit 1'
    ),
    "a failure in the words of a controller that is busy": (
        '{real} "$@" >/dev/null; echo "sbatch: error: Slurm temporarily unable to accept job" >&2; exit 1'
    ),
    "one that is killed": '{real} "$@" >/dev/null; kill -9 $$',
    "an exit status of its own": '{real} "$@"; exit 7',
    "one that goes on for long": '{real} "$@"; sleep 4714',
    "a flood": 'head -c 3000000 /dev/zero | tr "\\0" x; echo; {real} "$@"; yes | head -c 3000000',
    "a flood of numbers": 'seq 1000; exec {real} "$@"',
    "one that reads the script itself": 'cat >"$HOME/.wrapped"; {real} "$@" <"$HOME/.wrapped"; rm "$HOME/.wrapped"',
}
"""Text of a script named sbatch."""


@pytest.mark.parametrize("case", WRAPPERS)
def test_the_id_is_found_in_whatever_a_wrapper_prints(site: Site, case: str) -> None:
    site.start_up(sbatch=WRAPPERS[case])
    directory = site.cluster.as_user(site.person.user, ["mktemp", "-d", "-p", site.home]).stdout.strip()
    with site.submits() as new:
        answer = site.submit(workingDirectory=directory)
        assert answer.status_code == 201, answer.text
    assert new == [answer.json()["jobId"]]


TRACKED = {
    "a welcome, checks, and no --parsable": (
        'for a; do shift; [ "$a" = --parsable ] || set -- "$@" "$a"; done; '
        'printf -- "----\\n  Welcome to System 5\\n----\\n\\nNo reservation for this job\\n"; '
        'printf -- "--> Verifying access to desired queue (normal)...OK\\n--> Checking allocation (4711)...OK\\n"; '
        'exec {real} "$@"'
    ),
    "a plug-in's log": (
        'echo "Sun Jul  7 03:08:22 2019 [INFO4] [euid=5534,pid=5818] auks_krb5_cred: initialized"; exec {real} "$@"'
    ),
    "the balance of an account": (
        'echo "sbatch: This job will be charged to liu. Balance:497,218.77 hours (99% left)"; exec {real} "$@"'
    ),
    "a hint before": (
        'echo "sbatch: INFO: Note that 128 GB per node will require more than 128 GB memory"; exec {real} "$@"'
    ),
    "a program that shows its progress": (
        'printf "\\rChecking 10%%\\rChecking 100%%\\r"; '
        'id=$({real} "$@") && printf "Submitted batch job %s\\r\\n" "$id"'
    ),
    "an answer in JSON": 'id=$({real} "$@") && printf \'{"job_id": %s, "cost": 4711}\\n\' "$id"',
    "an id behind a hash": 'id=$({real} "$@") && echo "Job #$id accepted (4711 in the queue)"',
    "an id on standard error only": 'id=$({real} "$@"); echo "$id" >&2',
    "a wrapper that asks the terminal": 'read -r answer 2>/dev/null </dev/tty; exec {real} "$@"',
    "a script in another language": 'exec perl -e \'print "4711\\n"; exec @ARGV\' {real} "$@"',
    "a login shell": 'exec bash -lc \'"$0" "$@"\' {real} "$@"',
    "a script of bash's with a BASH_ENV": (
        'BASH_ENV=/dev/fd/9 exec bash -c \'"$0" "$@"\' {real} "$@" 9<<E\necho 4711\nE'
    ),
    "a name of its own": 'exec {real} "$@" --job-name=site-$$',
    "another directory": 'cd / && exec {real} "$@"',
    "a limit of memory": 'ulimit -v 4000000; exec {real} "$@"',
    "what lets no output through": 'exec {real} "$@" >/dev/null 2>&1',
    "a pipe that ends early": '{real} "$@" | head -c 1',
    "one that stays behind": '{real} "$@"; (sleep 4715 &)',
    "the cluster's name behind the id": 'id=$({real} "$@") && echo "Submitted batch job $id on cluster demo"',
    "a second attempt, after one that timed out": (
        'echo "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation" >&2; '
        'exec {real} "$@"'
    ),
    "a script that is rewritten": (
        'f=$(mktemp); sed "s/#SBATCH --nothing//" >"$f"; {real} "$@" "$f"; status=$?; rm "$f"; exit $status'
    ),
    "an id with zeros before it": 'id=$({real} "$@") && printf "Submitted batch job %08d\\n" "$id"',
    "an id as PBS writes it": 'id=$({real} "$@") && echo "$id.cluster.example.org"',
    "an id in quotes": """id=$({real} "$@") && echo "job_id='$id'; partition='4711'" """,
    "an answer in JSON of several lines": (
        'id=$({real} "$@") && printf \'{\\n  "warnings": [4711],\\n  "job_id": %s\\n}\\n\' "$id"'
    ),
    "a table of the queue before": '{squeue}; exec {real} "$@"',
    "bytes that are not UTF-8": 'printf "caf\\351 \\377\\376\\n"; exec {real} "$@"',
    "NUL bytes": 'printf "a\\0b\\0\\n"; exec {real} "$@"',
    "a link for the terminal": (
        'id=$({real} "$@") && printf "\\033]8;;https://jobs.example.org/4711\\033\\\\%s\\033]8;;\\033\\\\\\n" "$id"'
    ),
    "another language": 'id=$({real} "$@") && echo "Auftrag $id wurde eingereicht, Kosten 4711"',
    "a quiet sbatch": 'exec {real} --quiet "$@"',
    "no standard error": 'exec {real} "$@" 2>&-',
    "a lower priority": 'exec nice -n 5 {real} "$@"',
    "a limit of time": 'exec timeout 60 {real} "$@"',
    "a pipe that colours": '{real} "$@" | sed "s/^/INFO: /"',
    "a plug-in in Lua that speaks": 'echo "sbatch: lua: Submitted job using account 4711" >&2; exec {real} "$@"',
    "a plug-in that cannot be loaded": (
        'echo "sbatch: error: spank: Failed to open /etc/slurm/x11.so: 4711" >&2; exec {real} "$@"'
    ),
    "words of salloc": 'echo "salloc: Pending job allocation 4711"; exec {real} "$@"',
    "an account that ends soon": 'echo "NOTE: Your account 4711 will expire in 12 days" >&2; exec {real} "$@"',
    "a warning behind": (
        '{real} "$@"; echo "sbatch: Warning: can\'t run 1 processes on 2 nodes, setting nnodes to 1" >&2'
    ),
    "a copy in a log": '{real} "$@" | tee -a "$HOME/.submitted"',
    "the time before each line": ('{real} "$@" 2>&1 | while read -r line; do echo "$(date +%FT%T) [4711] $line"; done'),
    "a program in Python": (
        "exec python3 -c 'import subprocess, sys; print(4711); sys.exit(subprocess.run(sys.argv[1:]).returncode)' "
        '{real} "$@"'
    ),
    "modules that cannot be loaded": (
        'echo "Lmod has detected the following error: slurm/4711 is unknown" >&2; exec {real} "$@"'
    ),
    "up to three attempts": 'for attempt in 1 2 3; do {real} "$@" && exit; done; exit 1',
    "an estimate of the start": '{real} "$@"; echo "Estimated start: 2026-11-30T04:47:11 (queue 4711)"',
    "an answer in YAML": 'id=$({real} "$@") && printf -- "---\njob:\n  nodes: 4711\n  id: %s\n" "$id"',
    "an id on a line of its own": 'id=$({real} "$@") && printf "Job\n%s\nis queued\n" "$id"',
}
"""As `WRAPPERS`: what users of other gateways and workflow engines have met, from their trackers."""


@pytest.mark.parametrize("case", TRACKED)
def test_the_id_is_found_in_what_wrappers_elsewhere_print(site: Site, case: str) -> None:
    site.start_up(sbatch=TRACKED[case])
    with site.submits() as new:
        answer = site.submit()
        assert answer.status_code == 201, answer.text
    assert new == [answer.json()["jobId"]]


def test_a_wrapper_that_submits_twice_is_answered_with_one_of_its_jobs(site: Site) -> None:
    """As one does that takes a slow controller's answer for a failure."""
    again = (
        'cat >"$HOME/.twice"; {real} "$@" <"$HOME/.twice" >/dev/null; {real} "$@" <"$HOME/.twice"; rm "$HOME/.twice"'
    )
    site.start_up(sbatch=again)
    with site.submits(2) as new:
        answer = site.submit()
        assert answer.status_code == 201, answer.text
    assert answer.json()["jobId"] == new[-1]


def test_no_program_is_taken_from_the_working_directory(site: Site) -> None:
    """A PATH with an empty part is that of many a start-up file that puts an unset variable before it."""
    directory = site.cluster.as_user(site.person.user, ["mktemp", "-d", "-p", site.home]).stdout.strip()
    for name in ("sbatch", "ls", "date", "grep", "env", "dd"):
        site.cluster.as_user(site.person.user, ["tee", f"{directory}/{name}"], input="#!/bin/sh\ntouch $0.ran\n")
        site.cluster.as_user(site.person.user, ["chmod", "755", f"{directory}/{name}"])
    site.start_up()
    site.cluster.as_user(site.person.user, ["tee", ".bashrc"], input="PATH=:$PATH\n")
    output = f"{site.home}/path.out"
    with site.submits() as new:
        script = f'#!/bin/sh\necho "$PATH" >{output}.new && /bin/mv {output}.new {output}\n/bin/sleep 300\n'
        answer = site.submit(script, workingDirectory=directory)
        assert answer.status_code == 201, answer.text
        assert read(site, output).startswith(":")
    assert new == [answer.json()["jobId"]]
    found = site.cluster.as_user(site.person.user, ["ls", directory]).stdout.split()
    assert not [name for name in found if name.endswith(".ran")]


def test_a_limit_of_the_accounts_is_told(site: Site) -> None:
    words = "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)"
    failed = f"sbatch: error: Batch job submission failed: {words}"
    site.start_up(sbatch=f'echo "sbatch: error: QOSMaxSubmitJobPerUserLimit" >&2; echo "{failed}" >&2; exit 1')
    with site.submits(0):
        answer = site.submit()
    assert answer.status_code == 403, answer.text
    assert "QOSMaxSubmitJobPerUserLimit" in answer.json()["message"]


REFUSALS = {
    "a wrapper that refuses": ('echo "Your quota is spent: 4711" >&2; exit 1', "Your quota is spent: 4711"),
    "a wrapper that refuses and ends well": ('echo "No budget left"', "No budget left"),
    "numbers and then a refusal": ('echo 4711; exec {real} --partition=nosuch "$@"', "invalid partition"),
    "a wrapper that shows usage": ("exec {real} --usage", "Usage: sbatch"),
    "a wrapper that shows the version": ("exec {real} --version", "slurm"),
    "a question that takes the first line of the script": ('read -r answer; exec {real} "$@"', "batch script"),
    "an account that Slurm does not know": (
        'echo "sbatch: error: Batch job submission failed: Invalid account or account/partition combination specified" '
        ">&2; exit 1",
        "Invalid account",
    ),
    "a dry run": ('exec {real} --test-only "$@"', "to start at"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_submits_nothing_is_refused_in_its_words(site: Site, case: str) -> None:
    text, words = REFUSALS[case]
    site.start_up(sbatch=text)
    with site.submits(0):
        answer = site.submit()
    assert answer.status_code == 400, answer.text
    assert words in answer.json()["message"]


def test_a_refusal_takes_no_other_job_for_its_own(site: Site) -> None:
    """The other is of the same user, moment and directory."""
    other = '{real} -D "$HOME" --wrap "sleep 300"'
    site.start_up(sbatch=f'{other} >/dev/null; cat >/dev/null; echo "It was not submitted" >&2; exit 1')
    with site.submits():
        answer = site.submit()
    assert answer.status_code == 400, answer.text
    assert "It was not submitted" in answer.json()["message"]


DOUBTS = {
    "one that is killed": ('{real} "$@" >/dev/null; kill -9 $$', 408),
    "one that fails after it has told an id": ('{real} "$@"; echo "cannot write the log" >&2; exit 1', 409),
}
"""Text of a script named sbatch, and what is answered where the controller cannot be asked."""


@pytest.mark.parametrize("case", DOUBTS)
def test_a_submission_that_cannot_be_looked_up_is_not_said_to_be_none(site: Site, case: str) -> None:
    text, status = DOUBTS[case]
    away = 'echo "slurm_load_jobs error: Unable to contact slurm controller (connect failure)" >&2; exit 1'
    site.start_up(sbatch=text, squeue=away)
    with site.submits():
        answer = site.submit()
    assert answer.status_code == status, answer.text
    assert "may have been submitted" in answer.json()["message"]


def test_a_dry_run_in_the_script_is_refused(site: Site) -> None:
    with site.submits(0):
        answer = site.submit("#!/bin/sh\n#SBATCH --test-only\nsleep 1\n")
    assert answer.status_code == 400, answer.text
    assert "to start at" in answer.json()["message"]


@pytest.mark.parametrize("option", ["--help", "--usage", "--version"])
def test_options_that_are_for_a_person_are_answered_with_what_came_of_them(site: Site, option: str) -> None:
    """In a script sbatch passes them over (22.05); a release that minds them submits nothing, which is 400."""
    before = site.ids()
    answer = site.submit(f"#!/bin/sh\n#SBATCH {option}\nsleep 300\n")
    new = site.ids() - before
    for job_id in new:
        site.cluster.slurm.run(["scancel", job_id])
    assert answer.status_code == (201 if new else 400), answer.text
    assert new == ({answer.json()["jobId"]} if new else set())


WAITS: dict[str, Callable[[Site], httpx.Response]] = {
    "in the script": lambda site: site.submit("#!/bin/sh\n#SBATCH --wait\nsleep 4713\n"),
    "in the environment": lambda site: site.started_up({"SBATCH_WAIT": "1"}).submit(),
    "in the request": lambda site: site.submit(env={"SBATCH_WAIT": "1"}),
    "by a wrapper": lambda site: site.started_up(sbatch='exec {real} --wait "$@"').submit(),
    "by a wrapper that keeps the id": (
        lambda site: site.started_up(sbatch='id=$({real} --wait "$@"); echo "$id"').submit()
    ),
}


@pytest.mark.parametrize("case", WAITS)
def test_a_submission_that_waits_is_answered_with_the_id(site: Site, case: str) -> None:
    with site.submits() as new:
        answer = WAITS[case](site)
        assert answer.status_code == 201, answer.text
        assert site.job(answer.json()["jobId"])["status"]["state"] in ("RUNNING", "PENDING", "CONFIGURING")
    assert new == [answer.json()["jobId"]]


def test_a_job_of_another_cluster_is_refused_and_cancelled_there(site: Site, cluster: Cluster) -> None:
    """What reaches the other cluster is what its scancel is told; the job of that number here lives on."""
    mine = site.submit().json()["jobId"]
    said = f"{site.home}/scancel.said"
    scancel = f'case " $* " in (*" --clusters=c5 "*) echo "$@" >{said}; exit 0;; esac; exec {{real}} "$@"'
    site.start_up(sbatch=f'cat >/dev/null; echo "{mine};c5"', scancel=scancel)
    with site.submits(0):
        answer = site.submit()
    assert answer.status_code == 400, answer.text
    assert re.search(r"another cluster, c5\b.*cancelled there", answer.json()["message"])
    assert read(site, said).split() == ["--clusters=c5", "--", mine]
    assert site.job(mine)["status"]["state"] in ("RUNNING", "PENDING", "CONFIGURING")
    site.clear()
    site.cancel(mine)


def test_a_job_of_this_cluster_by_name_is_no_other(site: Site) -> None:
    site.start_up(sbatch='id=$({real} "$@") && echo "$id;demo"')
    with site.submits() as new:
        answer = site.submit()
        assert answer.status_code == 201, answer.text
    assert new == [answer.json()["jobId"]]


BUSY = {
    "MaxJobCount": "sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying",
    "a reconfiguration": "sbatch: Job creation temporarily disabled, retrying",
    "a backup that stands by": ("sbatch: error: Batch job submission failed: Slurm backup controller in standby mode"),
    "nobody there": "sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)",
    # ArjunaCluster/ArjunaUsers 253 and 212, DataBiosphere/toil 4743: the controller's disk was full.
    "a controller that cannot write": (
        "sbatch: error: Batch job submission failed: I/O error writing script/environment to file"
    ),
    # snakemake/snakemake-executor-plugin-slurm 164
    "no configuration": (
        "sbatch: error: fetch_config: DNS SRV lookup failed\\nsbatch: fatal: Could not establish a configuration source"
    ),
    "an upgrade half done": (
        "sbatch: error: Batch job submission failed: Incompatible versions of client and server code"
    ),
    "a plug-in for who one is that is missing": (
        "sbatch: error: cannot create auth context for auth/munge\\nsbatch: fatal: failed to initialize auth plugin"
    ),
    "an internal error": (
        "sbatch: error: Batch job submission failed: Slurm internal error, contact system administrator"
    ),
    "too many requests": "sbatch: error: Batch job submission failed: Rate limit exceeded, please retry momentarily",
}


@pytest.mark.parametrize("case", BUSY)
def test_a_controller_that_takes_no_jobs_is_503(site: Site, case: str) -> None:
    site.start_up(sbatch=f'cat >/dev/null; printf "{BUSY[case]}\\n" >&2; exit 1')
    with site.submits(0):
        answer = site.submit()
    assert answer.status_code == 503, answer.text
    assert BUSY[case].replace("\\n", "\n") in answer.json()["message"]
    assert int(answer.headers["Retry-After"]) > 0


WAITING = {
    "an array": "--array=1-3",
    "an array with gaps": "--array=1,4-10:3",
    "an array of which some run at a time": "--array=1-6%2",
    "a heterogeneous job": "--nodes=1\n#SBATCH hetjob\n#SBATCH --hold --nodes=1",
}


@pytest.mark.parametrize("case", WAITING)
def test_an_id_of_the_list_can_be_asked_for_and_cancelled(site: Site, case: str) -> None:
    answer = site.submit(f"#!/bin/sh\n#SBATCH --hold {WAITING[case]}\nsleep 4713\n")
    assert answer.status_code == 201, answer.text
    shown = [job["jobId"] for job in site.http.get("/compute/demo/jobs").json()["jobs"]]
    listed = [job_id for job_id in shown if re.split("[_+]", job_id)[0] == answer.json()["jobId"]]
    assert listed
    for job_id in listed:
        assert site.job(job_id)["status"]["state"] == "PENDING"
        (metadata,) = site.http.get(f"/compute/demo/jobs/{job_id}/metadata").json()["jobs"]
        assert metadata["jobId"] == job_id
    for job_id in listed:
        site.cancel(job_id)
    # By the base: Slurm forgets what tasks an array had of which none has begun.
    left = site.http.get(f"/compute/demo/jobs/{answer.json()['jobId']}").json()["jobs"]
    assert {job["status"]["state"] for job in left} == {"CANCELLED"}


NEVER_BEGAN = {
    "an array": ("0-9", ("2", "0", "9", "[1-3]", "[1-3,7]", "[0-9:3]"), "10"),
    "an array with gaps": ("1,4-10:3", ("1", "7", "[4-7]"), "5"),
    "an array of which some run at a time": ("1-6%2", ("6", "[1-6]", "[2]"), "7"),
    "an array of one": ("3", ("3", "[3]"), "4"),
    "an array whose list is long": (",".join(map(str, range(1, 200, 2))), ("1", "199", "[3,101,197]"), "2"),
}
"""The tasks of an array that is cancelled before it begins, some of them, and one that there is not."""
FORGOTTEN = 'echo "slurm_load_jobs error: Invalid job id specified" >&2; exit 1'
"""What squeue says of a job that the controller has forgotten (slurm.conf(5), MinJobAge)."""


@pytest.mark.parametrize("case", NEVER_BEGAN)
@pytest.mark.parametrize("remembered", [True, False])
def test_tasks_of_an_array_that_never_began(site: Site, case: str, remembered: bool) -> None:
    tasks, some, none = NEVER_BEGAN[case]
    answer = site.submit(f"#!/bin/sh\n#SBATCH --hold --array={tasks}\nsleep 4713\n")
    assert answer.status_code == 201, answer.text
    array = answer.json()["jobId"]
    site.cancel(array)
    argv = ["sacct", "-a", "-n", "-P", "-X", "-j", array, "-o", "partition,state"]
    until(lambda: "|CANCELLED" in site.cluster.slurm.run(argv).removeprefix("|"))
    if not remembered:
        scancel = f'echo "scancel: error: Kill job error on job id {array}: Invalid job id specified" >&2; exit 1'
        site.start_up(squeue=FORGOTTEN, scancel=scancel)
    for task in some:
        shown = f"{array}_{task}"
        path = f"/compute/demo/jobs/{shown}"
        answer = site.http.get(path)
        assert answer.status_code == 200, (task, answer.text)
        assert {job["status"]["state"] for job in answer.json()["jobs"]} == {"CANCELLED"}
        assert {job["jobId"].partition("_")[0] for job in answer.json()["jobs"]} == {array}
        metadata = site.http.get(f"{path}/metadata")
        assert metadata.status_code == 200, (task, metadata.text)
        assert site.http.delete(path).status_code == 204, task
    ids = ",".join([*(f"{array}_{task}" for task in (*some, none)), f"{array}_[{some[0].strip('[]')}%2]"])
    several = site.http.get("/compute/demo/jobs", params={"ids": ids})
    assert several.status_code == 200, several.text
    assert [one["jobId"] for one in several.json()["notShown"]] == [f"{array}_{none}"]
    for ask in (site.http.get, site.http.delete):
        answer = ask(f"/compute/demo/jobs/{array}_{none}")
        assert answer.status_code == 404, answer.text


EXPORTS: dict[str, tuple[str, dict[str, str | None]]] = {
    "NONE": ("#SBATCH --export=NONE", {"A_OWN": None, "F7T_version": None}),
    "some": ("#SBATCH --export=A_OWN,B_SET=2", {"A_OWN": "1", "B_SET": "2", "F7T_version": None}),
    "nothing said": ("", {"A_OWN": "1", "tool": "mine", "value": "mine", "F7T_version": "v2.0.0"}),
}


@pytest.mark.parametrize("case", EXPORTS)
def test_the_scripts_own_export_holds_without_env(site: Site, case: str) -> None:
    directive, wanted = EXPORTS[case]
    site.start_up({"A_OWN": "1", "tool": "mine", "value": "mine"})
    output = f"{site.home}/export.out"
    script = f"#!/bin/sh\n{directive}\nenv >{output}.new && mv {output}.new {output}\n"
    answer = site.submit(script, name="export")
    assert answer.status_code == 201, answer.text
    lines = read(site, output).splitlines()
    seen = dict(line.split("=", 1) for line in lines if "=" in line)
    assert {name: seen.get(name) for name in wanted} == wanted
    assert not [name for name in seen if name in ("LANGUAGE", "LC_ALL", "OLDPWD") or name.startswith("SSH_")]


COMMENTS = {
    "of the script's": ("#SBATCH --comment='mine, \"too\"'", 'mine, "too" hpcgate:'),
    "in two words": ("#SBATCH --comment two", "two hpcgate:"),
    "none": ("", "hpcgate:"),
}


@pytest.mark.parametrize("case", COMMENTS)
@pytest.mark.parametrize("as_path", [False, True])
def test_the_users_own_comment_stays(site: Site, case: str, as_path: bool) -> None:
    directive, wanted = COMMENTS[case]
    script = f"#!/bin/sh\n{directive}\nsleep 300\n"
    job: dict[str, Any] = {}
    if as_path:
        path = f"{site.home}/commented.sh"
        site.cluster.as_user(site.person.user, ["tee", path], input=script)
        job["scriptPath"] = path
    with site.submits():
        answer = site.submit(script, **job)
        assert answer.status_code == 201, answer.text
        comment = site.cluster.slurm.run(["squeue", "-h", "-o", "%k", "-j", answer.json()["jobId"]]).strip()
    if as_path and directive:
        assert comment == wanted.removesuffix(" hpcgate:")
    else:
        assert comment.startswith(wanted)


KILL = "scancel: error: Kill job error on job id"
CANCELLATIONS = {
    "a job of scrontab": (f'echo "{KILL} $2: Cannot cancel scrontab jobs without --cron." >&2; exit 15', 400, "--cron"),
    "an error without a name": (f'echo "{KILL} $2: Unknown error 4711" >&2; exit 1', 400, "Unknown error 4711"),
    "a job in transition": (f'echo "{KILL} $2: Job can not be altered now, try again later" >&2; exit 1', 503, "later"),
    "a wrapper's refusal": ('echo "no cancelling on Sundays" >&2; exit 1', 400, "on Sundays"),
    "no scancel": ('echo "sh: 1: scancel: not found" >&2; exit 127', 503, "not found"),
    "a warning": ('{real} "$@"; status=$?; echo "scancel: error: spank: x.so" >&2; exit $status', 204, ""),
    "chatter": ('echo "error: denied: 0 jobs of 4711" >&2; exec {real} "$@"', 204, ""),
}


@pytest.mark.parametrize("case", CANCELLATIONS)
def test_what_scancel_says_is_the_answer(site: Site, case: str) -> None:
    text, status, words = CANCELLATIONS[case]
    job_id = site.submit().json()["jobId"]
    site.start_up(scancel=text)
    answer = site.http.delete(f"/compute/demo/jobs/{job_id}")
    assert answer.status_code == status, answer.text
    assert words in answer.text
    assert status != 503 or int(answer.headers["Retry-After"]) > 0
    state = site.job(job_id)["status"]["state"]
    assert (state in ("CANCELLED", "COMPLETING")) is (status == 204)
    site.clear()
    site.cancel(job_id)


QUERIES: dict[str, dict[str, str]] = {
    "squeue with a line before": {"squeue": 'echo "as of 12 s ago (4711)"; exec {real} "$@"'},
    "squeue with a line behind": {"squeue": '{real} "$@"; echo "4711 jobs in all"'},
    "squeue by a login shell": {"squeue": 'exec bash -lc \'"$0" "$@"\' {real} "$@"'},
    "squeue with a warning": {"squeue": 'echo "squeue: error: spank: x.so" >&2; exec {real} "$@"'},
    "sacct with a line before": {"sacct": 'echo "as of 12 s ago (4711)"; exec {real} "$@"'},
    "sacct that refuses": {"sacct": 'echo "The query is too wide, please give --starttime" >&2; exit 1'},
    "sacct that refuses and ends well": {"sacct": 'echo "The query is too wide, please give --starttime"'},
    "squeue and sacct without headings": {
        "squeue": 'exec {real} --noheader "$@"',
        "sacct": 'exec {real} --noheader "$@"',
    },
    "squeue from a cache with a line before": {"squeue": 'echo JOBID; echo; {real} "$@" | cat'},
    "sacct that complains, and does it": {"sacct": 'echo "sacct: error: slow" >&2; exec {real} "$@"'},
    "squeue and sacct that ask for modules": {
        name: 'echo "Loading slurm/24.11" >&2; unset LANG; exec {real} "$@"' for name in ("squeue", "sacct")
    },
    "squeue that tries again": {"squeue": '{real} "$@" || {real} "$@"'},
    "squeue whose trailing blanks go": {"squeue": '{real} "$@" | sed "s/ *$//"'},
    "squeue that is coloured": {"squeue": 'printf "\\033[1m"; {real} "$@"; printf "\\033[0m"'},
    "squeue of one's own jobs": {"squeue": 'exec {real} --user="$(id -un)" "$@"'},
    "squeue with a limit of time": {"squeue": 'exec timeout 60 {real} "$@"'},
    "squeue that is asked too often": {
        "squeue": 'echo "squeue: error: rate limit exceeded, retrying" >&2; exec {real} "$@"',
    },
    "sacct without steps": {"sacct": '{real} "$@" | grep -v extern'},
    "scontrol that says which cluster": {"scontrol": 'echo "Using cluster demo"; exec {real} "$@"'},
    "scancel that says what it did": {"scancel": '{real} "$@"; status=$?; echo "Job cancelled"; exit $status'},
    "all of them with a lower priority": {
        name: 'exec nice -n 5 {real} "$@"' for name in ("squeue", "sacct", "scontrol", "scancel", "sinfo", "sacctmgr")
    },
    "scontrol that refuses": {"scontrol": 'echo "scontrol is for operators" >&2; exit 1'},
    "all of them with a line on both outputs": {
        name: 'echo "accounted"; echo "accounted" >&2; exec {real} "$@"'
        for name in ("squeue", "sacct", "scontrol", "scancel", "sinfo", "sacctmgr")
    },
}


@pytest.mark.parametrize("case", QUERIES)
def test_jobs_are_seen_and_cancelled_behind_wrappers(site: Site, case: str) -> None:
    job_id = site.submit().json()["jobId"]
    site.start_up(None, **QUERIES[case])
    listed = site.http.get("/compute/demo/jobs")
    assert listed.status_code == 200, listed.text
    assert job_id in {job["jobId"] for job in listed.json()["jobs"]}
    assert site.job(job_id)["status"]["state"] in ("RUNNING", "PENDING", "CONFIGURING")
    site.cancel(job_id)
    assert site.job(job_id)["status"]["state"] in ("CANCELLED", "COMPLETING")


DOWN = 'echo "{name}: error: Problem talking to the database: Connection refused" >&2; exit 1'
WITHOUT = (
    "for a; do shift; "
    'case $a in --format=*) a=$(printf %s "$a" | sed "s/[a-z]*,%V//; s/Reason,//");; esac; set -- "$@" "$a"; done; '
)
PARTIAL: dict[str, dict[str, str]] = {
    # aiidateam/aiida-core 4326 and 3404: jobs were taken for finished.
    "squeue within its heading": {"squeue": '{real} "$@" | head -c 100', "sacct": DOWN},
    "squeue within a row": {"squeue": '{real} "$@" | head -c -40', "sacct": DOWN},
    "squeue at the last byte": {"squeue": '{real} "$@" | head -c -3', "sacct": DOWN},
    # aiidateam/aiida-core 4332
    "squeue, which fails without a word": {"squeue": '{real} "$@" | head -c 100; exit 1', "sacct": DOWN},
    # aiidateam/aiida-core 680, OSC/ood_core 99: a release that lacks a column, or has dropped it.
    "squeue, of which no row can be read": {
        "squeue": WITHOUT + 'echo "squeue: error: Invalid job format specification: V" >&2; exec {real} "$@"',
        "sacct": DOWN,
    },
    "squeue, in words about another job": {
        "squeue": '{real} "$@"; echo "slurm_load_jobs error: Invalid job id specified" >&2; exit 1',
        "sacct": DOWN,
    },
    "sacct within its heading": {"squeue": FORGOTTEN, "sacct": '{real} "$@" | head -c 100'},
    "sacct within a row": {"squeue": FORGOTTEN, "sacct": '{real} "$@" | head -c -9'},
    "sacct at the last byte": {"squeue": FORGOTTEN, "sacct": '{real} "$@" | head -c -1'},
    "sacct, of which no row can be read": {"squeue": FORGOTTEN, "sacct": WITHOUT + 'exec {real} "$@"'},
}
"""Tools that print a part of their list, and end well: what is not in it may exist."""


@pytest.mark.parametrize("case", PARTIAL)
def test_a_list_that_breaks_off_makes_no_job_vanish(site: Site, case: str) -> None:
    job_id = site.submit().json()["jobId"]
    argv = ["sacct", "-a", "-n", "-P", "-X", "-j", job_id, "-o", "partition,state"]
    until(lambda: "|RUNNING" in site.cluster.slurm.run(argv).removeprefix("|"))
    site.start_up(None, **{name: text.replace("{name}", name) for name, text in PARTIAL[case].items()})
    for path in ("", f"/{job_id}", f"/{job_id}/metadata"):
        answer = site.http.get(f"/compute/demo/jobs{path}")
        assert answer.status_code == 503, (path, answer.text)
        assert int(answer.headers["Retry-After"]) > 0
        # The marks between the columns are no words for a user.
        assert not re.search("[ghjkqvwxyz]{16}", answer.json()["message"]), answer.text
    site.clear()
    site.cancel(job_id)


RECYCLED = '{real} "$@" | sed "s/$(id -un)/another/g; s/RUNNING/COMPLETED/g; s/[0-9]\\{10\\}/1507052369/g"'
"""A record of another user's, of nine years ago: numbers of jobs begin anew at MaxJobId."""


def test_a_job_is_not_another_one_of_the_same_number(site: Site) -> None:
    """princeton-ddss/blackfish 484, facebookincubator/submitit 1660, desihub/desispec 2049"""
    job_id = site.submit(name="mine").json()["jobId"]
    until(lambda: site.job(job_id)["status"]["state"] == "RUNNING")
    site.start_up(sacct=RECYCLED)
    job = site.job(job_id)
    assert (job["user"], job["status"]["state"], job["tasks"]) == (site.person.user.name, "RUNNING", None)
    assert abs(job["time"]["start"] - time.time()) < 3600
    listed = site.http.get("/compute/demo/jobs").json()["jobs"]
    assert [one["status"]["state"] for one in listed if one["jobId"] == job_id] == ["RUNNING"]
    site.clear()
    site.cancel(job_id)


REFUSING = {
    "in words": ('echo "{name} is for operators" >&2; exit 1', "is for operators"),
    "on standard output": ('echo "{name} is for operators"; exit 1', "is for operators"),
    "with a status of its own": ('echo "{name} is for operators" >&2; exit 77', "is for operators"),
    "without a word": ("exit 1", "exit status 1"),
    "missing": ('echo "sh: {name}: not found" >&2; exit 127', "not found"),
    "not to be run": ('echo "sh: {name}: Permission denied" >&2; exit 126', "Permission denied"),
    "killed": ("kill -9 $$", ""),
    "words in place of an answer": ('echo "{name} is for operators"', ""),
}
"""A tool that does not do what it is asked, and what is said of it."""
ASKED = {
    "nodes": ("scontrol",),
    "partitions": ("scontrol",),
    "reservations": ("scontrol",),
    "userinfo": ("id",),
    "jobs": ("squeue", "sacct"),
}
"""The tools that a request cannot do without."""


@pytest.mark.parametrize("case", REFUSING)
def test_a_tool_that_refuses_is_told_in_its_words(site: Site, case: str) -> None:
    """Never 500: nothing of the gateway's has failed."""
    text, words = REFUSING[case]
    tools = dict.fromkeys(tool for tools in ASKED.values() for tool in tools)
    site.start_up(None, **{tool: text.replace("{name}", tool) for tool in tools})
    for asked in ASKED:
        path = "/compute/demo/jobs" if asked == "jobs" else f"/status/demo/{asked}"
        answer = site.http.get(path)
        assert answer.status_code in (424, 501, 503), (asked, answer.text)
        assert words in answer.json()["message"] or answer.status_code == 501, (asked, answer.text)
        assert answer.status_code != 503 or int(answer.headers["Retry-After"]) > 0


SACCTMGR = {
    "missing": "exit 127",
    "not for users": 'echo "sacctmgr: Permission denied" >&2; exit 126',
    "denied": 'echo "sacctmgr: error: Access/permission denied" >&2; exit 1',
    "failing": "exit 1",
    "of another release": 'echo "sacctmgr: error: Protocol version 9999" >&2; exit 1',
}


@pytest.mark.parametrize("case", SACCTMGR)
def test_who_one_is_is_told_without_sacctmgr(site: Site, case: str) -> None:
    site.start_up(sacctmgr=SACCTMGR[case])
    answer = site.http.get("/status/demo/userinfo")
    assert answer.status_code == 200, answer.text
    assert answer.json()["accounts"] is None
    assert answer.json()["user"]["name"] == site.person.user.name


@pytest.mark.parametrize("system", ["demo", "plain"])
def test_names_of_accounts_have_no_case(site: Site, system: str) -> None:
    job_id = site.submit(system=system, account="DEMO").json()["jobId"]
    for asked in ("demo", "DEMO", "Demo"):
        for everybody in ("true", "false"):
            parameters = {"account": asked, "allusers": everybody}
            listed = site.http.get(f"/compute/{system}/jobs", params=parameters).json()["jobs"]
            assert job_id in {job["jobId"] for job in listed}
    site.cancel(job_id, system)


def test_a_requeued_job_has_no_step_of_its_earlier_run(site: Site, cluster: Cluster) -> None:
    job_id = site.submit().json()["jobId"]
    until(lambda: any(task["id"].endswith(".batch") for task in site.job(job_id)["tasks"] or []))
    cluster.slurm.scontrol("requeuehold", job_id)
    until(lambda: "REQUEUED" in cluster.slurm.run(["sacct", "-D", "-n", "-X", "-j", job_id, "-o", "state"]))
    until(lambda: site.job(job_id)["status"]["state"] == "PENDING")
    assert not site.job(job_id)["tasks"]
    site.cancel(job_id)


def until(holds: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.1)


OUTPUTS = {
    "one job": "",
    "an array": "#SBATCH --array=1-2,5\n",
    "an array with a pattern": "#SBATCH --array=1-2\n#SBATCH --output=of-%A-%a-%j.out\n",
    "a heterogeneous job": "#SBATCH -n1\n#SBATCH hetjob\n#SBATCH -n1\n",
    "a heterogeneous job with a pattern": "#SBATCH -n1 -o het-%j.out\n#SBATCH hetjob\n#SBATCH -n1\n",
}


@pytest.mark.parametrize("case", OUTPUTS)
def test_the_metadata_name_the_files_that_exist(site: Site, case: str) -> None:
    directory = site.cluster.as_user(site.person.user, ["mktemp", "-d", "-p", site.home]).stdout.strip()
    answer = site.submit(f"#!/bin/sh\n{OUTPUTS[case]}exec true\n", workingDirectory=directory)
    assert answer.status_code == 201, answer.text
    job_id = answer.json()["jobId"]

    def jobs() -> list[dict[str, Any]]:
        return list(site.http.get(f"/compute/demo/jobs/{job_id}").json()["jobs"])

    until(lambda: all(job["status"]["state"] in ("COMPLETED", "FAILED") for job in jobs()))
    files = set(site.cluster.as_user(site.person.user, ["ls", directory]).stdout.split())
    metadata = site.http.get(f"/compute/demo/jobs/{job_id}/metadata").json()["jobs"]
    assert {one["standardOutput"] for one in metadata} == {f"{directory}/{name}" for name in files}
    assert {one["standardError"] for one in metadata} == {f"{directory}/{name}" for name in files}


LARGE = {
    "one variable of 128 KiB": ({"BIG": "x" * 128 * 1024}, "BIG"),
    "more than the login node can pass on": ({f"BIG{n}": "x" * 100_000 for n in range(40)}, "too large"),
}


@pytest.mark.parametrize("case", LARGE)
def test_an_environment_that_nothing_can_start_with_is_400(site: Site, case: str) -> None:
    env, words = LARGE[case]
    with site.submits(0):
        answer = site.submit(env=env)
    assert answer.status_code == 400, answer.text
    assert words in answer.json()["message"]
