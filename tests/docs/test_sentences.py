"""Each test says what holds: by its name, if that is long enough to, or by its docstring."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
MIN_WORDS = 4
"""Of a name, `test` not counted; a shorter one names only what is tried."""


def wordless(source: str) -> Iterator[str]:
    """Yield the name of each test of a module that has neither a sentence for a name nor a docstring."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
            words = node.name.removeprefix("test_").split("_")
            if len(words) < MIN_WORDS and not ast.get_docstring(node):
                yield node.name


def test_each_test_says_what_holds() -> None:
    found = [
        f"{path.relative_to(TESTS)}::{name}" for path in TESTS.rglob("*.py") for name in wordless(path.read_text())
    ]
    assert found == []


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("def test_stat(): pass", ["test_stat"]),
        ("async def test_a_full_disk(): pass", ["test_a_full_disk"]),
        ("class TestA:\n def test_b(self): pass", ["test_b"]),
        ("def test_a_full_disk_is_507(): pass", []),
        ('def test_stat():\n """It tells what stat tells."""', []),
        ("def helper(): pass", []),
    ],
)
def test_a_test_that_says_nothing_is_found(source: str, names: list[str]) -> None:
    assert list(wordless(source)) == names
