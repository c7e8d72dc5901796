"""The settings of an OpenPBS system."""

from typing import Literal

from pydantic import Field

from hpcgate.config import SchedulerSettings


class PbsSettings(SchedulerSettings):
    """How an OpenPBS server is reached."""

    type: Literal["pbs"] = Field(description="OpenPBS or PBS Professional.")
    connection_mode: Literal["ssh"] = Field("ssh", description="By commands on the login node; PBS has no other way.")
    api_url: None = Field(None, description="Accepted for FirecREST's sake; PBS has no REST API.")
    api_version: None = Field(None, description="Accepted for FirecREST's sake; PBS has no REST API.")
