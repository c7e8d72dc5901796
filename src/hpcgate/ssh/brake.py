"""How many logins a login node may refuse: sshd shuts out an address from which too many come.

From OpenSSH 9.8 on each login that fails costs its address a penalty, 5 seconds by default, and from 15 seconds on
everybody who comes from there is turned away (sshd_config(5), PerSourcePenalties). All users come from the gateway's
address, so that one of them could shut out all. A user who was refused waits longer each time, and those who may well
be refused share a budget of each node.
"""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final
from weakref import WeakValueDictionary

from hpcgate.errors import GatewayError
from hpcgate.ssh.nodes import Node

_DEPTH: Final = 2.0
"""Refusals that may come at once. Two of sshd's default penalties are under what it begins to act on."""
_LEAST: Final = 0.01
_MAX_KNOWN: Final = 10_000


class Brake:
    """The budget of refused logins of one login node, a token bucket. Plain, but for `turn`.

    Args:
        per_minute: How many are paid back in a minute; None: as many as there are.
        clock: Seconds.
    """

    def __init__(self, per_minute: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self.per_minute = per_minute
        self._clock = clock
        self._left = _DEPTH
        self._as_of = clock()
        self._good: dict[str, None] = {}
        self._bad: dict[str, None] = {}
        self._trying: dict[str, asyncio.Future[None]] = {}

    def __repr__(self) -> str:
        return f"<Brake {self._left:g}/{_DEPTH:g}, {self.per_minute} a minute>"

    def wait(self, username: str) -> float:
        """Return the seconds for which this user must not try to log in: 0 for who got in the last time.

        Whoever was refused the last time needs a whole refusal of the budget, and others what is left of one: the last
        one is for those of whom nothing is known.
        """
        if self.per_minute is None or username in self._good:
            return 0.0
        self._pay_back()
        missing = (1.0 if username in self._bad else _LEAST) - self._left
        return max(0.0, missing * 60 / self.per_minute)

    def doubts(self, username: str) -> bool:
        """Say whether the node refused this user the last time."""
        return username in self._bad

    async def turn(self, username: str) -> None:
        """Wait until a user of whom nothing is known may try."""
        while not self.doubts(username):
            seconds = self.wait(username)
            if not seconds:
                return
            await asyncio.sleep(seconds)

    @asynccontextmanager
    async def trying(self, username: str) -> AsyncIterator[None]:
        """Hold while a user tries to log in: others that do so in the same name await what becomes of it."""
        while username not in self._good and (other := self._trying.get(username)) is not None:
            await asyncio.wait([other])
        mine = self._trying[username] = asyncio.get_running_loop().create_future()
        try:
            yield
        finally:
            if self._trying.get(username) is mine:
                del self._trying[username]
            mine.set_result(None)

    def refused(self, username: str) -> None:
        """The node has refused a login. What is overdrawn is paid back before anybody doubtful gets a turn."""
        self._good.pop(username, None)
        _note(self._bad, username)
        self._pay_back()
        self._left -= 1

    def worked(self, username: str) -> None:
        """A login has worked."""
        self._bad.pop(username, None)
        _note(self._good, username)

    def _pay_back(self) -> None:
        now = self._clock()
        if self.per_minute is not None:
            self._left = min(_DEPTH, self._left + (now - self._as_of) * self.per_minute / 60)
        self._as_of = now


def _note(users: dict[str, None], username: str) -> None:
    users.pop(username, None)
    users[username] = None
    if len(users) > _MAX_KNOWN:
        del users[next(iter(users))]


_BRAKES: WeakValueDictionary[tuple[Node, float | None], Brake] = WeakValueDictionary()


def brake_of(node: Node, per_minute: float | None) -> Brake:
    """Return the brake of a node, which all pools of this process to it share: sshd counts them as one."""
    key = (node, per_minute)
    brake = _BRAKES.get(key)
    if brake is None:
        brake = _BRAKES[key] = Brake(per_minute)
    return brake


@dataclass(slots=True)
class _Refusal:
    until: float
    pause: float
    error: GatewayError


class Refusals:
    """Places whose login was refused, with what their users were told, and for how long that holds.

    Args:
        pause: Seconds, doubled with each refusal that follows another one.
        most: The longest of them, seconds.
    """

    def __init__(self, pause: float, most: float) -> None:
        self._pause = pause
        self._most = max(pause, most)
        self._known: dict[str, _Refusal] = {}

    def add(self, key: str, error: GatewayError, *, least: float = 0.0) -> None:
        """Take down that a login was refused."""
        before = self._known.pop(key, None)
        if max(self._pause, least) <= 0:
            return
        pause = max(self._pause if before is None else min(2 * before.pause, self._most), least)
        self._known[key] = _Refusal(time.monotonic() + pause, pause, error)
        if len(self._known) > _MAX_KNOWN:
            del self._known[next(iter(self._known))]

    def get(self, key: str) -> GatewayError | None:
        """Return what the user was told if the pause is not over, with the seconds left as ``Retry-After``."""
        known = self._known.get(key)
        if known is None:
            return None
        left = known.until - time.monotonic()
        if left <= 0:
            return None
        return later(known.error, left)

    def forget(self, key: str) -> None:
        """A login has worked."""
        self._known.pop(key, None)


def later(error: GatewayError, seconds: float) -> GatewayError:
    """Return the error with ``Retry-After``."""
    error.headers = {**error.headers, "Retry-After": str(max(1, math.ceil(seconds)))}
    return error
