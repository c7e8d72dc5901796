"""Versions of Slurm, for what differs between them."""

import re


def version(text: str) -> tuple[int, int]:
    """Return year and month of a release such as ``22.05.8``; (0, 0) if it cannot be read.

    >>> version("24.11.0-1")
    (24, 11)
    """
    match = re.match(r"\s*(\d{2})\.(\d{1,2})", text)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def release(text: object) -> str | None:
    """Return a release as Slurm names it if it is one."""
    return text if isinstance(text, str) and version(text) != (0, 0) else None


SACCT_STREAMS = (24, 5)
"""From here on sacct knows StdIn, StdOut and StdErr."""

OVERLAP = (20, 11)
"""From here on a step needs ``--overlap`` to share the resources of other steps."""

PLAIN_SCRIPTS = (23, 11)
"""From here on sacct prints a stored script as it is; before, with an empty line after it."""
