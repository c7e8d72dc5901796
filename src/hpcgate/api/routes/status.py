"""GET /status: the systems, what they consist of, and whether the gateway is alive."""

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Final

from fastapi import APIRouter

from hpcgate.api.access import Access, AccessDep, GatewayDep, PrincipalDep
from hpcgate.api.models import data_transfer
from hpcgate.api.models import status as models
from hpcgate.api.terms import BY_SCHEDULER, BY_SSH, PUBLIC, Terms, on
from hpcgate.config import Cluster, IdempotencySettings
from hpcgate.config.groups import Group
from hpcgate.errors import GatewayError, NotSupported, Unavailable
from hpcgate.filesystem.identity import identity
from hpcgate.filesystem.quota_formats import Quota
from hpcgate.filesystem.quotas import QuotaCommand
from hpcgate.gateway.system import System
from hpcgate.health.board import ServiceHealth
from hpcgate.schedulers.many import each

router = APIRouter(prefix="/status", tags=["status"])


def public(cluster: Cluster) -> models.HPCCluster:
    """Return the part of a system's configuration that any user may see: no secrets, no private URLs, no health."""
    operation = cluster.data_operation
    transfer = operation.data_transfer[0] if operation.data_transfer else None
    return models.HPCCluster.model_validate(
        {
            "name": cluster.name,
            "ssh": models.SSHClientPool.model_validate(_rounded(cluster.ssh.model_dump()) | {"host": _hosts(cluster)}),
            "scheduler": models.SchedulerInfo.model_validate(_rounded(cluster.scheduler.model_dump())),
            "probing": models.ProbingServices.model_validate(_rounded(cluster.probing.model_dump())),
            "file_systems": [models.FileSystem.model_validate(fs) for fs in cluster.file_systems],
            "data_operation": models.DataOperation(
                max_ops_file_size=operation.max_ops_file_size,
                data_transfer=None if transfer is None else data_transfer.shown(transfer),
                transfer_methods=[each.service_type for each in operation.data_transfer],
                datatransfer_jobs_directives=list(operation.datatransfer_jobs_directives),
            ),
        }
    )


def _hosts(cluster: Cluster) -> str:
    """Return the login nodes as the wire has them: one text."""
    host = cluster.ssh.host
    return host if isinstance(host, str) else ",".join(host)


def _rounded(value: Any) -> Any:
    """Return settings as the wire has them: whole seconds, at least one."""
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return max(1, round(value)) if isinstance(value, float) else value


@on(Terms(Group.STATUS_READ, no_system=True))
@router.get("/systems")
async def get_systems(gateway: GatewayDep, _: PrincipalDep) -> models.GetSystemsResponse:
    """List the systems with their public configuration and their health."""
    return models.GetSystemsResponse(
        systems=[_shown(system, gateway.settings.idempotency) for system in gateway.systems.values()]
    )


def _shown(system: System, idempotency: IdempotencySettings) -> models.HPCCluster:
    shown = public(system.settings)
    once = system.scheduler.submits_once
    shown.submissions = models.SubmissionPromise(
        exactly_once=once,
        required=once and idempotency.required,
        lifetime=int(idempotency.lifetime) if once else 0,
    )
    now = time.time()
    shown.maintenance = [
        models.MaintenanceWindow(
            start=_moment(window.start), until=_moment(window.until), reason=window.reason, active=window.active(now)
        )
        for window in system.calendar.windows(now)
    ]
    shown.last_health_check = _moment(system.board.last_round)
    if system.settings.probing.services:
        shown.services_health = [_health(result) for result in system.board.results]
    return shown


def _health(result: ServiceHealth) -> models.AnyServiceHealth:
    values: dict[str, Any] = {
        "service_type": result.service,
        "last_checked": _moment(result.checked_at),
        "latency": result.latency,
        "healthy": result.healthy,
        "message": result.message,
    }
    if result.path is not None:
        return models.FilesystemServiceHealth(path=result.path, **values)
    health: models.AnyServiceHealth = _HEALTH.get(result.service, models.S3ServiceHealth)(**values)
    return health


_HEALTH: Mapping[str, Any] = MappingProxyType(
    {
        "ssh": models.SSHServiceHealth,
        "scheduler": models.SchedulerServiceHealth,
        "exception": models.HealthCheckException,
    }
)


def _moment(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


@on(PUBLIC)
@router.get("/liveness", include_in_schema=False)
@router.get("/liveness/")
async def get_liveness(gateway: GatewayDep) -> models.GetLiveness:
    """Say that the process is alive, whatever the state of the IdP and of the systems."""
    rounds = {
        system.name: system.board.last_round
        for system in gateway.systems.values()
        if system.board.last_round is not None
    }
    return models.GetLiveness(
        healthcheck_runs={name: datetime.fromtimestamp(seconds, UTC) for name, seconds in rounds.items()},
        last_update=int(max(rounds.values(), default=0)),
    )


@on(PUBLIC)
@router.get("/readiness", responses={503: {"description": "Not ready: send requests elsewhere for now."}})
async def get_readiness(gateway: GatewayDep) -> models.GetReadiness:
    """Say whether requests can be served: the identity provider's keys are here. For load balancers; no token."""
    gateway.asked_ready_at = time.monotonic()
    if gateway.stopping:
        raise Unavailable("The gateway is about to stop", data={"ready": False}, headers={"Retry-After": "5"})
    if not gateway.tokens.ready:
        raise Unavailable(
            "The identity provider's keys are not loaded yet",
            data={"ready": False},
            headers={"Retry-After": str(gateway.jwks.retry_after)},
        )
    return models.GetReadiness()


@on(Terms(Group.STATUS_READ, BY_SCHEDULER))
@router.get("/{system_name}/nodes")
async def get_system_nodes(access: AccessDep) -> models.GetNodesResponse:
    """List the compute nodes."""
    nodes = await access.system.scheduler.nodes(access.principal)
    return models.GetNodesResponse(nodes=[models.NodeModel.model_validate(node) for node in nodes])


@on(Terms(Group.STATUS_READ, BY_SCHEDULER))
@router.get("/{system_name}/reservations")
async def get_system_reservations(access: AccessDep) -> models.GetReservationsResponse:
    """List the reservations."""
    reservations = await access.system.scheduler.reservations(access.principal)
    return models.GetReservationsResponse(
        reservations=[models.ReservationModel.model_validate(item) for item in reservations]
    )


@on(Terms(Group.STATUS_READ, BY_SCHEDULER))
@router.get("/{system_name}/partitions")
async def get_system_partitions(access: AccessDep, show_hidden: bool = False) -> models.GetPartitionsResponse:
    """List the partitions or queues."""
    partitions = await access.system.scheduler.partitions(access.principal, show_hidden=show_hidden)
    return models.GetPartitionsResponse(
        partitions=[
            models.PartitionModel(name=item.name, cpus=item.cpus, total_nodes=item.total_nodes, partition=item.state)
            for item in partitions
        ]
    )


@on(Terms(Group.STATUS_READ, BY_SCHEDULER))
@router.get("/{system_name}/allocations")
async def get_allocations(access: AccessDep) -> models.GetAllocationsResponse:
    """List the user's accounts and file system quotas, and how much of each there is, is used, and is left."""
    commands = [QuotaCommand(fs.path, fs.quota) for fs in access.system.settings.file_systems if fs.quota is not None]
    found: list[models.AllocationModel] | None = None
    try:
        allocations = await access.system.scheduler.allocations(access.principal)
    except NotSupported:
        if not commands:
            raise
    else:
        found = [models.AllocationModel.model_validate(one) for one in allocations]
    return models.GetAllocationsResponse(allocations=found, quotas=await _quotas(access, commands) or None)


QUOTAS_AT_ONCE: Final = 4
"""How many file systems are asked for a user's quotas at a time."""


async def _quotas(access: Access, commands: Sequence[QuotaCommand]) -> list[models.FileSystemQuotas]:
    """Return the quotas of file systems; why those of one cannot be told keeps nobody from those of the others."""

    async def ask(command: QuotaCommand) -> tuple[Quota, ...]:
        return await access.system.pool.perform(access.principal, command.run, retry=True)

    shown = []
    for command, found in zip(commands, await each(commands, QUOTAS_AT_ONCE, ask), strict=True):
        told = models.FileSystemQuotas(path=command.path, resources=[])
        if isinstance(found, GatewayError):
            told.error = models.QuotaProblem(status=found.status, message=found.message)
        else:
            told.resources = [models.QuotaModel.model_validate(one) for one in found]
        shown.append(told)
    return shown


@on(Terms(Group.STATUS_READ, BY_SSH))
@router.get("/{system_name}/userinfo")
async def get_userinfo(access: AccessDep) -> models.UserInfoResponse:
    """Tell who the user is on the login node: user, groups and, on Slurm, accounts."""
    who = await access.system.pool.perform(access.principal, identity, retry=True)
    charged = await access.system.scheduler.accounts(access.principal)
    return models.UserInfoResponse(
        user=models.PosixIdentified.model_validate(who.user),
        group=models.PosixIdentified.model_validate(who.group),
        groups=[models.Membership(id=item.id, name=item.name, default=item.id == who.group.id) for item in who.groups],
        accounts=None if charged is None else [models.AccountsModel.model_validate(item) for item in charged],
    )
