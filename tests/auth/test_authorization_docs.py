"""The examples of the page on authorization load, and say what the page says they do."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from hpcgate.auth import Principal
from hpcgate.auth.policy import Policy, Question
from hpcgate.config import Settings
from hpcgate.config.groups import Group
from hpcgate.config.names import parse_names
from hpcgate.errors import Denied

PAGE = (Path(__file__).parents[2] / "docs" / "authorization.md").read_text()
SYSTEMS = [
    {"name": name, "ssh": {"host": "login"}, "scheduler": {"type": "slurm", "version": "24.05.4"}}
    for name in ("alps", "eiger")
]


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


def rows(first: str) -> list[list[str]]:
    """Return the cells of the table whose first column has that head."""
    table = re.search(rf"^\| {first} \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
    assert table is not None
    return [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in table[1].splitlines()]


def settings(text: str, tmp_path: Path) -> Settings:
    secret = tmp_path / "secret"
    secret.write_text("sesame")
    document: dict[str, Any] = yaml.safe_load(text.replace("/run/secrets/introspection", str(secret)))
    document["auth"].setdefault("authentication", {"token_url": "https://idp.example.org/token"})
    document["ssh_credentials"] = {"type": "SSHService", "url": "https://keys.example.org"}
    document["clusters"] = SYSTEMS
    return Settings.model_validate(document)


@pytest.mark.parametrize("text", blocks("yaml"))
def test_examples_load(text: str, tmp_path: Path) -> None:
    """Each example on the page is a valid configuration."""
    assert settings(text, tmp_path)


def test_there_are_examples_of_all() -> None:
    page = "".join(blocks("yaml"))
    for name in ("introspection:", "required_claims:", "username_match:", "policy:", "paths:", "networks:"):
        assert name in page


@pytest.mark.parametrize("row", rows("user"), ids=" ".join)
def test_the_policy_says_what_the_table_says(row: list[str], tmp_path: Path) -> None:
    user, claims, source, system, operation, answer = row
    (text,) = (block for block in blocks("yaml") if "policy:" in block)
    policy = Policy(settings(text, tmp_path).auth.policy)
    held = dict(pair.split("=") for pair in claims.split())
    principal = Principal(user, "token", claims=held)
    assert said(policy, principal, Question(system, Group(operation), source)) == answer


def said(policy: Policy, principal: Principal, question: Question) -> str:
    """Return the policy's answer in the page's words."""
    try:
        grant = policy.decide(principal, question)
    except Denied as denial:
        return f"denied by {denial.rule}"
    where = "" if grant.paths is None else ", in " + ", ".join(path.decode() for path in grant.paths)
    return grant.rule + where


def test_the_file_of_names() -> None:
    (text,) = (text for text in blocks("text") if text.startswith("#"))
    assert parse_names(text) == {
        "/C=CH/O=Example/CN=Anna Muster": "amuster",
        "bert@partner.example.net": "ext_bert",
    }


def test_the_groups_of_operations() -> None:
    named = [row[0].strip("`") for row in rows("operations")]
    assert named == list(Group)


def test_the_denial(tmp_path: Path) -> None:
    """The page shows a denial as it is sent."""
    (text,) = blocks("json")
    denial = Denied("ci-pipeline", "the path '/etc/passwd' is, or leads, outside of where it allows")
    assert yaml.safe_load(text)["message"] == denial.message
    assert yaml.safe_load(text)["data"] == denial.data
