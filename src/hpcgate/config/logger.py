"""The settings of the logs."""

from typing import Literal

from pydantic import Field

from hpcgate.config.base import Model


class LoggedHeader(Model):
    """A request header that goes into the tracing log."""

    input: str = Field(description="The header's name.")
    output: str = Field(description="The key in the log.")


class LoggerSettings(Model):
    """What is logged."""

    enable_tracing_log: bool = Field(False, description="Write one tracing line for each request.")
    loggable_request_headers: tuple[LoggedHeader, ...] = Field((), description="Headers in the tracing log.")
    access_log: bool = Field(True, description="Write one line for each request.")
    format: Literal["json", "console"] = Field("json", description="How log lines are written.")
    level: Literal["debug", "info", "warning", "error"] = Field("info", description="The least severe line written.")
