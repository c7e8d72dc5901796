"""Regular expressions: none takes time that grows with the square of what somebody else has written."""

import ast
import importlib
import pkgutil
import re
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import hpcgate

_parser: Any = importlib.import_module("re._parser")
_constants: Any = importlib.import_module("re._constants")

SIZE = 12_000
"""Characters of what is searched."""
SHARE = 20
"""An expression may take one part in so many of what one takes whose time grows with the square."""
TRIES = 3
FOR_EVER = 64
"""From so many times on a repetition counts as one without end."""
LAST = ("", "\x01", "!\n")
"""What may stand behind it, so that a match fails at the end."""
ANYTHING = "a1 \t-.,\"'\\;="
METHODS = frozenset({"search", "match", "fullmatch", "findall", "finditer", "sub", "split"})
NO_MODULES = ("__main__", "streamer_program")
"""Programs: to import them is to run them."""

OWN = {
    ("hpcgate.api.assets", "_HASHED"): "names of the gateway's own files",
    ("hpcgate.api.routes.pages", "_INLINE"): "the gateway's own page",
}
"""Expressions for what nobody else writes, and whose that is."""

Use = tuple[str, str, str]
"""A module, the name of an expression in it, and the method by which it is used."""


def modules() -> Iterator[ModuleType]:
    for found in pkgutil.walk_packages(hpcgate.__path__, "hpcgate."):
        if not found.name.endswith(NO_MODULES):
            yield importlib.import_module(found.name)


def uses() -> Iterator[Use]:
    """Yield how each expression that has a name is used."""
    for module in modules():
        for node in ast.walk(ast.parse(Path(str(module.__file__)).read_text())):
            match node:
                case ast.Call(func=ast.Attribute(value=ast.Name(id=name), attr=method)) if method in METHODS:
                    if isinstance(getattr(module, name, None), re.Pattern):
                        yield module.__name__, name, method


def one_of(items: Any) -> str:
    """Return some characters of a set."""
    chosen = "".join(
        chr(value if kind is _constants.LITERAL else value[0])
        for kind, value in items
        if kind in (_constants.LITERAL, _constants.RANGE)
    )
    if items[0][0] is _constants.NEGATE:
        return "".join(char for char in ANYTHING if char not in chosen)[:4] or "a"
    return (chosen or ANYTHING)[:4]


def walk(tree: Any, before: str, found: set[tuple[str, str]]) -> str:
    """Collect what may be repeated without end, with what comes before; return a text for the tree."""
    text = before
    for kind, value in tree:
        match str(kind):
            case "LITERAL":
                text += chr(value)
            case "NOT_LITERAL" | "ANY":
                text += "a"
            case "IN":
                text += one_of(value)[0]
            case "MAX_REPEAT" | "MIN_REPEAT" | "POSSESSIVE_REPEAT":
                least, most, inner = value
                once = walk(inner, text, found)[len(text) :]
                if most > FOR_EVER:
                    chars = one_of(inner[0][1]) if str(inner[0][0]) == "IN" else ANYTHING
                    found.update((text, pump) for pump in (once, *chars) if pump)
                text += once * max(1, least)
            case "SUBPATTERN":
                text = walk(value[-1], text, found)
            case "ATOMIC_GROUP":
                text = walk(value, text, found)
            case "BRANCH":
                text, *_ = [walk(branch, text, found) for branch in value[1]]
    return text


def hostile(expression: re.Pattern[Any]) -> Iterator[str]:
    """Yield long texts that an expression may go through time and again."""
    pattern: str | bytes = expression.pattern
    source = pattern if isinstance(pattern, str) else pattern.decode("latin-1")
    found: set[tuple[str, str]] = set()
    walk(_parser.parse(source, expression.flags & ~re.UNICODE), "", found)
    found |= {("", pump) for _, pump in found} | {("", before + pump) for before, pump in found}
    for before, pump in sorted(found):
        for last in LAST:
            yield before + pump * (SIZE // len(pump)) + last


def seconds(expression: re.Pattern[Any], method: str, text: str) -> float:
    """Return the CPU time that it takes."""
    given: Any = text if isinstance(expression.pattern, str) else text.encode("latin-1", "replace")
    began = time.thread_time()
    match method:
        case "sub":
            expression.sub(lambda found: found[0], given)
        case "finditer":
            list(expression.finditer(given))
        case _:
            getattr(expression, method)(given)
    return time.thread_time() - began


def slow(expression: re.Pattern[Any], method: str, allowed: float) -> str:
    """Return what takes it too long, nothing if nothing does. It has several tries: others use the processor, too."""
    for text in hostile(expression):
        if all(seconds(expression, method, text) > allowed for _ in range(TRIES)):
            return text[:60]
    return ""


@pytest.fixture(scope="module")
def allowed() -> float:
    """Seconds, by what an expression takes that goes through its text from each character anew."""
    return seconds(re.compile("a+b"), "search", "a" * SIZE) / SHARE


def test_no_expression_takes_time_by_the_square(allowed: float) -> None:
    """While one is searched for nobody is served: a stranger's packet of blanks held the loop for minutes."""
    every = set(uses()) - {(module, name, method) for module, name in OWN for method in METHODS}
    assert len(every) > 100
    found = {
        f"{module}.{name}.{method}": text
        for module, name, method in sorted(every)
        if (text := slow(getattr(importlib.import_module(module), name), method, allowed))
    }
    assert not found


@pytest.mark.parametrize(
    ("expression", "method"),
    [
        (rb"(?i)\r\nx-forwarded-for:[ \t]*([^\r\n]*)(?=\r\n)", "findall"),
        (r'([A-Za-z_]+)=("[^"]*"|\S*)', "findall"),
        (r"([^\s=,()]+)=(N|\d{1,18})\((\d{1,18})\)", "findall"),
        (r"(?m)^Slurmctld\(.*?\) at .* is (UP|DOWN)", "findall"),
    ],
)
def test_one_that_does_is_found(expression: str | bytes, method: str, allowed: float) -> None:
    """All were in use: for a head, for what a quota tool prints, for what scontrol does."""
    assert slow(re.compile(expression), method, allowed)
