"""The settings of planned maintenance."""

from typing import Self

from pydantic import AwareDatetime, Field, model_validator

from hpcgate.config.base import Model


class MaintenanceWindow(Model):
    """A time in which a system is not served."""

    start: AwareDatetime | None = Field(
        None, description="When it begins, with its offset from UTC, as 2027-02-01T06:00:00+01:00; unset: already."
    )
    until: AwareDatetime | None = Field(None, description="When it ends; unset: when the setting is taken out.")
    reason: str = Field("", max_length=500, description="What users are told.")

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.start is not None and self.until is not None and self.until <= self.start:
            raise ValueError("until must be later than start")
        return self
