"""What real slurmrestds answered: that of 22.05, which Debian 12 has, and that of 26.05, which serves four versions."""

import gzip
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

DIRECTORY = Path(__file__).parents[3] / "recordings"
RELEASE_OF = {38: "22.05", 42: "26.05", 43: "26.05", 44: "26.05", 45: "26.05"}
"""The release that each recorded version was recorded of."""


@dataclass(frozen=True, slots=True)
class Recorded:
    label: str
    method: str
    url_path: str
    status: int
    answer: Any
    """JSON, or text where it was none."""

    @property
    def path(self) -> str:
        return self.url_path.partition("?")[0]


@cache
def recordings(release: str) -> tuple[Recorded, ...]:
    """Return all that was recorded of a release, in order."""
    with gzip.open(DIRECTORY / f"slurmrestd-{release}.json.gz") as file:
        entries = json.load(file)
    return tuple(
        Recorded(entry["label"], entry["method"], entry["url_path"], entry["status"], entry["response"])
        for entry in entries
    )


@cache
def of_version(number: int) -> tuple[Recorded, ...]:
    """Return what was recorded of a data version."""
    return tuple(one for one in recordings(RELEASE_OF[number]) if f"/v0.0.{number}/" in one.url_path)


def recorded(number: int, label: str) -> Recorded:
    """Return the first recording of that label; what was recorded of one version of 26.05 only stands for all four."""
    for entries in (of_version(number), of_version(45) if number > 38 else ()):
        for entry in entries:
            if entry.label == label:
                return entry
    raise LookupError(f"v0.0.{number}: {label}")
