"""Bring the older shapes of a FirecREST v2 file into the present one, and remember where each part came from.

Keys that were only renamed are aliases of the models. Here are the keys that moved:

- ``ssh_credentials`` without ``type``: ``url`` alone is an SSHService, a mapping of users to keys are SSHStaticKeys;
- ``data_operation`` at the top: the one of all clusters without their own;
- ``storage`` at the top: an s3 ``data_transfer`` of all clusters without a ``data_operation``, with
  ``max_ops_file_size`` and ``probing`` among its keys;
- ``datatransfer_jobs_directives`` of a cluster: now inside its ``data_operation``;
- ``probing`` or ``probing_services`` within ``data_operation`` or ``data_transfer``: now the service s3 of the cluster;
- ``probing: {interval, timeout}`` of a cluster: now each service has a time-out.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic.alias_generators import to_camel

from hpcgate.config.mistakes import Location

_PROBING = ("probing", "probing_services")
_OPERATION = "data_operation"
_DIRECTIVES = "datatransfer_jobs_directives"


class Translation:
    """A document in the present shape.

    Attributes:
        data: The document.
        mistakes: Locations in the original, each with what is wrong there.
    """

    def __init__(self, document: Mapping[Any, Any]) -> None:
        self.data: dict[Any, Any] = dict(document)
        self.mistakes: list[tuple[Location, str]] = []
        self._origins: dict[Location, Location] = {}
        self._credentials()
        self._clusters()

    def origin(self, location: Location) -> Location:
        """Return where in the original document a location of the present one comes from."""
        for length in range(len(location), 0, -1):
            old = self._origins.get(location[:length])
            if old is not None:
                return old + location[length:]
        return location

    def _credentials(self) -> None:
        key = _spelt(self.data, "ssh_credentials")
        value = self.data.get(key)
        if not isinstance(value, dict) or "type" in value:
            return
        if "url" in value:
            self.data[key] = {"type": "SSHService", **value}
        elif any(isinstance(user, dict) and _has(user, "private_key") for user in value.values()):
            self.data[key] = {"type": "SSHStaticKeys", "keys": value}
            self._origins[(key, "keys")] = (key,)

    def _clusters(self) -> None:
        operation_key = _spelt(self.data, _OPERATION)
        operation = self.data.pop(operation_key, None)
        origins: dict[Location, Location] = {}
        storage = self.data.pop("storage", None)
        if operation is not None and storage is not None:
            self.mistakes.append((("storage",), f"has no meaning beside {operation_key}, which replaces it"))
        elif storage is not None and not isinstance(storage, dict):
            self.mistakes.append((("storage",), "must be a mapping"))
        elif storage is not None:
            operation, origins = _from_storage(storage)
        elif operation is not None:
            origins = {(): (operation_key,)}
        key = _spelt(self.data, "clusters")
        clusters = self.data.get(key)
        if isinstance(clusters, list):
            self.data[key] = [
                self._cluster(dict(cluster), (key, index), operation, origins) if isinstance(cluster, dict) else cluster
                for index, cluster in enumerate(clusters)
            ]
        if operation is not None and not clusters:
            # Nobody uses it, but what is wrong with it is a mistake all the same.
            self.mistakes.append((origins.get((), ("storage",)), "has no meaning without clusters"))

    def _cluster(
        self, cluster: dict[Any, Any], here: Location, default: Any, origins: Mapping[Location, Location]
    ) -> dict[Any, Any]:
        key = _spelt(cluster, _OPERATION)
        if cluster.get(key) is None and default is not None:
            cluster[key] = default
            self._origins |= {(*here, key, *new): old for new, old in origins.items()}
        self._directives(cluster, here, key)
        probe = self._storage_probe(cluster, here, key)
        self._probing(cluster, here, probe)
        return cluster

    def _directives(self, cluster: dict[Any, Any], here: Location, key: str) -> None:
        old = _spelt(cluster, _DIRECTIVES)
        if old not in cluster:
            return
        directives = cluster.pop(old)
        operation = {} if cluster.get(key) is None else cluster[key]
        if not isinstance(operation, dict):
            return
        if _has(operation, _DIRECTIVES) and (*here, key) not in self._origins:
            self.mistakes.append(((*here, old), f"is given in {key} too"))
            return
        new = _spelt(operation, _DIRECTIVES)
        cluster[key] = {**operation, new: directives}
        self._origins[(*here, key, new)] = (*here, old)

    def _storage_probe(self, cluster: dict[Any, Any], here: Location, key: str) -> tuple[Any, Location] | None:
        """Take the probing out of where it does not belong; return its time-out and where that stood."""
        operation = cluster.get(key)
        if not isinstance(operation, dict):
            return None
        cluster[key] = operation = dict(operation)
        found = list(self._taken(operation, (*here, key)))
        transfer_key = _spelt(operation, "data_transfer")
        transfer = operation.get(transfer_key)
        if isinstance(transfer, dict):
            operation[transfer_key] = transfer = dict(transfer)
            found += self._taken(transfer, (*here, key, transfer_key))
        timeouts = [(value["timeout"], (*where, "timeout")) for value, where in found if "timeout" in value]
        return timeouts[-1] if timeouts else None

    def _taken(self, holder: dict[Any, Any], here: Location) -> Iterator[tuple[dict[Any, Any], Location]]:
        for name in _PROBING:
            key = _spelt(holder, name)
            if key not in holder:
                continue
            value = holder.pop(key)
            where = self.origin((*here, key))
            if isinstance(value, dict):
                for unknown in sorted(
                    set(map(str, value)) - {"interval", "interval_check", "intervalCheck", "timeout"}
                ):
                    self.mistakes.append(((*where, unknown), "unknown key; known here are interval and timeout"))
                yield value, where
            elif value is not None:
                self.mistakes.append((where, "must be a mapping of interval and timeout"))

    def _probing(self, cluster: dict[Any, Any], here: Location, probe: tuple[Any, Location] | None) -> None:
        key = next((_spelt(cluster, name) for name in _PROBING if _has(cluster, name)), _PROBING[0])
        probing = cluster.get(key)
        if not isinstance(probing, dict):
            return
        probing = dict(probing)
        services = probing.get("services")
        if "timeout" in probing and services is None:
            timeout = probing.pop("timeout")
            services = {}
            for name in ("ssh", "scheduler", "filesystem"):
                services[name] = {"timeout": timeout}
                self._origins[(*here, key, "services", name, "timeout")] = (*here, key, "timeout")
        if probe and isinstance(services, dict) and not {"s3", "storage"} & set(services):
            services = {**services, "s3": {"timeout": probe[0]}}
            self._origins[(*here, key, "services", "s3", "timeout")] = probe[1]
        if services is not None:
            probing["services"] = services
        cluster[key] = probing


def _from_storage(storage: dict[Any, Any]) -> tuple[dict[str, Any], dict[Location, Location]]:
    transfer = {"service_type": "s3", **storage}
    operation: dict[str, Any] = {}
    origins: dict[Location, Location] = {(): ("storage",), ("data_transfer",): ("storage",)}
    for name in ("max_ops_file_size", *_PROBING):
        key = _spelt(transfer, name)
        if key in transfer:
            operation[key] = transfer.pop(key)
            origins[(key,)] = ("storage", key)
    return {**operation, "data_transfer": transfer}, origins


def _spelt(mapping: Mapping[Any, Any], name: str) -> str:
    """Return the name as the mapping spells it, snake_case if it does not have it."""
    camel = to_camel(name)
    return camel if camel in mapping and name not in mapping else name


def _has(mapping: Mapping[Any, Any], name: str) -> bool:
    return _spelt(mapping, name) in mapping
