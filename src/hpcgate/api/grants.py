"""What a submission that the policy restricts to some paths may name."""

from hpcgate.api.access import Access
from hpcgate.errors import Denied, TooLarge
from hpcgate.filesystem.confinement import Reach
from hpcgate.schedulers.base import JobDescription
from hpcgate.schedulers.directives import Unchecked
from hpcgate.schedulers.reach import launched
from hpcgate.ssh.files.remote_path import encode_path
from hpcgate.ssh.session import Session

MAX_SCRIPT = 4 * 1024 * 1024
"""Bytes of a script that is read to be checked. Slurm takes no larger one by default (slurm.conf, max_script_size)."""


async def admit_job(access: Access, job: JobDescription) -> JobDescription:
    """Check the files that a submission names against the policy, and return what may be submitted.

    Which those are the scheduler says. A script that lies on the system is read and goes along in its place: what was
    checked is what is submitted.

    Raises:
        Denied: The policy's rule allows other paths only, or it cannot be told which the job would touch.
    """
    grant = access.grant
    if grant.paths is None:
        return job
    scheduler = access.system.scheduler
    try:
        try:
            if job.script_path is not None:
                job = scheduler.with_script(job, await _script(access, job.script_path))
            # What a program names is no plug-in's to leave out.
            reach = Reach((*scheduler.reach(job), *launched(job)), strict=True)
        except Unchecked as error:
            raise Denied(grant.rule, str(error)) from None
    except Denied as denial:
        access.denied(denial, job.working_directory)
        raise
    await access.confine(reach)
    return job


async def _script(access: Access, path: str) -> str:
    if not path.startswith("/"):
        raise Unchecked("scriptPath must be absolute")

    async def read(session: Session) -> bytes:
        return await (await session.files()).read(encode_path(path), size=MAX_SCRIPT + 1)

    content = await access.pool.perform(access.principal, read, retry=True)
    if len(content) > MAX_SCRIPT:
        raise TooLarge(f"{path}: the script is larger than {MAX_SCRIPT} bytes.")
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise Unchecked(f"the script {path!r} is not UTF-8, and is not checked") from None
