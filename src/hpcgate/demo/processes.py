"""Daemons of a demo cluster: started by the keeper, waited for until ready, stopped by process id."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hpcgate.demo import keeper as keeper_program
from hpcgate.demo.keeper import descendants, processes
from hpcgate.demo.problems import DemoError

POLL_INTERVAL = 0.02
"""Seconds between two looks at something that is awaited."""


def wait_until(
    ready: Callable[[], bool],
    what: str,
    timeout: float,
    interval: float = POLL_INTERVAL,
    detail: Callable[[], str] = lambda: "",
) -> None:
    """Return once ``ready`` returns true; raise DemoError naming ``what`` after ``timeout`` seconds.

    ``detail`` is called only on failure, for the second part of the message.
    """
    deadline = time.monotonic() + timeout
    while not ready():
        if time.monotonic() > deadline:
            raise DemoError(f"{what}: not so after {timeout:g} s{detail()}")
        time.sleep(interval)


@dataclass(frozen=True, slots=True)
class Identity:
    """Whom a daemon or a command runs as."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()

    def command(self, argv: Sequence[str | bytes | Path]) -> list[str | bytes | Path]:
        """Return the command line that runs another as this user, if who asks is root, and the same if not.

        By setpriv(1). With the ``user`` of `subprocess` Python forks instead of calling vfork(2), and to copy the page
        tables of a process of 800 MiB takes 37 ms of a core, which this does in 2.
        """
        if os.geteuid() != 0:
            return list(argv)
        groups = f"--groups={','.join(map(str, self.groups))}" if self.groups else "--clear-groups"
        return ["/usr/bin/setpriv", f"--reuid={self.uid}", f"--regid={self.gid}", groups, "--", *argv]


class Keeper:
    """The demo's end of the control socket to its keeper (see `hpcgate.demo.keeper`). Safe to use from many threads."""

    def __init__(self, parent: Path) -> None:
        """Start a keeper, which makes the cluster's directory in ``parent``; raise DemoError if it cannot."""
        ours, theirs = socket.socketpair()
        self._lock = threading.Lock()
        self._control = ours
        try:
            with theirs:
                # By its file and isolated from site-packages: it needs the standard library only, and is up in no time.
                self._process = subprocess.Popen(
                    [sys.executable, "-I", "-S", keeper_program.__file__, str(theirs.fileno()), str(parent)],
                    pass_fds=(theirs.fileno(),),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    cwd="/",
                    start_new_session=True,
                )
            self._replies = ours.makefile("rb")
            self.directory = Path(self._reply()["directory"])
        except BaseException:
            # At the end of file it clears up, and ends.
            ours.close()
            if hasattr(self, "_process"):
                self._process.wait()
            raise

    @property
    def pid(self) -> int:
        """The keeper's process id; all daemons are its descendants."""
        return self._process.pid

    def spawn(
        self,
        argv: Sequence[str],
        *,
        log: Path,
        env: Mapping[str, str],
        cwd: Path,
        identity: Identity | None = None,
    ) -> int:
        """Start a daemon, its output appended to ``log``; return its process id. Raise DemoError if it cannot start."""
        answer = self._ask(
            {
                "do": "spawn",
                "argv": list(argv),
                "log": str(log),
                "env": dict(env),
                "cwd": str(cwd),
                "uid": identity and identity.uid,
                "gid": identity and identity.gid,
                "groups": identity and identity.groups,
            }
        )
        return int(answer["pid"])

    def status(self, pid: int) -> int | None:
        """Return the exit status of a daemon, -N if signal N killed it, None while it runs."""
        status = self._ask({"do": "status", "pid": pid})["status"]
        return None if status is None else int(status)

    def make(self, kind: Literal["user", "group", "mount"], name: str, argv: Sequence[str]) -> None:
        """Run the command that makes a Unix user, a group or a mount point, to be removed again at the end.

        The keeper runs it to its end whatever happens to the demo meanwhile. Raise DemoError if it fails.
        """
        self._ask({"do": "make", "kind": kind, "name": name, "argv": list(argv)})

    def run(self, argv: Sequence[str], *, log: Path, env: Mapping[str, str], timeout: float) -> None:
        """Run a command to its end as a child of the keeper; raise DemoError with the end of its output if it fails."""
        pid = self.spawn(argv, log=log, env=env, cwd=log.parent)
        wait_until(lambda: self.status(pid) is not None, f"{argv[0]} has ended", timeout)
        if status := self.status(pid):
            tail = log.read_text(errors="replace")[-2000:]
            raise DemoError(f"{argv[0]} ended with status {status}; the end of its output:\n{tail}")

    def share_privilege_separation_directory(self) -> None:
        """Make sure of sshd's directory below /run until the end."""
        self._ask({"do": "privilege-separation"})

    def stop(self) -> list[str]:
        """Have everything killed, undone and deleted; return the problems met. Further calls do nothing."""
        with self._lock:
            if self._control.fileno() == -1:
                return []
            problems: list[str] = []
            try:
                self._control.sendall(b'{"do": "stop"}\n')
                # An interrupted request may have left its answer behind.
                while "problems" not in (answer := self._reply()):
                    continue
                problems = answer["problems"]
            except (OSError, DemoError) as error:
                problems = [f"the keeper was gone before the end: {error}"]
            finally:
                self._replies.close()
                self._control.close()
            self._process.wait()
            return problems

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        with self._lock:
            try:
                self._control.sendall(json.dumps(request).encode() + b"\n")
                return self._reply()
            except OSError as error:
                raise DemoError(f"the demo's keeper (process {self.pid}) is gone: {error}") from error

    def _reply(self) -> dict[str, Any]:
        line = self._replies.readline()
        if not line:
            raise DemoError(f"the demo's keeper (process {self.pid}) ended unexpectedly")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise DemoError(answer["error"])
        return answer


class Daemon:
    """A program kept running in the foreground under the keeper.

    ``ready`` is given the daemon and asked again and again after a start until it returns true. ``with_tree`` says that
    stopping it also ends what it has started, as for an sshd whose sessions must not survive it.
    """

    def __init__(
        self,
        keeper: Keeper,
        name: str,
        argv: Sequence[str],
        *,
        log: Path,
        ready: Callable[[Daemon], bool],
        env: Mapping[str, str] | None = None,
        identity: Identity | None = None,
        with_tree: bool = False,
        timeout: float = 300.0,
        interval: float = POLL_INTERVAL,
    ) -> None:
        self.name = name
        self.argv = tuple(argv)
        self.log = log
        self.timeout = timeout
        self._keeper = keeper
        self._ready = ready
        self._env = {"PATH": SYSTEM_PATH, "LANG": "C.UTF-8", **(env or {})}
        self._identity = identity
        self._with_tree = with_tree
        self._interval = interval
        self._pid: int | None = None
        self._log_start = 0

    def __repr__(self) -> str:
        state = f"pid {self._pid}" if self.running else "stopped"
        return f"<{self.name}: {state}>"

    @property
    def pid(self) -> int:
        """The process id; DemoError if it is not running."""
        if self._pid is None:
            raise DemoError(f"{self.name} is not running")
        return self._pid

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._pid is not None and self._keeper.status(self._pid) is None

    def start(self) -> None:
        """Start it and wait until it is ready; raise DemoError with the end of its log if it ends or takes too long."""
        if self.running:
            raise DemoError(f"{self.name} is already running")
        self._log_start = self.log.stat().st_size if self.log.exists() else 0
        self._pid = self._keeper.spawn(
            self.argv, log=self.log, env=self._env, cwd=self.log.parent, identity=self._identity
        )
        try:
            wait_until(self._is_ready, f"{self.name} is ready", self.timeout, self._interval, self._quote_log)
        except BaseException:
            self.kill()
            raise

    def stop(self, grace: float = 5.0) -> None:
        """End it with SIGTERM, and with SIGKILL after ``grace`` seconds. Does nothing if it is not running."""
        tree = self._tree()
        self._signal(tree, signal.SIGTERM)
        # A suspended process takes its SIGTERM only when it goes on.
        self._signal(tree, signal.SIGCONT)
        deadline = time.monotonic() + grace
        while (self.running or _any_alive(tree)) and time.monotonic() < deadline:
            time.sleep(POLL_INTERVAL)
        self._signal(tree, signal.SIGKILL)
        self._await_end(tree)

    def kill(self) -> None:
        """End it with SIGKILL. Does nothing if it is not running."""
        tree = self._tree()
        self._signal(tree, signal.SIGKILL)
        self._await_end(tree)

    def restart(self) -> None:
        """Stop it and start it again."""
        self.stop()
        self.start()

    def suspend(self) -> None:
        """Freeze it and all that it has started (SIGSTOP): it keeps its connections but does not answer."""
        self._signal([self.pid], signal.SIGSTOP)
        self._signal(descendants(self.pid), signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on after `suspend`."""
        self._signal([*descendants(self.pid), self.pid], signal.SIGCONT)

    def output(self) -> str:
        """Return what it has logged since its last start."""
        with self.log.open("rb") as file:
            file.seek(self._log_start)
            return file.read().decode(errors="replace")

    def _is_ready(self) -> bool:
        pid = self.pid
        status = self._keeper.status(pid)
        if status is not None:
            raise DemoError(f"{self.name} ended with status {status}{self._quote_log()}")
        return self._ready(self)

    def _quote_log(self) -> str:
        tail = self.output().strip().splitlines()[-15:]
        return "; the end of its log:\n  " + "\n  ".join(tail) if tail else "; its log is empty"

    def _tree(self) -> list[int]:
        if self._pid is None or not self.running:
            return []
        return [self._pid, *(descendants(self._pid) if self._with_tree else [])]

    @staticmethod
    def _signal(pids: Sequence[int], number: signal.Signals) -> None:
        for pid in pids:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue

    def _await_end(self, tree: Sequence[int]) -> None:
        wait_until(lambda: not self.running and not _any_alive(tree), f"{self.name} has ended", 10.0)
        self._pid = None


def _any_alive(pids: Sequence[int]) -> bool:
    return any(process.pid in pids for process in processes())


SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""Where daemons and commands are looked for; an ordinary user's PATH often lacks the sbin directories."""
