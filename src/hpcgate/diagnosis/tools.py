"""Whether the scheduler's tools are found where commands run: not in a login shell, and not at a prompt."""

import shlex
import time
from collections.abc import Sequence

from hpcgate.ssh.session import Session
from hpcgate.ssh.survey import Finding

CHECK = "scheduler"
_TOOLS = {"slurm": ("sbatch", "squeue", "scancel", "sacct", "scontrol"), "pbs": ("qsub", "qstat", "qdel")}
_FIND = 'for tool do command -v "$tool" || echo "$tool"; done'
_MARK = "hpcgate-tools"
# A login shell reads /etc/profile and the user's own; what they print comes before the mark.
_ASK = (
    "case ${SHELL##*/} in bash|zsh|ksh*|mksh) shell=$SHELL;; *) shell=bash;; esac; "
    f'exec "$shell" -lc {shlex.quote(f"echo; echo {_MARK}; {_FIND}")} "$shell" "$@" </dev/null'
)


def needed(scheduler: str, connection_mode: str) -> Sequence[str]:
    """Return the tools that a scheduler is asked by."""
    return () if connection_mode == "rest" else _TOOLS.get(scheduler, ())


async def look_for(session: Session, tools: Sequence[str]) -> list[Finding]:
    """Look for tools as commands do, and for those that are not there in a login shell too."""
    started = time.monotonic()
    done = await session.run(["sh", "-c", _FIND, "command", *tools])
    seconds = time.monotonic() - started
    missing = _missing(done.stdout)
    findings = [Finding(True, f"the login shell comes to a command in {seconds:.2f} s", check="login")]
    if tools and not missing:
        findings.append(Finding(True, f"{', '.join(tools)} are found", check=CHECK))
    if not missing:
        return findings
    asked = await session.run(["sh", "-c", _ASK, "command", *missing])
    told = asked.stdout.rpartition(f"\n{_MARK}\n".encode())[2].decode("utf-8", "replace").splitlines()
    directories = list(dict.fromkeys(line.rpartition("/")[0] for line in told if line.startswith("/")))
    lost = [tool for tool in missing if not any(line.endswith(f"/{tool}") for line in told)]
    found = [tool for tool in missing if tool not in lost]
    if found:
        text = f"{', '.join(found)}: found by a login shell only, in {', '.join(directories)} (/etc/profile.d, modules)"
        findings.append(Finding(False, text, f"set ssh.path to [{', '.join(directories)}]", CHECK))
    if lost:
        text = f"{', '.join(lost)}: not found on the login node, by a login shell neither"
        advice = "install them there, or set ssh.path to where they are (`module show` says)"
        findings.append(Finding(False, text, advice, CHECK))
    return findings


def _missing(output: bytes) -> list[str]:
    return [line for line in output.decode("utf-8", "replace").splitlines() if not line.startswith("/")]
