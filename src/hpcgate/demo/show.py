"""``hpcgate demo``: the cluster, the gateway before it, the tour, and then an invitation to try it."""

import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console

from hpcgate.demo import site
from hpcgate.demo.cluster import Cluster, Gateway, Options
from hpcgate.demo.idp import SERVICE_ROLE
from hpcgate.demo.ports import HOST
from hpcgate.demo.problems import DemoError
from hpcgate.demo.slurm import DEFAULT_ACCOUNT, OTHER_ACCOUNT
from hpcgate.demo.store import Store, rclone
from hpcgate.demo.tour import Tour, TourFailed

INTERRUPTED = 130
"""The exit status after Ctrl-C before the demo was up, as shells have it."""


def host(*, directory: Path, install: bool, console: Console) -> int:
    """Run the cluster alone, for a gateway that is set up by hand.

    Args:
        directory: Where to write what such a gateway's configuration has to know (`hpcgate.demo.site`).
        install: Install missing Debian packages.
        console: Where to print.

    Returns:
        The exit status: 0, or 1 if a part did not start.
    """

    def tell(cluster: Cluster) -> None:
        lines = [
            "The cluster stays up until Ctrl-C. What a gateway has to know of it is in",
            *(f"  {file}" for file in site.write(cluster, directory)),
        ]
        for line in lines:
            console.print(line, markup=False, highlight=False, soft_wrap=True)

    try:
        site.begin(directory)
    except DemoError as error:
        _complain(error, console)
        return 1
    return _run(tell, stay=True, install=install, console=console)


def show(*, once: bool, install: bool, console: Console) -> int:
    """Run the demo.

    Args:
        once: End after the tour instead of staying until Ctrl-C.
        install: Install missing Debian packages.
        console: Where to print.

    Returns:
        The exit status: 0, or 1 if a part did not start or a step of the tour failed.
    """
    started = time.monotonic()

    def guide(cluster: Cluster) -> None:
        console.print("  starting hpcgate", style="dim")
        _name_account_as_group(cluster)
        operation = {"data_transfer": _transfers(cluster, console), "datatransfer_jobs_directives": DIRECTIVES}
        settings = cluster.cluster_settings(probing={"interval_check": 30}, data_operation=operation)
        config = cluster.write_gateway_config(cluster.directory / "gateway.yaml", clusters=[settings])
        gateway = cluster.start_gateway(config)
        console.print(f"Up after {time.monotonic() - started:.1f} s. The tour:", highlight=False)
        tour = Tour(cluster, gateway, cluster.users[0], console)
        tour.run()
        console.print("\nThe tour is complete.", style="bold green")
        if not once:
            _invite(cluster, gateway, tour, config, console)

    return _run(guide, stay=not once, install=install, console=console)


DIRECTIVES = ["#SBATCH --nodes=1", "#SBATCH --time=0-00:15:00"]
"""Of transfer jobs: without an account, so that they are charged to the user's own and a first large file works."""


STREAMS = 8
"""Transfers by the streamer at a time: all of the demo's nodes have one address."""


def _transfers(cluster: Cluster, console: Console) -> list[dict[str, Any]]:
    """Return the ways for large files: S3 where its server is installed, and the streamer."""
    methods: list[dict[str, Any]] = []
    program = rclone()
    if program is not None:
        console.print("  starting an object store", style="dim")
        store = Store(cluster.keeper, program, cluster.directory / "store", cluster.take_port())
        store.start()
        methods.append(store.settings())
    port = cluster.take_port(STREAMS)
    streamer: dict[str, Any] = {"service_type": "streamer", "host": HOST, "port_range": [port, port + STREAMS - 1]}
    # By a shell: this Python may lie where the users cannot come to it.
    tried = ["sh", "-c", 'exec "$0" -c "import streamer"', sys.executable]
    if cluster.as_user(cluster.users[0], tried, check=False).returncode == 0:
        # Else each job installs it, for which it needs the package index.
        streamer |= {"python": sys.executable, "install": False}
    return [*methods, streamer]


def _name_account_as_group(cluster: Cluster) -> None:
    """Give the users an account with the name of a group of theirs, as sites do that charge projects."""
    group = cluster.users[0].groups[-1]
    # A group of the machine's, where an ordinary user runs the demo: Slurm's names are not that free.
    if re.fullmatch(r"[a-z][a-z0-9_-]*", group) is None or group in (DEFAULT_ACCOUNT, OTHER_ACCOUNT):
        return
    members = ",".join(user.name for user in cluster.users if group in user.groups)
    cluster.slurm.sacctmgr("add", "account", group, "Description=group", "Organization=demo")
    cluster.slurm.sacctmgr("add", "user", members, f"Account={group}")


def _run(work: Callable[[Cluster], None], *, stay: bool, install: bool, console: Console) -> int:
    """Start a cluster, do something with it, stay up or not, and return the exit status."""
    staying = False
    previous = signal.signal(signal.SIGTERM, _interrupt)
    try:
        with Cluster(
            Options(roles=("alice", "bob", SERVICE_ROLE), install=install),
            lambda step: console.print(f"  {step}", style="dim", highlight=False),
        ) as cluster:
            work(cluster)
            if stay:
                staying = True
                threading.Event().wait()
        return 0
    except (DemoError, TourFailed) as error:
        _complain(error, console)
        return 1
    except KeyboardInterrupt:
        console.print("\nStopped.")
        return 0 if staying else INTERRUPTED
    finally:
        signal.signal(signal.SIGTERM, previous)


def _complain(error: Exception, console: Console) -> None:
    console.print(f"hpcgate demo: {error}", style="red", markup=False, highlight=False)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _invite(cluster: Cluster, gateway: Gateway, tour: Tour, config: Path, console: Console) -> None:
    user = tour.user
    programs = Path(sys.executable).parent
    lines = [
        "",
        "The gateway stays up until Ctrl-C. It is at",
        f"  API              {gateway.url}   (documentation: {gateway.url}/docs)",
        f"  identity         {cluster.idp.url}",
        f"  login node       {cluster.sshd.host}:{cluster.sshd.port}",
        f"  configuration    {config}",
        f"  log              {gateway.log}",
        "A token for an hour:",
        f"  {tour.token_line()}",
        "pyfirecrest's command line (pip install pyfirecrest):",
        f"  export FIRECREST_URL={gateway.url} AUTH_TOKEN_URL={cluster.idp.token_url}",
        f"  export FIRECREST_CLIENT_ID={user.client_id} FIRECREST_CLIENT_SECRET={user.client_secret}",
        f"  export FIRECREST_SYSTEM=demo USER_HOME={user.home}",
        f"  {programs / 'firecrest'} systems",
        f"  {programs / 'firecrest'} ls {user.home}",
        r"  printf '#!/bin/bash\nhostname\n' >my-job.sh",
        f"  {programs / 'firecrest'} submit --working-dir {user.home} my-job.sh",
        "  head -c 6291456 /dev/urandom >my-large-file",
        f"  {programs / 'firecrest'} upload my-large-file {user.home} my-large-file",
        "What else: docs/users and docs/first-steps.md in the source, with these variables.",
        f"In place of /scratch/alice put {user.home} there; the account is demo.",
        "The users:",
        *(
            f"  {person.name:<14} home {person.home}   client {person.client_id}   secret {person.client_secret}"
            for person in cluster.users
            if person.role != SERVICE_ROLE
        ),
    ]
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
