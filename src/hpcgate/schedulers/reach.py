"""Which files a submission names, for users who may reach some paths only: asked of its scheduler, refused if unknown.

What the job does once it runs is not looked at.
"""

import posixpath
import re
from dataclasses import replace
from typing import TYPE_CHECKING

from hpcgate.errors import BadRequest
from hpcgate.schedulers.directives import Directives, Named, Unchecked, named
from hpcgate.ssh.files.remote_path import RemotePath, encode_link

if TYPE_CHECKING:
    from hpcgate.schedulers.base import JobDescription

_NAME = re.compile(r"%\d*x")
_FILE_NAME = re.compile(r"[A-Za-z0-9+_.-]{1,230}")

_LOADER = ("LD_", "OPENSSL_", "MALLOC_", "LUA_")
"""Beginnings of variables that tell the loader of any program, or a library that most have, other files; Lua runs in
sbatch where a site has cli_filter/lua (slurm.conf, CliFilterPlugins)."""
_LIBC = frozenset(
    {
        "GCONV_PATH", "GETCONF_DIR", "GLIBC_TUNABLES", "HOSTALIASES", "LOCALDOMAIN", "LOCPATH", "NIS_PATH", "NLSPATH",
        "RESOLV_HOST_CONF", "RES_OPTIONS", "TZDIR",
    }
)  # fmt: skip
"""Those that glibc itself does not heed in a program of more rights than its user's (unsecvars.h)."""


def reach(job: "JobDescription", known: Directives | None) -> tuple[RemotePath, ...]:
    """Return the absolute paths that a submission names, its script's directives among them.

    In their last part they may hold patterns that the scheduler fills in with numbers.

    Args:
        job: The submission, with its script.
        known: What the scheduler's directives are, None if that is not known.

    Raises:
        Unchecked: One of them cannot be told.
    """
    known = _known(known)
    marked = _marked(job.script or "", known)
    for variable in (*job.environment, *job.default_environment):
        if known.guides is None or variable.startswith((*known.guides, *_LOADER)) or variable in _LIBC:
            raise Unchecked(f"the environment variable {variable!r} may lead elsewhere")
    if set(job.name or "") & set(known.forbidden.get(known.naming, "")):
        raise Unchecked(f"the name {job.name!r} would name a file elsewhere")
    _check_extra(job, known)
    if "@" in (job.partition or ""):
        raise Unchecked(f"the partition {job.partition!r} may be another server's")
    directories = list(dict.fromkeys((job.working_directory, *map(_path, marked.directories))))
    for directory in marked.directories:
        if not directory.startswith("/") or "%" in directory:
            raise Unchecked(f"the directory {directory!r} must be absolute, without patterns")
    paths = list(directories)
    for stream in (job.standard_input, job.standard_output, job.standard_error, *marked.streams):
        if stream and stream != "/dev/null":
            if marked.slashed and _NAME.search(stream):
                raise Unchecked(f"the path {stream!r} holds %x, and a name in the script has a slash")
            paths += [_stream(stream, job, directory) for directory in directories]
    return tuple(dict.fromkeys(paths))


def _path(path: str) -> RemotePath:
    """Return a path of a directive or a field, which may be relative still, as bytes.

    Raises:
        Unchecked: It cannot name a file.
    """
    try:
        return RemotePath(encode_link(path))
    except BadRequest as error:
        raise Unchecked(error.message) from None


def launched(job: "JobDescription") -> tuple[RemotePath, ...]:
    """Return the paths of the program of a job, and of what is sourced before and after it.

    A program that is a mere name is the compute node's own.

    Raises:
        Unchecked: One of them cannot be told.
    """
    program = job.program
    if program is None:
        return ()
    paths = [_path(path) for path in (program.pre_launch, program.post_launch) if path is not None]
    if "/" in program.executable:
        paths.append(_joined(job.working_directory, program.executable))
    for path in paths:
        if not path.startswith(b"/"):
            raise Unchecked(f"the path {path.text!r} must be absolute")
    return tuple(paths)


def _check_extra(job: "JobDescription", known: Directives) -> None:
    """Return if the scheduler's own options that a job is to have are known to name no file."""
    for scheduler, options in job.attributes.extra.items():
        for option, value in options.items():
            harmless = option in known.flags | known.harmless
            if not harmless or set(str(value)) & set(known.forbidden.get(option, "")):
                raise Unchecked(f"the option extra.{scheduler}.{option} is not checked")


def with_script(job: "JobDescription", script: str, known: Directives | None) -> "JobDescription":
    """Return a submission with a script in the place of the path where it was read, and the name that it would have.

    Raises:
        Unchecked: What names the job cannot be told.
    """
    name = job.name
    if name is None and not _marked(script, _known(known)).named:
        # The scheduler would give the job the name of the file.
        found = _FILE_NAME.fullmatch(job.script_path.name.text if job.script_path else "")
        name = found and found[0]
    return replace(job, script=script, script_path=None, name=name)


def _known(known: Directives | None) -> Directives:
    if known is None:
        raise Unchecked("which files this scheduler's scripts name is not known")
    return known


def _marked(script: str, known: Directives) -> Named:
    try:
        return named(script, known)
    except Unchecked as error:
        raise Unchecked(f"the directive {str(error)!r} is not checked") from None


def _stream(path: str, job: "JobDescription", directory: RemotePath) -> RemotePath:
    """Return a path as the scheduler will take it, but for the numbers that it fills in."""
    # In Slurm a backslash is taken out, in PBS and, with a host before it, a colon means something.
    if "\\" in path or ":" in path:
        raise Unchecked(f"the path {path!r} holds a backslash or a colon")
    if _NAME.search(path):
        if job.name is None:
            raise Unchecked(f"the path {path!r} holds %x, and the job has no name")
        path = _NAME.sub(lambda _: job.name or "", path)
    above, _, _ = path.rpartition("/")
    if "%" in above or "$" in path or "^" in path or path.startswith("~"):
        raise Unchecked(f"the path {path!r} has a directory that is filled in later")
    return _joined(directory, path)


def _joined(directory: RemotePath, path: str) -> RemotePath:
    return RemotePath(posixpath.join(directory, _path(path)))
