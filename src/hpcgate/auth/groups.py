"""Groups of operations, which rules and limits are written for."""

from enum import StrEnum
from functools import cache

_READS = ("GET", "HEAD", "OPTIONS")


class Group(StrEnum):
    """What a request is about to do, in one word."""

    STATUS_READ = "status:read"
    COMPUTE_READ = "compute:read"
    COMPUTE_SUBMIT = "compute:submit"
    FS_READ = "fs:read"
    FS_WRITE = "fs:write"
    TRANSFER = "transfer"


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
