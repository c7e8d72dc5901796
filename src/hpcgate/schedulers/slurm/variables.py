"""Environment variables that steer Slurm's tools.

They are a user's own, set in start-up files for work at the terminal, where they hide jobs from squeue or have scancel
ask before it cancels. Where the gateway asks, they are unset, whatever a release lists in the sections INPUT
ENVIRONMENT VARIABLES of its manual pages. Where a user submits, they count: https://slurm.schedmd.com/sbatch.html
"""

from hpcgate.ssh.commands.quoting import Steering

ASKING = Steering(
    prefixes=(
        "PMI_", "SACCTMGR_", "SACCT_", "SALLOC_", "SBATCH_", "SCANCEL_", "SCONTROL_", "SINFO_", "SLURMCTLD_", "SLURMD_",
        "SLURMRESTD_", "SLURM_", "SQUEUE_", "SRUN_",
    ),
    kept=("SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_JWT", "SLURM_SACK_KEY", "SLURM_SACK_SOCKET"),
)  # fmt: skip
"""All but those that say where the cluster is and how one is known to it, which are the site's."""

SUBMITTING = ("SBATCH_CLUSTERS", "SBATCH_WAIT", "SLURM_CLUSTERS", "SLURM_DEBUG_FLAGS", "SLURM_EXIT_ERROR")
"""Those that sbatch is not to see either: a job goes to this cluster, and nobody waits for its end."""
