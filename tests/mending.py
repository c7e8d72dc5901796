"""Put a cluster right that a test has left as it was when it failed, so that it is the only one that fails."""

from contextlib import suppress

from hpcgate.demo.cluster import Cluster
from hpcgate.demo.problems import DemoError
from hpcgate.demo.processes import wait_until
from hpcgate.demo.slurm import Slurm


def mend(cluster: Cluster) -> None:
    """Have all daemons of a cluster run, all nodes be there, and nobody's jobs."""
    slurm = cluster.slurm
    database = slurm.mariadb.daemon if slurm.mariadb is not None else None
    for daemon in (
        cluster.munge.daemon,
        database,
        slurm.slurmdbd,
        slurm.slurmctld,
        *slurm.slurmds,
        slurm.slurmrestd,
        cluster.idp.daemon,
        cluster.sshd.daemon,
    ):
        if daemon is None:
            continue
        if daemon.running:
            daemon.resume()
        else:
            daemon.start()
    for user in cluster.users:
        slurm.run(["scancel", f"--user={user.name}"])
    wait_until(lambda: _all_idle(slurm), "all nodes are idle again", 120, interval=0.2)


def _all_idle(slurm: Slurm) -> bool:
    """Tell whether all nodes are idle; those that are drained are asked to come back, once they are heard of."""
    states = slurm.run(["sinfo", "--noheader", "--Node", "--partition=normal", "--format=%N %T"]).split()
    for node, state in zip(states[::2], states[1::2], strict=True):
        if "drain" in state:
            with suppress(DemoError):
                slurm.scontrol("update", f"nodename={node}", "state=resume")
    return states[1::2] == ["idle"] * len(slurm.nodes)
