"""The page of the API names every endpoint, for it is made from the schema."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_api_page_is_made_from_the_schema() -> None:
    schema = subprocess.run([sys.executable, "-m", "hpcgate.cli", "openapi"], capture_output=True, check=True).stdout
    made = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "api_reference.py")], input=schema, capture_output=True, check=True
    ).stdout.decode()
    assert "GET /status/systems" in made
    assert (ROOT / "docs" / "api.md").read_text() == made
