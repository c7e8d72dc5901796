"""What the figures were taken on, without names or dates."""

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

from hpcgate.demo.packages import program


def description(load: str) -> list[str]:
    """Return lines that describe the machine and the versions of what takes part."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    ssh = subprocess.run([program("ssh"), "-V"], capture_output=True, text=True, check=True).stderr.split(",")[0]
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("asyncssh", "uvicorn", "uvloop"))
    return [
        f"{len(os.sched_getaffinity(0))} cores ({model}), {memory:.0f} GiB of memory, Linux {platform.release()}",
        f"Python {platform.python_version()}, {versions}; {ssh.strip()}",
        f"Load by {load}, on the same machine as the gateway, sshd and Slurm; one gateway process",
        f"Load average before the run: {os.getloadavg()[0]:.1f}",
    ]
