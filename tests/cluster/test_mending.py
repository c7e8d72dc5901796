"""What a failing test leaves of the cluster is put right behind it."""

from hpcgate.demo.cluster import Cluster
from tests.mending import mend


def test_a_cluster_is_as_new_behind_a_test_that_failed(cluster: Cluster) -> None:
    slurm = cluster.slurm
    assert slurm.slurmdbd is not None
    cluster.as_user("alice", ["sbatch", "--array=1-20", "--wrap", "sleep 600"])
    slurm.scontrol("update", f"nodename={slurm.nodes[0]}", "state=drain", "reason=failed")
    slurm.slurmdbd.stop()
    slurm.slurmctld.stop()
    cluster.idp.stop()
    cluster.sshd.suspend()
    mend(cluster)
    assert slurm.run(["squeue", "--noheader"]) == ""
    assert set(slurm.run(["sinfo", "--noheader", "--Node", "--partition=normal", "--format=%T"]).split()) == {"idle"}
    assert slurm.slurmdbd.running
    assert cluster.token("alice")
    assert slurm.version in cluster.as_user("alice", ["sinfo", "--version"]).stdout
