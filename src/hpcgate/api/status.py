"""GET /status: the systems, what they consist of, and whether the gateway is alive."""

from typing import Any

from fastapi import APIRouter

from hpcgate.api import models
from hpcgate.api.dependencies import AccessDep, GatewayDep, PrincipalDep
from hpcgate.config import Cluster
from hpcgate.filesystem.identity import identity

router = APIRouter(prefix="/status", tags=["status"])


def public(cluster: Cluster) -> models.HPCCluster:
    """Return the part of a system's configuration that any user may see: no secrets, no private URLs."""
    operation = cluster.data_operation
    transfer = operation.data_transfer[0] if operation.data_transfer else None
    known = {"s3", "streamer", "wormhole"}
    return models.HPCCluster.model_validate(
        {
            "name": cluster.name,
            "ssh": models.SSHClientPool.model_validate(_rounded(cluster.ssh.model_dump())),
            "scheduler": models.SchedulerInfo.model_validate(_rounded(cluster.scheduler.model_dump())),
            "probing": models.ProbingServices.model_validate(_rounded(cluster.probing.model_dump())),
            "file_systems": [models.FileSystem.model_validate(fs) for fs in cluster.file_systems],
            "data_operation": models.DataOperation(
                max_ops_file_size=operation.max_ops_file_size,
                data_transfer=transfer if transfer is not None and transfer.service_type in known else None,
                datatransfer_jobs_directives=list(operation.datatransfer_jobs_directives),
            ),
        }
    )


def _rounded(value: Any) -> Any:
    """Return settings as the wire has them: whole seconds, at least one."""
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return max(1, round(value)) if isinstance(value, float) else value


@router.get("/systems")
async def get_systems(gateway: GatewayDep, _: PrincipalDep) -> models.GetSystemsResponse:
    """List the systems with their public configuration and their health."""
    return models.GetSystemsResponse(systems=[public(system.settings) for system in gateway.systems.values()])


@router.get("/liveness", include_in_schema=False)
@router.get("/liveness/")
async def get_liveness() -> models.GetLiveness:
    """Say that the process is alive, whatever the state of the IdP and of the systems."""
    return models.GetLiveness()


@router.get("/{system_name}/nodes")
async def get_system_nodes(access: AccessDep) -> models.GetNodesResponse:
    """List the compute nodes."""
    nodes = await access.system.scheduler.nodes(access.principal)
    return models.GetNodesResponse(nodes=[models.NodeModel.model_validate(node) for node in nodes])


@router.get("/{system_name}/reservations")
async def get_system_reservations(access: AccessDep) -> models.GetReservationsResponse:
    """List the reservations."""
    reservations = await access.system.scheduler.reservations(access.principal)
    return models.GetReservationsResponse(
        reservations=[models.ReservationModel.model_validate(item) for item in reservations]
    )


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


@router.get("/{system_name}/userinfo")
async def get_userinfo(access: AccessDep) -> models.UserInfoResponse:
    """Tell who the user is on the login node: user, groups and, on Slurm, accounts."""
    who = await access.system.pool.perform(access.principal, identity, retry=True)
    charged = await access.system.scheduler.accounts(access.principal)
    return models.UserInfoResponse(
        user=models.PosixIdentified.model_validate(who.user),
        group=models.PosixIdentified.model_validate(who.group),
        groups=[models.PosixIdentified.model_validate(item) for item in who.groups],
        accounts=None if charged is None else [models.AccountsModel.model_validate(item) for item in charged],
    )
