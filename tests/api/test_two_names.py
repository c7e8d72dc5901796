"""A field that has several names has one value: of two, one reader takes the one, and another the other."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, get_args

import pytest
from pydantic import AliasChoices, BaseModel
from starlette.requests import Request

from hpcgate.api import errors
from hpcgate.api.errors import InvalidParameters
from hpcgate.api.fast_path import read_query
from hpcgate.api.json_bodies import models_of, validated
from hpcgate.api.models.jobs import PostJobSubmitRequest
from hpcgate.api.models.transfers import MoveRequest, PostFileUploadRequest
from hpcgate.api.routes.operations import registered
from hpcgate.config import Settings
from hpcgate.filesystem.base import Parameters
from hpcgate.filesystem.chmod import Chmod
from hpcgate.filesystem.ls import Ls
from hpcgate.server.app import create_app

GENERAL = {
    "auth": {"authentication": {"token_url": "http://127.0.0.1/token"}},
    "ssh_credentials": {"type": "SSHService", "url": "http://127.0.0.1"},
}


def inner(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the models within a field's type."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from inner(part)


def models() -> dict[str, type[BaseModel]]:
    """Return all models that are read from a request, those within others too."""
    asked = [model for _, model in models_of(create_app(Settings.model_validate(GENERAL)).routes)]
    left: list[type[BaseModel]] = [*asked, *(operation.Parameters for operation in registered())]
    found: dict[str, type[BaseModel]] = {}
    while left:
        model = left.pop()
        if found.setdefault(f"{model.__module__}.{model.__qualname__}", model) is model:
            left += [
                each
                for field in model.model_fields.values()
                for each in inner(field.annotation)
                if f"{each.__module__}.{each.__qualname__}" not in found
            ]
    return found


MODELS = models()
FIELDS = [
    (model, first, second)
    for model in MODELS.values()
    for name, field in model.model_fields.items()
    if isinstance(field.validation_alias, AliasChoices)
    for names in [sorted({name, *map(str, field.validation_alias.choices)})]
    for first, second in pairwise(names)
]


def test_each_model_of_a_request_knows_all_names_of_its_fields() -> None:
    """Whoever adds a model has this rule by its base."""
    assert len(MODELS) > 25
    assert len(FIELDS) > 40
    assert not [name for name, model in MODELS.items() if not issubclass(model, Parameters)]


@pytest.mark.parametrize(
    ("model", "first", "second"), FIELDS, ids=[f"{model.__name__}.{first}-{second}" for model, first, second in FIELDS]
)
def test_two_values_by_two_names_are_refused(model: type[BaseModel], first: str, second: str) -> None:
    for one, other in (("/a", "/b"), (1, True), ({"a": 1}, {"a": 2}), ("", "/b")):
        with pytest.raises(InvalidParameters) as refused:
            validated(model, {first: one, second: other})
        assert [each["type"] for each in refused.value.error.errors()] == ["two_values"]


MOVE = {"targetPath": "/t"}
DIRECTIVES = {"transferMethod": "s3", "fileSize": 1}

TAKEN: dict[str, tuple[type[BaseModel], dict[str, Any]]] = {
    "the same value": (MoveRequest, {"path": "/a", "sourcePath": "/a", **MOVE}),
    "nothing by the name that counts": (MoveRequest, {"sourcePath": None, "path": "/a", **MOVE}),
    "nothing by two of three": (MoveRequest, {"sourcePath": None, "source_path": "/a", "path": None, **MOVE}),
    "nothing by the other": (Chmod.Parameters, {"path": "/a", "source_path": None, "mode": "700"}),
    "within": (PostFileUploadRequest, {"path": "/a", "transferDirectives": {**DIRECTIVES, "transfer_method": "s3"}}),
    "nothing within": (
        PostFileUploadRequest,
        {"path": "/a", "transferDirectives": {**DIRECTIVES, "transferMethod": None, "transfer_method": "s3"}},
    ),
}


@pytest.mark.parametrize("kind", TAKEN)
def test_one_value_by_two_names_is_taken(kind: str) -> None:
    """A null says no more than a field that is not there."""
    model, body = TAKEN[kind]
    found, _ = validated(model, body)
    assert found.model_dump()["source_path"] in ("/a", b"/a")


REFUSED: dict[str, tuple[type[BaseModel], dict[str, Any]]] = {
    "a method that is not known and one that is": (
        PostFileUploadRequest,
        {"path": "/a", "transferDirectives": {**DIRECTIVES, "transferMethod": "other", "transfer_method": "s3"}},
    ),
    "a job's": (
        PostJobSubmitRequest,
        {"job": {"workingDirectory": "/a", "working_directory": "/b", "script": "#!/bin/sh"}},
    ),
    "behind a third that says nothing": (MoveRequest, {"path": "/a", "sourcePath": None, "source_path": "/b", **MOVE}),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_two_values_within_others_are_refused(kind: str) -> None:
    with pytest.raises(InvalidParameters) as caught:
        validated(*REFUSED[kind])
    answer = errors.answer_to(Request({"type": "http", "headers": []}), caught.value)
    assert answer.status_code == 400
    assert "are two names of one field, and have different values" in bytes(answer.body).decode()


def test_a_query_is_held_to_it_as_well() -> None:
    with pytest.raises(InvalidParameters):
        read_query(Ls.Parameters, {"path": "/a", "showHidden": "true", "show_hidden": "false"})
