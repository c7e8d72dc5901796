"""Transfers by magic-wormhole."""

from typing import ClassVar, Literal

from pydantic import Field

from hpcgate.config import TransferSettings
from hpcgate.config.values import HttpUrl
from hpcgate.transfers.base import Surroundings, Transfer


class WormholeSettings(TransferSettings):
    """How a job gets magic-wormhole."""

    service_type: Literal["wormhole"] = Field(description="wormhole.")
    pypi_index_url: HttpUrl | None = Field(None, description="The package index that the job installs from.")


class WormholeTransfer(Transfer):
    """Uploads and downloads by a code that is said once."""

    Settings: ClassVar[type[TransferSettings]] = WormholeSettings
    method: ClassVar[str] = "wormhole"

    def __init__(self, settings: WormholeSettings, surroundings: Surroundings) -> None:
        self._settings = settings
        self._surroundings = surroundings
