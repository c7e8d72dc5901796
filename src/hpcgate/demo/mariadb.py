"""An own MariaDB for the accounting of the demo's Slurm, reachable by a Unix socket only."""

from __future__ import annotations

import os
import pwd
import socket
from pathlib import Path

from hpcgate.demo.packages import program
from hpcgate.demo.processes import SYSTEM_PATH, Daemon, Keeper

# Nothing here outlives the demo, so no write waits for the disk, and the buffers are as small as they go.
_TUNING = (
    "--innodb-flush-method=nosync",
    "--innodb-flush-log-at-trx-commit=0",
    "--innodb-buffer-pool-size=24M",
    "--innodb-log-file-size=8M",
    "--innodb-lock-wait-timeout=900",
    "--skip-name-resolve",
)


class MariaDb:
    """One mariadbd whose data directory and socket only this user can reach; no passwords."""

    def __init__(self, keeper: Keeper, directory: Path, database: str) -> None:
        """Prepare it in ``directory``, a new directory. A database of the name ``database`` is made at the start.

        slurmdbd would make its own, but that of 24.11 ends when it does so on MariaDB 11.8.
        """
        directory.mkdir(mode=0o700)
        self._keeper = keeper
        self._directory = directory
        self._data = directory / "data"
        self._first_statements = directory / "init.sql"
        self._first_statements.write_text(f"CREATE DATABASE IF NOT EXISTS `{database}`;\n")
        self.socket = directory / "mariadb.socket"
        self.user = pwd.getpwuid(os.geteuid()).pw_name
        """The database's user that may do everything."""
        self.daemon = Daemon(
            keeper,
            "mariadbd",
            [
                program("mariadbd"),
                "--no-defaults",
                f"--datadir={self._data}",
                f"--user={self.user}",
                f"--socket={self.socket}",
                f"--pid-file={directory / 'mariadbd.pid'}",
                f"--tmpdir={directory}",
                f"--secure-file-priv={directory}",
                f"--init-file={self._first_statements}",
                "--skip-networking",
                "--skip-log-bin",
                "--performance-schema=off",
                *_TUNING,
            ],
            log=directory / "mariadbd.log",
            ready=lambda _: self._answers(),
        )

    def install(self) -> None:
        """Create the data directory with the system tables; raise DemoError if that fails."""
        self._keeper.run(
            [
                program("mariadb-install-db"),
                "--no-defaults",
                f"--datadir={self._data}",
                f"--user={self.user}",
                # Root of the database, and this user, come in by the socket without a password.
                "--auth-root-authentication-method=socket",
                f"--auth-root-socket-user={self.user}",
                "--skip-test-db",
                # Else the machine's own name must resolve, which a bare chroot has no /etc/hosts for.
                "--force",
                *_TUNING,
            ],
            log=self._directory / "mariadb-install-db.log",
            env={"PATH": SYSTEM_PATH, "TMPDIR": str(self._directory)},
            timeout=120.0,
        )

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(self.socket))
            except OSError:
                return False
        return True
