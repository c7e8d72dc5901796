"""The settings of what is told of jobs as it happens."""

from pydantic import Field

from hpcgate.config.base import Model
from hpcgate.config.values import Seconds


class EventSettings(Model):
    """How a system's jobs are watched, while somebody wants to know."""

    interval: Seconds = Field(
        5,
        description="Seconds between queries of the scheduler while jobs change; a second or two after a submission, "
        "and up to three times as many while nothing happens. None while nobody watches.",
    )
    by_service_account: bool = Field(
        False,
        description="Whether the system's service account asks for everybody, by one query; it must be one that may "
        "see all jobs. Else each user with watchers asks for their own.",
    )
    max_wait: Seconds = Field(600, description="Most seconds that a request may wait for a job (?wait=).")
    history: Seconds = Field(
        30 * 24 * 3600,
        description="Seconds for which the scheduler's records are kept; a client that comes back later begins anew.",
    )
