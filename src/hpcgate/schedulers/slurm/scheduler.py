"""The Slurm scheduler."""

from hpcgate.schedulers.base import Scheduler
from hpcgate.schedulers.slurm.settings import SlurmSettings


class Slurm(Scheduler):
    """Slurm 21.08 to 26.05."""

    Settings = SlurmSettings
    account_directive = "#SBATCH --account={account}"
