"""Several login nodes of one system, and several addresses of one name: who goes where, and around what is dead."""

import asyncio
import hashlib
import socket
import time
from collections.abc import Sequence
from typing import Any, Final

import structlog

from hpcgate.sharing.flights import Flights
from hpcgate.telemetry.containment import contained

log = structlog.stdlib.get_logger(__name__)

Node = tuple[str, int]
"""A host and a port."""

_WORDS = 255
"""Bytes of the first line of an SSH server, at most (RFC 4253, section 4.2)."""
STAGGER = 0.25
"""Seconds that an address has to answer before the next one is tried beside it (RFC 8305, section 5)."""
_ASKING: Final = Flights[Node, list[Any]]("ssh.nodes", OSError, UnicodeError)
"""Look-ups of names under way."""


class Nodes:
    """The login nodes of a system. Plain and synchronous.

    Each user has an order of the nodes, by rendezvous hashing: all replicas of the gateway agree on it without a word,
    and when a node comes or goes only its own users move.

    Args:
        system: The name of the system.
        nodes: All of them.
        pause: Seconds for which one that cannot be reached is tried last.
    """

    def __init__(self, system: str, nodes: Sequence[Node], pause: float) -> None:
        self.system = system
        self.nodes = tuple(nodes)
        self._pause = pause
        self._dead: dict[Node, float] = {}
        self._hung: dict[Node, tuple[str, float]] = {}

    def __repr__(self) -> str:
        return f"<Nodes {self.system} {len(self.nodes) - len(self._dead)}/{len(self.nodes)}>"

    def home(self, username: str) -> Node:
        """Return the node that this user goes to while none is dead."""
        return max(self.nodes, key=lambda node: _weight(username, f"{node[0]}:{node[1]}"))

    def order(self, username: str) -> list[Node]:
        """Return the nodes as this user is to try them. Of a dead one whose pause is over one user makes trial."""
        order = sorted(self.nodes, key=lambda node: _weight(username, f"{node[0]}:{node[1]}"), reverse=True)
        now = time.monotonic()
        if order[0] in self._dead and self._dead[order[0]] <= now:
            self._dead[order[0]] = now + self._pause
            return order
        return sorted(order, key=lambda node: node in self._dead)

    def failed(self, node: Node, reason: str) -> None:
        """Take note that a node cannot be reached."""
        if len(self.nodes) == 1:
            return
        if node not in self._dead:
            log.warning("ssh.node_dead", system=self.system, node=f"{node[0]}:{node[1]}", reason=reason)
        self._dead[node] = time.monotonic() + self._pause

    def hung(self, node: Node, username: str, reason: str) -> None:
        """Take note that a node took a user's login and came to no end; it counts if the one before was another's."""
        now = time.monotonic()
        other, until = self._hung.get(node, (username, 0.0))
        if other != username and now < until:
            self.failed(node, reason)
        self._hung[node] = username, now + self._pause

    def worked(self, node: Node) -> None:
        """Take note that somebody has logged in to a node: what hung before was not the node's fault."""
        self._hung.pop(node, None)
        if self._dead.pop(node, None) is not None:
            log.info("ssh.node_back", system=self.system, node=f"{node[0]}:{node[1]}")


async def reach(host: str, port: int, username: str) -> socket.socket:
    """Connect to the first address of a name that answers.

    The addresses are tried in the user's order, the next one a moment after the one before or as soon as that fails.
    Only what is said is an answer: the kernel of a machine that hangs may go on to take connections. A server's first
    words wait for nothing from the client (RFC 4253, section 4.2), and are left in the socket.

    Raises:
        OSError: The name is not known, or no address can be connected to.
    """
    found = await look_up(host, port)
    addresses = list(dict.fromkeys((family, address) for family, _, _, _, address in found))
    addresses.sort(key=lambda address: _weight(username, str(address[1][0])), reverse=True)
    return await _first(addresses)


async def look_up(host: str, port: int) -> list[Any]:
    """Return what a name stands for, as getaddrinfo does.

    A look-up cannot be stopped, and holds a thread: there is one of a name at a time.

    Raises:
        OSError: The name is not known.
    """
    loop = asyncio.get_running_loop()
    return await _ASKING.share((host, port), lambda: loop.getaddrinfo(host, port, type=socket.SOCK_STREAM))


def first_words(sock: socket.socket) -> bytes:
    """Return what a server has said first, which stays in the socket for who reads it next."""
    try:
        return sock.recv(_WORDS, socket.MSG_PEEK)
    except OSError:
        return b""


async def _first(addresses: Sequence[tuple[int, Any]]) -> socket.socket:
    waiting = list(reversed(addresses))
    tries: set[asyncio.Task[socket.socket]] = set()
    error: BaseException = OSError("no address")
    winner: socket.socket | None = None
    try:
        while winner is None and (waiting or tries):
            if waiting:
                tries.add(asyncio.create_task(_answering(*waiting.pop())))
            done, _ = await asyncio.wait(
                tries, timeout=STAGGER if waiting else None, return_when=asyncio.FIRST_COMPLETED
            )
            for task in done:
                tries.discard(task)
                if task.exception() is not None:
                    error = task.exception() or error
                elif winner is None:
                    winner = task.result()
                else:
                    task.result().close()
    finally:
        for task in tries:
            task.cancel()
            task.add_done_callback(_close)
    if winner is None:
        raise error
    return winner


async def _answering(family: int, address: Any) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, address)
        await _spoken(sock)
    except BaseException:
        sock.close()
        raise
    return sock


async def _spoken(sock: socket.socket) -> None:
    """Wait until there is something to read, be it the end."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(sock, contained("ssh.nodes")(ready.set))
    try:
        await ready.wait()
    finally:
        loop.remove_reader(sock)


@contained("ssh.nodes")
def _close(task: "asyncio.Task[socket.socket]") -> None:
    if not task.cancelled() and task.exception() is None:
        task.result().close()


def _weight(username: str, node: str) -> bytes:
    return hashlib.blake2b(f"{username}\0{node}".encode("utf-8", "surrogateescape"), digest_size=8).digest()
