"""The tour: the gateway's main job in a dozen curl lines, run as they are printed."""

import json
import shlex
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from rich.console import Console

from hpcgate.demo.cluster import Cluster, Gateway
from hpcgate.demo.processes import SYSTEM_PATH
from hpcgate.demo.users import User

JOB_TIMEOUT = 60.0
"""Seconds within which the tour's job must have ended."""
MAX_LINES = 24
"""Lines of an answer that are shown."""

SCRIPT = """\
#!/bin/bash
#SBATCH --job-name=tour
#SBATCH --time=00:01:00
echo "Hello from $(hostname), this is $USER in job $SLURM_JOB_ID"
"""


class TourFailed(Exception):
    """A step of the tour did not go as it must; the message names it."""


@dataclass(frozen=True, slots=True)
class Step:
    """One stop of the tour.

    Attributes:
        title: What it shows.
        command: The shell line that is printed and run.
        check: Looks at the answer and returns an objection, or None if all is well.
    """

    title: str
    command: str
    check: Callable[[str], str | None]


class Tour:
    """Walks through the API of a running gateway as one user."""

    def __init__(self, cluster: Cluster, gateway: Gateway, user: User, console: Console) -> None:
        self.console = console
        self.user = user
        self.url = gateway.url
        self.token = ""
        self._token_url = cluster.idp.token_url
        self._system = "demo"
        self._directory = f"{user.home}/tour"
        self._script = cluster.directory / "job.sh"
        self._script.write_text(SCRIPT)

    def run(self) -> None:
        """Go through all steps.

        Raises:
            TourFailed: At the first step whose answer is not what it must be.
        """
        self.token = self._step(self._get_token()).strip()
        for step in self._before_the_job():
            self._step(step)
        job_id = str(json.loads(self._step(self._submit()))["jobId"])
        self._follow(job_id)
        for step in self._after_the_job(job_id):
            self._step(step)

    def token_line(self) -> str:
        """Return the shell line that puts a token into the variable TOKEN."""
        return f"TOKEN=$({self._token_command()})"

    def _token_command(self) -> str:
        form = f"grant_type=client_credentials&client_id={self.user.client_id}&client_secret={self.user.client_secret}"
        return (
            f"curl -sS --fail-with-body -d {shlex.quote(form)} {self._token_url}"
            """ | sed -n 's/.*"access_token": *"\\([^"]*\\)".*/\\1/p'"""
        )

    def _get_token(self) -> Step:
        return Step(
            "Get an access token from the identity provider (client credentials)",
            self._token_command(),
            lambda answer: None if answer.count(".") == 2 else "no JWT",
        )

    def _curl(self, path: str, *options: str) -> str:
        words = "".join(f" {shlex.quote(option)}" for option in options)
        return f'curl -sS --fail-with-body -H "Authorization: Bearer $TOKEN"{words} {shlex.quote(self.url + path)}'

    def _json(self, path: str, method: str, body: dict[str, Any]) -> str:
        return self._curl(path, "-X", method, "-H", "Content-Type: application/json", "-d", json.dumps(body))

    def _ops(self, operation: str, **query: str) -> str:
        asked = "&".join(f"{name}={quote(value)}" for name, value in query.items())
        return f"/filesystem/{self._system}/ops/{operation}" + (f"?{asked}" if asked else "")

    def _before_the_job(self) -> Iterator[Step]:
        yield Step("List the systems", self._curl("/status/systems"), _has(self._system))
        yield Step("Ask who I am there", self._curl(f"/status/{self._system}/userinfo"), _has(self.user.name))
        yield Step("List the compute nodes", self._curl(f"/status/{self._system}/nodes"), _has('"state"'))
        yield Step(
            "Make a directory",
            self._json(self._ops("mkdir"), "POST", {"path": self._directory, "parent": True}),
            _has("tour"),
        )
        yield Step(
            "Upload a batch script",
            self._curl(self._ops("upload", path=self._directory), "-F", f"file=@{self._script}"),
            lambda answer: answer.strip() or None,
        )
        yield Step("See that it is there", self._curl(self._ops("ls", path=self._directory)), _has("job.sh"))

    def _submit(self) -> Step:
        job = {
            "workingDirectory": self._directory,
            "scriptPath": f"{self._directory}/job.sh",
            "standardOutput": f"{self._directory}/job.out",
        }
        return Step(
            "Submit it as a job",
            self._json(f"/compute/{self._system}/jobs", "POST", {"job": job}),
            _has("jobId"),
        )

    def _follow(self, job_id: str) -> None:
        deadline = time.monotonic() + JOB_TIMEOUT
        step = Step(
            "Follow the job until it is COMPLETED", self._curl(f"/compute/{self._system}/jobs/{job_id}"), _has("state")
        )
        self._announce(step)
        seen = ""
        while True:
            answer = self._answer(step)
            state = str(json.loads(answer)["jobs"][0]["status"]["state"])
            if state != seen:
                self.console.print(f"    state: {state}", highlight=False)
                seen = state
            if state == "COMPLETED":
                self._show(answer)
                return
            if state not in ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING"):
                raise TourFailed(f"the job ended as {state}")
            if time.monotonic() > deadline:
                raise TourFailed(f"the job is still {state} after {JOB_TIMEOUT:g} s")
            time.sleep(0.5)

    def _after_the_job(self, job_id: str) -> Iterator[Step]:
        output = f"{self._directory}/job.out"
        yield Step(
            "See what was submitted", self._curl(f"/compute/{self._system}/jobs/{job_id}/metadata"), _has("job.out")
        )
        yield Step("Read its output", self._curl(self._ops("view", path=output)), _has("Hello from"))
        yield Step("Download it", self._curl(self._ops("download", path=output)), _has("Hello from"))
        yield Step(
            "Clean up",
            self._curl(self._ops("rm", path=self._directory), "-X", "DELETE"),
            lambda answer: answer.strip() or None,
        )

    def _step(self, step: Step) -> str:
        self._announce(step)
        answer = self._answer(step)
        self._show(answer)
        return answer

    def _announce(self, step: Step) -> None:
        line = self.token_line() if step.command == self._token_command() else step.command
        self.console.print(f"\n[bold]{step.title}[/bold]")
        self.console.print(f"  $ {line}", style="cyan", markup=False, highlight=False, soft_wrap=True)

    def _answer(self, step: Step) -> str:
        done = subprocess.run(
            ["/bin/sh", "-c", step.command],
            env={"PATH": SYSTEM_PATH, "TOKEN": self.token, "LC_ALL": "C.UTF-8"},
            capture_output=True,
            text=True,
            timeout=JOB_TIMEOUT,
            check=False,
        )
        if done.returncode != 0:
            raise TourFailed(f"{step.title}: {done.stderr.strip()} {done.stdout.strip()}")
        objection = step.check(done.stdout)
        if objection is not None:
            raise TourFailed(f"{step.title}: {objection}")
        return done.stdout

    def _show(self, answer: str) -> None:
        try:
            text = json.dumps(json.loads(answer), indent=2)
        except ValueError:
            text = answer.rstrip("\n")
        lines = text.split("\n")
        for line in lines[:MAX_LINES]:
            shown = line if len(line) <= 160 else f"{line[:157]}..."
            self.console.print(f"    {shown}", markup=False, highlight=False, soft_wrap=True)
        if len(lines) > MAX_LINES:
            self.console.print(f"    ... {len(lines) - MAX_LINES} more lines", style="dim", highlight=False)


def _has(word: str) -> Callable[[str], str | None]:
    return lambda answer: None if word in answer else f"{word!r} is not in the answer: {answer[:400]}"
