"""What is noted of the request under way, for the lines that are logged of it.

Every line logged meanwhile, however deep inside, carries the request's ids: they travel in a context variable, which
the tasks that a request starts inherit. What outlives the request, a connection for example, has the variable too; so
a journal is closed when its request ends, and says nothing more. It is for logs alone: nothing is decided by it.
"""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field

MAX_ENTRIES = 100
"""Commands, requests or paths that are noted of one request."""
MAX_JOB_ID = 300
"""Characters of what a client calls the id of a job: a number, brackets, and the name of a host."""


@dataclass(slots=True, eq=False)
class Journal:
    """The notes on one request.

    Attributes:
        request_id: Its ``X-Request-ID``.
        correlation_id: Its ``X-Correlation-ID``.
        who: Who asks, for the audit log: ``user``, ``client_id``, ``token_id``, ``source``.
        operation: Method and route, once it is known that the request acts on a system.
        group: The group of operations that the route belongs to (`hpcgate.config.groups.Group`).
        paths: The paths that it acts on; None if nobody wants to know.
        job_id: The job that it acts on, or that it has made; of several all, with commas between them.
        backend: The commands and HTTP requests that it took; None if nobody wants to know.
        required: Groups of operations that are refused if they cannot be recorded (`hpcgate.config.groups.Group`).
        open: Whether the request still goes on.
    """

    request_id: str
    correlation_id: str
    paths: list[str] | None = None
    backend: list[Mapping[str, str]] | None = None
    who: Mapping[str, str | None] = field(default_factory=dict)
    operation: tuple[str, str] | None = None
    group: str | None = None
    job_id: str | None = None
    required: frozenset[str] = frozenset()
    open: bool = True


current: ContextVar[Journal | None] = ContextVar("hpcgate_journal", default=None)


def note_command(argv: Sequence[str | bytes], exit_status: int | None) -> None:
    """Note that a command was run on a login node; None is one whose end was not seen."""
    journal = current.get()
    if journal is not None and journal.backend is not None and journal.open and len(journal.backend) < MAX_ENTRIES:
        words = [word if isinstance(word, str) else word.decode("utf-8", "replace") for word in argv]
        entry = {"command": shlex.join(words)}
        if exit_status is not None:
            entry["exit_status"] = str(exit_status)
        journal.backend.append(entry)


def note_exchange(url: str, status: int) -> None:
    """Note that a service was asked over HTTP."""
    journal = current.get()
    if journal is not None and journal.backend is not None and journal.open and len(journal.backend) < MAX_ENTRIES:
        journal.backend.append({"url": url, "response_status": str(status)})


def note_path(path: str | bytes) -> None:
    """Note a path that the request acts on; bytes that are not UTF-8 show as U+FFFD."""
    journal = current.get()
    if journal is not None and journal.paths is not None and len(journal.paths) < MAX_ENTRIES:
        text = readable(path)
        if text not in journal.paths:
            journal.paths.append(text)


def readable(path: str | bytes) -> str:
    """Return a path as every reader of JSON takes it: lone surrogates (PEP 383, or a client's own) become U+FFFD."""
    if isinstance(path, bytes):
        path = path.decode("utf-8", "surrogateescape")
    return path if path.isascii() else path.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def note_job(job_id: str) -> None:
    """Note the job that the request has made."""
    journal = current.get()
    if journal is not None:
        journal.job_id = job_id


def note_jobs(job_ids: Iterable[str]) -> None:
    """Note further jobs that the request acts on, or has made."""
    journal = current.get()
    if journal is not None:
        before = () if journal.job_id is None else (journal.job_id,)
        journal.job_id = ",".join((*before, *(readable(job_id[:MAX_JOB_ID]) for job_id in job_ids))) or None
