"""The script of a job that names a program instead of having one.

It is for any POSIX shell, whatever the compute node makes of its first line. No word of the request is anything but
data in it, and its first line that is not a comment stands before all of them, so that no scheduler takes a line of an
argument for a directive.
"""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace

from hpcgate.errors import BadRequest
from hpcgate.schedulers.base import JobDescription
from hpcgate.schedulers.job_spec import Program

MAX_SCRIPT = 1024 * 1024
"""Bytes of a rendered script. Slurm takes 4 MiB by default (slurm.conf, max_script_size), a site may have less."""


def with_script(job: JobDescription, launchers: Mapping[str, Sequence[str]]) -> JobDescription:
    """Return the job with the script that runs its program; one that has no program as it is.

    Args:
        job: The job.
        launchers: The words of each launcher, by its name; the first is that of a job that names none.

    Raises:
        BadRequest: The launcher is not known, or the script would be too long.
    """
    if job.program is None:
        return job
    name = job.program.launcher or next(iter(launchers))
    if name not in launchers:
        known = ", ".join(sorted(launchers))
        raise BadRequest(f"launcher: {name!r} is not known here; there are: {known}")
    script = rendered(job.program, launchers[name], job.attributes.resources.cpu_cores_per_process)
    if len(script.encode("utf-8", "surrogatepass")) > MAX_SCRIPT:
        raise BadRequest(f"arguments: with them, the script would be longer than {MAX_SCRIPT} bytes")
    return replace(job, script=script)


def rendered(program: Program, launcher: Sequence[str], cpus: int | None = None) -> str:
    """Return the script that runs a program.

    Args:
        program: The program.
        launcher: The words of what starts it; none for the shell itself.
        cpus: CPUs of each process: from 22.05 on srun does not take them over from its job (srun(1), --cpus-per-task).
    """
    command = " ".join(map(shlex.quote, (*launcher, program.executable, *program.arguments)))
    lines = ["#!/bin/bash", "set +e"]
    if cpus is not None:
        lines.append(f"export SRUN_CPUS_PER_TASK={cpus}")
    if program.pre_launch is not None:
        lines.append(f". {shlex.quote(program.pre_launch)} || exit")
    if program.post_launch is None:
        lines.append(f"exec {command}")
    else:
        # By exec a name is a program's, and no word of the shell's own.
        lines += [f"(exec {command})", "_hpcgate_status=$?"]
        lines += [f". {shlex.quote(program.post_launch)}", 'exit "$_hpcgate_status"']
    return "\n".join(lines) + "\n"
