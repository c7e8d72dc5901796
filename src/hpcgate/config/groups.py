"""The groups of operations that rules and limits are written for."""

from enum import StrEnum


class Group(StrEnum):
    """What a request is about to do, in one word."""

    STATUS_READ = "status:read"
    COMPUTE_READ = "compute:read"
    COMPUTE_SUBMIT = "compute:submit"
    COMPUTE_NOTIFY = "compute:notify"
    FS_READ = "fs:read"
    FS_WRITE = "fs:write"
    TRANSFER = "transfer"
