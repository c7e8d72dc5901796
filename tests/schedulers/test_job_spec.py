"""Every field of a job has a row in each backend's table, or is refused by its name; none is passed over."""

from dataclasses import replace
from typing import Any

import pytest

from hpcgate.errors import BadRequest, NotSupported
from hpcgate.schedulers.base import JobDescription
from hpcgate.schedulers.job_spec import FIELDS, Dependency, JobAttributes, Mail, Resources
from hpcgate.schedulers.pbs import attributes as pbs
from hpcgate.schedulers.pbs import qsub
from hpcgate.schedulers.slurm import attributes as slurm
from hpcgate.schedulers.slurm.rest import submission
from hpcgate.schedulers.slurm.rest.versions import VERSIONS, api_version
from tests.schedulers.described import described
from tests.schedulers.job_examples import EXAMPLES

SCRIPT = "#!/bin/sh\ntrue\n"


def job(attributes: JobAttributes, script: str = SCRIPT) -> JobDescription:
    return described("/work", script=script, attributes=attributes)


def test_the_examples_are_of_every_field() -> None:
    assert set(EXAMPLES) == set(FIELDS)
    assert all(field in example.asked() for field, example in EXAMPLES.items())


def test_every_field_has_a_row_in_each_table() -> None:
    assert slurm.FIELDS | {"extra.pbs"} == set(FIELDS)
    assert pbs.FIELDS | {"extra.slurm"} == set(FIELDS)


@pytest.mark.parametrize("field", FIELDS)
def test_a_field_makes_a_difference_or_is_refused_by_its_name(field: str) -> None:
    example = EXAMPLES[field]
    plain = job(JobAttributes())

    def differs(make: Any) -> None:
        try:
            made = make(job(example))
        except NotSupported as error:
            told = field in error.message
        else:
            told = made != make(plain)
        assert told

    differs(lambda one: slurm.options(one.attributes))
    differs(lambda one: qsub.command(one, SCRIPT.encode()))
    for number in VERSIONS:
        differs(lambda one, number=number: submission.body(one, "alice", api_version(f"0.0.{number}"))["job"])


@pytest.mark.parametrize(
    ("asked", "line", "expected"),
    [
        (Resources(node_count=2), "", ["select=2", "place=scatter"]),
        (Resources(process_count=4), "", ["select=4:mpiprocs=1:ncpus=1"]),
        (
            Resources(node_count=2, process_count=3),
            "",
            ["select=1:mpiprocs=2:ncpus=2+1:mpiprocs=1:ncpus=1", "place=scatter"],
        ),
        (Resources(process_count=5, processes_per_node=2), "", ["select=2:mpiprocs=2:ncpus=2+1:mpiprocs=1:ncpus=1"]),
        (
            Resources(node_count=2, processes_per_node=4, cpu_cores_per_process=2, gpu_cores_per_process=1),
            "",
            ["select=2:mpiprocs=4:ncpus=8:ompthreads=2:ngpus=4", "place=scatter"],
        ),
        (Resources(memory=1024**3), "", ["select=1:mem=1048576kb"]),
        (Resources(exclusive_node_use=True), "", ["place=exclhost"]),
        (Resources(exclusive_node_use=True), "-l place=scatter:shared", ["place=scatter:exclhost"]),
        # What the fields do not say stays as the script has it.
        (Resources(memory=1024**2), "-l select=3:ncpus=4:mem=1gb", ["select=3:ncpus=4:mem=1024kb"]),
        (Resources(node_count=2), "-lselect=3:ncpus=4", ["select=2:ncpus=4", "place=scatter"]),
        (
            Resources(cpu_cores_per_process=2),
            "-l select=1:ncpus=4:mpiprocs=4",
            ["select=1:ncpus=8:mpiprocs=4:ompthreads=2"],
        ),
    ],
)  # fmt: skip
def test_resources_are_one_statement_of_pbs(asked: Resources, line: str, expected: list[str]) -> None:
    script = SCRIPT.replace("true", f"#PBS {line}\ntrue") if line else SCRIPT
    argv = qsub.command(job(JobAttributes(resources=asked), script), script.encode())
    assert [argv[index + 1] for index, word in enumerate(argv) if word == "-l"] == expected


@pytest.mark.parametrize(
    ("attributes", "line", "words"),
    [
        (JobAttributes(resources=Resources(node_count=1)), "-l nodes=2:ppn=4", "resources"),
        (JobAttributes(resources=Resources(node_count=1)), "-l select=1:ncpus=1+2:ncpus=2", "resources"),
        (JobAttributes(qos="high"), "", "qos"),
        (JobAttributes(array="5"), "", "array"),
        (JobAttributes(array="1,3"), "", "array"),
        (JobAttributes(dependencies=(Dependency("singleton"),)), "", "dependencies"),
        (JobAttributes(mail=Mail(("requeue",))), "", "mail.events"),
        (JobAttributes(extra={"slurm": {"nice": 1}}), "", "extra.slurm"),
        (JobAttributes(extra={"pbs": {"W": "umask=22,block=true"}}), "", "extra.pbs.W"),
        (JobAttributes(extra={"pbs": {"h": "file"}}), "", "extra.pbs.h"),
        (JobAttributes(extra={"pbs": {"l": True}}), "", "extra.pbs.l"),
        (JobAttributes(extra={"pbs": {"v": "A=1"}}), "", "extra.pbs.v"),
        (JobAttributes(extra={"pbs": {"l": "walltime=1"}}, duration=1), "", "duration"),
    ],
)
def test_what_pbs_cannot_do_is_refused_by_its_name(attributes: JobAttributes, line: str, words: str) -> None:
    script = SCRIPT.replace("true", f"#PBS {line}\ntrue") if line else SCRIPT
    with pytest.raises((BadRequest, NotSupported), match=words):
        qsub.command(job(attributes, script), script.encode())


@pytest.mark.parametrize("constraints", ["select=2:ncpus=1", "place=excl", "ncpus=4", "lic=1,mem=1gb"])
def test_constraints_that_say_what_fields_say_are_refused(constraints: str) -> None:
    with pytest.raises(BadRequest, match="constraints"):
        qsub.command(replace(job(EXAMPLES["resources.nodeCount"]), constraints=constraints), SCRIPT.encode())
    with pytest.raises(BadRequest, match="constraints"):
        qsub.command(replace(job(EXAMPLES["duration"]), constraints="walltime=1"), SCRIPT.encode())
    assert qsub.command(replace(job(EXAMPLES["duration"]), constraints=constraints), SCRIPT.encode())


@pytest.mark.parametrize("name", sorted({*slurm.OWNED, "wra", "exp", "chd", "clus", "ge", "par"}))
def test_what_is_the_gateway_s_own_is_not_overridden(name: str) -> None:
    with pytest.raises(BadRequest, match=f"extra.slurm.{name}"):
        slurm.options(JobAttributes(extra={"slurm": {name: "x"}}))


@pytest.mark.parametrize(
    ("lines", "attributes", "expected"),
    [
        ("--time=5", JobAttributes(duration=600), {"time_limit": {"set": True, "infinite": False, "number": 10}}),
        ("--no-requeue", JobAttributes(requeue=True), {"requeue": True}),
        ("--nodes=1-4", JobAttributes(resources=Resources(node_count=2)), {"minimum_nodes": 2, "maximum_nodes": 2}),
        ("--begin=now", JobAttributes(begin=9), {"begin_time": {"set": True, "infinite": False, "number": 9}}),
    ],
)
def test_fields_outweigh_directives_over_slurmrestd_too(
    lines: str, attributes: JobAttributes, expected: dict[str, Any]
) -> None:
    """A directive that a request cannot carry does not matter if a field takes its place."""
    script = SCRIPT.replace("true", f"#SBATCH {lines}\ntrue")
    made = submission.body(job(attributes, script), "alice", api_version("0.0.45"))["job"]
    assert {name: made.get(name) for name in expected} == expected


def test_two_kinds_of_memory_are_refused_as_sbatch_does() -> None:
    script = SCRIPT.replace("true", "#SBATCH --mem-per-cpu=1\ntrue")
    with pytest.raises(BadRequest, match="mutually exclusive"):
        submission.body(job(EXAMPLES["resources.memory"], script), "alice", api_version("0.0.45"))


def test_a_begin_is_written_in_the_login_node_s_own_time() -> None:
    argv = qsub.command(job(replace(JobAttributes(), begin=4000000000)), SCRIPT.encode())
    assert "date -d @4000000000" in argv[2]
