"""`python -m tests.faults.soak`: a mixed load with faults at random moments, and a report of what it left behind.

The cluster is one of its own. Every so often the load rests, and what the gateway holds then is written down. At the
end memory, descriptors, tasks and connections must be what they were after the first round.
"""

import argparse
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table

from hpcgate.demo.cluster import Cluster, Options
from hpcgate.demo.keeper import descendants
from tests.faults.conftest import Scene, started
from tests.faults.load import READS, Load, jobs, put_and_get
from tests.faults.vitals import GIVE_UP, Vitals, eventually, vitals

LEAK = 40e6
"""Bytes by which memory may differ at the end: caches of the allocator and of what was learned."""
SLACK = 4
"""Tasks and descriptors by which they may."""


def restart_sshd(scene: Scene) -> None:
    """End the listener and all sessions, and start anew."""
    scene.sshd.restart()


def kill_sessions(scene: Scene) -> None:
    """Kill every session of the login node."""
    for pid in descendants(scene.sshd.pid):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def cut(scene: Scene) -> None:
    """Reset every connection to the login node."""
    scene.proxy.cut()


def freeze(scene: Scene) -> None:
    """Freeze the login node for a while, thirty seconds at most."""
    scene.sshd.daemon.suspend()
    time.sleep(random.choice((1, 3, 30) if scene.long else (1, 3)))
    scene.sshd.daemon.resume()


def drop(scene: Scene) -> None:
    """Drop all packets to and from the login node for a while."""
    scene.proxy.silence()
    time.sleep(random.uniform(1, 5))
    scene.proxy.heal()


def restart_slurm(scene: Scene) -> None:
    """Restart the controller."""
    scene.cluster.slurm.slurmctld.restart()


def stop_idp(scene: Scene) -> None:
    """Take the identity provider away for a moment."""
    scene.cluster.idp.stop()
    time.sleep(1)
    scene.cluster.idp.start()


FAULTS: Mapping[str, Callable[[Scene], None]] = {
    "sshd restarted": restart_sshd,
    "sessions killed": kill_sessions,
    "connections cut": cut,
    "login node frozen": freeze,
    "packets dropped": drop,
    "Slurm restarted": restart_slurm,
    "IdP away": stop_idp,
}


@dataclass
class Report:
    """What a soak has found."""

    seconds: float
    looks: list[tuple[float, Vitals]] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    slow: float = 0.0
    stuck: int = 0

    @property
    def problems(self) -> list[str]:
        """Say what is not flat; nothing if all is well."""
        first, last = self.looks[0][1], self.looks[-1][1]
        found = [
            f"{name}: {before} after the first round, {after} at the end"
            for name, before, after, slack in (
                ("tasks", first.tasks, last.tasks, SLACK),
                ("descriptors", first.descriptors, last.descriptors, SLACK),
                ("connections", first.connections, last.connections, 0),
                ("channels", first.channels, last.channels, 0),
                ("waiting requests", first.waiting, last.waiting, 0),
                ("bytes of memory", first.memory, last.memory, LEAK),
            )
            if after > before + slack
        ]
        if self.stuck:
            found.append(f"{self.stuck} requests were not answered at all")
        return found

    def show(self, console: Console) -> None:
        """Print it."""
        table = Table("seconds", "tasks", "descriptors", "connections", "channels", "MB", title="held while at rest")
        for moment, held in self.looks:
            numbers = (held.tasks, held.descriptors, held.connections, held.channels, f"{held.memory / 1e6:.0f}")
            table.add_row(f"{moment:.0f}", *map(str, numbers))
        console.print(table)
        table = Table("what became of requests", "count")
        for outcome, count in self.outcomes.most_common():
            table.add_row(outcome[:110], str(count))
        console.print(table)
        console.print(f"faults: {dict(self.faults)}; the slowest request took {self.slow:.1f} s")
        for problem in self.problems:
            console.print(f"NOT FLAT: {problem}")


def rest(scene: Scene) -> Vitals:
    """Wait until nobody is connected any more, and return what is held."""
    eventually(lambda: vitals(scene.gateway.url).connections == 0, GIVE_UP, lambda: str(vitals(scene.gateway.url)))
    time.sleep(1)
    return vitals(scene.gateway.url)


def soak(seconds: float, progress: Callable[[str], None]) -> Report:
    """Run for about so many seconds and return the report."""
    report = Report(seconds)
    with ExitStack() as stack:
        cluster = stack.enter_context(Cluster(Options(roles=("alice", "bob", "carol", "dave"))))
        scene = stack.enter_context(started(cluster, long=seconds > 120))
        begun = time.monotonic()
        spell = min(60.0, max(8.0, seconds / 6))
        actions = dict(READS) | {"put_and_get": put_and_get, "jobs": jobs}
        while not report.looks or time.monotonic() - begun < seconds:
            load = scene.load(**actions)
            with load:
                until = time.monotonic() + spell
                while time.monotonic() < until:
                    time.sleep(random.uniform(1, 4))
                    name = random.choice(list(FAULTS))
                    report.faults[name] += 1
                    FAULTS[name](scene)
                time.sleep(3)
            take_down(report, load)
            held = rest(scene)
            report.looks.append((time.monotonic() - begun, held))
            progress(
                f"{time.monotonic() - begun:4.0f} s: {len(load.outcomes)} requests, {len(load.errors)} errors, {held}"
            )
    return report


def take_down(report: Report, load: Load) -> None:
    """Count what became of a load's requests, by kind."""
    for outcome in load.outcomes:
        kind = "ok" if outcome.error is None else str(outcome.status or (outcome.error or "").partition(":")[0])
        report.outcomes[f"{outcome.action}: {kind}"] += 1
        report.slow = max(report.slow, outcome.seconds)
        report.stuck += (outcome.error or "").startswith("TimeoutError")


def main() -> int:
    """Run and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    seconds = parser.parse_args().seconds
    console = Console()
    report = soak(seconds, console.print)
    report.show(console)
    return 1 if report.problems else 0


if __name__ == "__main__":
    sys.exit(main())
