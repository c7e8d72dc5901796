"""What all settings have in common, and the base of each plug-in's settings."""

from collections.abc import Mapping
from types import MappingProxyType, NoneType
from typing import Annotated, Any, get_args

from pydantic import (
    AfterValidator,
    AliasChoices,
    AliasGenerator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    model_validator,
)
from pydantic.alias_generators import to_camel

from hpcgate.config.values import Pause, Seconds

FROZEN = (AfterValidator(lambda value: MappingProxyType(dict(value))), PlainSerializer(dict))
"""Annotations of a mapping that cannot be changed."""


def _something(value: Any) -> Any:
    if value == "" or (isinstance(value, list | tuple) and value and all(map(_empty, value))):
        raise ValueError("is empty, which would let more in: give a value, or leave the key out")
    return value


NARROWS = BeforeValidator(_something)
"""Annotation of a setting that keeps somebody out: that it was left empty by mistake must not let them in."""

EnvironmentName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
LauncherName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]


class Model(BaseModel):
    """The base of all settings: frozen, unknown keys refused, snake_case and camelCase accepted.

    A null where null means nothing else leaves the default, as a key without a value does in a Helm chart; and so does
    an empty text, as a chart's template makes of a value that is not there. Such items of a list are left out, and so
    is a list of nothing else. Where that would let more in (`NARROWS`), it is a mistake instead.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=AliasGenerator(validation_alias=lambda name: AliasChoices(name, to_camel(name))),
        populate_by_name=True,
        hide_input_in_errors=True,
    )

    @classmethod
    def accepted_names(cls) -> dict[str, str]:
        """Return each key that a file may use, and the field that it sets."""
        accepted: dict[str, str] = {}
        for name, field in cls.model_fields.items():
            alias = field.validation_alias
            choices = alias.choices if isinstance(alias, AliasChoices) else [alias or name]
            accepted |= {choice: name for choice in (name, *choices) if isinstance(choice, str)}
        return accepted

    @model_validator(mode="before")
    @classmethod
    def _nothing_is_unset(cls, data: Any) -> Any:
        if not isinstance(data, dict) or not any(_holds_nothing(value) for value in data.values()):
            return data
        accepted = cls.accepted_names()
        filled = {key: _filled(value) for key, value in data.items()}
        return {key: value for key, value in filled.items() if not cls._unset(accepted, key, value)}

    @classmethod
    def _unset(cls, accepted: Mapping[str, str], key: Any, value: Any) -> bool:
        if key not in accepted or not (_empty(value) or (isinstance(value, list) and _holds_nothing(value))):
            return False
        field = cls.model_fields[accepted[key]]
        if field.is_required() or (NARROWS in field.metadata and value is not None):
            return False
        return value is not None or NoneType not in get_args(field.annotation)


def _empty(value: Any) -> bool:
    return value is None or value == ""


def _holds_nothing(value: Any) -> bool:
    return _empty(value) or (isinstance(value, list) and any(map(_empty, value)))


def _filled(value: Any) -> Any:
    """Return a list without its empty items, unless there are no others."""
    if not isinstance(value, list) or not _holds_nothing(value):
        return value
    return [item for item in value if not _empty(item)] or value


class PluginSettings(Model):
    """The base of the settings that a plug-in brings; its own `type` key chooses the plug-in."""


class CredentialSettings(PluginSettings):
    """What every credential plug-in's settings hold."""

    type: str = Field(description="Which source of credentials, by the name of its entry point.")


class SchedulerSettings(PluginSettings):
    """What every scheduler plug-in's settings hold."""

    type: str = Field(description="Which scheduler, by the name of its entry point.")
    version: str = Field(description="The version that is installed, such as 22.05.8.")
    timeout: Seconds = Field(10, description="Seconds that a scheduler command or request may take.")
    read_cache: Pause = Field(
        0, description="Seconds for which answers about jobs may be given out again; 0 shares only those under way."
    )
    bulk_at_once: int = Field(
        4, ge=1, le=64, description="How many submissions or cancellations of one bulk request run at a time."
    )
    environment: Annotated[Mapping[EnvironmentName, str], *FROZEN] = Field(
        {},
        description="Environment variables for the scheduler's commands on the login node, such as SLURM_CONF."
        " Variables of the users' own that steer these commands are unset before.",
    )
    launchers: Annotated[Mapping[LauncherName, tuple[str, ...]], *FROZEN] = Field(
        {},
        description="What starts the program of a job that names an executable instead of a script: the words of each"
        " launcher, by the name that requests call it by; the first is the default. Empty: none, srun (on Slurm) and"
        " mpirun.",
    )


class TransferSettings(PluginSettings):
    """What every transfer plug-in's settings hold."""

    service_type: str = Field(description="Which transfer method, by the name of its entry point.")
