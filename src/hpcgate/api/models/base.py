"""What the wire models have in common, and the error body."""

from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel

from hpcgate.filesystem.base import Parameters


def _writable(text: str) -> str:
    return text if text.isascii() else text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


Writable = Annotated[str, AfterValidator(_writable)]
"""Text of an answer in which a path or a file of a user's may be: U+FFFD stands for lone surrogates (RFC 8259, 8.2)."""


class Wire(BaseModel):
    """The base of all answers: camelCase, read from our own nouns by attribute."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, from_attributes=True)


class Snake(BaseModel):
    """The base of the few answers that keep snake_case on the wire (contract, status)."""

    model_config = ConfigDict(from_attributes=True)


class ApResponseErrorType(StrEnum):
    """What kind of error."""

    error = "error"
    validation = "validation"


class ApiResponseError(Wire):
    """The body of every error."""

    error_type: ApResponseErrorType = ApResponseErrorType.error
    message: str
    caused_by: list[str] | None = None
    data: dict[str, Any] | None = None
    user: str | None = None
    reason: str | None = Field(None, description="`maintenance` where a system is under maintenance; else not there")


class BodyParameters(Parameters):
    """Parameters in a body. A null says no more than a field that is not there.

    Class attributes:
        strict: Whether fields that are not known are refused, as what they ask for would be missed too late.
        unused: The fields that clients of FirecREST's send though nothing is done with them, and what to say of each.
    """

    model_config = ConfigDict(json_schema_extra=None)

    strict: ClassVar[bool] = False
    unused: ClassVar[Mapping[str, str]] = {}

    def remarks(self) -> Iterator[str]:
        """Yield what to say of the fields that were sent and are not used."""
        for name in sorted(self.model_fields_set):
            value = getattr(self, name)
            if isinstance(value, BodyParameters):
                yield from (f"{to_camel(name)}.{remark}" for remark in value.remarks())
            elif name in self.unused and value is not None:
                yield f"{to_camel(name)} is not used: {self.unused[name]}"

    @model_validator(mode="before")
    @classmethod
    def _null_is_not_there(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        known = {name for field in cls.model_fields for name in (field, to_camel(field))}
        return {name: value for name, value in given.items() if value is not None or name in known}
