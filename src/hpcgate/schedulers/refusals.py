"""A scheduler's refusal by the name of the field in the request that it is about, where its own words have none."""

from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager

from hpcgate.errors import BadRequest
from hpcgate.schedulers.base import JobDescription

Phrases = Mapping[str, str]
"""What a scheduler says, and the field that it is about then."""


def given(job: JobDescription) -> frozenset[str]:
    """Return the fields of a job that a scheduler may refuse without their names."""
    return frozenset(job.attributes.asked().keys() | ({"script"} if job.script is not None else set()))


def about(error: BadRequest, fields: Container[str], phrases: Phrases) -> BadRequest:
    """Return an error that names the field that it is about, if that is one of those that were given."""
    field = next((field for phrase, field in phrases.items() if phrase in error.message and field in fields), None)
    if field is None or error.message.startswith(field):
        return error
    return type(error)(f"{field}: {error.message}", caused_by=error.caused_by, data=error.data, headers=error.headers)


@contextmanager
def naming(fields: Container[str], phrases: Phrases) -> Iterator[None]:
    """Have a refusal name the field that it is about."""
    try:
        yield
    except BadRequest as error:
        raise about(error, fields, phrases) from error.__cause__
