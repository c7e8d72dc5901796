"""The program of a streamer job: firecrest-streamer's own server, told by the environment what to do.

It runs on a compute node, by whatever Python is there (3.8 or later), and is no part of the gateway: the gateway reads
it as text. Its arguments stay inside the process, so ps shows no secret, and neither does the log.

The end of a file travels as a message of its own, with the file's checksum. firecrest-streamer up to 0.0.21 sends it in
a form that its own receiving side takes for more of the file; here it goes out, and is passed on, in the form that
both sides know. And its exit status is 0 whatever came of the transfer; here it is 0 only if the file is whole. And it
waits without end for a client that has connected; here the job ends once nothing has moved for the time that it is
given.

Clients try each port once, and are refused in no time where nothing listens: thousands of tries are over in seconds. So
the port is taken before anything else. Whoever connects from then on waits for an answer, ten seconds a try, while the
packages are installed and loaded.
"""

# mypy: ignore-errors
# Written for other Pythons than the gateway's, with packages that the gateway does not have.

import asyncio
import errno
import hashlib
import json
import os
import socket
import stat
import subprocess
import sys
import threading
import time

BACKLOG = 128
"""Most connections that wait until the server is there."""


def taken(host, first, last):
    """Return a socket that listens on the first free port of a range, None if there is none."""
    for port in range(first, last + 1):
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        # A name may stand for addresses of both kinds; clients are given those of version 4 as a rule.
        for family, kind, protocol, _, address in sorted(found, key=lambda item: item[0] != socket.AF_INET):
            listening = socket.socket(family, kind, protocol)
            try:
                listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listening.bind(address)
                listening.listen(BACKLOG)
                return listening
            except OSError as error:
                listening.close()
                sys.stderr.write(f"Port {port}: {os.strerror(error.errno)}\n")
    return None


def install(requirement, environment):
    """Install a package into a virtual environment, and take what is in there from now on."""
    python = os.path.join(environment, "bin", "python")
    # -I: where the job stands there may be modules of others.
    isolated = [python, "-I", "-m", "pip", "install", "--quiet"]
    pip = [*isolated, "--disable-pip-version-check", "--no-input", "--", requirement]
    paths = "import sysconfig; print(*map(sysconfig.get_path, ('purelib', 'platlib')), sep='\\n')"
    where = [python, "-I", "-c", paths]
    for command in ([sys.executable, "-I", "-m", "venv", "--", environment], pip):
        status = subprocess.run(command, stdout=sys.stderr).returncode
        if status:
            sys.exit(status)
    found = subprocess.run(where, stdout=subprocess.PIPE, check=True, text=True).stdout
    sys.path[:0] = found.splitlines()


ARGUMENTS = json.loads(os.environ.pop("HPCGATE_ARGUMENTS"))
PORTS = ARGUMENTS.index("--port-range") + 1
LISTENING = taken(ARGUMENTS[ARGUMENTS.index("--host") + 1], *map(int, ARGUMENTS[PORTS : PORTS + 2]))
if LISTENING is None:
    sys.stderr.write("All ports of the range are taken.\n")
    sys.exit(1)
ARGUMENTS[PORTS : PORTS + 2] = [str(LISTENING.getsockname()[1])] * 2
if os.environ.get("HPCGATE_INSTALL"):
    install(os.environ["HPCGATE_INSTALL"], os.environ["HPCGATE_ENVIRONMENT"])

from streamer import streamer_server  # noqa: E402 (installed only now)
from streamer.__main__ import cli  # noqa: E402

WHOLE = []
"""Holds something once the file has gone over whole."""
ACL = "system.posix_acl_access"
"""Where Linux keeps a file's access control list (xattr(7))."""


def end_of_file(message):
    """Return the end marker in a message as the receiving side knows it, None if it is not one."""
    try:
        document = json.loads(message)
    except ValueError:
        return None
    if not isinstance(document, dict) or document.get("type") != "eof":
        return None
    return json.dumps(document, separators=(",", ":"))


GRACE = 3
"""Seconds more than firecrest-streamer itself, which ends by itself if nobody connects."""

MOVED = [time.monotonic()]
"""Ends with when something last came or went."""


def watch(seconds):
    """End the process once nothing has moved for so long."""
    while True:
        left = MOVED[-1] + seconds + GRACE - time.monotonic()
        if left <= 0:
            sys.stderr.write(f"Nothing has moved for {seconds:g} seconds.\n")
            sys.stderr.flush()
            os._exit(75)
        time.sleep(left)


class Reporter(streamer_server.ConsoleReporter):
    """Says what goes on, but not the secret: others on the system may be able to read the job's log."""

    def info(self, message):
        """Print a message, unless it is the one with the coordinates, which hold the secret."""
        if "coordinates" not in message:
            super().info(message)


class Incoming:
    """A connection that a file comes in by. The beginning tells how many messages the file has."""

    def __init__(self, websocket, limit):
        self._websocket = websocket
        self._limit = limit
        self.digest = hashlib.sha256()
        self.announced = -1
        self.size = 0
        self.whole = False

    def __getattr__(self, name):
        return getattr(self._websocket, name)

    async def __aiter__(self):
        chunks = None
        async for message in self._websocket:
            MOVED[-1] = time.monotonic()
            if chunks is None:
                beginning = json.loads(message)
                chunks, self.announced = beginning["num_chunks"], beginning["file_size"]
                if await self._refused(self.announced):
                    return
                yield message if isinstance(message, bytes) else message.encode()
            elif chunks > 0:
                chunks -= 1
                self.digest.update(message)
                self.size += len(message)
                if await self._refused(self.size):
                    return
                yield message
            else:
                marker = end_of_file(message)
                if marker is None:
                    raise ValueError("the file is longer than announced")
                matches = json.loads(marker)["sha256_hash"] == self.digest.hexdigest()
                self.whole = matches and self.size == self.announced
                yield marker

    async def _refused(self, size):
        if self._limit is None or size <= self._limit:
            return False
        words = f"The file is larger than {self._limit} bytes, which is the most that is taken."
        sys.stderr.write(f"{words}\n")
        await self._websocket.close(code=1009, reason=words)
        return True


class Outgoing:
    """A connection that a file goes out by."""

    def __init__(self, websocket):
        self._websocket = websocket
        self.ended = False

    def __getattr__(self, name):
        return getattr(self._websocket, name)

    async def send(self, message, text=None):
        """Send a message; chunks of the file say by `text` that they are none."""
        marker = None if text is False else end_of_file(message)
        await self._websocket.send(message if marker is None else marker, text=text)
        MOVED[-1] = time.monotonic()
        self.ended = marker is not None


def on_disk(temporary, size):
    """Whether all of a file is there: a disk may turn out to be full when it is closed."""
    return os.path.getsize(temporary) == size


def put_in_place(temporary, target):
    """Rename a whole file. One that is replaced leaves it its group, its mode and its access control list.

    Where the user is not in that group, those in the new file's group may do no more than all others. Of somebody
    else's file nothing comes along that would let others act as the user; what has become a link says nothing.
    """
    old = os.lstat(target) if os.path.lexists(target) else None
    if old is not None and stat.S_ISREG(old.st_mode):
        mode = stat.S_IMODE(old.st_mode)
        try:
            os.chown(temporary, old.st_uid, -1)
        except OSError:
            mode &= 0o777
        try:
            os.chown(temporary, -1, old.st_gid)
        except OSError:
            mode = mode & ~0o2070 | (mode & 0o007) << 3
        if not copied_list(target, temporary):
            mode &= 0o7700
        os.chmod(temporary, mode)
    os.replace(temporary, target)


def copied_list(old, new):
    """Have a new file the access control list of an old one, or none, as that; tell whether it is so.

    With one, the mode's group bits are its mask, the most that anybody named in it may do (acl(5)): without it they
    would be the group's own.
    """
    try:
        entries = os.getxattr(old, ACL, follow_symlinks=False)
    except OSError as error:
        if error.errno not in (errno.ENODATA, errno.ENOTSUP):
            return False
        entries = None
    try:
        if entries is None:
            os.removexattr(new, ACL)
        else:
            os.setxattr(new, ACL, entries)
    except OSError as error:
        return entries is None and error.errno in (errno.ENODATA, errno.ENOTSUP)
    return True


async def receive(websocket, target, size_limit=None, reporter=None):
    """Receive a file under a temporary name and rename it once it is whole."""
    # Not left to firecrest-streamer, for which each chunk, the last too, has 5 MiB.
    incoming = Incoming(websocket, size_limit)
    temporary, target = os.environ["HPCGATE_TEMPORARY"], os.environ["HPCGATE_TARGET"]
    await stock_receive(incoming, temporary, None, reporter=reporter)
    if not incoming.whole or not on_disk(temporary, incoming.size):
        sys.stderr.write("The file did not arrive whole.\n")
        return False
    put_in_place(temporary, target)
    WHOLE.append(target)
    return True


async def send(websocket, target, reporter=None):
    """Send a file, and wait until the receiver, who has all of it then, closes the connection."""
    outgoing = Outgoing(websocket)
    await stock_send(outgoing, target, reporter=reporter)
    if outgoing.ended:
        await asyncio.wait_for(websocket.wait_closed(), 300)
        if websocket.close_code == 1000:
            WHOLE.append(target)
            return True
    sys.stderr.write("The file did not go over whole.\n")
    return False


def serve(handler, host, port, **options):
    """Serve on the port that is taken already."""
    return stock_serve(handler, sock=LISTENING, **options)


stock_serve, streamer_server.serve = streamer_server.serve, serve
stock_receive, streamer_server.stream_receive = streamer_server.stream_receive, receive
stock_send, streamer_server.stream_send = streamer_server.stream_send, send
streamer_server.ConsoleReporter = Reporter

if __name__ == "__main__":
    threading.Thread(target=watch, args=(float(os.environ.pop("HPCGATE_WAIT")),), daemon=True).start()
    cli.main(args=ARGUMENTS, prog_name="streamer", standalone_mode=False)
    if not WHOLE:
        sys.stderr.write("No file was transferred.\n")
        sys.exit(1)
