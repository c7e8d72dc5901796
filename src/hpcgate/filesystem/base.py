"""What every filesystem operation is.

An operation is a class with its HTTP method and name, a pydantic model of its parameters and one of its result, and
`run`. The API layer makes the routes from the registered operations (entry points ``hpcgate.operations``).
"""

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import Annotated, Any, ClassVar, Literal, Protocol, TypeVar

from pydantic import (
    AliasChoices,
    AliasGenerator,
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    WithJsonSchema,
    model_validator,
)  # fmt: skip
from pydantic.alias_generators import to_camel
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, PydanticCustomError
from pydantic_core.core_schema import (
    no_info_after_validator_function,
    plain_serializer_function_ser_schema,
    str_schema,
)  # fmt: skip

from hpcgate.auth import Principal
from hpcgate.config.groups import Group
from hpcgate.errors import BadRequest, NotSupported, ToolMissing
from hpcgate.ssh.files.remote_path import RemotePath, encode_link, encode_path
from hpcgate.ssh.session import Session

T = TypeVar("T")


def _as_in_the_contract(schema: dict[str, Any]) -> None:
    """Leave out that nothing else is taken, which the contract does not say."""
    schema.pop("additionalProperties", None)


class Parameters(BaseModel):
    """The base of all parameters: camelCase on the wire, snake_case accepted too (contract, Conventions).

    What else stands in a body or in a query is told (`hpcgate.api.remarks`), for what is passed over may be missed when
    it is too late.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        json_schema_extra=_as_in_the_contract,
        alias_generator=AliasGenerator(
            alias=to_camel,
            validation_alias=lambda name: AliasChoices(to_camel(name), name),
        ),
        populate_by_name=True,
    )

    _fields_by_name: ClassVar[Mapping[str, str]] = {}

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Take note of all the names that the fields have on the wire."""
        super().__pydantic_init_subclass__(**kwargs)
        cls._fields_by_name = {name: field for field, info in cls.model_fields.items() for name in _names(field, info)}

    @model_validator(mode="before")
    @classmethod
    def _said_once(cls, given: Any) -> Any:
        """Refuse a field that has two values by two of its names: one reader takes the one, another the other.

        A null by one name beside a value by another says nothing.
        """
        if not isinstance(given, dict) or len(given) < 2:
            return given
        fields = cls._fields_by_name
        found: dict[str, str] = {}
        idle: list[str] = []
        for name, value in given.items():
            before = found.setdefault(fields.get(name, name), name)
            if before == name:
                continue
            if value is None or given[before] is None:
                idle.append(name if value is None else before)
                found[fields[name]] = before if value is None else name
            elif type(value) is not type(given[before]) or value != given[before]:
                text = "{first} and {second} are two names of one field, and have different values"
                raise PydanticCustomError("two_values", text, {"first": before, "second": name})
        return {name: value for name, value in given.items() if name not in idle} if idle else given


def _names(field: str, info: FieldInfo) -> Iterator[str]:
    yield field
    alias = info.validation_alias
    yield from (name for name in (alias.choices if isinstance(alias, AliasChoices) else (alias,)) if type(name) is str)


class Result(BaseModel):
    """The base of all results: camelCase on the wire."""

    model_config = ConfigDict(frozen=True, alias_generator=to_camel, populate_by_name=True)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a system allows: `max_ops_file_size` bytes for files, contents and outputs."""

    max_ops_file_size: int


class Lender(Protocol):
    """Lends sessions: a `hpcgate.ssh.pool.Pool`, or one whose sessions are held to some paths."""

    def lease(self, principal: Principal) -> AbstractAsyncContextManager[Session]:
        """Lend the user's session."""

    def lease_bulk(self, principal: Principal, size: int | None = None) -> AbstractAsyncContextManager[Session]:
        """Lend a session to move so many bytes by."""

    def is_bulk(self, size: int | None) -> bool:
        """Say whether so many bytes are to have a connection of their own."""

    async def perform(self, principal: Principal, work: Callable[[Session], Awaitable[T]], *, retry: bool) -> T:
        """Do some work on a session and return its result."""


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a result.

    Attributes:
        output: The part.
        next_cursor: What the next part is asked for by, None if there is none.
    """

    output: Any
    next_cursor: str | None


class Operation(ABC):
    """A filesystem verb.

    Class attributes:
        name: The last part of the path, ``/filesystem/{system}/ops/NAME``.
        method: GET and DELETE take `Parameters` from the query, POST and PUT from a JSON body.
        status: Of the answer; 204 has no body.
        writes: Whether it changes anything; one that does not is tried again on a lost connection.
        pages: Whether `run` may return a `Page`, and `lines` gives the result in lines of JSON.
        group: The group of operations that rules and limits know it by: ``fs:read`` if it is GET and does not write,
            else ``fs:write``, unless it says so itself.
        needs: The services of a system that it cannot do without.
        max_body: Bytes of its JSON body.
        follows: Whether it acts on what a path that is a symbolic link points to; if not, on the link itself.
        Parameters, Result: The models; `Result` is None with status 204.
    """

    name: ClassVar[str]
    method: ClassVar[Literal["GET", "POST", "PUT", "DELETE"]]
    status: ClassVar[int] = 200
    writes: ClassVar[bool] = False
    follows: ClassVar[bool] = True
    pages: ClassVar[bool] = False
    group: ClassVar[Group | None] = None
    needs: ClassVar[tuple[Literal["ssh", "scheduler"], ...]] = ("ssh",)
    max_body: ClassVar[int] = 1024 * 1024
    Parameters: ClassVar[type[Parameters]]
    Result: ClassVar[Any] = None

    def __init__(self, parameters: Any, limits: Limits) -> None:
        self.parameters = parameters
        self.limits = limits

    @abstractmethod
    def paths(self) -> tuple[bytes, ...]:
        """Return the paths of the parameters that must lie in the system's file systems."""

    def trees(self) -> tuple[bytes, ...]:
        """Return those of the paths below which symbolic links are followed too."""
        return ()

    @abstractmethod
    async def run(self, session: Session) -> Any:
        """Carry it out and return an instance of `Result`, or None."""

    def lines(self, session: Session) -> AsyncGenerator[bytes]:
        """Yield the items of the result, one a line of JSON, however many they are."""
        raise NotSupported(f"{self.name} has no result in lines")


class naming:
    """A context in which the error about a program that is not there names the operation that needs it.

    A context manager by generator would cost several times as much.
    """

    __slots__ = ("_operation",)

    def __init__(self, operation: Operation) -> None:
        self._operation = operation

    def __enter__(self) -> None:
        """Nothing to be done."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Name the operation."""
        if isinstance(error, ToolMissing):
            raise ToolMissing(error.tool, f"ops/{self._operation.name}") from error


@dataclass(frozen=True, slots=True)
class _Encoded:
    """Reads the bytes of a name from the text of a model's field, and makes text of them for a document."""

    encode: Callable[[str], bytes]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        as_text = plain_serializer_function_ser_schema(_text, return_schema=str_schema())
        return no_info_after_validator_function(self._read, str_schema(), serialization=as_text)

    def _read(self, path: str) -> bytes:
        try:
            return self.encode(path)
        except BadRequest as error:
            raise PydanticCustomError("path", "{reason}", {"reason": error.message}) from None


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


Path = Annotated[RemotePath, _Encoded(encode_path)]
"""A path to act on."""

_SOURCE_NAMES = Field(
    validation_alias=AliasChoices("sourcePath", "path", "source_path"), serialization_alias="sourcePath"
)
_SOURCE_SCHEMA = WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "null"}], "nullable": True})

LinkTarget = Annotated[bytes, _Encoded(encode_link), _SOURCE_NAMES, _SOURCE_SCHEMA]
"""What a symbolic link is to hold: a path, absolute or relative to the link's directory."""

SourcePath = Annotated[Path, _SOURCE_NAMES, _SOURCE_SCHEMA]
"""The path that a request's body is about, which has three names on the wire (contract, Conventions)."""
