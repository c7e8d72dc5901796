"""The settings of an OpenPBS system."""

from typing import Literal

from pydantic import Field

from hpcgate.config import SchedulerSettings


class PbsSettings(SchedulerSettings):
    """How an OpenPBS server is reached."""

    type: Literal["pbs"] = Field(description="OpenPBS or PBS Professional.")
    connection_mode: Literal["ssh"] = Field("ssh", description="By commands on the login node; PBS has no other way.")
    tag_jobs: bool = Field(
        True,
        description="Whether qsub is given a word that the server keeps with the job's Submit_arguments, by which the"
        " job is found if what was printed does not tell its id.",
    )
    gpu_resource: str = Field(
        "ngpus",
        pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,63}$",
        description="The resource of a node that counts its GPUs, for gpuCoresPerProcess of a job.",
    )
    api_url: None = Field(None, description="Accepted for FirecREST's sake; PBS has no REST API.")
    api_version: None = Field(None, description="Accepted for FirecREST's sake; PBS has no REST API.")
