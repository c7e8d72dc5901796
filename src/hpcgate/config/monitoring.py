"""The settings of metrics and traces."""

import importlib.util
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated

from pydantic import Field, field_validator

from hpcgate.config.base import FROZEN, Model
from hpcgate.config.secrets import Secret
from hpcgate.config.values import AbsolutePath, HttpUrl, Port


class MetricsSettings(Model):
    """Metrics for Prometheus; off unless a port or a path is set."""

    port: Port | None = Field(None, description="A TCP port of its own, where `/metrics` and nothing else is served.")
    host: str = Field("127.0.0.1", min_length=1, description="The address that the port is opened on.")
    path: AbsolutePath | None = Field(
        None, description="A path of the API that shows the metrics to anybody who can reach it, without a token."
    )


class TracingSettings(Model):
    """Traces by OpenTelemetry; off unless an endpoint is set."""

    endpoint: HttpUrl | None = Field(
        None,
        description="Where traces go by OTLP over HTTP, such as http://collector:4318/v1/traces. Needs the extra "
        "`tracing`.",
    )
    headers: Annotated[Mapping[str, Secret], *FROZEN] = Field(
        default_factory=lambda: MappingProxyType({}), description="Headers for the collector, such as an API key."
    )
    service_name: str = Field("hpcgate", min_length=1, description="The name of the service in the traces.")
    sample_ratio: float = Field(
        1.0, ge=0, le=1, description="The part of the requests that is traced; a caller's own trace decides for itself."
    )

    @field_validator("endpoint")
    @classmethod
    def _installed(cls, value: str | None) -> str | None:
        if value is not None and not _there("opentelemetry.exporter.otlp.proto.http"):
            raise ValueError("needs OpenTelemetry: pip install 'hpcgate[tracing]'")
        return value


def _there(module: str) -> bool:
    """Say whether a module is installed; to find one, those above it are imported."""
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:
        return False
