"""What the answer to a request for a transfer holds besides the job's id, as text, so that it can be given again.

It may hold what is the user's alone: a streamer's secret, presigned URLs. It is kept where the job's script is, which
holds the same.
"""

import base64
import json
import zlib
from dataclasses import asdict

from pydantic import TypeAdapter

from hpcgate.errors import BadAnswer, BadRequest
from hpcgate.transfers.base import Directives, JobLogs, TransferJob

MOST = 720 * 1024
"""Characters of one: a file of 10,000 parts takes some 600,000. More is not read back from the login node."""
_MOST_JSON = 16 * 1024 * 1024
_MOST_VALUES = 64 * 1024
"""Values in it, counted before they are made: in a few kilobytes there may be millions, and the event loop waits."""
_FIELDS: TypeAdapter[dict[str, str | int | tuple[str, ...] | None]] = TypeAdapter(
    dict[str, str | int | tuple[str, ...] | None]
)
"""None stands in those of versions that had a field for each method's own."""


def written(job: TransferJob, directives: Directives | None) -> str:
    """Return the text for a job that has no id yet: letters, digits and ``+/=`` only.

    Raises:
        BadRequest: It would be too long.
    """
    values = {"job": asdict(job), "directives": None if directives is None else _flat(directives)}
    text = base64.b64encode(zlib.compress(json.dumps(values).encode("ascii"), 9)).decode("ascii")
    if len(text) > MOST:
        raise BadRequest("A transfer of so many parts cannot have an Idempotency-Key")
    return text


def read(text: str, job_id: str) -> tuple[TransferJob, Directives | None]:
    """Return what `written` was given, with the job's id.

    Raises:
        BadAnswer: It is not such a text: it lies in the user's home, and may be the user's own doing.
    """
    try:
        unpacker = zlib.decompressobj()
        content = unpacker.decompress(base64.b64decode(text, validate=True), _MOST_JSON)
        if unpacker.unconsumed_tail or not unpacker.eof:
            raise ValueError("not whole")
        if sum(map(content.count, (b",", b"[", b"{"))) > _MOST_VALUES:
            raise ValueError("too many values")
        values = json.loads(content)
        job = values["job"]
        logs = JobLogs(str(job["logs"]["output_log"]), str(job["logs"]["error_log"]))
        made = TransferJob(job_id, str(job["system"]), str(job["working_directory"]), logs)
        found = values["directives"]
        return made, None if found is None else _directives(**found)
    except (ValueError, LookupError, TypeError, RecursionError, zlib.error) as error:
        raise BadAnswer("The receipt of the transfer cannot be read") from error


def _flat(directives: Directives) -> dict[str, object]:
    return {**directives.fields, "transfer_method": directives.transfer_method}


def _directives(*, transfer_method: object, **fields: object) -> Directives:
    if not isinstance(transfer_method, str):
        raise ValueError("not the name of a method")
    told = {name: value for name, value in _FIELDS.validate_python(fields).items() if value is not None}
    return Directives(transfer_method, told)
