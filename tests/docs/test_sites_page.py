"""The page of what a site may have is made from the zoo's tables."""

from pathlib import Path

from tests.sites.page import page

ROOT = Path(__file__).parents[2]


def test_the_page_shows_the_zoo() -> None:
    text = page()
    for title in ("Start-up files", "Login shells", "Variables", "Tools", "Slurm"):
        assert f"\n## {title}" in text
    assert (ROOT / "docs" / "operations" / "sites.md").read_text() == text, "please run: make sites"
