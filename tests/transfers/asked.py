"""Transfers as requests ask for them: with paths in text."""

from typing import Any

from hpcgate.ssh.files.remote_path import RemotePath
from hpcgate.transfers import jobs
from hpcgate.transfers.base import Download, Script, Upload


def _bytes(path: str) -> RemotePath:
    # However long: jobs stand what requests refuse, too.
    return RemotePath(path.encode("utf-8", "surrogateescape"))


def mv(source: str, target: str) -> Script:
    """Return `jobs.mv`'s script."""
    return jobs.mv(_bytes(source), _bytes(target))


def cp(source: str, target: str, **options: Any) -> Script:
    """Return `jobs.cp`'s script."""
    return jobs.cp(_bytes(source), _bytes(target), **options)


def rm(path: str) -> Script:
    """Return `jobs.rm`'s script."""
    return jobs.rm(_bytes(path))


def compress(source: str, target: str, **options: Any) -> Script:
    """Return `jobs.compress`'s script."""
    return jobs.compress(_bytes(source), _bytes(target), **options)


def extract(source: str, target: str, **options: Any) -> Script:
    """Return `jobs.extract`'s script."""
    return jobs.extract(_bytes(source), _bytes(target), **options)


def upload(path: str, **options: Any) -> Upload:
    """Return an upload to a path."""
    return Upload(_bytes(path), **options)


def download(path: str) -> Download:
    """Return a download from a path."""
    return Download(_bytes(path))
