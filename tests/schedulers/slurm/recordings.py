"""What the commands of two real releases printed: 22.05, which Debian 12 has, and 26.05."""

import gzip
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

DIRECTORY = Path(__file__).parents[2] / "recordings"
RELEASES = ("22.05", "26.05")


@dataclass(frozen=True, slots=True)
class Recorded:
    command: str
    stdout: str
    stderr: str
    exit_status: int


@cache
def recordings(release: str) -> dict[str, Recorded]:
    """Return all that was recorded of a release, by label."""
    with gzip.open(DIRECTORY / f"slurm-{release}-commands.json.gz") as file:
        entries = json.load(file)
    return {
        entry["label"]: Recorded(entry["command"], entry["stdout"], entry["stderr"], entry["exit_status"])
        for entry in entries
    }
