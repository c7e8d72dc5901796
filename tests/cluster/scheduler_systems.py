"""Schedulers on the demo cluster, each with a pool of its own, as the gateway makes them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

from hpcgate.auth import Principal
from hpcgate.config import Settings
from hpcgate.credentials.static import StaticKeys, StaticKeysSettings
from hpcgate.demo.cluster import Cluster
from hpcgate.gateway.system import System
from hpcgate.schedulers.base import Job, Scheduler


@asynccontextmanager
async def system(cluster: Cluster, **options: Any) -> AsyncIterator[System]:
    """Yield a system of the demo cluster; the options are those of `Cluster.cluster_settings`."""
    settings = Settings.model_validate(cluster.gateway_settings(clusters=[cluster.cluster_settings(**options)]))
    made = System.from_settings(settings.clusters[0], StaticKeys(cast("StaticKeysSettings", settings.ssh_credentials)))
    try:
        yield made
    finally:
        await made.close()


def principal(cluster: Cluster, role: str, token: str = "") -> Principal:
    return Principal(cluster.user(role).name, token=token)


async def until(
    scheduler: Scheduler, who: Principal, job_id: str, *states: str, seconds: float = 120
) -> tuple[Job, ...]:
    """Wait until all jobs of the id are in one of the states and return them."""
    async with asyncio.timeout(seconds):
        while True:
            found = (await scheduler.job(who, job_id)).jobs
            if all(job.status.state in states for job in found):
                return found
            await asyncio.sleep(0.25)


def environment_of(dump: bytes) -> Mapping[bytes, bytes]:
    """Return what ``env -0`` printed."""
    pairs: Iterable[bytes] = (item for item in dump.split(b"\0") if item)
    return {name: value for name, _, value in (pair.partition(b"=") for pair in pairs)}


def takes_at_jwt() -> bool:
    """Say whether the installed Slurm takes tokens whose header says ``at+jwt``: libjwt does from 1.16 on."""
    return bool(list(Path("/usr/lib").glob("*/libjwt.so.2")))
