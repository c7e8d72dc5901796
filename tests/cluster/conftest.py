"""One real demo cluster for all tests of this directory."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hpcgate.demo.cluster import Cluster


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A cluster with accounting: sshd, Slurm with slurmdbd, and the identity provider."""
    with Cluster() as running:
        yield running
