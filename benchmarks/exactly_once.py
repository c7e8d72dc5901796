"""`python -m benchmarks.exactly_once`: submissions while everything dies, with keys and without.

Users submit jobs and send each request again until it has an answer; with `--together` many by one request, of which
those are sent again that have none. Meanwhile the gateway, the login node with all that runs there, slurmctld, slurmdbd
and connections die at random moments, each for so long that a client has met it. In the end Slurm says how many jobs
there are of each. Needs root, for the users.
"""

import argparse
import asyncio
import contextlib
import itertools
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table

from benchmarks.machine import description
from benchmarks.processes import children, comm
from hpcgate.demo.cluster import Cluster, Gateway, Options
from hpcgate.demo.processes import Daemon
from hpcgate.demo.slurm import SlurmOptions
from hpcgate.demo.sshd import Sshd

RESULTS = Path(__file__).with_name("exactly_once.md")
COLUMNS = ("", "submissions", "users", "requests", "deaths", "jobs", "lost", "doubled", "replayed answers")
KINDS = ("gateway", "login node", "slurmctld", "slurmdbd", "connections")
"""What dies."""
PAUSE = 0.2
"""Seconds between two requests for the same submission; more if the answer says so, up to `MOST_PAUSE`."""
MOST_PAUSE = 2.0
PATIENCE = 300.0
"""Seconds that slurmctld may take to write its state before it ends."""
DELAY = 2.0
"""Seconds within which something dies once it is its turn, where many jobs are submitted by one request: at any moment
of it, and not only when another one has been answered."""
AGAIN = (408, 409, 424, 429, 503)
"""Statuses with which the same is sent again."""


@dataclass(slots=True)
class Site:
    """What dies: a gateway, its login node, and the cluster behind."""

    cluster: Cluster
    gateway: Gateway
    sshd: Sshd

    def daemons(self) -> dict[str, Daemon]:
        """Return what can die as a whole, by name."""
        slurm = self.cluster.slurm
        assert slurm.slurmdbd is not None
        return {
            "gateway": self.gateway.daemon,
            "login node": self.sshd.daemon,
            "slurmctld": slurm.slurmctld,
            "slurmdbd": slurm.slurmdbd,
        }


@dataclass(slots=True)
class Outcome:
    """What came of it.

    Attributes:
        submissions: How many there were.
        requests: How many requests were sent.
        failures: Requests that had no answer, or none that says that there is a job.
        replayed: Answers that repeat an earlier one.
        answers: The job's id by the submission's name, as the client was told.
        jobs: How many jobs there are by name, as Slurm says.
        deaths: What has died.
        seconds: How long it took.
    """

    submissions: int = 0
    requests: int = 0
    failures: int = 0
    replayed: int = 0
    answers: dict[str, str] = field(default_factory=dict)
    jobs: Counter[str] = field(default_factory=Counter)
    deaths: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    @property
    def lost(self) -> int:
        """How many submissions have no job."""
        return self.submissions - len(self.jobs)

    @property
    def doubled(self) -> int:
        """How many jobs there are too many."""
        return sum(self.jobs.values()) - len(self.jobs)


@dataclass(frozen=True, slots=True)
class Told:
    """What a client was told of a submission.

    Attributes:
        name: The submission's.
        job_id: The job's id, if there is one.
        replayed: Whether an earlier request had made it.
        status: Of the error, if that is the answer.
        words: The error's.
        retry_after: Seconds after which to send it again.
    """

    name: str
    job_id: str | None = None
    replayed: bool = False
    status: int = 200
    words: str = ""
    retry_after: float = PAUSE


def _not_told(name: str, answer: httpx.Response) -> Told:
    pause = float(answer.headers.get("Retry-After", PAUSE))
    return Told(name, status=answer.status_code, words=answer.text, retry_after=pause)


class Trial:
    """Submissions of some users, and what dies meanwhile.

    Args:
        site: What dies.
        roles: Who submits.
        submissions: How many jobs at least; more until each kind of death has been met.
        keyed: Whether requests have an Idempotency-Key.
        seed: Of what dies, and when.
        clients: How many requests a user has under way.
        seconds: After which no more is submitted, however many there were; None for no such end.
        together: How many jobs are submitted by one request.
    """

    def __init__(
        self,
        site: Site,
        roles: Sequence[str],
        submissions: int,
        *,
        keyed: bool,
        seed: int,
        clients: int = 1,
        seconds: float | None = None,
        together: int = 1,
    ) -> None:
        self.site = site
        self.outcome = Outcome()
        self._keyed = keyed
        self._chance = random.Random(seed)
        self._together = together
        self._prefix = f"once-{os.getpid()}-{'k' if keyed else 'n'}{together}-{seed}-"
        self._roles = [role for role in roles for _ in range(clients)]
        self._least = submissions
        self._until_time = None if seconds is None else time.monotonic() + seconds
        self._todo = self._numbers()
        self._changed = asyncio.Event()
        self._over = False

    async def run(self) -> Outcome:
        """Submit all, and count."""
        began = time.monotonic()
        dying = asyncio.create_task(self._die())
        try:
            async with asyncio.TaskGroup() as group:
                for role in self._roles:
                    group.create_task(self._submit_some(role))
        finally:
            self._over = True
            self._changed.set()
            await dying
        self.outcome.seconds = time.monotonic() - began
        await self._count()
        return self.outcome

    def _numbers(self) -> Iterator[int]:
        for number in itertools.count():
            if number >= self._least and len(self.outcome.deaths) == len(KINDS):
                return
            if self._until_time is not None and time.monotonic() > self._until_time:
                return
            self.outcome.submissions += 1
            yield number

    async def _submit_some(self, role: str) -> None:
        cluster = self.site.cluster
        user = cluster.user(role)
        headers = {"Authorization": f"Bearer {cluster.token(role)}"}
        url = f"{self.site.gateway.url}/compute/{cluster.options.slurm.name}"
        job = {"workingDirectory": str(user.home), "script": "#!/bin/sh\n", "standardOutput": "/dev/null"}
        async with httpx.AsyncClient(base_url=url, headers=headers, timeout=120) as client:
            while numbers := list(itertools.islice(self._todo, self._together)):
                names = [f"{self._prefix}{number}" for number in numbers]
                left = {name: {**job, "name": name} for name in names}
                while left:
                    await self._request(client, left)

    async def _request(self, client: httpx.AsyncClient, left: dict[str, dict[str, str]]) -> None:
        """Send what has no answer yet, and take away what has one; pause if some has none."""
        outcome = self.outcome
        outcome.requests += 1
        told: list[Told] = []
        with contextlib.suppress(httpx.TransportError):
            told = await (self._one(client, left) if self._together == 1 else self._many(client, left))
        for one in told:
            if one.job_id is not None:
                outcome.answers[one.name] = one.job_id
                outcome.replayed += one.replayed
                del left[one.name]
            elif one.status not in AGAIN:
                raise RuntimeError(one)
        outcome.failures += bool(left)
        self._changed.set()
        if left:
            await asyncio.sleep(min(MOST_PAUSE, max((one.retry_after for one in told), default=PAUSE)))

    async def _one(self, client: httpx.AsyncClient, jobs: Mapping[str, dict[str, str]]) -> list["Told"]:
        ((name, job),) = jobs.items()
        keys = {"Idempotency-Key": name} if self._keyed else {}
        answer = await client.post("/jobs", json={"job": job}, headers=keys)
        if answer.status_code != 201:
            return [_not_told(name, answer)]
        return [Told(name, answer.json()["jobId"], "Idempotency-Replayed" in answer.headers)]

    async def _many(self, client: httpx.AsyncClient, jobs: Mapping[str, dict[str, str]]) -> list["Told"]:
        entries: list[dict[str, Any]] = [{"job": job} for job in jobs.values()]
        for entry, name in zip(entries, jobs, strict=True):
            entry |= {"idempotencyKey": name} if self._keyed else {}
        answer = await client.post("/jobs/bulk", json={"jobs": entries})
        if answer.status_code != 200:
            return [_not_told(name, answer) for name in jobs]
        told = []
        for name, one in zip(list(jobs), answer.json()["jobs"], strict=True):
            error = one["error"] or {"status": 200, "message": "", "retryAfter": None}
            pause = float(error["retryAfter"] or PAUSE)
            told.append(Told(name, one["jobId"], one["replayed"], error["status"], error["message"], pause))
        return told

    async def _die(self) -> None:
        """Let something die after some more answers, until a client has met it, or many have an answer all the same."""
        order: list[str] = []
        outcome = self.outcome
        while not self._over:
            if not order:
                order = self._chance.sample(KINDS, len(KINDS))
            kind = order.pop()
            some = 1 + self._chance.randrange(max(2, self._least // 20))
            if not await self._until(len(outcome.answers) + some):
                return
            if self._together > 1:
                await asyncio.sleep(self._chance.uniform(0, DELAY))
            outcome.deaths[kind] += 1
            if kind == "connections":
                self._cut()
                continue
            daemon = self.site.daemons()[kind]
            if kind == "slurmctld":
                # Killed, it would lose jobs whose ids it has given out, whoever submitted them.
                await asyncio.to_thread(daemon.stop, PATIENCE)
            else:
                await asyncio.to_thread(daemon.kill)
            under_way = len(self._roles) * self._together
            await self._until(len(outcome.answers) + under_way + 1, outcome.failures + 1)
            await asyncio.to_thread(daemon.start)

    def _cut(self) -> None:
        """Kill the processes of sshd that hold the connections; what users run is left alone."""
        for pid in children(self.site.sshd.pid):
            for one in (pid, *children(pid)):
                if comm(one) in ("sshd", "sshd-session"):
                    os.kill(one, signal.SIGKILL)

    async def _until(self, answers: int, failures: int | None = None) -> bool:
        """Wait until there are so many answers, or so many failures; False if all is over before."""
        outcome = self.outcome
        while not self._over and len(outcome.answers) < answers and (failures is None or outcome.failures < failures):
            self._changed.clear()
            await self._changed.wait()
        return not self._over

    async def _count(self) -> None:
        """Ask the controller, and the database once it has been told all that has ended."""
        slurm = self.site.cluster.slurm

        async def ask(*argv: str) -> str:
            return await asyncio.to_thread(slurm.run, argv)

        async def told_all() -> bool:
            return "DBD Agent queue size: 0" in " ".join((await ask("sdiag")).split())

        # The controller knows each job until some minutes after its end, which the database is told before.
        found = {}
        for line in (await ask("squeue", "-h", "-a", "-t", "all", "-o", "%A|%j")).splitlines():
            job_id, _, name = line.partition("|")
            found[job_id] = name
        while not await told_all():  # noqa: ASYNC110 (nothing tells when it has)
            await asyncio.sleep(PAUSE)
        text = await ask("sacct", "-a", "-X", "-n", "-P", "--starttime=now-2days", "--format=JobIDRaw,JobName")
        for line in text.splitlines():
            job_id, _, name = line.partition("|")
            found[job_id] = name
        self.outcome.jobs = Counter(name for name in found.values() if name.startswith(self._prefix))


def site_of(cluster: Cluster) -> Site:
    """Return a gateway and a login node of their own before a cluster."""
    sshd = cluster.start_sshd()
    name = cluster.options.slurm.name
    settings = cluster.cluster_settings(name, sshd=sshd, probing=None)
    config = cluster.write_gateway_config(cluster.directory / "exactly-once.yaml", clusters=[settings])
    return Site(cluster, cluster.start_gateway(config), sshd)


async def measure(options: argparse.Namespace) -> AsyncIterator[tuple[str, Outcome]]:
    """Run both, and yield each once it is over."""
    roles = tuple(f"u{number}" for number in range(options.users))
    # As many jobs as both submit, few of which end meanwhile.
    slurm = SlurmOptions(extra=f"MaxJobCount={10_000 + 4 * options.submissions}")
    with Cluster(Options(roles=roles, slurm=slurm)) as cluster:
        for keyed in (True, False):
            site = site_of(cluster)
            try:
                trial = Trial(
                    site,
                    roles,
                    options.submissions,
                    keyed=keyed,
                    seed=options.seed,
                    clients=options.clients,
                    seconds=options.seconds,
                    together=options.together,
                )
                outcome = await trial.run()
            finally:
                site.gateway.stop()
                site.sshd.stop()
            many = f", {options.together} by one request" if options.together > 1 else ""
            yield ("with keys" if keyed else "without") + many, outcome


def table(rows: Sequence[tuple[str, Outcome]], users: int) -> Table:
    """Return what to print."""
    made = Table(*COLUMNS)
    for name, outcome in rows:
        made.add_row(name, *_cells(outcome, users))
    return made


def _cells(outcome: Outcome, users: int) -> list[str]:
    deaths = sum(outcome.deaths.values())
    numbers = (outcome.submissions, users, outcome.requests, deaths, sum(outcome.jobs.values()), outcome.lost)
    return [f"{number:,}" for number in (*numbers, outcome.doubled, outcome.replayed)]


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--submissions", type=int, default=10_000)
    parser.add_argument("--users", type=int, default=50)
    parser.add_argument("--clients", type=int, default=1, help="requests under way of each user (default %(default)s)")
    parser.add_argument("--together", type=int, default=1, help="jobs by one request (default %(default)s)")
    parser.add_argument("--seconds", type=float, help="of each of the two, after which no more is submitted")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, default=RESULTS, help="where to write the table (default %(default)s)")
    options = parser.parse_args()
    rows = asyncio.run(_measured(options))
    Console().print(table(rows, options.users))
    sys.exit(bool(rows[0][1].lost or rows[0][1].doubled))


async def _measured(options: argparse.Namespace) -> list[tuple[str, Outcome]]:
    """Run both, and write down what is over."""
    rows = []
    async for row in measure(options):
        rows.append(row)
        options.output.write_text(_page(rows, options.users))
    return rows


def _page(rows: Sequence[tuple[str, Outcome]], users: int) -> str:
    lines = ["# Submissions while everything dies", "", *description("exactly_once"), ""]
    lines += ["| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
    lines += [f"| {name} | {' | '.join(_cells(outcome, users))} |" for name, outcome in rows]
    died = [f"{name}: " + ", ".join(f"{kind} {n}" for kind, n in sorted(o.deaths.items())) for name, o in rows]
    took = [f"{name} {outcome.seconds / 60:.0f} minutes" for name, outcome in rows]
    return "\n".join([*lines, "", f"What died: {'; '.join(died)}.", "", f"It took {', '.join(took)}.", ""])


if __name__ == "__main__":
    main()
