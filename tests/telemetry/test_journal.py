"""What is noted of one request."""

from collections.abc import Iterator

import pytest

from hpcgate.telemetry import journal


@pytest.fixture
def notes() -> Iterator[journal.Journal]:
    """Those of the request under way."""
    opened = journal.Journal("r-1", "c-1")
    token = journal.current.set(opened)
    yield opened
    journal.current.reset(token)


@pytest.mark.parametrize(
    ("portions", "noted"),
    [
        ([[]], None),
        ([["1"]], "1"),
        ([["1", "2_3"], [], ["4"]], "1,2_3,4"),
        ([["\udc80"]], "\ufffd"),
        ([["x" * 4096]], "x" * journal.MAX_JOB_ID),
    ],
    ids=["none", "one", "several portions", "not Unicode", "too long"],
)
def test_all_jobs_of_a_request_are_noted(notes: journal.Journal, portions: list[list[str]], noted: str | None) -> None:
    for job_ids in portions:
        journal.note_jobs(job_ids)
    assert notes.job_id == noted
