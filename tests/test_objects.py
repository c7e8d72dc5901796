"""What an object keeps to itself nobody else touches, and what a process keeps stands in a table with its reason."""

import ast
import asyncio
import importlib
import inspect
import os
import sys
import textwrap
import zipfile
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from urllib.parse import SplitResult

import asyncssh
import asyncssh.channel
import asyncssh.connection
import pytest
import requests

ROOT = Path(__file__).parents[1] / "src" / "hpcgate"

ELSEWHERES: Mapping[str, tuple[object, str]] = MappingProxyType(
    {
        "api/models/data_transfer.py parts._replace": (SplitResult, "documented: a named tuple's"),
        "demo/keeper.py os._exit": (os, "documented: a child ends without its parent's clearing up"),
        "filesystem/packing.py info._compresslevel": (zipfile.ZipInfo, "open() takes the level from nowhere else"),
        "server/starting.py sys._current_frames": (sys, "documented: what the main thread hangs in"),
        "ssh/connection.py channel._send_pktsize": (asyncssh.channel.SSHChannel, "the size that the server has named"),
        "ssh/turns.py self._ssh._recv_seq": (asyncssh.connection.SSHConnection, "counts packets"),
        "ssh/unsent.py channel._flush_send_buf": (asyncssh.channel.SSHChannel, "where a channel writes"),
        "ssh/unsent.py channel._pause_resume_writing": (
            asyncssh.channel.SSHChannel,
            "has the writer of a channel wait",
        ),
        "ssh/unsent.py channel._send_buf": (asyncssh.channel.SSHChannel, "what a channel has not sent"),
        "telemetry/tracing.py response._content": (requests.Response, "what has been read of a body"),
        "telemetry/writer.py asyncio._get_running_loop": (asyncio, "documented: as get_running_loop, without an error"),
        "transfers/streamer_program.py os._exit": (os, "documented: a job's program ends with its threads"),
        "transfers/wormhole_program.py os._exit": (os, "documented: a job's program ends with its threads"),
    }
)
"""Names of libraries that begin with an underscore, whose they are, and what for. A new release may take them away."""

OF_THE_PROCESS: Mapping[str, str] = MappingProxyType(
    {
        "http/envelope.py _ids": "random numbers",
        "server/exchange.py _PLAIN": "which header names are plain, computed of the name alone",
        "ssh/brake.py _BRAKES": "sshd counts refused logins by the gateway's address, whatever pool they come from",
        "ssh/nodes.py _ASKING": "a look-up of a name cannot be stopped, and holds one of the process's threads",
        "telemetry/containment.py FAULTS": "contained faults, counted wherever they happen",
        "telemetry/writer.py WRITERS": "the process's logs",
    }
)
"""What a module keeps that changes. All else belongs to an object that somebody opens and closes."""

PROGRAMS = frozenset(
    {"filesystem/beneath_program.py", "transfers/streamer_program.py", "transfers/wormhole_program.py"}
)
"""They run by themselves elsewhere, once."""

MUTATORS = frozenset(
    {"add", "append", "appendleft", "clear", "discard", "extend", "insert", "pop", "popitem", "remove", "setdefault"}
    | {"update"}
)


@cache
def trees() -> Mapping[str, ast.Module]:
    return {str(path.relative_to(ROOT)): ast.parse(path.read_text("utf-8")) for path in sorted(ROOT.rglob("*.py"))}


def own(cls: ast.ClassDef) -> set[str]:
    """Return the names that a class defines, or sets on itself."""
    named = {node.name for node in cls.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    return named | {
        node.attr
        for node in ast.walk(cls)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
    }


def reaches(tree: ast.AST, known: frozenset[str] = frozenset()) -> Iterator[str]:
    """Yield what is taken of an object by a name that begins with an underscore, but of those of the same class."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
            whose = ast.unparse(node.value)
            if whose not in ("self", "cls", "super()") and (node.attr not in known or "." in whose):
                yield f"{whose}.{node.attr}"
        yield from reaches(node, frozenset(own(node)) if isinstance(node, ast.ClassDef) else known)


def test_nobody_reaches_into_another_object() -> None:
    found = {
        f"{name} {one}"
        for name, tree in trees().items()
        if name != "filesystem/beneath_program.py"
        for one in reaches(tree)
    }
    assert found == ELSEWHERES.keys()


@pytest.mark.parametrize("name", ELSEWHERES)
def test_what_is_taken_of_a_library_is_still_there(name: str) -> None:
    whose, _ = ELSEWHERES[name]
    attribute = name.rpartition(".")[2]
    classes = [cls for cls in whose.__mro__ if cls is not object] if isinstance(whose, type) else []
    assert hasattr(whose, attribute) or any(
        isinstance(node, ast.Attribute) and node.attr == attribute and isinstance(node.ctx, ast.Store)
        for cls in classes
        for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(cls))))
    )


@pytest.mark.parametrize(
    ("text", "taken"),
    [
        ("other._secret", ["other._secret"]),
        ("class A:\n def f(self, other: 'A'):\n  return other._mine\n def _mine(self): ...", []),
        ("class A:\n def f(self, other: 'A'):\n  self._mine = other._mine", []),
        ("class A:\n def f(self):\n  return self._held._theirs", ["self._held._theirs"]),
        ("class A:\n def f(self):\n  self._mine = 1\nclass B:\n def f(self, a):\n  return a._mine", ["a._mine"]),
    ],
)
def test_reaching_into_others_is_found(text: str, taken: list[str]) -> None:
    assert list(reaches(ast.parse(text))) == taken


def globals_of(tree: ast.Module) -> set[str]:
    """Return the names that a module binds at its top."""
    targets = [
        target
        for node in tree.body
        if isinstance(node, ast.Assign | ast.AnnAssign)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
    ]
    return {target.id for target in targets if isinstance(target, ast.Name)}


def changes(tree: ast.Module) -> Iterator[str]:
    """Yield the names of a module that its code changes: what they are bound to, or what is in it."""
    names = globals_of(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Global):
            yield from node.names
        elif (
            (isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store | ast.Del))
            or (isinstance(node, ast.Attribute) and node.attr in MUTATORS)
        ) and (isinstance(node.value, ast.Name) and node.value.id in names):
            yield node.value.id


def kept() -> Iterator[str]:
    """Yield the names of objects with a state that modules make as they are imported."""
    seen: set[int] = set()
    for name, tree in trees().items():
        if name in PROGRAMS or name.endswith("__main__.py"):
            continue
        module = importlib.import_module("hpcgate." + name.removesuffix(".py").replace("/", "."))
        for one in globals_of(tree):
            value = getattr(module, one, None)
            kind = type(value)
            if id(value) in seen or not kind.__module__.startswith("hpcgate"):
                continue
            seen.add(id(value))
            methods = [node for node in ast.walk(class_of(kind)) if isinstance(node, ast.FunctionDef)]
            if any(sets_itself(method) for method in methods if method.name != "__init__"):
                yield f"{name} {one}"


def class_of(kind: type) -> ast.Module:
    return ast.parse(textwrap.dedent(inspect.getsource(kind)))


def sets_itself(method: ast.FunctionDef) -> bool:
    """Say whether a method changes its object, or what its object holds."""
    return any(
        isinstance(node, ast.Attribute | ast.Subscript)
        and (not isinstance(node.ctx, ast.Load) or (isinstance(node, ast.Attribute) and node.attr in MUTATORS))
        and ast.unparse(node).startswith("self.")
        for node in ast.walk(method)
    )


def test_what_a_module_keeps_and_changes_is_the_process_s() -> None:
    changed = {f"{name} {one}" for name, tree in trees().items() if name not in PROGRAMS for one in changes(tree)}
    assert (changed | set(kept())) - OF_THE_PROCESS.keys() == set()


@pytest.mark.parametrize(
    ("text", "changed"),
    [
        ("KEPT = {}\ndef f(a):\n KEPT[a] = 1", ["KEPT"]),
        ("KEPT = {}\ndef f(a):\n del KEPT[a]", ["KEPT"]),
        ("KEPT = []\ndef f(a):\n KEPT.append(a)", ["KEPT"]),
        ("kept = None\ndef f(a):\n global kept\n kept = a", ["kept"]),
        ("KEPT = {}\ndef f(kept):\n kept[1] = KEPT[1]", []),
    ],
)
def test_changes_of_what_a_module_keeps_are_found(text: str, changed: list[str]) -> None:
    assert list(changes(ast.parse(text))) == changed


def of_classes(tree: ast.Module) -> Iterator[str]:
    """Yield what is set on a class as the program runs: on one that is named, on an object's own, or on one made so."""
    classes = {node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
    classes |= {
        alias.asname or alias.name
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.name[:1].isupper() and not alias.name.isupper()
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store | ast.Del):
            if ast.unparse(node.value) in {"cls", "type(self)", "self.__class__"} | classes:
                yield ast.unparse(node)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "type" and len(node.args) == 3:
            yield "type()"


AT_RUN_TIME: Mapping[str, str] = MappingProxyType(
    {"filesystem/base.py cls._fields_by_name": "by pydantic's hook, once, as the class is made"}
)


def test_no_class_is_changed_or_made_as_the_program_runs() -> None:
    found = {f"{name} {one}" for name, tree in trees().items() if name not in PROGRAMS for one in of_classes(tree)}
    assert found == AT_RUN_TIME.keys()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("class A:\n x = 1\n@classmethod\ndef f(cls):\n cls.x = 2", ["cls.x"]),
        ("from b import Other\nOther.x = 2", ["Other.x"]),
        ("class A:\n def f(self):\n  type(self).x = 2", ["type(self).x"]),
        ("A = type('A', (B,), {'x': 1})", ["type()"]),
        ("class A:\n x = 1\n def f(self):\n  self.x = 2", []),
    ],
)
def test_classes_that_change_are_found(text: str, found: list[str]) -> None:
    assert list(of_classes(ast.parse(text))) == found
