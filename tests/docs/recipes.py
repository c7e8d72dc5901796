"""Recipes of the user guide: a section of a page, followed from top to bottom as a reader would.

In a recipe a block with a file's name as its title is that file. Commands are typed into one shell, which remembers its
variables; those that are titled "on the system" are typed by the user on the login node. What follows as "prints" is
what the commands before it have to print: ``...`` stands for anything, 1234567 for any number. What is to be done
"instead" is left out. The commands of a pipeline's file are what the pipeline would run.
"""

import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from hpcgate.demo.processes import SYSTEM_PATH

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "users" / "clients.md"
SECTION = re.compile(r"^## (.*?)\n(.*?)(?=^## |\Z)", re.DOTALL | re.MULTILINE)
BLOCK = re.compile(r'^```(\S*)(?: title="(.*?)")?\n(.*?)^```', re.DOTALL | re.MULTILINE)
SINGLY = ("curl", "pyfirecrest's command line", "pyfirecrest")
"""Sections that are not recipes: each block is run by itself, by test_commands.py."""
NUMBER = "1234567"
ON_THE_SYSTEM = "on the system"
INSTEAD = "instead"
PRINTS = "prints"


@dataclass(frozen=True, slots=True)
class Step:
    """One block of a recipe."""

    kind: str
    title: str
    text: str


def sections() -> dict[str, str]:
    """Return the sections of the page by their headings."""
    return dict(SECTION.findall(PAGE.read_text()))


def beside_the_recipes() -> str:
    """Return what of the page is not a recipe: its beginning, and the sections whose blocks stand by themselves."""
    text = PAGE.read_text()
    return text[: text.index("\n## ")] + "\n" + "\n".join(sections()[heading] for heading in SINGLY)


def steps(heading: str) -> list[Step]:
    """Return the blocks of a section in their order."""
    return [step for found in BLOCK.findall(sections()[heading]) if (step := Step(*found)).title != INSTEAD]


def matches(expected: str, printed: str) -> bool:
    """Say whether what was printed is what the page shows."""
    pattern = re.escape(expected.strip()).replace(re.escape("..."), ".*").replace(NUMBER, r"\d+")
    return re.fullmatch(pattern, printed.strip(), re.DOTALL) is not None


def installed(heading: str, *environments: Path) -> list[str]:
    """Return what a recipe names in its `pip install`, each with the version that is in one of the environments."""
    words = " ".join(re.findall(r"pip install (.*)", sections()[heading])).replace('"', "").split()
    names = {re.sub(r"[-_.]+", "_", word.partition("[")[0]) for word in words if not word.startswith(".")}
    found = (path.name for place in environments for path in place.glob("lib/python*/site-packages/*.dist-info"))
    versions = dict(name.removesuffix(".dist-info").split("-", 1) for name in found)
    return [f"{name} {versions[name]}" for name in sorted(names & set(versions))]


def pipeline_commands(text: str) -> Iterator[str]:
    """Return the commands of a pipeline of GitLab or GitHub, in their order."""
    document: dict[str, Any] = yaml.safe_load(text)
    for job in (document.get("jobs") or document).values():
        if isinstance(job, dict):
            yield from job.get("script", [])
            yield from (step["run"] for step in job.get("steps", []) if "run" in step)


@dataclass(slots=True)
class Desk:
    """A directory with a shell in it that has the recipe's own programs first in its path."""

    directory: Path
    programs: Path
    """The virtual environment of the recipe."""
    facts: Mapping[str, str] = field(repr=False)
    """What the guide tells its reader to put into the environment."""

    def environment(self) -> dict[str, str]:
        passed = {
            name: value
            for name, value in os.environ.items()
            if name in ("LANG", "TERM", "TMPDIR") or name.lower().endswith("_proxy") or name.startswith("PIP_")
        }
        pip = {"PIP_CACHE_DIR": str(Path.home() / ".cache" / "pip"), "PIP_NO_INPUT": "1", "PIP_QUIET": "1"}
        path = {"PATH": f"{self.programs}/bin:{SYSTEM_PATH}", "HOME": str(self.directory), "COLUMNS": "200"}
        return pip | passed | path | dict(self.facts)

    def write(self, name: str, text: str) -> None:
        """Put down a file; one that begins as a program does is one."""
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755 if text.startswith("#!") else 0o644)

    def type(self, commands: str, timeout: float) -> str:
        """Type into the shell, and return what it shows on standard output."""
        state = self.directory / ".shell"
        script = f"set -e -o pipefail\n{f'. {state}' if state.exists() else ''}\n{commands}\n"
        script += f"{{ declare -p | grep -v '^declare -[a-z]*r' ; declare -f ; }} > {state}\n"
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=self.directory,
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
        )
        assert done.returncode == 0, f"{commands}\n{done.stdout[-6000:]}\n{done.stderr[-6000:]}"
        return done.stdout
