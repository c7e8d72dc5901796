"""The page quotes the program's own messages, and leaves out no status, refusal of a token or line of the log."""

import ast
import functools
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from hpcgate import errors

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "operations" / "troubleshooting.md").read_text()


# Not made at import, which each of the processes of a run does.
@functools.cache
def source() -> list[ast.Module]:
    """Return the program's modules, without the demo's."""
    paths = (ROOT / "src" / "hpcgate").rglob("*.py")
    return [ast.parse(path.read_text()) for path in paths if "demo" not in path.parts]


def texts() -> Iterator[str]:
    """Yield every text of the program; what is filled in is `…`."""
    for tree in source():
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value
            elif isinstance(node, ast.JoinedStr):
                parts = (part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
                yield "".join(str(part) for part in parts)


@functools.cache
def shortened() -> list[str]:
    """Return every text of the program, with one `…` for each place that is filled in."""
    return [re.sub(r"…+", "…", text) for text in texts()]


def messages() -> list[str]:
    """Return the quoted messages: in the first column, with a blank in them."""
    cells = [row.split(" | ")[0] for row in PAGE.partition("## Lines of the log")[0].splitlines() if row[:2] == "| "]
    return [quoted for cell in cells for quoted in re.findall(r"`([^`]+ [^`]+)`", cell)]


def is_said(message: str) -> bool:
    """Say whether a text of the program reads so; what is filled in may be anything on either side."""
    fixed = [part for part in re.split(r"…+", message) if part.strip()]
    return any(all(part in text for part in fixed) for text in shortened())


@pytest.mark.parametrize("message", messages())
def test_a_message_is_the_programs(message: str) -> None:
    assert is_said(message)


def test_there_are_messages_and_a_wrong_one_would_be_found() -> None:
    assert len(messages()) > 60
    assert not is_said("The flux of … is not compensated")


def test_each_status_has_its_place() -> None:
    headings = " ".join(re.findall(r"^## (.*)$", PAGE, re.MULTILINE))
    for _, kind in inspect.getmembers(errors, inspect.isclass):
        if issubclass(kind, errors.GatewayError) and kind.__module__ == errors.__name__:
            assert str(kind.status) in headings, kind.__name__


def refusals() -> Iterator[str]:
    """Yield what is said of a token or key that is refused, up to what is filled in."""
    for tree in source():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("_refusal", "Unauthenticated") and node.args:
                said = node.args[0].values[0] if isinstance(node.args[0], ast.JoinedStr) else node.args[0]
                if isinstance(said, ast.Constant):
                    yield str(said.value).strip()


def test_every_refusal_of_a_token_is_named() -> None:
    found = set(refusals())
    assert len(found) > 12
    table = PAGE.partition("## 401")[2].partition("\n## ")[0]
    assert [text for text in sorted(found) if f"`{text}" not in table] == []


def test_the_questions_of_users_name_messages_that_the_page_has() -> None:
    named = re.findall(r"`([A-Z][^`]+ [^`]+)`", (ROOT / "docs" / "users" / "faq.md").read_text())
    assert len(named) > 5
    assert [message for message in named if f"`{message}" not in PAGE] == []


def logged() -> Iterator[str]:
    for tree in source():
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in ("warning", "error", "critical", "exception", "rows")
                and node.args
                and isinstance(node.args[0], ast.Constant)
                and re.fullmatch(r"[a-z0-9_]+(\.[a-z0-9_]+)+", str(node.args[0].value))
            ):
                yield str(node.args[0].value)


def test_every_warning_and_error_of_the_log_is_named() -> None:
    found = set(logged())
    assert len(found) > 30
    named = set(re.findall(r"`([a-z0-9_]+(?:\.[a-z0-9_]+)+)`", PAGE.partition("## Lines of the log")[2]))
    assert named == found
