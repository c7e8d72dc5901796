"""The page on the command line names every command, argument and option that there is, and none else."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from hpcgate.cli.commands import app

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "cli.md").read_text()


def tree(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    yield name, command
    for sub_name, sub in getattr(command, "commands", {}).items():
        yield from tree(sub, f"{name} {sub_name}")


COMMANDS = dict(tree(typer.main.get_command(app), "hpcgate"))
SECTIONS = {
    name: text.partition("\n## " if level == "##" else "\n##")[0]
    for level, name, text in re.findall(r"^(##+) `(hpcgate[^`]*)`\n(.*?)(?=^##+ `|\Z)", PAGE, re.DOTALL | re.MULTILINE)
}
SECTIONS["hpcgate"] = PAGE.partition("\n## ")[0]


def options(command: Any) -> set[str]:
    return {
        option
        for parameter in command.params
        if parameter.param_type_name == "option"
        for option in (*parameter.opts, *parameter.secondary_opts)
    } - {"--help"}


def test_the_commands_are_those_of_the_page() -> None:
    assert set(SECTIONS) == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_each_option_and_none_else(name: str) -> None:
    command, section = COMMANDS[name], SECTIONS.get(name, "")
    if name == "hpcgate":
        named = set(re.findall(r"`(--[\w]+-completion)`", section))
    else:
        rows = [row.split("|")[1] for row in section.splitlines() if row.startswith("|")]
        named = {option for row in rows for option in re.findall(r"`(--?[\w-]+)`", row)}
    assert named == options(command)


@pytest.mark.parametrize("name", COMMANDS)
def test_each_has_help(name: str) -> None:
    """Each command and option says what it is for."""
    command = COMMANDS[name]
    assert command.help
    for parameter in command.params:
        assert getattr(parameter, "help", None), parameter.name


def test_each_environment_variable() -> None:
    """The page names each environment variable beside its option."""
    table = PAGE.partition("| Variable | Option |")[2].partition("\n\n")[0]
    for command in COMMANDS.values():
        for parameter in command.params:
            given = parameter.envvar or []
            for variable in [given] if isinstance(given, str) else given:
                assert f"`{variable}`" in table
                assert f"`{parameter.opts[0]}`" in table


def test_links_lead_somewhere() -> None:
    """Each link on the page leads to a page."""
    for target in re.findall(r"\]\(([^)#]+\.md)\)", PAGE):
        assert (DOCS / target).is_file(), target
