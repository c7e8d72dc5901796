"""Who does things to jobs: commands on the login node, or slurmrestd and commands for the rest."""

import re
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Protocol

from hpcgate.auth import Principal
from hpcgate.errors import BadRequest, NotSupported
from hpcgate.schedulers.control import Action, JobChanges
from hpcgate.schedulers.receipts import MARKED
from hpcgate.schedulers.slurm import control, squeue
from hpcgate.schedulers.slurm.delimiters import new_mark
from hpcgate.schedulers.slurm.failures import broken_off, failure, no_list
from hpcgate.schedulers.slurm.job_ids import JobId
from hpcgate.ssh.runner import Completed


class Controls(Protocol):
    """What can be done to jobs. All raise `JobNotFound` for a job that the controller does not know."""

    async def act(self, principal: Principal, job_id: JobId, action: Action) -> None:
        """Hold, release, requeue, suspend or resume a job."""

    async def signal(self, principal: Principal, job_id: JobId, number: int) -> None:
        """Send a signal to all processes of a job."""

    async def change(self, principal: Principal, job_id: JobId, changes: JobChanges) -> None:
        """Change a job."""


class CommandControls:
    """By commands.

    Args:
        run: Runs one.
    """

    def __init__(self, run: Callable[..., Awaitable[Completed]]) -> None:
        self._run = run

    async def act(self, principal: Principal, job_id: JobId, action: Action) -> None:
        """Do it by scontrol."""
        await self._do(principal, control.action_command(action, job_id), job_id)

    async def signal(self, principal: Principal, job_id: JobId, number: int) -> None:
        """Send it by scancel."""
        await self._do(principal, control.signal_command(job_id, number), job_id)

    async def change(self, principal: Principal, job_id: JobId, changes: JobChanges) -> None:
        """Change it by scontrol."""
        check_texts(changes)
        if changes.comment is not None:
            changes = replace(changes, comment=with_mark(changes.comment, await self._comment(principal, job_id)))
        await self._do(principal, control.update_command(job_id, changes), job_id)

    async def _comment(self, principal: Principal, job_id: JobId) -> str:
        """Return what the job has as its comment; tasks of an array have one in common, as far as it is the gateway's.

        Of a job that is not known, nothing: who changes it is told.
        """
        mark = new_mark()
        done = await self._run(principal, control.comment_command(job_id, mark), env=squeue.ENVIRONMENT)
        if not done.ok:
            error = control.judged(done.words, failure(done), job_id)
            raise error
        if not squeue.answers(done.stdout, mark):
            raise no_list(done)
        if not squeue.whole(done.stdout, mark):
            raise broken_off(done)
        return " ".join(control.parse_comments(done.stdout.decode("utf-8", "replace"), mark))

    async def _do(self, principal: Principal, argv: list[str], job_id: JobId) -> None:
        done = await self._run(principal, argv, retry=False)
        if not done.ok:
            raise control.refusal(done, job_id)


class EitherControls:
    """By slurmrestd, and by commands for what it cannot do: the one or the other, never both.

    Args:
        first: By slurmrestd.
        rest: By commands.
    """

    def __init__(self, first: Controls, rest: Controls) -> None:
        self._first = first
        self._rest = rest

    async def act(self, principal: Principal, job_id: JobId, action: Action) -> None:
        """Do it."""
        try:
            await self._first.act(principal, job_id, action)
        except NotSupported:
            await self._rest.act(principal, job_id, action)

    async def signal(self, principal: Principal, job_id: JobId, number: int) -> None:
        """Send it."""
        try:
            await self._first.signal(principal, job_id, number)
        except NotSupported:
            await self._rest.signal(principal, job_id, number)

    async def change(self, principal: Principal, job_id: JobId, changes: JobChanges) -> None:
        """Change it."""
        try:
            await self._first.change(principal, job_id, changes)
        except NotSupported:
            await self._rest.change(principal, job_id, changes)


_MARK = re.compile(rf"(?<!\S){re.escape(MARKED)}[0-9a-f]+(?!\S)")


def with_mark(comment: str, before: str) -> str:
    """Return a comment that has the mark of the one before: by it a submission in doubt is found.

    >>> with_mark("new", "old hpcgate:0123456789abcdef")
    'new hpcgate:0123456789abcdef'
    """
    found = _MARK.search(before)
    return " ".join(filter(None, (_MARK.sub("", comment).strip(), found[0] if found else "")))


def check_texts(changes: JobChanges) -> None:
    """Return if Slurm can be given the texts.

    Raises:
        BadRequest: One holds a NUL, or is not Unicode.
    """
    for name in ("partition", "name", "comment"):
        value: str | None = getattr(changes, name)
        if value is None:
            continue
        if "\0" in value:
            raise BadRequest(f"{name}: A NUL character cannot be submitted")
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise BadRequest(f"{name}: not valid Unicode: {error.reason}") from None
