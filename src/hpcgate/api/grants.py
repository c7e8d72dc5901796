"""What a submission that the policy restricts to some paths may name."""

from hpcgate.api.access import Access
from hpcgate.errors import Denied, TooLarge
from hpcgate.filesystem.confinement import Reach
from hpcgate.schedulers.base import JobDescription
from hpcgate.schedulers.directives import Unchecked
from hpcgate.schedulers.reach import launched
from hpcgate.ssh.files.remote_path import RemotePath, remote_path
from hpcgate.ssh.session import Session

MAX_SCRIPT = 4 * 1024 * 1024
"""Bytes of a script that is read to be checked. Slurm takes no larger one by default (slurm.conf, max_script_size)."""


async def admit_job(access: Access, job: JobDescription) -> JobDescription:
    """Check the files that a submission names against the policy, and return what may be submitted.

    Which those are the scheduler says. A script that lies on the system is read and goes along in its place: what was
    checked is what is submitted.

    Raises:
        BadRequest: A path is not absolute.
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
            paths = (*scheduler.reach(job), *launched(job))
        except Unchecked as error:
            raise Denied(grant.rule, str(error)) from None
    except Denied as denial:
        access.denied(denial, job.working_directory)
        raise
    await access.confine(Reach(tuple(map(remote_path, paths)), strict=True))
    return job


async def _script(access: Access, path: RemotePath) -> str:
    if not path.startswith(b"/"):
        raise Unchecked("scriptPath must be absolute")

    async def read(session: Session) -> bytes:
        return await (await session.files()).read(path, size=MAX_SCRIPT + 1)

    content = await access.pool.perform(access.principal, read, retry=True)
    if len(content) > MAX_SCRIPT:
        raise TooLarge(f"{path.text}: the script is larger than {MAX_SCRIPT} bytes.")
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise Unchecked(f"the script {path.text!r} is not UTF-8, and is not checked") from None
