"""What is learned once about a login node: names of users and groups, its time zone, what works there.

It is kept per user, not shared: everything that a session answers may be the user's own doing (a PATH set in
``~/.bashrc``), so what one user's session says must never be shown to another.
"""

import asyncio
import io
import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from zoneinfo import ZoneInfo

from hpcgate.errors import TooLarge
from hpcgate.sharing.recent import Recent
from hpcgate.ssh.files.footing import Footings
from hpcgate.ssh.runner import SENSELESS, Runner

MAX_USERS = 10_000
"""How many users' views are remembered."""
MAX_NAMES = 20_000
"""How many names of users, and of groups, are remembered for each."""
MAX_NAME = 256
"""Characters of a name that are kept."""
LARGE = 64 * 1024
"""Characters of names that are looked through in a thread."""
MAX_ZONE = 256 * 1024
"""Bytes of a zone's file; the largest there are have 4 KiB."""
MAX_ASKED = 2000
"""How many names are asked for at once."""

# The zone is what a command of the user would use: TZ if the user's environment has it, else the system's.
_ZONE = """\
if [ -n "${TZ+x}" ]; then
  printf '=%s\\0' "$TZ"; f=${TZ#:}
  case $f in /*) ;; *) f=/usr/share/zoneinfo/$f ;; esac
else
  printf '\\0'; f=/etc/localtime
fi
[ -f "$f" ] && cat -- "$f"
"""
_NAMES = """\
n=$1; shift
u=; while [ "$n" -gt 0 ]; do u="$u $1"; n=$((n - 1)); shift; done
[ -z "$u" ] || getent passwd $u
echo
[ $# -eq 0 ] || getent group "$@"
"""
_NUMBER = re.compile(r"[0-9]{1,10}")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(slots=True)
class NodeView:
    """One user's view of the login node.

    Attributes:
        users: Names by uid.
        groups: Names by gid.
        zone: The time zone, None until it is asked for.
        helper: Whether the helper works there, None until it was tried.
        footings: What is known of the directories that were written in.
        helper_pause: Until when it is not tried, by the monotonic clock; then the user may have mended what was wrong.
    """

    users: dict[int, str] = field(default_factory=dict)
    groups: dict[int, str] = field(default_factory=dict)
    zone: tzinfo | None = None
    helper: bool | None = None
    footings: Footings = field(default_factory=Footings)
    helper_pause: float = 0.0

    async def resolve(self, runner: Runner, uids: Iterable[int], gids: Iterable[int]) -> None:
        """Learn the names of users and groups that are not known yet, by one command; without a name, the number."""
        new_users = [uid for uid in set(uids) if uid not in self.users]
        new_groups = [gid for gid in set(gids) if gid not in self.groups]
        if not new_users and not new_groups:
            return
        for start in range(0, max(len(new_users), len(new_groups)), MAX_ASKED):
            users, groups = (numbers[start : start + MAX_ASKED] for numbers in (new_users, new_groups))
            argv = ["sh", "-c", _NAMES, "getent", str(len(users)), *map(str, users), *map(str, groups)]
            done = await runner.run(argv)
            passwd, _, group = _parts(done.stdout)
            for known, numbers, lines in ((self.users, users, passwd), (self.groups, groups, group)):
                if len(lines) > LARGE:
                    # Groups may have thousands of members.
                    await asyncio.to_thread(_learn, known, numbers, lines)
                else:
                    _learn(known, numbers, lines)

    def hear(self, uid: int, user: str, gid: int, group: str) -> None:
        """Take names that were said by the way, as far as there is room: it may be a liar who goes on and on."""
        for known, number, name in ((self.users, uid, user), (self.groups, gid, group)):
            if number not in known and len(known) <= MAX_NAMES:
                known[number] = name[:MAX_NAME]

    async def time_zone(self, runner: Runner) -> tzinfo:
        """Return the login node's time zone, UTC if it cannot be told."""
        if self.zone is None:
            try:
                done = await runner.run(["sh", "-c", _ZONE, "date"], limit=1024 * 1024)
            except TooLarge:
                self.zone = UTC
            else:
                setting, _, data = done.stdout.partition(b"\0")
                self.zone = parse_zone(setting[1:].decode("utf-8", "replace"), data)
        return self.zone


def _parts(output: bytes) -> tuple[str, str, str]:
    text = output.decode("utf-8", "replace")
    return ("", "", text) if text.startswith("\n") else text.partition("\n\n")


def _learn(known: dict[int, str], numbers: Iterable[int], lines: str) -> None:
    if len(known) > MAX_NAMES:
        known.clear()
    for number in numbers:
        known[number] = str(number)
    for line in lines.splitlines():
        fields = line.split(":")
        if len(fields) > 2 and fields[0] and _NUMBER.fullmatch(fields[2]) and int(fields[2]) in known:
            known[int(fields[2])] = fields[0][:MAX_NAME]


def parse_zone(setting: str, data: bytes) -> tzinfo:
    """Return a time zone.

    Args:
        setting: The value of TZ, empty if it is not set: used if it is a rule such as ``CET-1CEST,M3.5.0,M10.5.0/3``.
        data: The zone's file (tzfile(5)), if there is one.
    """
    try:
        if len(data) > MAX_ZONE:
            return UTC
        if data.startswith(b"TZif"):
            return ZoneInfo.from_file(_Ending(data), key=setting or None)
        if setting:
            return ZoneInfo.from_file(_Ending(_rule_file(setting)), key=setting)
    except (*SENSELESS, EOFError, AssertionError):
        pass
    return UTC


class _Ending(io.BytesIO):
    """A file that is told to have ended: where the last line of a zone has no end, Python reads on for it for ever."""

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        if not data and size:
            raise EOFError
        return data


def _rule_file(rule: str) -> bytes:
    # RFC 9636: a version 2 file without transitions, whose footer is the rule.
    header = b"TZif2" + bytes(15) + struct.pack(">6L", 0, 0, 0, 0, 1, 4)
    block = header + struct.pack(">lbB", 0, 0, 0) + b"UTC\0"
    return block + block + b"\n" + rule.encode("ascii") + b"\n"


@lru_cache(8192)
def local_time(seconds: int, zone: tzinfo) -> str:
    """Format Unix seconds as ``YYYY-MM-DDTHH:MM:SS`` in a time zone; what no calendar holds is clamped.

    Kept, for the same directories are listed again and again, and a listing's times take as long as all else of it.
    """
    try:
        return datetime.fromtimestamp(seconds, zone).isoformat()[:19]
    except (ValueError, OverflowError, OSError):
        return "9999-12-31T23:59:59" if seconds > 0 else (_EPOCH - timedelta(days=719_162)).isoformat()[:19]


class LoginNode:
    """What is known of one system's login node, user by user.

    Args:
        helper: Whether the helper may be tried there.
    """

    def __init__(self, *, helper: bool = True) -> None:
        self._helper = None if helper else False
        self._helper_pause = 0.0 if helper else float("inf")
        self._views = Recent[str, NodeView](MAX_USERS)

    def view(self, username: str) -> NodeView:
        """Return what is known of the login node from this user's sessions."""
        view = self._views.get(username)
        if view is None:
            view = NodeView(helper=self._helper, helper_pause=self._helper_pause)
            self._views.keep(username, view)
        return view
