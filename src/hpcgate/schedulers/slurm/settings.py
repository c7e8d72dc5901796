"""The settings of a Slurm system."""

from typing import Literal

from pydantic import Field, model_validator

from hpcgate.config import SchedulerSettings
from hpcgate.config.values import Pause, Seconds
from hpcgate.schedulers.slurm.rest.versions import api_version

ConnectionMode = Literal["ssh", "rest", "hybrid"]


class SlurmSettings(SchedulerSettings):
    """How a Slurm cluster is reached."""

    type: Literal["slurm"] = Field(description="Slurm.")
    version: str = Field(
        pattern=r"^\d{2}\.\d{1,2}([.-].*)?$", description="The version that is installed, such as 22.05.8."
    )
    connection_mode: ConnectionMode = Field(
        "ssh", description="By commands on the login node, by slurmrestd, or by slurmrestd and commands for the rest."
    )
    api_url: str | None = Field(None, pattern="^https?://", description="Where slurmrestd answers, without a path.")
    api_version: str | None = Field(
        None, pattern=r"^v?0\.0\.\d+$", description="The data version of slurmrestd's API, such as 0.0.42."
    )
    tag_jobs: bool = Field(
        True,
        description="Whether each job that sbatch submits gets a word in its comment, after the script's own, by which"
        " it is found if what was printed does not tell its id.",
    )
    history_cache: Pause = Field(
        2,
        description="Seconds for which what the accounting database said of a list of jobs is used again, as long as"
        " the queue shows no change; 0 asks it each time.",
    )
    history_timeout: Seconds = Field(
        5,
        description="Seconds within which the accounting database must have answered a small question. If it did not,"
        " answers are given without it, and it is asked again after a pause.",
    )

    @model_validator(mode="after")
    def _reachable(self) -> "SlurmSettings":
        if self.connection_mode != "ssh" and not (self.api_url and self.api_version):
            raise ValueError(f"connection_mode {self.connection_mode} needs api_url and api_version")
        if self.connection_mode != "ssh":
            api_version(self.api_version or "")
        return self
