"""What real OpenPBS servers printed: the released 23.06.06, and the development head, which prints other JSON."""

import gzip
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from hpcgate.schedulers.pbs.documents import decoded

DIRECTORY = Path(__file__).parents[2] / "recordings"
RELEASES = ("23.06.06", "master")


@dataclass(frozen=True, slots=True)
class Recorded:
    label: str
    command: str
    stdout: bytes
    stderr: str
    exit_status: int
    broken: bool

    @property
    def text(self) -> str:
        return decoded(self.stdout)


@cache
def recordings(release: str) -> tuple[Recorded, ...]:
    """Return all that was recorded of a release, in order."""
    with gzip.open(DIRECTORY / f"openpbs-{release}.json.gz") as file:
        entries = json.load(file)
    return tuple(
        Recorded(
            entry["label"],
            entry["command"],
            entry["stdout"].encode("utf-8", "surrogateescape"),
            entry["stderr"],
            entry["exit_status"],
            "INVALID" in str(entry.get("json_check")),
        )
        for entry in entries
    )


def recorded(release: str, label: str) -> Recorded:
    """Return the (first) recording of that label."""
    return next(entry for entry in recordings(release) if entry.label == label)
