"""An own munged, by which the daemons and users of the demo's Slurm trust each other."""

from __future__ import annotations

import os
from pathlib import Path

from hpcgate.demo.keys import write_private
from hpcgate.demo.packages import program
from hpcgate.demo.processes import Daemon, Keeper


class Munge:
    """One munged with its own key and socket."""

    def __init__(self, keeper: Keeper, directory: Path) -> None:
        """Make its key in ``directory``, a new directory."""
        directory.mkdir(mode=0o755)
        self.socket = directory / "munge.socket"
        key = write_private(directory / "munge.key", os.urandom(128))
        self.daemon = Daemon(
            keeper,
            "munged",
            [
                program("munged"),
                "--foreground",
                # The directory lies below one that anybody may write to, which munged objects to.
                "--force",
                f"--socket={self.socket}",
                f"--key-file={key}",
                f"--pid-file={directory / 'munged.pid'}",
                f"--seed-file={directory / 'munged.seed'}",
                f"--log-file={directory / 'munged.log'}",
            ],
            log=directory / "munged.out",
            ready=lambda _: self.socket.exists(),
        )
