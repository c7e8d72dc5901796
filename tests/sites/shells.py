"""The shells that sites give their users, installed where they are missing."""

from hpcgate.demo.packages import ensure_installed, program

PACKAGES = {
    "sh": "dash",
    "bash": "bash",
    "dash": "dash",
    "zsh": "zsh",
    "mksh": "mksh",
    "ksh93": "ksh93u+m",
    "busybox": "busybox",
    "tcsh": "tcsh",
    "fish": "fish",
}
"""By name, with the package of Debian's."""


def shell_program(name: str) -> str:
    """Return the path of a shell; raise DemoError if it can be neither found nor installed."""
    ensure_installed({name: PACKAGES[name]}, lambda _: None)
    return program(name)
