"""Nothing that pyfirecrest can do goes untried: what it grows must get a test here."""

import ast
import functools
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import firecrest
import pytest
from firecrest import cli2
from firecrest.utilities import sched_state_completed

HERE = Path(__file__).parent
UNREACHABLE = {
    "ExternalDownload.receive_file_wormhole": "calls the command wormhole with an option that it does not have",
    "ExternalUpload.send_file_wormhole": "no upload by wormhole is handed out: client.upload makes it by itself",
    "ExternalUpload.wormhole_code": "the same",
}
"""What cannot be called or cannot work, whatever the gateway does."""
GROUP_OPTIONS_ELSEWHERE = {"install_completion", "show_completion"}
"""Options of the command itself that send nothing."""
PASSING_ON = {"submit"}
"""Fixtures that hand their options on to the method of the same name."""
UNTRIED_OPTIONS = {"pager", "system"}
"""Options that no request depends on, and the one that the environment gives to all commands."""


@functools.cache
def nodes() -> list[ast.AST]:
    """Parse the tests of this directory."""
    return [node for path in sorted(HERE.glob("test_*.py")) for node in ast.walk(ast.parse(path.read_text()))]


def calls() -> Iterator[tuple[str, ast.Call]]:
    """Find the calls in the tests of this directory, each with the words of what is called."""
    for node in nodes():
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def used(kind: type) -> dict[str, set[str]]:
    """Return the methods and properties of ``client`` that the tests use, each with the parameters they give it."""
    found: dict[str, set[str]] = {}
    for node in nodes():
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "client":
            found.setdefault(node.attr, set())
    for words, call in calls():
        owner, _, name = words.rpartition(".")
        if (owner == "client" or words in PASSING_ON) and hasattr(kind, name):
            parameters = list(inspect.signature(getattr(kind, name)).parameters)[1:]
            found[name] |= {*parameters[: len(call.args)], *(word.arg for word in call.keywords if word.arg)}
    return found


def public(kind: type) -> list[str]:
    return [
        name
        for name, value in vars(kind).items()
        if not name.startswith("_") and (callable(value) or isinstance(value, property))
    ]


def inherited(kind: type) -> list[str]:
    return [name for name in dir(kind) if not name.startswith("_")]


KINDS: list[Any] = [firecrest.v2.Firecrest, firecrest.v2.AsyncFirecrest]


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in KINDS for name in public(kind)])
def test_every_method_is_called(kind: type, name: str) -> None:
    methods = used(kind)
    assert name in methods, f"no test calls {kind.__name__}.{name}"
    if not isinstance(vars(kind)[name], property):
        parameters = set(list(inspect.signature(getattr(kind, name)).parameters)[1:])
        assert parameters <= methods[name], f"no test gives {kind.__name__}.{name} its {parameters - methods[name]}"


TRANSFERS: list[Any] = [
    firecrest.v2.ExternalUpload,
    firecrest.v2.ExternalDownload,
    firecrest.v2.AsyncExternalUpload,
    firecrest.v2.AsyncExternalDownload,
]


def test_no_class_is_left_out() -> None:
    assert {kind.__name__ for kind in KINDS + TRANSFERS} == set(firecrest.v2.__all__)


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in TRANSFERS for name in inherited(kind)])
def test_every_step_of_a_transfer_is_made(kind: type, name: str) -> None:
    if f"{kind.__name__.removeprefix('Async')}.{name}" in UNREACHABLE:
        return
    ways = ("upload", "transfer") if "Upload" in kind.__name__ else ("download", "transfer")
    tests = [*HERE.glob("test_*.py"), *(HERE.parent / "cluster").glob("test_transfers_*.py")]
    called = {
        node.attr
        for path in sorted(tests)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) in ways
    }
    assert name in called, f"no test calls {kind.__name__}.{name}"


@pytest.mark.parametrize("name", sorted(cli2.typer_click_object.commands))  # type: ignore[attr-defined]
def test_every_command_is_run(name: str) -> None:
    words: set[str] = set()
    for function, call in calls():
        if function.split(".")[0] in ("cli", "with_token") and call.args and ast.unparse(call.args[0]) == repr(name):
            words.add(name)
            words |= {arg.value for arg in call.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)}
    assert words, f"no test runs firecrest {name}"
    for option in cli2.typer_click_object.commands[name].params:  # type: ignore[attr-defined]
        if option.param_type_name == "option" and option.name not in UNTRIED_OPTIONS:
            assert words & set(option.opts), f"no test gives firecrest {name} its {option.opts}"


def test_every_option_of_the_command_itself_is_given() -> None:
    told = {node.value for node in nodes() if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    told |= {node.arg for node in nodes() if isinstance(node, ast.keyword) and node.arg}
    for option in cli2.typer_click_object.params:
        if option.name not in GROUP_OPTIONS_ELSEWHERE:
            assert told & {*option.opts, option.envvar}, f"no test gives firecrest its {option.opts}"


def test_what_the_user_guide_says_of_waiting_is_still_so() -> None:
    """Where this fails, pyfirecrest has been mended: docs/users need not wait for CONFIGURING themselves any more."""
    completed: Callable[[str], bool] = sched_state_completed
    assert completed("CONFIGURING")
    assert not completed("COMPLETING")
