"""Nothing that pyfirecrest can do goes untried: what it grows must get a test here, or be named as a transfer."""

import ast
import functools
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import firecrest
import pytest
from firecrest import cli2

HERE = Path(__file__).parent
TRANSFERS = {"mv", "cp", "set_maximum_s3_connections"}
"""Methods that need transfer jobs, which have tests of their own."""
LOCAL = {"log"}
"""Methods that send nothing."""
JOB_OPTIONS = {"account", "blocking", "timeout"}
"""Parameters that matter once a call of theirs has become a transfer job."""
TRANSFER_OPTIONS = {
    "compress": JOB_OPTIONS,
    "extract": JOB_OPTIONS,
    "rm": JOB_OPTIONS,
    "upload": JOB_OPTIONS | {"transfer_method"},
    "download": JOB_OPTIONS | {"transfer_method"},
}
PASSING_ON = {"submit"}
"""Fixtures that hand their options on to the method of the same name."""
TRANSFER_COMMANDS = {"mv", "cp"}
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


KINDS: list[Any] = [firecrest.v2.Firecrest, firecrest.v2.AsyncFirecrest]


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in KINDS for name in public(kind)])
def test_every_method_is_called(kind: type, name: str) -> None:
    if name in TRANSFERS | LOCAL:
        return
    methods = used(kind)
    assert name in methods, f"no test calls {kind.__name__}.{name}"
    if not isinstance(vars(kind)[name], property):
        given = methods[name] | TRANSFER_OPTIONS.get(name, set())
        parameters = set(list(inspect.signature(getattr(kind, name)).parameters)[1:])
        assert parameters <= given, f"no test gives {kind.__name__}.{name} its {parameters - given}"


def test_the_rest_of_the_module_is_about_transfers() -> None:
    transfers = {"AsyncExternalDownload", "AsyncExternalUpload", "ExternalDownload", "ExternalUpload"}
    assert set(firecrest.v2.__all__) - transfers == {"AsyncFirecrest", "Firecrest"}


@pytest.mark.parametrize("name", sorted(cli2.typer_click_object.commands))  # type: ignore[attr-defined]
def test_every_command_is_run(name: str) -> None:
    if name in TRANSFER_COMMANDS:
        return
    words: set[str] = set()
    for function, call in calls():
        if function.split(".")[0] in ("cli", "with_token") and call.args and ast.unparse(call.args[0]) == repr(name):
            words.add(name)
            words |= {arg.value for arg in call.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)}
    assert words, f"no test runs firecrest {name}"
    for option in cli2.typer_click_object.commands[name].params:  # type: ignore[attr-defined]
        excepted = option.name in UNTRIED_OPTIONS | TRANSFER_OPTIONS.get(name, set())
        if option.param_type_name == "option" and not excepted:
            assert words & set(option.opts), f"no test gives firecrest {name} its {option.opts}"
