"""Check a configuration without opening anything: the mistakes, or what an operator should know."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from hpcgate.config.files import in_time
from hpcgate.config.loading import load_and_remark
from hpcgate.config.mistakes import ConfigError
from hpcgate.config.models import Cluster, PolicySettings, Settings
from hpcgate.config.probing import OWN_SERVICES, transfer_service

LONGEST_PRESIGNED = 604800
"""Seconds: the most that AWS Signature Version 4 allows in X-Amz-Expires."""


def report(path: Path | None = None) -> tuple[list[str], int]:
    """Return lines to print, and the exit status: 1 and a line a mistake, or 0, ``ok: N systems`` and warnings."""
    try:
        settings, remarks = load_and_remark(path)
    except ConfigError as error:
        return [str(mistake) for mistake in error.mistakes], 1
    count = len(settings.clusters)
    lines = [f"ok: {count} system{'' if count == 1 else 's'}"]
    lines += [f"warning: {remark.key}: {remark.message}" for remark in remarks]
    return lines + [f"warning: {warning}" for warning in warnings(settings)], 0


def warnings(settings: Settings) -> Iterator[str]:
    """Yield what is allowed, but probably not meant."""
    if not settings.clusters:
        yield "clusters: there is no system"
    if not settings.auth.authentication.public_certs and settings.auth.authentication.introspection is None:
        yield "auth.authentication.public_certs: there are no keys, so no token will be accepted"
    if settings.metrics.path is not None:
        yield "metrics.path: whoever reaches the API can read the metrics; metrics.port keeps them apart"
    if settings.state_directory is not None and not _is_directory(settings.state_directory):
        yield f"state_directory: there is no directory {settings.state_directory} yet, or it cannot be reached"
    if settings.auth.policy is not None:
        for warning in _of_policy(settings.auth.policy):
            yield f"auth.policy: {warning}"
    if settings.auth.api_keys:
        for warning in _of_api_keys(settings):
            yield f"auth.api_keys: {warning}"
    for cluster in settings.clusters:
        for warning in _of_cluster(cluster):
            yield f"system {cluster.name}: {warning}"


def _is_directory(path: str) -> bool:
    try:
        return in_time(Path(path).is_dir)
    except OSError:
        return False


def _of_api_keys(settings: Settings) -> Iterator[str]:
    now = datetime.now(UTC)
    for key in settings.auth.api_keys:
        if key.expires <= now:
            yield f"{key.name} has expired"
    if settings.ssh_credentials.type in _SHOWN_TOKENS:
        yield f"{settings.ssh_credentials.type} wants a token of the user's, which a key is not, so no key can log in"
    if settings.auth.authorization is not None:
        yield "authorization asks with a token of the user's, which a key is not, so no key may use any system"


_SHOWN_TOKENS = ("SSHService", "SSHCA")


def _of_policy(policy: PolicySettings) -> Iterator[str]:
    allowing = [rule for rule in policy.rules if rule.effect == "allow"]
    if policy.default == "deny" and not allowing:
        yield "no rule allows anything, so nobody may use any system"
    if policy.default == "allow" and all(rule.effect == "allow" and rule.paths is None for rule in policy.rules):
        yield "default is allow and no rule restricts anything, so it has no effect"
    for index, rule in enumerate(policy.rules):
        if rule.unconditional and index + 1 < len(policy.rules):
            yield f"the rule {rule.name} applies to every request, so those after it never do"


def _of_cluster(cluster: Cluster) -> Iterator[str]:
    ssh = cluster.ssh
    if ssh.known_hosts is None:
        if not ssh.host_keys:
            yield "ssh: no host_keys and no known_hosts; the first key seen will be trusted while the process lives"
        if ssh.proxy_host is not None and not ssh.proxy_host_keys:
            yield "ssh: no proxy_host_keys and no known_hosts; the jump host's first key seen will be trusted"
    if cluster.probing.services and cluster.service_account is None:
        yield "probing: there is no service_account, so nothing can be probed"
    services = cluster.probing.services or {}
    behind = {transfer_service(way.service_type) for way in cluster.data_operation.data_transfer}
    for name in sorted(services.keys() - {*OWN_SERVICES} - behind):
        yield f"probing.services.{name}: no transfer of the system stands on it, so nothing is probed"
    if "filesystem" in services and not cluster.file_systems:
        yield "probing.services.filesystem: there are no file_systems to probe"
    if cluster.data_operation.data_transfer and not any(system.default_work_dir for system in cluster.file_systems):
        yield "file_systems: none has default_work_dir, so transfers have nowhere to run"
    for transfer in cluster.data_operation.data_transfer:
        if getattr(transfer, "ttl", 0) > LONGEST_PRESIGNED:
            yield f"data_operation.data_transfer.ttl: most stores refuse URLs valid longer than {LONGEST_PRESIGNED} s"
