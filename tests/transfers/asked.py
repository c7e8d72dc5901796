"""Transfers as requests ask for them: with paths in text."""

from typing import Any

from hpcgate.ssh.files.remote_path import encode_path
from hpcgate.transfers import jobs
from hpcgate.transfers.base import Download, Script, Upload


def mv(source: str, target: str) -> Script:
    """Return `jobs.mv`'s script."""
    return jobs.mv(encode_path(source), encode_path(target))


def cp(source: str, target: str, **options: Any) -> Script:
    """Return `jobs.cp`'s script."""
    return jobs.cp(encode_path(source), encode_path(target), **options)


def rm(path: str) -> Script:
    """Return `jobs.rm`'s script."""
    return jobs.rm(encode_path(path))


def compress(source: str, target: str, **options: Any) -> Script:
    """Return `jobs.compress`'s script."""
    return jobs.compress(encode_path(source), encode_path(target), **options)


def extract(source: str, target: str, **options: Any) -> Script:
    """Return `jobs.extract`'s script."""
    return jobs.extract(encode_path(source), encode_path(target), **options)


def upload(path: str, **options: Any) -> Upload:
    """Return an upload to a path."""
    return Upload(encode_path(path), **options)


def download(path: str) -> Download:
    """Return a download from a path."""
    return Download(encode_path(path))
