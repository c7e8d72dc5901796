"""Slurm, by its commands on the login node, by slurmrestd, or by both."""

from hpcgate.schedulers.slurm.scheduler import Slurm
from hpcgate.schedulers.slurm.settings import SlurmSettings

__all__ = ["Slurm", "SlurmSettings"]
