"""Shims in the place of a script's tools: something happens before each of its steps, at the very point.

Nothing depends on how quick the machine is: the script waits for its tool, and the tool is what makes it happen.
"""

from pathlib import Path

TOOLS = (
    *("cat", "chgrp", "chmod", "chown", "cp", "curl", "cut", "date", "dd", "env", "find", "grep", "head", "id", "ln"),
    *("ls", "md5sum", "mkdir", "mktemp", "mv", "python", "readlink", "rm", "rmdir", "sed", "setfacl", "sleep", "stat"),
    *("sync", "tail", "tar", "tee", "touch", "tr", "truncate", "wc"),
)
_SHIM = """\
#!/bin/dash
echo >>"$STEPS/calls"
n=0
while read -r _; do n=$((n + 1)); done <"$STEPS/calls"
HOOK
PATH=$REAL exec "${0##*/}" "$@"
"""


class Shims:
    """A directory of shims, made once, and a note of the steps of a run, made anew for each."""

    def __init__(self, directory: Path, hook: str, **tools: str) -> None:
        """Make them.

        Args:
            directory: Where to; it must be there.
            hook: Lines of shell that run before each step, the number of which is `n`; variables are the caller's.
            tools: Programs that run instead of the machine's own.
        """
        self._directory = directory
        for name in ("shims", "real"):
            (directory / name).mkdir()
        programs = {"shim": _SHIM.replace("HOOK", hook)} | {f"real/{name}": text for name, text in tools.items()}
        for name, text in programs.items():
            (directory / name).write_text(text)
            (directory / name).chmod(0o755)
        for tool in TOOLS:
            (directory / "shims" / tool).symlink_to(directory / "shim")

    def environment(self) -> dict[str, str]:
        """Return the variables that a script needs."""
        real = f"{self._directory}/real:/usr/bin:/bin:/usr/sbin:/sbin"
        shims = f"{self._directory}/shims"
        return {"PATH": f"{shims}:{real}", "REAL": real, "SHIMS": shims, "STEPS": f"{self._directory}/steps"}

    def begin(self) -> None:
        """Forget what was."""
        steps = self._directory / "steps"
        steps.mkdir(exist_ok=True)
        steps.chmod(0o777)
        for path in steps.iterdir():
            path.unlink()
        (steps / "calls").touch()
        (steps / "calls").chmod(0o666)

    def steps(self) -> int:
        """Return how many steps there have been."""
        return len((self._directory / "steps" / "calls").read_bytes())
