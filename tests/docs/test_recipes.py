"""The recipes of the user guide, each followed with the program that it is about, installed as the page says."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from hpcgate.demo.cluster import Cluster, Gateway
from hpcgate.demo.packages import program
from hpcgate.demo.ports import Ports
from tests.docs import recipes
from tests.docs.recipes import ON_THE_SYSTEM, PRINTS, Desk

INSTALLING = 900
"""Seconds after which an installation or a command counts as hanging."""


@dataclass(frozen=True, slots=True)
class Recipe:
    heading: str
    heavy: bool = False
    """Whether its program takes long to install: `make test-recipes` alone runs it."""
    then: Callable[[Cluster, Desk], None] | None = None
    """What somebody does once all is typed."""


def until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + INSTALLING
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.5)


def end(pid: int) -> None:
    """Have a process end that a recipe left running in the background."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + 60
        while Path(f"/proc/{pid}/exe").exists():
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
                return
            time.sleep(0.1)


def use_a_notebook(cluster: Cluster, desk: Desk) -> None:
    """Sign in to the hub, have a notebook started, look at it, and stop it, as in a browser."""
    alice = cluster.user("alice").name
    hub = desk.facts["HUB"]
    people = f"{hub}/hub/api/users/{alice}"

    def states() -> list[str]:
        query = ["squeue", "--noheader", "--format=%T", "--name=jupyter", f"--user={alice}"]
        return cluster.as_user(cluster.user("alice"), query).stdout.split()

    with httpx.Client(timeout=300) as browser:

        def go(url: str) -> httpx.Response:
            while (answer := browser.get(url)).is_redirect:
                url = str(answer.next_request.url if answer.next_request is not None else "")
                if url.startswith(cluster.idp.authorize_url):
                    url += f"&approve={alice}"
            return answer

        assert go(f"{hub}/hub/oauth_login?next=%2Fhub%2Fspawn").status_code == 200
        until(lambda: browser.get(people).json()["servers"].get("", {}).get("ready") is True)
        assert states() == ["RUNNING"]
        assert "JupyterLab" in go(f"{hub}/user/{alice}/lab").text
        (token,) = (cookie.value for cookie in browser.cookies.jar if (cookie.name, cookie.path) == ("_xsrf", "/hub/"))
        proof = {"Content-Type": "application/json", "X-XSRFToken": token or ""}
        assert browser.delete(f"{people}/server", headers=proof).status_code in (202, 204)
        until(lambda: not browser.get(people).json()["servers"])
        until(lambda: "RUNNING" not in states())


RECIPES = [
    Recipe("firecrest-executor", heavy=True),
    Recipe("CI pipelines"),
    Recipe("A client for another language"),
    Recipe("AiiDA", heavy=True),
    Recipe("JupyterHub", heavy=True, then=use_a_notebook),
    Recipe("Airflow", heavy=True),
    Recipe("Snakemake", heavy=True),
    Recipe("Dask", heavy=True),
    Recipe("openapi-generator", heavy=True),
]

NOT_HERE = {
    "Nextflow": "Its command fetches the program itself",
    "firecrest-ui": "It is in no package index",
}
"""Sections without a recipe that can be followed here, and the page's own words for why."""


def test_every_section_is_run_or_says_why_not() -> None:
    sections = recipes.sections()
    assert set(sections) == {recipe.heading for recipe in RECIPES} | set(NOT_HERE) | set(recipes.SINGLY)
    for heading, why in NOT_HERE.items():
        assert why in " ".join(sections[heading].split()), heading
    for recipe in RECIPES:
        assert any(step.title == PRINTS for step in recipes.steps(recipe.heading)), recipe.heading


@pytest.mark.parametrize(
    ("expected", "printed", "same"),
    [
        ("hello", "hello\n", True),
        ("hello", "hello world", False),
        ("...\nhello", "a line\nanother\nhello\n", True),
        ('{"jobId": "1234567"}', '{"jobId": "7"}', True),
        ('{"jobId": "1234567"}', '{"jobId": ""}', False),
        ("a.b (c)", "axb (c)", False),
    ],
)
def test_what_is_printed_is_held_against_the_page(expected: str, printed: str, same: bool) -> None:
    assert recipes.matches(expected, printed) is same


@pytest.fixture(scope="module")
def site(cluster: Cluster) -> Iterator[Gateway]:
    """A gateway with the system of the pages."""
    config = cluster.write_gateway_config(cluster.directory / "recipes.yaml")
    running = cluster.start_gateway(config)
    yield running
    running.stop()


@pytest.fixture(scope="module")
def home(cluster: Cluster) -> Path:
    """What the pages call /scratch/alice."""
    place = cluster.scratch / "alice-recipes"
    cluster.as_user(cluster.user("alice"), ["mkdir", place])
    return place


@pytest.fixture
def desk(request: pytest.FixtureRequest, cluster: Cluster, site: Gateway, tmp_path: Path) -> Iterator[Desk]:
    """A desk with a virtual environment for the recipe, which is kept beside that of the tests."""
    name = re.sub(r"\W+", "-", request.node.callspec.id.lower())
    place = Path(sys.prefix, "recipes", name)
    # The python3 of the system, for some recipes want the same one on both sides; and the pip of the tests.
    subprocess.run([program("python3"), "-m", "venv", "--without-pip", place], check=True, timeout=INSTALLING)
    pip = place / "bin" / "pip"
    pip.write_text(f'#!/bin/sh\nexec {sys.executable} -m pip --python {place}/bin/python "$@"\n')
    pip.chmod(0o755)
    alice = cluster.user("alice")
    facts = {
        "FIRECREST_URL": site.url, "AUTH_TOKEN_URL": cluster.idp.token_url, "FIRECREST_SYSTEM": "demo",
        "FIRECREST_CLIENT_ID": alice.client_id, "FIRECREST_CLIENT_SECRET": alice.client_secret,
        "URL": site.url, "TOKEN": cluster.token(alice),
    }  # fmt: skip
    with contextlib.closing(Ports()) as ports:
        first = ports.take(3)
        more = {
            "HUB": f"http://127.0.0.1:{first}",
            "HUB_PORT": f"{first + 1}",
            "HUB_PROXY": f"http://127.0.0.1:{first + 2}",
        }
        try:
            yield Desk(tmp_path, place, facts | more)
        finally:
            for left in sorted(tmp_path.glob("*.pid")):
                # The hub ends its proxy by itself, and takes its number away.
                with contextlib.suppress(FileNotFoundError):
                    end(int(left.read_text()))


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "recipe",
    [pytest.param(one, id=one.heading, marks=[pytest.mark.heavy] if one.heavy else []) for one in RECIPES],
)
def test_a_recipe(recipe: Recipe, desk: Desk, cluster: Cluster, home: Path) -> None:
    """Each recipe runs as it stands on the page, and prints what stands there."""
    printed = ""
    for step in recipes.steps(recipe.heading):
        text = step.text.replace("/scratch/alice", str(home))
        if step.title == PRINTS:
            assert recipes.matches(text, printed), f"{text}\n--- is not ---\n{printed}"
        elif step.title == ON_THE_SYSTEM:
            environment = {name: value for name, value in desk.environment().items() if name.startswith("PIP_")}
            del environment["PIP_CACHE_DIR"]
            argv = ["bash", "-e", "-c", text]
            cluster.as_user(cluster.user("alice"), argv, cwd=home, env=environment, timeout=INSTALLING)
        elif step.kind == "console":
            printed = desk.type(text, INSTALLING)
        else:
            desk.write(step.title, text)
            if step.kind == "yaml":
                printed = desk.type("\n".join(recipes.pipeline_commands(text)), INSTALLING)
    if recipe.then is not None:
        recipe.then(cluster, desk)
    print(f"{recipe.heading}: {', '.join(recipes.installed(recipe.heading, desk.programs, home / 'env'))}")
