"""A function reads as steps, and a module has one noun: neither is long."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1] / "src" / "hpcgate"

MAX_FUNCTION = 50
"""Lines of a function, its docstring included."""
MAX_MODULE = 520
"""Lines of a module."""

LONG_FUNCTIONS = {
    "api/sockets.py converse": 56,
    "cli/token.py token": 54,
    "demo/cluster.py cluster_settings": 56,
    "demo/idp.py __init__": 70,
    "demo/idp_server.py _authorization_server": 102,
    "demo/idp_server.py create_app": 62,
    "demo/slurm.py _slurm_conf": 66,
    "filesystem/beneath_program.py locate": 86,
    "ssh/file_servers.py _open_sftp": 57,
    "ssh/files/sftp_streams.py replace": 65,
}
"""Those that are longer, and may only become shorter."""

LONG_MODULES = {
    "filesystem/beneath_program.py": 1990,
    "server/http_protocol.py": 745,
}
"""Modules that are longer."""


def lengths(path: Path) -> Iterator[tuple[str, int]]:
    """Yield each function of a module with its lines, decorators apart."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None:
            yield f"{path.relative_to(ROOT)} {node.name}", node.end_lineno - node.lineno + 1


def test_a_function_reads_as_steps_and_is_short() -> None:
    found = [one for path in sorted(ROOT.rglob("*.py")) for one in lengths(path)]
    assert [one for one in found if one[1] > LONG_FUNCTIONS.get(one[0], MAX_FUNCTION)] == []


def test_a_function_that_is_short_enough_by_now_is_not_listed_as_long() -> None:
    long = {name for path in ROOT.rglob("*.py") for name, lines in lengths(path) if lines > MAX_FUNCTION}
    assert LONG_FUNCTIONS.keys() - long == set()


def test_a_module_is_short_or_listed_with_its_bound() -> None:
    found = {str(path.relative_to(ROOT)): path.read_text("utf-8").count("\n") for path in ROOT.rglob("*.py")}
    assert {name: lines for name, lines in found.items() if lines > LONG_MODULES.get(name, MAX_MODULE)} == {}
