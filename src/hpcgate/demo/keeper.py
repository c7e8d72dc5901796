"""The keeper: a small process that owns all daemons of one demo cluster and clears up when the demo is gone.

It is started as a program of its own (see `hpcgate.demo.processes.Keeper`), makes the cluster's directory, and starts
daemons on request. It is the subreaper (prctl(2), PR_SET_CHILD_SUBREAPER) of all that they start, so that a daemon
which detaches itself, a job step, or the shell of a user who logged in, stays its descendant. When the demo asks for
it, or when the demo's end of the control socket closes for whatever reason (a crash, SIGKILL), it kills its
descendants, undoes what was done to the machine (mounts, users, groups) and deletes the directory.

Should the keeper itself be killed hard, the daemons die with it (PR_SET_PDEATHSIG), and what remains on the machine is
written in the journal, a file in the cluster's directory locked for as long as the keeper lives: the next keeper that
starts finds such an orphaned journal and finishes the work.

Only the standard library is used here, so that it starts in a few milliseconds and needs nothing on its path.

Protocol: one JSON object a line in each direction, strictly alternating. See `Server.handle` for the requests.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import pwd
import re
import select
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

PREFIX = "hpcgate-demo-"
JOURNAL = "keeper.journal"
PRIVILEGE_SEPARATION_DIRECTORY = Path("/run/sshd")
"""Where Debian's sshd, run as root, chroots its unprivileged half to (sshd(8), FILES)."""

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_LOCK_PATIENCE = 20.0
"""Seconds to go on trying while another program holds the lock of the user database."""


class Process(NamedTuple):
    """A living process, as proc_pid_stat(5) shows it."""

    pid: int
    parent: int
    name: str


def processes() -> Iterator[Process]:
    """Give all processes of the machine that have not ended; zombies have."""
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            text = Path("/proc", entry, "stat").read_text(errors="replace")
        except OSError:
            continue
        name = text[text.index("(") + 1 : text.rindex(")")]
        fields = text[text.rindex(")") + 1 :].split()
        if fields[0] not in "ZX":
            yield Process(int(entry), int(fields[1]), name)


def descendants(pid: int) -> list[int]:
    """Return the process ids of all living descendants of a process, parents first."""
    children: dict[int, list[int]] = {}
    for process in processes():
        children.setdefault(process.parent, []).append(process.pid)
    found: list[int] = []
    generation = [pid]
    while generation:
        generation = [child for parent in generation for child in children.get(parent, [])]
        found += generation
    return found


def processes_of(uid: int) -> list[int]:
    """Return the ids of all living processes whose real user this is."""
    found = []
    for process in processes():
        # The owner of the directory in /proc is not a guide: it is root for a process such as sshd's that gave up
        # rights.
        try:
            status = Path("/proc", str(process.pid), "status").read_text(errors="replace")
        except OSError:
            continue
        if int(status.partition("\nUid:")[2].split()[0]) == uid:
            found.append(process.pid)
    return found


def kill_all(find: Callable[[], list[int]], patience: float = 10.0) -> bool:
    """Send SIGKILL to what ``find`` finds until it finds nothing; return whether that came true in ``patience`` s."""
    deadline = time.monotonic() + patience
    while pids := find():
        if time.monotonic() > deadline:
            return False
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        reap()
        time.sleep(0.01)
    return True


def reap() -> dict[int, int]:
    """Collect the children that have ended; return their exit statuses, -N for one that signal N killed."""
    ended: dict[int, int] = {}
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if pid == 0:
            return ended
        ended[pid] = os.waitstatus_to_exitcode(status)


def prctl(option: int, argument: int) -> None:
    """Call prctl(2); raise OSError if the kernel refuses."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, argument, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _run(*argv: str) -> subprocess.CompletedProcess[str]:
    """Run one of the system's commands to its end."""
    return subprocess.run(argv, capture_output=True, text=True, check=False)


# --- undoing ---------------------------------------------------------------------------------------------------------


def run_patiently(argv: list[str], fine: tuple[int, ...] = (0,)) -> str | None:
    """Run a command, again while it says that the user database is locked; return what went wrong, if anything did."""
    deadline = time.monotonic() + _LOCK_PATIENCE
    while True:
        done = _run(*argv)
        if done.returncode in fine:
            return None
        if time.monotonic() > deadline or "cannot lock" not in done.stderr:
            return f"{' '.join(argv)}: {done.stderr.strip()}"
        time.sleep(0.05)


def _undo_user(name: str) -> str | None:
    try:
        uid = pwd.getpwnam(name).pw_uid
    except KeyError:
        return None
    kill_all(lambda: processes_of(uid))
    return run_patiently(["userdel", name], fine=(0, 6))


def _undo_group(name: str) -> str | None:
    return run_patiently(["groupdel", name], fine=(0, 6))


def mounts_below(directory: str) -> list[str]:
    """Return the mount points at and below a directory, the deepest first.

    From the kernel's own list: os.path.ismount() does not see a bind mount on the same device.
    https://man7.org/linux/man-pages/man5/proc_pid_mountinfo.5.html
    """
    root = os.path.realpath(directory)
    found = []
    for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
        point = re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8)]), line.split(b" ")[4])
        path = os.fsdecode(point)
        if path == root or path.startswith(f"{root}/"):
            found.append(path)
    return sorted(found, key=len, reverse=True)


def _undo_mount(path: str) -> str | None:
    if os.path.realpath(path) not in mounts_below(path):
        return None
    done = _run("umount", path)
    if done.returncode != 0:
        done = _run("umount", "--lazy", path)
    return None if done.returncode == 0 else f"umount {path}: {done.stderr.strip()}"


_UNDO: dict[str, Callable[[str], str | None]] = {"user": _undo_user, "group": _undo_group, "mount": _undo_mount}


def undo_all(done: list[tuple[str, str]]) -> list[str]:
    """Undo the given (kind, name) pairs, the last first; return the problems met."""
    problems = []
    for kind, name in reversed(done):
        try:
            problem = _UNDO[kind](name)
        except OSError as error:
            problem = f"{kind} {name}: {error}"
        if problem is not None:
            problems.append(problem)
    return problems


def remove_tree(directory: Path) -> list[str]:
    """Delete a directory with all that is in it; return the problems met.

    Nothing is deleted while anything is mounted below: it would be deleted through a bind mount, too.
    """
    mounted = mounts_below(str(directory))
    if mounted:
        return [f"{directory} is left, since {', '.join(mounted)} could not be unmounted"]
    if os.geteuid() != 0:
        _run("chmod", "-R", "u+rwX", "--", str(directory))
    done = _run("rm", "-rf", "--one-file-system", "--", str(directory))
    return done.stderr.splitlines()


class PrivilegeSeparation:
    """A share in sshd's directory below /run, made if it is missing and removed by the last demo that used it.

    Each demo holds a shared lock on the directory itself. Whoever can turn its share into the exclusive lock is the
    last, and removes the directory if a marker inside tells that a demo had made it and no sshd of others is running.
    """

    def __init__(self, directory: Path = PRIVILEGE_SEPARATION_DIRECTORY) -> None:
        self.directory = directory
        self.marker = directory / ".made-by-hpcgate-demo"
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take a share, making the directory when there is none."""
        while self._descriptor is None:
            try:
                self.directory.mkdir(mode=0o755)
                self.marker.touch()
            except FileExistsError:
                pass
            try:
                descriptor = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY)
            except FileNotFoundError:
                continue
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            try:
                same = os.path.samestat(os.fstat(descriptor), os.stat(self.directory))
            except FileNotFoundError:
                same = False
            if same:
                self._descriptor = descriptor
            else:
                os.close(descriptor)

    def release(self) -> None:
        """Give the share back; remove the directory if it was the last and no other sshd needs it."""
        if self._descriptor is None:
            return
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if self.marker.exists() and not self._used_by_others():
                self.marker.unlink()
                self.directory.rmdir()
        except OSError:
            # Another demo still holds its share, or somebody put files there: theirs to clear up.
            pass
        finally:
            os.close(self._descriptor)
            self._descriptor = None

    @staticmethod
    def _used_by_others() -> bool:
        return any(process.name == "sshd" for process in processes())


# --- the journal -----------------------------------------------------------------------------------------------------


class Journal:
    """What must be undone, one JSON pair a line, in a file that is locked while its keeper lives."""

    def __init__(self, directory: Path) -> None:
        self.entries: list[tuple[str, str]] = []
        # Born under another name, so that nobody finds it before it is locked and takes it for an orphan.
        unborn = directory / (JOURNAL + ".new")
        self._file = unborn.open("w")
        fcntl.flock(self._file, fcntl.LOCK_EX)
        unborn.rename(directory / JOURNAL)

    def add(self, kind: str, name: str) -> None:
        """Note an action before it is done."""
        self.entries.append((kind, name))
        self._file.write(json.dumps([kind, name]) + "\n")
        self._file.flush()


def clear_orphans(parent: Path) -> list[str]:
    """Finish the work of keepers that were killed; return the directories that were removed.

    Only directories are touched that belong to this user, bear the demo's prefix, and hold a journal of this user's
    that nobody has locked.
    """
    removed = []
    for directory in parent.glob(PREFIX + "*"):
        try:
            status = directory.lstat()
            if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
                continue
            descriptor = os.open(directory / JOURNAL, os.O_RDWR | os.O_NOFOLLOW)
        except OSError:
            continue
        with os.fdopen(descriptor) as file:
            if os.fstat(file.fileno()).st_uid != os.geteuid():
                continue
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                continue
            undo_all([_entry(line) for line in file if line.endswith("\n")])
            remove_tree(directory)
            removed.append(str(directory))
    return removed


def _entry(line: str) -> tuple[str, str]:
    kind, name = json.loads(line)
    return kind, name


# --- the server ------------------------------------------------------------------------------------------------------


class Server:
    """Answers the demo's requests until told to stop or left alone."""

    def __init__(self, control: socket.socket, directory: Path) -> None:
        self.control = control
        self.directory = directory
        self.journal = Journal(directory)
        self.privilege_separation = PrivilegeSeparation()
        self.statuses: dict[int, int | None] = {}

    def run(self) -> None:
        """Serve, then clear up; the answer to a stop request is sent when all is gone."""
        wake_up, signalled = os.pipe()
        for end in (wake_up, signalled):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(signalled, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, lambda *_: None)
        stopping = False
        received = b""
        while not stopping:
            ready, _, _ = select.select([self.control.fileno(), wake_up], [], [])
            if wake_up in ready and signal.SIGTERM in os.read(wake_up, 4096):
                break
            self.collect()
            if self.control.fileno() not in ready:
                continue
            try:
                data = self.control.recv(65536)
            except ConnectionError:
                break
            if not data:
                break
            received += data
            while b"\n" in received and not stopping:
                line, _, received = received.partition(b"\n")
                request = json.loads(line)
                if request["do"] == "stop":
                    stopping = True
                else:
                    self.answer(self.attempt(request))
        problems = self.clear_up()
        self.answer({"problems": problems})

    def answer(self, message: dict[str, Any]) -> None:
        """Send one reply; a demo that is gone does not matter here."""
        try:
            self.control.sendall(json.dumps(message).encode() + b"\n")
        except OSError:
            return

    def attempt(self, request: dict[str, Any]) -> dict[str, Any]:
        """Handle a request; an operating-system error becomes the answer."""
        try:
            return self.handle(request)
        except (OSError, subprocess.SubprocessError, ValueError) as error:
            return {"error": f"{error}"}

    def handle(self, request: dict[str, Any]) -> dict[str, Any]:
        """Do one request and return its answer."""
        match request["do"]:
            case "spawn":
                return {"pid": self.spawn(request)}
            case "status":
                return {"status": self.statuses[request["pid"]]}
            case "make":
                self.journal.add(request["kind"], request["name"])
                problem = run_patiently(request["argv"])
                return {} if problem is None else {"error": problem}
            case "privilege-separation":
                self.privilege_separation.acquire()
                return {}
            case other:
                raise ValueError(f"unknown request {other!r}")

    def spawn(self, request: dict[str, Any]) -> int:
        """Start a daemon in a process group of its own, its output appended to its log; return its process id."""

        def die_with_keeper() -> None:
            prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            os.umask(0o022)
            if os.getppid() != keeper:
                os._exit(1)

        keeper = os.getpid()
        identity: dict[str, Any] = {}
        if request["uid"] is not None:
            identity = {"user": request["uid"], "group": request["gid"], "extra_groups": request["groups"]}
        with open(request["log"], "ab") as log:
            process = subprocess.Popen(
                request["argv"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=request["cwd"],
                env=request["env"],
                process_group=0,
                preexec_fn=die_with_keeper,
                **identity,
            )
        # From here on `collect` alone waits for it: the object must not do so when it is deleted.
        process.returncode = 0
        self.statuses[process.pid] = None
        return process.pid

    def collect(self) -> None:
        """Note the statuses of the daemons that have ended; orphans that came here are just reaped."""
        self.statuses.update({pid: status for pid, status in reap().items() if pid in self.statuses})

    def clear_up(self) -> list[str]:
        """Kill, undo and delete everything; return the problems met."""
        problems = []
        if not kill_all(lambda: descendants(os.getpid())):
            problems.append(f"processes {descendants(os.getpid())} do not die")
        problems += undo_all(self.journal.entries)
        self.privilege_separation.release()
        problems += remove_tree(self.directory)
        return problems


def main() -> None:
    """Run with the descriptor number of the control socket and the directory to make the cluster's directory in."""
    control = socket.socket(fileno=int(sys.argv[1]))
    parent = Path(sys.argv[2])
    for ignored in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(ignored, signal.SIG_IGN)
    prctl(_PR_SET_CHILD_SUBREAPER, 1)
    clear_orphans(parent)
    directory = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
    try:
        directory.chmod(0o755)
        server = Server(control, directory)
        server.answer({"directory": str(directory)})
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        raise
    server.run()


if __name__ == "__main__":
    main()
