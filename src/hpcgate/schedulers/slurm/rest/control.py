"""``POST /slurm/<version>/job/<id>`` and ``DELETE …?signal=``: what users do to jobs by slurmrestd.

It holds, releases and changes whole jobs. It neither requeues, suspends nor resumes them, and changes no tasks of an
array by themselves. A signal goes to the batch script, too, with v0.0.38 only: later versions send it to the steps
alone, unless told otherwise by a flag that not all of them know.
"""

from typing import Any, Final
from urllib.parse import quote

from hpcgate.auth import Principal
from hpcgate.errors import BadRequest, CommandFailed, Forbidden, GatewayError, JobNotFound, NotSupported
from hpcgate.schedulers.control import Action, JobChanges
from hpcgate.schedulers.slurm import control
from hpcgate.schedulers.slurm.attributes import dependency
from hpcgate.schedulers.slurm.controls import check_texts, with_mark
from hpcgate.schedulers.slurm.job_ids import JobId
from hpcgate.schedulers.slurm.rest import values
from hpcgate.schedulers.slurm.rest.client import RestClient
from hpcgate.schedulers.slurm.rest.problems import (
    DENIED_NUMBERS,
    UNKNOWN_JOB,
    failure,
    numbers,
    problems,
    words,
)


class RestControls:
    """By slurmrestd.

    Args:
        client: Its client.
    """

    def __init__(self, client: RestClient) -> None:
        self._client = client

    async def act(self, principal: Principal, job_id: JobId, action: Action) -> None:
        """Hold or release a job.

        Raises:
            NotSupported: It is something else.
        """
        if action not in _HOLDS or (action is Action.RELEASE and not self._client.version.changes):
            raise NotSupported(f"The action {action.value} is not supported over slurmrestd (connection_mode: rest)")
        await self._update(principal, job_id, {"hold": _HOLDS[action]})

    async def signal(self, principal: Principal, job_id: JobId, number: int) -> None:
        """Send a signal.

        Raises:
            NotSupported: It would not reach the batch script.
        """
        if not self._client.version.signals_all:
            raise NotSupported("Signals to a whole job are not supported over slurmrestd (connection_mode: rest)")
        path = f"job/{quote(_whole(job_id), safe='')}"

        def parse(status: int, answer: Any) -> None:
            check(status, answer, job_id)

        await self._client.controller(principal, "DELETE", path, parse, query={"signal": str(number)})

    async def change(self, principal: Principal, job_id: JobId, changes: JobChanges) -> None:
        """Change a job.

        Raises:
            NotSupported: By this version.
        """
        if not self._client.version.changes:
            raise NotSupported(f"Changing a job is not supported over slurmrestd's {self._client.version.name}")
        check_texts(changes)
        fields = body(changes)
        if changes.comment is not None:
            fields["comment"] = with_mark(changes.comment, await self._comment(principal, job_id))
        await self._update(principal, job_id, fields)

    async def _comment(self, principal: Principal, job_id: JobId) -> str:
        def parse(status: int, answer: Any) -> str:
            check(status, answer, job_id)
            return " ".join(values.string(row.get("comment")) for row in values.rows(answer, "jobs"))

        return await self._client.controller(principal, "GET", f"job/{quote(_whole(job_id), safe='')}", parse)

    async def _update(self, principal: Principal, job_id: JobId, fields: dict[str, Any]) -> None:
        def parse(status: int, answer: Any) -> None:
            check(status, answer, job_id)

        path = f"job/{quote(_whole(job_id), safe='')}"
        await self._client.controller(principal, "POST", path, parse, body=fields)


_HOLDS: Final = {Action.HOLD: True, Action.RELEASE: False}


def _whole(job_id: JobId) -> str:
    if job_id.tasks is not None or job_id.offset is not None:
        raise NotSupported("Tasks of an array by themselves are not supported over slurmrestd (connection_mode: rest)")
    return job_id.base


def body(changes: JobChanges) -> dict[str, Any]:
    """Return the body that changes a job."""

    def number(value: int) -> Any:
        return {"set": True, "number": value}

    control.check_priority(changes)
    fields: dict[str, Any] = {}
    if changes.time_limit is not None:
        fields["time_limit"] = number(control.minutes(changes.time_limit))
    if changes.priority is not None:
        fields["priority"] = number(changes.priority)
    if changes.partition is not None:
        fields["partition"] = changes.partition
    if changes.name is not None:
        fields["name"] = changes.name
    if changes.comment is not None:
        fields["comment"] = changes.comment
    if changes.dependencies is not None:
        fields["dependency"] = dependency(changes.dependencies)
    return fields


def check(status: int, answer: Any, job_id: JobId) -> None:
    """Return if an answer says that it was done.

    Raises:
        JobNotFound, Conflict, Forbidden, BadRequest: In Slurm's words.
        GatewayError: It is something else.
    """
    found = problems(answer)
    beside = [values.row(row.get("error")) for row in values.rows(answer, "status")]
    met = numbers(found) | {code for error in beside if (code := values.number(error.get("code")))}
    said = words(found) or "; ".join(dict.fromkeys(values.string(error.get("string")) for error in beside))
    if status < 300 and not met and not words(found):
        return
    if met & UNKNOWN_JOB:
        raise JobNotFound(job_id.argument)
    if met & DENIED_NUMBERS:
        raise Forbidden(said)
    error: GatewayError = failure(status, answer)
    if said and (type(error) is CommandFailed or beside):
        error = control.judged(said, BadRequest(said), job_id)
    raise error
