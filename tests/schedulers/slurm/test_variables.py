"""The variables that are unset hold all that the manual pages list."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
from pathlib import Path

import pytest

from hpcgate.schedulers.slurm.variables import ASKING, SUBMITTING

PAGES = Path("/usr/share/man/man1")
RECORDED = Path(__file__).parents[2] / "recordings" / "slurm-22.05-variables.json"
TOOLS = ("squeue", "sacct", "scancel", "sbatch", "srun", "scontrol", "sinfo", "sacctmgr")
_VARIABLE = re.compile(r"^\\fB\\?&?([A-Z][A-Z0-9_\\-]+)", re.MULTILINE)


def input_variables(tool: str) -> set[str]:
    """Return the variables of a manual page's sections on its environment, those of a job's own left out.

    Where there are no pages (images of containers leave them out), those of Slurm 22.05 as they were read once.
    """
    recorded = set(json.loads(RECORDED.read_text())[tool])
    if not (PAGES / f"{tool}.1.gz").exists():
        return recorded
    with gzip.open(PAGES / f"{tool}.1.gz", "rt") as file:
        page = file.read()
    sections = re.split(r"^\.SH ", page, flags=re.MULTILINE)
    texts = [text for text in sections if re.match(r'"?(INPUT )?ENVIRONMENT', text)]
    assert texts, f"the page of {tool} has no section on the environment"
    return recorded | {name.replace("\\", "") for text in texts for name in _VARIABLE.findall(text) if "_" in name}


@pytest.mark.parametrize("tool", TOOLS)
def test_every_variable_of_the_manual_page_is_unset(tool: str) -> None:
    names = input_variables(tool)
    assert "SLURM_CONF" in names
    environment = dict.fromkeys(names, "x") | {"PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        ["sh", "-c", ASKING.unsetting() + "exec env"], env=environment, capture_output=True, text=True, check=True
    )
    left = {line.partition("=")[0] for line in done.stdout.splitlines()} & names
    assert left == names & set(ASKING.kept)


def test_what_sbatch_is_not_to_see_is_on_its_page_or_on_those_of_all() -> None:
    listed = {name for tool in TOOLS for name in input_variables(tool)}
    assert set(SUBMITTING) <= listed
