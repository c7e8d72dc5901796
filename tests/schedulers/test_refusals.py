"""A refusal names the field that it is about, and no other."""

import pytest

from hpcgate.errors import BadRequest, Conflict, SubmissionRefused
from hpcgate.schedulers.job_spec import JobAttributes
from hpcgate.schedulers.refusals import about, given, naming
from tests.schedulers.described import described

PHRASES = {"array specification": "array", "too long": "script"}


@pytest.mark.parametrize(
    ("words", "fields", "said"),
    [
        ("Invalid job array specification", {"array"}, "array: Invalid job array specification"),
        ("Invalid job array specification", {"script"}, "Invalid job array specification"),
        ("array specification: no", {"array"}, "array specification: no"),
        ("something else", {"array", "script"}, "something else"),
        ("too long", {"array", "script"}, "script: too long"),
    ],
)
def test_a_refusal_names_a_field_that_was_given(words: str, fields: set[str], said: str) -> None:
    error = SubmissionRefused(words, data={"a": 1}, headers={"Retry-After": "3"})
    found = about(error, fields, PHRASES)
    assert (type(found), found.message, found.data, found.headers) == (
        SubmissionRefused,
        said,
        error.data,
        error.headers,
    )


def test_only_refusals_of_a_value_are_looked_at() -> None:
    with pytest.raises(BadRequest, match=r"^script: too long$"), naming({"script"}, PHRASES):
        raise BadRequest("too long")
    with pytest.raises(Conflict, match=r"^too long$"), naming({"script"}, PHRASES):
        raise Conflict("too long")


def test_what_a_job_was_given() -> None:
    """Fields that were asked for, and the script where it is the request's own."""
    array = JobAttributes(array="0-9")
    assert given(described("/", script="#!/bin/sh\n", attributes=array)) == {"array", "script"}
    assert given(described("/", script_path="/x", attributes=array)) == {"array"}
