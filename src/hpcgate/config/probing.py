"""The settings of the health checks."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, TypeAlias

from pydantic import AfterValidator, AliasChoices, BeforeValidator, Field
from pydantic_core import PydanticKnownError

from hpcgate.config.base import FROZEN, Model
from hpcgate.config.plugins import plugin, plugins
from hpcgate.config.secrets import Secret
from hpcgate.config.values import Pause, Seconds


class ServiceAccount(Model):
    """The client that the health checks of one system use."""

    client_id: str = Field(description="Its client id at the IdP.")
    secret: Secret = Field(description="Its secret.")
    scope: str | None = Field(
        None, min_length=1, description="Scopes to ask for, separated by blanks; Entra ID wants api://…/.default."
    )
    username: str | None = Field(
        None,
        min_length=1,
        description="The local account that the probes log in as, for an IdP whose tokens for a client name no user. "
        "Of such a token required_scopes, required_claims and username_claim do not count.",
    )


OLD_SERVICE_NAMES: Mapping[str, str] = MappingProxyType({"filesystems": "filesystem", "storage": "s3"})
"""What FirecREST has called, or will call, a probed service, and its name on the wire."""

ServiceName: TypeAlias = str
"""Of `OWN_SERVICES`, or what a transfer plug-in stands on (``Transfer.service``)."""

OWN_SERVICES = ("ssh", "scheduler", "filesystem")
"""What every system has."""


def transfer_service(method: str) -> ServiceName | None:
    """Return what a transfer method stands on, None if that is nothing of its own.

    Raises:
        KeyError: No plug-in brings the method.
    """
    service = plugin("hpcgate.transfers", method).service
    return None if service is None else str(service.name)


def _known(name: str) -> ServiceName:
    if name in OWN_SERVICES:
        return name
    behind = sorted(filter(None, map(transfer_service, plugins("hpcgate.transfers"))))
    if name not in behind:
        first = ", ".join(map(repr, (*OWN_SERVICES, *behind)[:-1]))
        raise PydanticKnownError("literal_error", {"expected": f"{first} or {(*OWN_SERVICES, *behind)[-1]!r}"})
    return name


class ProbingService(Model):
    """One probed service."""

    timeout: Seconds | None = Field(10, description="Seconds that one probe may take; null is 10.")


_Name = Annotated[ServiceName, AfterValidator(lambda name: _known(OLD_SERVICE_NAMES.get(name, name)))]
_Probe = Annotated[ProbingService, BeforeValidator(lambda probe: {} if probe is None else probe)]


class ProbingSettings(Model):
    """What is probed, and how often."""

    interval_check: Seconds = Field(
        120,
        validation_alias=AliasChoices("interval_check", "intervalCheck", "interval"),
        description="Seconds between rounds of probes, give or take a tenth.",
    )
    startup_grace_period: Pause = Field(
        300,
        description="Seconds after the start in which a service that no probe has found healthy yet is served all the "
        "same.",
    )
    services: Annotated[Mapping[_Name, _Probe], *FROZEN] | None = Field(None, description="The probed services.")
