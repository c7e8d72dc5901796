"""srun: steps in an allocation. https://slurm.schedmd.com/srun.html"""

from hpcgate.schedulers.slurm.job_ids import JobId
from hpcgate.schedulers.slurm.version import OVERLAP


def command(job_id: JobId, shell_command: str, version: tuple[int, int]) -> list[str]:
    """Return the command that runs a shell command as one task in the allocation of a job."""
    overlap = ["--overlap"] if version >= OVERLAP else []
    options = [f"--jobid={job_id.argument}", *overlap, "--nodes=1", "--ntasks=1", "--input=none"]
    return ["env", "-u", "LC_ALL", "srun", *options, "--", "/bin/sh", "-c", shell_command]
