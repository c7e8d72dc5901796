"""What every filesystem operation is.

An operation is a class with its HTTP method and name, a pydantic model of its parameters and one of its result, and
`run`. The API layer makes the routes from the registered operations (entry points ``hpcgate.operations``).
"""

import os
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pydantic import AliasChoices, AliasGenerator, BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

from hpcgate.errors import BadRequest
from hpcgate.ssh.session import Session


class Parameters(BaseModel):
    """The base of all parameters: camelCase on the wire, snake_case accepted too (contract, Conventions)."""

    model_config = ConfigDict(
        frozen=True,
        alias_generator=AliasGenerator(
            alias=to_camel,
            validation_alias=lambda name: AliasChoices(to_camel(name), name),
        ),
        populate_by_name=True,
    )


class Result(BaseModel):
    """The base of all results: camelCase on the wire."""

    model_config = ConfigDict(frozen=True, alias_generator=to_camel, populate_by_name=True)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a system allows: `max_ops_file_size` bytes for files, contents and outputs."""

    max_ops_file_size: int


class Operation(ABC):
    """A filesystem verb.

    Class attributes:
        name: The last part of the path, ``/filesystem/{system}/ops/NAME``.
        method: GET and DELETE take `Parameters` from the query, POST and PUT from a JSON body.
        status: Of the answer; 204 has no body.
        writes: Whether it changes anything; one that does not is tried again on a lost connection.
        Parameters, Result: The models; `Result` is None with status 204.
    """

    name: ClassVar[str]
    method: ClassVar[Literal["GET", "POST", "PUT", "DELETE"]]
    status: ClassVar[int] = 200
    writes: ClassVar[bool] = False
    Parameters: ClassVar[type[Parameters]]
    Result: ClassVar[Any] = None

    def __init__(self, parameters: Any, limits: Limits) -> None:
        self.parameters = parameters
        self.limits = limits

    @abstractmethod
    def paths(self) -> tuple[str, ...]:
        """Return the paths of the parameters that must lie in the system's file systems, as they were given."""

    @abstractmethod
    async def run(self, session: Session) -> Any:
        """Carry it out and return an instance of `Result`, or None."""


def encode_path(path: str) -> bytes:
    """Return a path of a request as the bytes that name the file.

    Raises:
        BadRequest: It is not absolute, or holds a NUL character.
    """
    if not path.startswith("/"):
        raise BadRequest(f"The path must be absolute: {path!r}")
    if "\0" in path:
        raise BadRequest("A path cannot hold a NUL character.")
    return os.fsencode(path)
