"""Jobs as requests describe them: with paths in text."""

from typing import Any

from hpcgate.schedulers.base import JobDescription
from hpcgate.ssh.files.remote_path import RemotePath


def described(
    working_directory: str, script: str | None = None, script_path: str | None = None, **fields: Any
) -> JobDescription:
    """Return a description of a job."""
    path = None if script_path is None else _bytes(script_path)
    return JobDescription(_bytes(working_directory), script, path, **fields)


def _bytes(path: str) -> RemotePath:
    return RemotePath(path.encode("utf-8", "surrogateescape"))
