"""Each field of a job, submitted to the real Slurm by its commands."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from hpcgate.api.models.job_spec import JobSpecModel
from tests.people import Person

from . import job_fields
from .job_fields import REFUSED, ROWS, Row


@pytest.fixture(autouse=True, scope="module")
def _clear(alice: Person) -> Iterator[None]:
    yield
    alice.cluster.slurm.run(["scancel", "-u", alice.user.name])


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_field_reaches_slurm_and_outweighs_its_directive(alice: Person, row: Row) -> None:
    job_fields.check(alice, "demo", row)


BESIDE_ROWS = frozenset(
    {"dependencies.type", "dependencies.jobIds"}
    | {"executable", "arguments", "launcher", "preLaunch", "postLaunch"}
    # The scheduler of this table is Slurm.
    | {"extra.pbs"}
)
"""Fields that are submitted by `job_fields.dependency` and `job_fields.program`."""


def _fields(model: type[BaseModel]) -> Iterator[str]:
    """Yield the names of all fields, those of a field with its own name before them."""
    for name, one in model.model_fields.items():
        inner = [kind for kind in _kinds(one.annotation) if isinstance(kind, type) and issubclass(kind, BaseModel)]
        yield from (f"{one.alias or name}.{field}" for kind in inner for field in _fields(kind))
        if not inner:
            yield one.alias or name


def _kinds(annotation: Any) -> Iterator[Any]:
    yield annotation
    for one in get_args(annotation):
        yield from _kinds(one)


def test_no_field_is_left_out_here() -> None:
    """What the model of a request has is what is submitted to the real Slurm, here and by slurmrestd."""
    submitted = {
        f"{name}.{inner}" if isinstance(value, dict) else name
        for row in ROWS
        for name, value in row.asked.items()
        for inner in (value if isinstance(value, dict) else [""])
    }
    assert set(_fields(JobSpecModel)) <= submitted | BESIDE_ROWS


def test_dependencies(alice: Person) -> None:
    """A job waits for those that its field of dependencies names."""
    job_fields.dependency(alice, "demo")


def test_what_is_just_within_the_limits(alice: Person) -> None:
    """A script of a megabyte, the longest variable and the largest array are taken."""
    job_fields.largest(alice, "demo")


@pytest.mark.parametrize("launcher", ["none", "srun", "mpirun"])
def test_a_program(alice: Person, launcher: str) -> None:
    """A job that names a program instead of a script runs it, alone, by srun or by mpirun."""
    job_fields.program(alice, "demo", launcher)


@pytest.mark.parametrize(("asked", "status", "words"), REFUSED, ids=lambda value: None)
def test_what_is_refused(alice: Person, asked: dict[str, Any], status: int, words: str) -> None:
    """Fields that make no sense are refused with the reason."""
    job_fields.refused(alice, "demo", asked, status, words)


def test_the_examples_of_the_openapi_document_can_be_sent(alice: Person) -> None:
    document = alice.http.get("/openapi.json").json()
    body = document["paths"]["/compute/{system_name}/jobs"]["post"]["requestBody"]["content"]["application/json"]
    assert len(body["examples"]) >= 3
    for name, example in body["examples"].items():
        sent = json.loads(json.dumps(example["value"]).replace("/scratch/alice", str(alice.user.home)))
        answer = alice.http.post("/compute/demo/jobs", json=sent)
        assert answer.status_code == 201, (name, answer.text)


def test_a_dry_run(alice: Person) -> None:
    """A dry run says what would be submitted, and submits nothing."""
    job_fields.dry_run(alice, "demo", tested=True)
