"""Transfers through a port of a compute node, by firecrest-streamer."""

from typing import ClassVar, Literal

from pydantic import Field, field_validator

from hpcgate.config import TransferSettings
from hpcgate.config.values import HttpUrl, Port, Seconds
from hpcgate.transfers.base import Surroundings, Transfer


class StreamerSettings(TransferSettings):
    """Where a streamer job listens and how users reach it."""

    service_type: Literal["streamer"] = Field(description="streamer.")
    host: str | None = Field(None, description="The address that the job listens on; chosen by the job if unset.")
    port_range: tuple[Port, Port] = Field((5665, 5675), description="The first and the last port that it may take.")
    public_ips: tuple[str, ...] | None = Field(None, description="The addresses that users connect to.")
    wait_timeout: Seconds = Field(86400, description="Seconds that the job waits for a user to connect.")
    inbound_transfer_limit: int = Field(5 * 1024**3, gt=0, description="Most bytes of an upload.")
    pypi_index_url: HttpUrl | None = Field(None, description="The package index that the job installs from.")

    @field_validator("port_range")
    @classmethod
    def _in_order(cls, value: tuple[int, int]) -> tuple[int, int]:
        if value[0] > value[1]:
            raise ValueError("must be the first and the last port, in this order")
        return value


class StreamerTransfer(Transfer):
    """Uploads and downloads over a WebSocket that a job opens."""

    Settings: ClassVar[type[TransferSettings]] = StreamerSettings
    method: ClassVar[str] = "streamer"

    def __init__(self, settings: StreamerSettings, surroundings: Surroundings) -> None:
        self._settings = settings
        self._surroundings = surroundings
