"""A job from its body to its scheduler: limits, contradictions, and what a scheduler knows nothing of."""

import json
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import Request

from hpcgate.api import errors
from hpcgate.api.errors import InvalidParameters
from hpcgate.api.job_requests import complete, description
from hpcgate.api.json_bodies import validated
from hpcgate.api.models.jobs import JobDescriptionModel, PostJobSubmitRequest
from hpcgate.errors import BadRequest, NotSupported
from hpcgate.schedulers.base import Scheduler
from hpcgate.schedulers.job_spec import FIELDS, JobAttributes
from tests.schedulers.described import described
from tests.schedulers.job_examples import EXAMPLES

NEEDED = {"workingDirectory": "/home", "script": "#!/bin/sh\n"}
LONG = "x" * 200_000


def read(**fields: Any) -> JobDescriptionModel:
    return validated(PostJobSubmitRequest, {"job": NEEDED | fields})[0].job


WRONG: list[tuple[str, dict[str, Any]]] = [
    *((name, {name: text}) for name in ("name", "account", "partition", "constraints") for text in ("a\0b", LONG)),
    *((name, {name: text}) for name in ("standardOutput", "queueName", "scriptPath") for text in ("a\0b", LONG)),
    *(("executable", {"executable": text}) for text in ("", "-x", "a\nb", "a\x1bb", LONG, 1)),
    *(("arguments", {"arguments": value}) for value in ("x", [1], ["\0"], ["\x07"], [LONG], ["x"] * 5000, ["\ud800"])),
    *(("launcher", {"launcher": text}) for text in ("", "a b", "../x", "$(id)", LONG)),
    *((name, {name: text}) for name in ("preLaunch", "postLaunch") for text in ("", "x", "~/x", "/a\nb", LONG)),
    *(("resources.nodeCount", {"resources": {"nodeCount": value}}) for value in (0, -1, 1.5, "2", True, 10**9)),
    *(("resources.memory", {"resources": {"memory": value}}) for value in (0, "1.5G", "G", "-1G", "1X", 2**60)),
    ("resources.exclusiveNodeUse", {"resources": {"exclusiveNodeUse": "yes"}}),
    ("resources.gpus", {"resources": {"gpus": 1}}),
    ("resources", {"resources": {"nodeCount": 2, "processesPerNode": 2, "processCount": 5}}),
    *(("duration", {"duration": value}) for value in (0, -1, 1.5, "P", "PT", "P1M", "1:00", "PT1.5H", 10**10)),
    *(("qos", {"qos": text}) for text in ("", "a\nb", LONG)),
    *(("array", {"array": text}) for text in ("", "a", "1-", "1-2-3", "1;2", "1-3%", "1 2", "%1", "9" * 2000)),
    *(
        ("dependencies", {"dependencies": value})
        for value in (
            {"type": "afterok"},
            [{"type": "before", "jobIds": ["1"]}],
            [{"type": "afterok"}],
            [{"type": "singleton", "jobIds": ["1"]}],
            [{"type": "afterok", "jobIds": [1]}],
            [{"type": "afterok", "jobIds": ["1"] * 2000}],
            [{"type": "afterok", "jobIds": ["1"]}] * 200,
        )
    ),
    *((name, {name: value}) for name in ("hold", "requeue") for value in (1, "true")),
    *(("begin", {"begin": value}) for value in (-1, "now", "2026-12-24", "2026-12-24T18:00:00", 10**12, 1.5)),
    *(("mail.events", {"mail": {"events": value}}) for value in ([], ["always"], "end")),
    *(("mail.address", {"mail": {"events": ["end"], "address": text}}) for text in ("", "-x", "a b", "a@b,c@d", LONG)),
    *(("extra.slurm", {"extra": {"slurm": value}}) for value in ({"A": "x"}, {"": "x"}, {"a b": 1}, {"nice": False})),
    *(("extra.slurm", {"extra": {"slurm": value}}) for value in ({"nice": "a\nb"}, {"nice": LONG}, {"nice": [1]})),
    *(("extra.pbs", {"extra": {"pbs": value}}) for value in ({"WW": "x"}, {"-W": "x"}, {"W": 1.5})),
    ("extra.lsf", {"extra": {"lsf": {}}}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "fields"), WRONG, ids=map(str, range(len(WRONG))))
def test_what_is_over_a_limit_is_refused_by_its_name(name: str, fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidParameters) as caught:
        read(**fields)
    answer = json.loads(bytes(errors.answer_to(Request({"type": "http", "headers": []}), caught.value).body))
    assert answer["errorType"] == "validation"
    assert all(field["name"].startswith(f"job.{name}") for field in answer["data"]["fields"]), answer


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"duration": 90}, JobAttributes(duration=90)),
        ({"duration": "PT1H30M"}, JobAttributes(duration=5400)),
        ({"duration": "P1DT1S"}, JobAttributes(duration=86401)),
        ({"duration": "P2W"}, JobAttributes(duration=14 * 86400)),
        ({"begin": "2026-12-24T18:00:00+01:00"}, JobAttributes(begin=1798131600)),
        ({"begin": "2026-12-24T17:00:00Z"}, JobAttributes(begin=1798131600)),
        ({"begin": 1798131600}, JobAttributes(begin=1798131600)),
        ({"resources": {"memory": "1GiB"}}, EXAMPLES["resources.memory"]),
        ({"resources": {"memory": "1024M"}}, EXAMPLES["resources.memory"]),
        ({"resources": {"memory": 2**30}}, EXAMPLES["resources.memory"]),
        ({"resources": {"node_count": 2}}, EXAMPLES["resources.nodeCount"]),
        ({"hold": False, "resources": None, "extra": None, "requeue": None}, JobAttributes()),
        ({"mail": {"events": ["end", "end"]}}, EXAMPLES["mail.events"]),
    ],
)
def test_values_are_read_in_each_of_their_forms(fields: dict[str, Any], expected: JobAttributes) -> None:
    assert description(read(**fields)).attributes.asked() == expected.asked()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"script": None}, "Exactly one of script, scriptPath and executable"),
        ({"executable": "x"}, "Exactly one of script, scriptPath and executable"),
        ({"scriptPath": "/x"}, "Exactly one of script, scriptPath and executable"),
        ({"partition": "a", "queueName": "b"}, "queueName"),
        ({"arguments": []}, "arguments"),
        ({"launcher": "srun"}, "launcher"),
        ({"preLaunch": "/x"}, "preLaunch"),
        ({"postLaunch": "/x"}, "postLaunch"),
    ],
)
def test_contradictions_are_refused_by_their_names(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(BadRequest, match=words):
        description(read(**fields))


class PlugIn:
    """As much of a plug-in as is asked, which says nothing of its own."""

    fields, launchers = Scheduler.fields, Scheduler.launchers


@pytest.mark.parametrize("field", FIELDS)
def test_a_plug_in_that_was_written_before_there_were_fields_passes_none_over(field: str) -> None:
    access: Any = SimpleNamespace(system=SimpleNamespace(scheduler=PlugIn(), admit=lambda path: None))
    with pytest.raises(NotSupported, match=field):
        complete(access, described("/", script="x", attributes=EXAMPLES[field]))
