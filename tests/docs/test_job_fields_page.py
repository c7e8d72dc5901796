"""The page of jobs in fields has what the schedulers' tables say."""

from hpcgate.schedulers.job_spec import FIELDS
from tests.schedulers.job_fields_page import PAGE, page


def test_the_table_is_current() -> None:
    text = page()
    assert all(f"| `{field}` |" in text for field in FIELDS)
    assert PAGE.read_text() == text, "please run: make job-fields"
