"""What a submission that the policy restricts to some paths may name."""

import posixpath
import re
from dataclasses import replace

from hpcgate.api.access import Access
from hpcgate.auth.policy import Grant
from hpcgate.errors import Denied, TooLarge
from hpcgate.filesystem.base import encode_path
from hpcgate.filesystem.confinement import Reach
from hpcgate.schedulers.base import JobDescription
from hpcgate.schedulers.directives import Directives, Named, Unchecked, named
from hpcgate.ssh.session import Session

_NAME = re.compile(r"%\d*x")
_FILE_NAME = re.compile(r"[A-Za-z0-9+_.-]{1,230}")

_GUIDES = ("SBATCH_", "SLURM_", "SALLOC_", "SRUN_", "PBS_", "LD_", "OPENSSL_", "MALLOC_")
"""Beginnings of variables that tell the scheduler's commands, or the loader of programs, other files."""
_GUIDE = frozenset(
    {
        "GCONV_PATH", "GETCONF_DIR", "GLIBC_TUNABLES", "HOSTALIASES", "LOCALDOMAIN", "LOCPATH", "NIS_PATH", "NLSPATH",
        "RESOLV_HOST_CONF", "RES_OPTIONS", "TZDIR",
    }
)  # fmt: skip
"""Those that glibc itself does not heed in a program of more rights than its user's (unsecvars.h)."""

MAX_SCRIPT = 4 * 1024 * 1024
"""Bytes of a script that is read to be checked. Slurm takes no larger one by default (slurm.conf, max_script_size)."""


async def admit_job(access: Access, job: JobDescription) -> JobDescription:
    """Check the files that a submission names against the policy, and return what may be submitted.

    A script that lies on the system is read and goes along in its place: what was checked is what is submitted.

    Raises:
        Denied: The policy's rule allows other paths only, or it cannot be told which the job would touch.
    """
    grant = access.grant
    if grant.paths is None:
        return job
    known = access.system.scheduler.directives()
    try:
        if job.script_path is not None:
            job = await _with_script(access, job, known)
        reach = job_reach(job, grant, known)
    except Denied as denial:
        access.denied(denial, job.working_directory)
        raise
    await access.confine(reach)
    return job


async def _with_script(access: Access, job: JobDescription, known: Directives | None) -> JobDescription:
    path = job.script_path or ""
    if not path.startswith("/"):
        raise Denied(access.grant.rule, "scriptPath must be absolute")

    async def read(session: Session) -> bytes:
        return await (await session.files()).read(encode_path(path), size=MAX_SCRIPT + 1)

    content = await access.pool.perform(access.principal, read, retry=True)
    if len(content) > MAX_SCRIPT:
        raise TooLarge(f"{path}: the script is larger than {MAX_SCRIPT} bytes.")
    try:
        script = content.decode()
    except UnicodeDecodeError:
        raise Denied(access.grant.rule, f"the script {path!r} is not UTF-8, and is not checked") from None
    name = job.name
    if name is None and not _marked(script, access.grant, known).named:
        # The scheduler would give the job the name of the file.
        found = _FILE_NAME.fullmatch(posixpath.basename(path))
        name = found and found[0]
    return replace(job, script=script, script_path=None, name=name)


def _marked(script: str, grant: Grant, known: Directives | None) -> Named:
    if known is None:
        raise Denied(grant.rule, "which files this scheduler's scripts name is not known")
    try:
        return named(script, known)
    except Unchecked as error:
        raise Denied(grant.rule, f"the directive {str(error)!r} is not checked") from None


def job_reach(job: JobDescription, grant: Grant, known: Directives | None) -> Reach:
    """Return the files that a submission names, its script's directives among them.

    What the job does once it runs is not looked at.

    Args:
        job: The submission, with its script.
        grant: The rule.
        known: What the scheduler's directives are, None if that is not known.

    Raises:
        Denied: One of them cannot be told.
    """
    marked = _marked(job.script or "", grant, known)
    for variable in (*job.environment, *job.default_environment):
        if variable.startswith(_GUIDES) or variable in _GUIDE:
            raise Denied(grant.rule, f"the environment variable {variable!r} may lead elsewhere")
    if known is not None and set(job.name or "") & set(known.forbidden.get(known.naming, "")):
        raise Denied(grant.rule, f"the name {job.name!r} would name a file elsewhere")
    if "@" in (job.partition or ""):
        raise Denied(grant.rule, f"the partition {job.partition!r} may be another server's")
    directories = list(dict.fromkeys((job.working_directory, *marked.directories)))
    for directory in marked.directories:
        if not directory.startswith("/") or "%" in directory:
            raise Denied(grant.rule, f"the directory {directory!r} must be absolute, without patterns")
    paths = list(directories)
    for stream in (job.standard_input, job.standard_output, job.standard_error, *marked.streams):
        if stream and stream != "/dev/null":
            paths += [_stream(stream, job, grant, directory) for directory in directories]
    return Reach(tuple(dict.fromkeys(paths)), strict=True)


def _stream(path: str, job: JobDescription, grant: Grant, directory: str) -> str:
    """Return a path as the scheduler will take it, but for the numbers that it fills in."""
    # In Slurm a backslash is taken out, in PBS and, with a host before it, a colon means something.
    if "\\" in path or ":" in path:
        raise Denied(grant.rule, f"the path {path!r} holds a backslash or a colon")
    if _NAME.search(path):
        if job.name is None:
            raise Denied(grant.rule, f"the path {path!r} holds %x, and the job has no name")
        path = _NAME.sub(lambda _: job.name or "", path)
    above, _, _ = path.rpartition("/")
    if "%" in above or "$" in path or "^" in path or path.startswith("~"):
        raise Denied(grant.rule, f"the path {path!r} has a directory that is filled in later")
    return posixpath.join(directory, path)
