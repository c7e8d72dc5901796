"""A gateway to attack: a system by SFTP, one by commands, and the tokens to do it with."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hpcgate.demo.cluster import Cluster, Gateway
from tests.transfers.object_store import ObjectStore

_numbers = itertools.count()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    """An S3 server."""
    with ObjectStore(tmp_path_factory.mktemp("s3") / "data") as running:
        yield running


@pytest.fixture(scope="module")
def attacked(cluster: Cluster, store: ObjectStore) -> Iterator[Gateway]:
    """A gateway whose systems take only paths below the homes, so that a random `rm` ends there too."""
    # The first keeps a wild `rm` at home; the second, that a thousand transfer jobs run nothing while all is judged.
    fence: dict[str, Any] = {
        "restrict_paths": True,
        "file_systems": [{"path": str(cluster.homes), "data_type": "users", "default_work_dir": True}],
        "probing": {"services": None},
    }
    directives = ["#SBATCH --hold", "#SBATCH --account={account}"]
    methods = [store.settings(), {"service_type": "wormhole"}]
    held: dict[str, Any] = {"data_operation": {"datatransfer_jobs_directives": directives, "data_transfer": methods}}
    config = cluster.write_gateway_config(
        cluster.directory / f"attacked-gateway-{next(_numbers)}.yaml",
        clusters=[
            cluster.cluster_settings("demo", **fence, **held),
            cluster.cluster_settings("commands", ssh={"files": "commands"}, **fence, **held),
        ],
        # What has no end is to have one, as each of its answers is looked at whole.
        streams={"max_streams_per_user": 64, "max_follow": 0.2},
    )
    running = cluster.start_gateway(config)
    yield running
    running.stop()


@pytest.fixture
def token(cluster: Cluster) -> str:
    """A token of the first user."""
    return cluster.token("alice")


@pytest.fixture
def here(cluster: Cluster) -> Path:
    """The first user's home."""
    return cluster.user("alice").home
