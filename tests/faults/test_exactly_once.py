"""Submissions with a key, while all that they need dies again and again: each is one job."""

import asyncio

import pytest

from benchmarks.exactly_once import KINDS, Trial, site_of
from hpcgate.demo.cluster import Cluster


@pytest.mark.parametrize(
    ("submissions", "together"), [(500, 1), (200, 25), pytest.param(2000, 1, marks=pytest.mark.deep)]
)
def test_each_submission_is_one_job_whatever_dies(cluster: Cluster, submissions: int, together: int) -> None:
    """As many things die among few submissions as among many, and amid bulks."""
    site = site_of(cluster)
    try:
        trial = Trial(site, ("alice", "bob"), submissions, keyed=True, seed=1, clients=4, together=together)
        outcome = asyncio.run(trial.run())
    finally:
        site.gateway.stop()
        site.sshd.stop()
        cluster.slurm.wait_for_nodes()
        cluster.slurm.run(["scancel", "--state=PENDING", "-u", cluster.user("alice").name])
        cluster.slurm.run(["scancel", "--state=PENDING", "-u", cluster.user("bob").name])
    assert set(outcome.deaths) == set(KINDS)
    assert len(outcome.answers) == len(set(outcome.answers.values())) == outcome.submissions >= submissions
    assert (outcome.lost, outcome.doubled) == (0, 0)
