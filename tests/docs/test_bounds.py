"""The tables of bounds in docs/security.md: a row for each boundary and resource, and what a row names exists."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BOUNDARIES = (
    "A stranger", "A user", "Another user", "A login node", "The identity provider", "The key service",
    "The object store", "The proxy in front", "The operator",
)  # fmt: skip
RESOURCES = ("CPU", "memory", "descriptors", "time", "files", "identity", "logs")
NONE = re.compile(r"none: [\w`].{10,}|fixed|fixed: \w.{5,}")
"""An empty cell has a reason; a bound without a setting is fixed."""


@dataclass(frozen=True, slots=True)
class Row:
    boundary: str
    resource: str
    bound: str
    setting: str
    test: str

    def __str__(self) -> str:
        return f"{self.boundary}: {self.resource}"


def rows() -> Iterator[Row]:
    section = (ROOT / "docs/security.md").read_text().partition("\n## Bounds\n")[2].partition("\n## ")[0]
    for part in section.split("\n### ")[1:]:
        boundary, _, rest = part.partition("\n")
        lines = [line for line in rest.splitlines() if line.startswith("|")]
        for line in lines[2:]:
            cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
            assert len(cells) == 4, line
            yield Row(boundary, *cells)


ROWS = tuple(rows())


def settings() -> set[str]:
    """Return all keys of the reference, each with where it stands: ``clusters.ssh.max_clients``."""
    found, at = set(), ""
    for line in (ROOT / "docs/configuration.md").read_text().splitlines():
        if line.startswith("## "):
            name = re.match(r"## `([^`]*)`", line)
            at = name[1].replace("[]", "") + "." if name else ""
        elif key := re.match(r"\| `([a-z0-9_]+)` \|", line):
            found.add(at + key[1])
    return found


@functools.cache
def names_of_tests() -> set[str]:
    """Return all tests, each as ``tests/file.py::name``."""
    return {
        f"{path.relative_to(ROOT)}::{node.name}"
        for path in (ROOT / "tests").rglob("test_*.py")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    }


SETTINGS = settings()


def test_there_is_a_row_for_each_boundary_and_resource() -> None:
    assert [(row.boundary, row.resource) for row in ROWS] == [
        (boundary, resource) for boundary in BOUNDARIES for resource in RESOURCES
    ]


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_no_cell_is_empty_without_a_reason(row: Row) -> None:
    for cell in (row.bound, row.setting, row.test):
        assert cell
        assert not cell.startswith("none") or NONE.fullmatch(cell), cell


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_each_setting_exists(row: Row) -> None:
    """Each setting in the table of bounds is one of the configuration."""
    named = re.findall(r"`([^`]+)`", row.setting)
    assert named or NONE.fullmatch(row.setting), row.setting
    for name in named:
        assert any(known == name or known.endswith(f".{name}") for known in SETTINGS), name


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_each_test_exists(row: Row) -> None:
    """Each test in the table of bounds is one of the suite."""
    named = re.findall(r"`([^`]+)`", row.test)
    assert named or NONE.fullmatch(row.test), row.test
    assert set(named) <= names_of_tests(), set(named) - names_of_tests()


def test_what_is_not_there_would_be_found() -> None:
    assert len(SETTINGS) > 150
    assert len(names_of_tests()) > 900
    assert "clusters.ssh.max_clients" in SETTINGS
    assert "http.max_nothing" not in SETTINGS
