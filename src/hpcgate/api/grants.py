"""What a request that the policy restricts to some paths may name."""

import posixpath
import re

from hpcgate.api.dependencies import Access
from hpcgate.auth.policy import Grant
from hpcgate.errors import Denied
from hpcgate.filesystem.confinement import Reach
from hpcgate.schedulers.base import JobDescription

_NAME = re.compile(r"%\d*x")
_GUIDES = ("SBATCH_", "SLURM_", "PBS_", "LD_")
"""Variables that tell the scheduler's commands, or the loader of programs, other files than the request does."""


async def admit_job(access: Access, job: JobDescription) -> None:
    """Check the files that a submission names against the policy.

    Raises:
        Denied: The policy's rule allows other paths only.
    """
    if access.grant.paths is None:
        return
    try:
        reach = job_reach(job, access.grant)
    except Denied as denial:
        access.denied(denial, job.working_directory)
        raise
    await access.confine(reach)


def job_reach(job: JobDescription, grant: Grant) -> Reach:
    """Return the files that a submission names; the content of its script is not looked at.

    Raises:
        Denied: One of them cannot be told.
    """
    paths = [job.working_directory]
    if job.script_path is not None:
        if not job.script_path.startswith("/"):
            raise Denied(grant.rule, "scriptPath must be absolute")
        paths.append(job.script_path)
    for stream in (job.standard_input, job.standard_output, job.standard_error):
        if stream and stream != "/dev/null":
            paths.append(_stream(stream, job, grant))
    for variable in job.environment:
        if variable.startswith(_GUIDES):
            raise Denied(grant.rule, f"the environment variable {variable!r} may lead elsewhere")
    return Reach(tuple(paths), strict=True)


def _stream(path: str, job: JobDescription, grant: Grant) -> str:
    """Return a path as the scheduler will take it, but for the numbers that it fills in."""
    # In Slurm a backslash is taken out, in PBS and, with a host before it, a colon means something.
    if "\\" in path or ":" in path:
        raise Denied(grant.rule, f"the path {path!r} holds a backslash or a colon")
    if _NAME.search(path):
        if job.name is None:
            raise Denied(grant.rule, f"the path {path!r} holds %x, and the job has no name")
        path = _NAME.sub(lambda _: job.name or "", path)
    directory, _, _ = path.rpartition("/")
    if "%" in directory or "$" in directory or "^" in directory:
        raise Denied(grant.rule, f"the path {path!r} has a directory that is filled in later")
    return posixpath.join(job.working_directory, path)
