"""Which group of operations a route belongs to."""

from functools import cache

from hpcgate.config.groups import Group

__all__ = ["Group", "group_of"]

_READS = ("GET", "HEAD", "OPTIONS")


@cache
def group_of(method: str, route: str) -> Group | None:
    """Return the group of a route; None if it asks for nothing that a rule or a limit is about.

    Args:
        method: The HTTP method, in upper case.
        route: The path of the route, with its parameters' names: ``/filesystem/{system_name}/ops/ls``.
    """
    top, _, rest = route.strip("/").partition("/")
    read = method in _READS
    if top == "status" and rest not in ("liveness", "readiness"):
        return Group.STATUS_READ
    if top == "compute":
        return Group.COMPUTE_READ if read else Group.COMPUTE_SUBMIT
    if top == "filesystem":
        if rest.startswith("{system_name}/transfer/"):
            return Group.TRANSFER
        return Group.FS_READ if read else Group.FS_WRITE
    return None
