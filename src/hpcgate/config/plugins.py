"""Plug-ins by entry point: schedulers, credential sources, transfer methods and operations."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel, GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationError
from pydantic.alias_generators import to_camel
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError, core_schema

from hpcgate.config.mistakes import did_you_mean


@cache  # What is installed stays the same while a process lives, and finding it out takes 10 ms a time.
def plugins(group: str) -> Mapping[str, EntryPoint]:
    """Return the entry points of a group by name."""
    return MappingProxyType({point.name: point for point in entry_points(group=group)})


def plugin(group: str, name: str) -> Any:
    """Load the plug-in of that name.

    Raises:
        KeyError: There is none.
    """
    return plugins(group)[name].load()


def settings_model(group: str, name: str) -> type[BaseModel]:
    """Return the model of the settings that the plug-in of that name brings.

    Raises:
        KeyError: There is no such plug-in.
        ValueError: It cannot be loaded, or brings no model.
    """
    point = plugins(group)[name]
    try:
        model = point.load().Settings
    except Exception as error:
        # A plug-in is somebody else's code: whatever its import raises is that plug-in's mistake.
        raise ValueError(
            f"the plug-in {name!r} ({point.value}) cannot be loaded: {type(error).__name__}: {error}"
        ) from None
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        raise ValueError(f"the plug-in {name!r} ({point.value}) cannot be loaded: its Settings is not a pydantic model")
    return model


@dataclass(frozen=True, slots=True)
class Plugin:
    """The annotation of a field whose settings model a plug-in brings.

    Attributes:
        group: The entry points to choose from.
        key: The key of the settings that names the plug-in.
        many: Whether there may be several: the field is then a tuple, given as a list or as the only one.
    """

    group: str
    key: str
    many: bool = False

    def one(self, value: Any) -> BaseModel:
        """Return the settings, an instance of the model that the plug-in brings.

        Raises:
            ValidationError: They do not fit it; locations are relative to `value`.
            ValueError: They are not a mapping.
        """
        if isinstance(value, BaseModel):
            return value
        if not isinstance(value, Mapping):
            raise ValueError(f"must be a mapping with the key {self.key!r}")
        names = sorted(plugins(self.group))
        name = self.name(value)
        if name is None:
            raise _mistake(self.key, f"is required but missing; it is one of {', '.join(names)}")
        if name not in names:
            raise _mistake(self.key, f"must be one of {', '.join(names)}{did_you_mean(name, names)}")
        try:
            model = settings_model(self.group, name)
        except ValueError as error:
            raise _mistake(self.key, str(error)) from None
        return model.model_validate(value)

    def several(self, value: Any, validate: Callable[[Any], tuple[BaseModel, ...]]) -> tuple[BaseModel, ...]:
        """Return a tuple of settings, given as a list or as the only one.

        Raises:
            ValidationError: One does not fit; locations are relative to `value`.
            ValueError: Two name the same plug-in.
        """
        if not isinstance(value, list | tuple):
            return (self.one(value),)
        settings = validate(value)
        names = [getattr(each, self.key) for each in settings]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"has {name!r} more than once in {self.key!r}")
        return settings

    def name(self, value: Mapping[Any, Any]) -> Any:
        """Return which plug-in the settings name, None if they do not."""
        return value.get(self.key, value.get(to_camel(self.key)))

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Validate by the plug-in; serialise whatever model it brought."""
        # Without a return schema the serialiser goes by what the value is, not by the annotation.
        as_it_is = core_schema.plain_serializer_function_ser_schema(lambda value: value)
        one = core_schema.no_info_plain_validator_function(self.one, serialization=as_it_is)
        if not self.many:
            return one
        return core_schema.no_info_wrap_validator_function(
            self.several, core_schema.tuple_variable_schema(one), serialization=as_it_is
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Offer the models of all plug-ins that load."""
        models: list[JsonSchemaValue] = []
        for name in sorted(plugins(self.group)):
            try:
                models.append(handler(settings_model(self.group, name).__pydantic_core_schema__))
            except ValueError:
                continue
        if self.many:
            models.append({"type": "array", "items": {"anyOf": list(models)}})
        return {"anyOf": models}


def _mistake(key: str, what: str) -> ValidationError:
    error = InitErrorDetails(type=PydanticCustomError("plugin", "{what}", {"what": what}), loc=(key,), input=None)
    return ValidationError.from_exception_data("settings", [error], hide_input=True)
