"""What the pages for contributors say of the source is so."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "hpcgate"
PAGES = ("docs/architecture.md", "docs/glossary.md", "docs/decisions/layout.md", "CONTRIBUTING.md")


@pytest.mark.parametrize("page", PAGES)
def test_each_file_that_a_page_names_exists(page: str) -> None:
    named = set(re.findall(r"`([\w/]+\.py)`", (ROOT / page).read_text()))
    assert {name for name in named if not (SOURCE / name).exists() and not (ROOT / name).exists()} == set()


def rooms() -> set[str]:
    folders = {path.parent.name for path in SOURCE.glob("*/*.py")}
    return folders | {path.stem for path in SOURCE.glob("*.py") if path.stem != "__init__"}


def test_the_picture_has_each_room() -> None:
    picture = (ROOT / PAGES[0]).read_text().partition("```text\n")[2].partition("```")[0]
    assert {room for line in picture.splitlines() for room in line[:40].strip().split(" | ")} == rooms()


def test_the_table_has_rooms_alone() -> None:
    rows = re.findall(r"^\| (`.+?`) \|", (ROOT / PAGES[0]).read_text(), re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", " ".join(rows))) <= rooms()
