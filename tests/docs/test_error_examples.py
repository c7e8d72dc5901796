"""Errors that the pages show have the form of those that the gateway answers with."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import Request

from hpcgate.api.errors import answer_to
from hpcgate.errors import GatewayError, UnderMaintenance, Unhealthy

DOCS = Path(__file__).parents[2] / "docs"


def examples() -> Iterator[tuple[str, dict[str, Any]]]:
    for path in sorted(DOCS.rglob("*.md")):
        for text in re.findall(r"^```json\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE):
            shown = json.loads(text)
            if isinstance(shown, dict) and "errorType" in shown:
                yield f"{path.relative_to(DOCS)}: {shown['message'][:40]}", shown


def answered(error: GatewayError) -> dict[str, Any]:
    request = Request({"type": "http", "headers": [], "state": {"username": "alice"}})
    found: dict[str, Any] = json.loads(bytes(answer_to(request, error).body))
    return found


def like(shown: dict[str, Any]) -> GatewayError:
    """Return an error of the kind that an example shows."""
    match (shown["data"] or {}).get("reason"):
        case "maintenance":
            return UnderMaintenance("alps")
        case "unhealthy":
            return Unhealthy("ssh", "alps")
        case _:
            return GatewayError(shown["message"], data=shown["data"])


EXAMPLES = dict(examples())


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_has_the_fields_of_the_answer(example: str) -> None:
    shown = EXAMPLES[example]
    error = answered(like(shown))
    assert list(shown) == list(error)
    assert shown.get("reason") == error.get("reason")
    assert set(shown["data"] or {}) == set(error["data"] or {})


def test_there_are_examples() -> None:
    """Each reason of an error has an example."""
    assert {(shown["data"] or {}).get("reason") for shown in EXAMPLES.values()} >= {None, "unhealthy", "maintenance"}
