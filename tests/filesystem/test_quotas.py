"""Quotas as a site's script and the usual tools print them, and how their command is run."""

from __future__ import annotations

from typing import Any

import pytest

from hpcgate.config.quotas import QuotaSettings
from hpcgate.errors import BadAnswer, CommandFailed, GatewayError, ToolMissing
from hpcgate.filesystem.quota_formats import MANY, PARSERS, Quota
from hpcgate.filesystem.quotas import QuotaCommand
from hpcgate.ssh.runner import Completed

KIB = 1024
GPFS = (
    "mmlsquota::HEADER:version:reserved:reserved:filesystemName:quotaType:id:name:blockUsage:blockQuota:blockLimit:"
    "blockInDoubt:blockGrace:filesUsage:filesQuota:filesLimit:filesInDoubt:filesGrace:remarks:quota:defQuota:fid:"
    "filesetname:\n"
)
BOTH = "     Filesystem  kbytes   quota   limit   grace   files   quota   limit   grace\n"
BLOCKS = BOTH.replace("kbytes", "blocks")


def pair(scope: str, name: str | None, source: str | None, blocks: Any, files: Any) -> list[Quota]:
    (used, soft, hard), (files_used, files_soft, files_hard) = blocks, files
    return [
        Quota("bytes", scope, used * KIB, hard and hard * KIB, soft and soft * KIB, name, source),
        Quota("files", scope, files_used, files_hard, files_soft, name, source),
    ]


TOLD: list[tuple[str, str, list[Quota]]] = [
    # A site's own.
    ("json", "[]", []),
    ("json", '{"used": 7}', [Quota("bytes", "user", 7)]),
    ("json", '{"used": 7, "limit": 0, "grace": "6 days"}\n\n', [Quota("bytes", "user", 7, 0)]),
    (
        "json",
        '{"resource": "files", "scope": "project", "name": "p 1", "source": "/p", "used": 1, "limit": 2,'
        ' "softLimit": 1}\n'
        '{"used": "9", "limit": null}\n',
        [Quota("files", "project", 1, 2, 1, "p 1", "/p"), Quota("bytes", "user", 9)],
    ),
    ("json", '[{"used": 1}, {"used": 2}]', [Quota("bytes", "user", 1), Quota("bytes", "user", 2)]),
    (
        "json",
        r'{"used": 1, "name": "a\ud800", "source": "\\ud800"}',
        [Quota("bytes", "user", 1, name="a\ufffd", source=r"\ud800")],
    ),
    ("pairs", "used=7\n", [Quota("bytes", "user", 7)]),
    (
        "pairs",
        'resource=files scope=group name="domain users" used=1 limit=2 soft_limit=1 source=/h grace=none\n'
        "used=3 limit=\n",
        [Quota("files", "group", 1, 2, 1, "domain users", "/h"), Quota("bytes", "user", 3)],
    ),
    # quota -w -p
    ("quota", "Disk quotas for user alice (uid 1000): none\n", []),
    (
        "quota",
        f"Disk quotas for user alice (uid 1000): \n{BLOCKS}      /dev/sda1     120     100     200  1700000000      7"
        "       0       0       0\n",
        pair("user", "alice", "/dev/sda1", (120, 100, 200), (7, None, None)),
    ),
    (
        "quota",
        f"Disk quotas for user alice (uid 1000): \n{BLOCKS}server:/home with blank   120*  100  200  0  7  0 0 0\n"
        f"Disk quotas for group domain users (gid 100): \n{BLOCKS.replace('blocks', 'space')}"
        "/dev/sdb 1 0 0 0 2 0 9 0\n",
        pair("user", "alice", "server:/home with blank", (120, 100, 200), (7, None, None))
        + pair("group", "domain users", "/dev/sdb", (1, None, None), (2, None, 9)),
    ),
    # lfs quota
    (
        "lfs",
        f"Disk quotas for usr alice (uid 1000):\n{BOTH}       /scratch 123*  100  200  6d23h 7  0  9  -\n",
        pair("user", "alice", "/scratch", (123, 100, 200), (7, None, 9)),
    ),
    (
        "lfs",
        f"Disk quotas for prj 12 (pid 12):\n{BOTH}/a/very/long/name/of/a/directory\n"
        "       [120]   0   0   -   7  0  0  -\n"
        "pid 12 is using default block quota setting\n"
        "Some errors happened when getting quota info. Some devices may be not working or deactivated.\n",
        pair("project", "12", "/a/very/long/name/of/a/directory", (120, None, None), (7, None, None)),
    ),
    ("lfs", "    /scratch 1 0 0 - 2 0 0 -\n", pair("user", None, "/scratch", (1, None, None), (2, None, None))),
    # mmlsquota -Y
    ("mmlsquota", GPFS, []),
    (
        "mmlsquota",
        f"{GPFS}mmlsquota::0:1:::gpfs0:USR:1000:alice:120:100:200:0:6 days:7:0:9:0:none:e:on:off:::\n{GPFS}"
        "mmlsquota::0:1:::gpfs0:FILESET:3:a%3Ab:1:0:0:0:none:2:0:0:0:none:e:on:off:::\n",
        pair("user", "alice", "gpfs0", (120, 100, 200), (7, None, 9))
        + pair("fileset", "a:b", "gpfs0", (1, None, None), (2, None, None)),
    ),
]


class Session:
    """Stands for a login node where every command prints the same."""

    username = "alice{path}"

    def __init__(self, stdout: str, status: int = 0, stderr: str = "") -> None:
        self.said = (status, stdout.encode(), stderr.encode())
        self.argv: list[str] = []

    async def run(self, argv: list[str], *, limit: int, timeout: float) -> Completed:
        self.argv = argv
        return Completed(tuple(argv), *self.said)


async def ask(session: Session, form: Any, *words: str) -> list[Quota]:
    settings = QuotaSettings(command=words or ("tool",), format=form)
    return list(await QuotaCommand("/scratch/{username}", settings).run(session))  # type: ignore[arg-type]


@pytest.mark.parametrize(("form", "text", "quotas"), TOLD, ids=range(len(TOLD)))
async def test_what_is_printed_is_read(form: str, text: str, quotas: list[Quota]) -> None:
    assert await ask(Session(text), form) == quotas


UNREADABLE = [
    *[
        (form, text)
        for form in PARSERS
        for text in ("", "\n", "command not found", "-1 -1 -1 -1 -1 -1 -1 -1 -1", "\0" * 99)
    ],
    ("json", "{"),
    ("json", "[" * 100_000),
    ("json", "7"),
    ("json", "[[]]"),
    ("json", "{}"),
    *[("json", f'{{"used": {value}}}') for value in ("-1", "1.5", "true", '"x"', "1e99", "9" * 30, "NaN", '"²"')],
    ("json", '{"used": 1, "scope": 7}'),
    ("json", "[" + ",".join(['{"used": 1}'] * (MANY + 1)) + "]"),
    ("pairs", "limit=5"),
    ("pairs", "used=5G"),
    ("quota", f"{BLOCKS}/dev/sda1 1M 0 0 0 7 0 0 0\n"),
    ("lfs", f"{BOTH}/scratch 1k 0k 10G - 7 0 0 -\n"),
    ("mmlsquota", f"{GPFS}mmlsquota::0:1:::gpfs0:USR\n"),
    ("mmlsquota", "mmlsquota::0:1:::gpfs0:USR:1000:alice:1:2:3\n"),
]


@pytest.mark.parametrize(("form", "text"), UNREADABLE, ids=range(len(UNREADABLE)))
async def test_what_cannot_be_read_is_not_taken_for_no_quota(form: str, text: str) -> None:
    with pytest.raises(BadAnswer, match="tool"):
        await ask(Session(text), form)


@pytest.mark.parametrize(
    ("status", "stdout", "stderr", "error", "words"),
    [
        (127, "", "sh: tool: not found", ToolMissing, "tool"),
        (1, "", "no quota today", CommandFailed, "no quota today"),
        (2, '{"used": 1}', "", CommandFailed, "used"),
        (3, "", "", CommandFailed, "status 3"),
    ],
)
async def test_a_command_that_fails_says_why(
    status: int, stdout: str, stderr: str, error: type[GatewayError], words: str
) -> None:
    with pytest.raises(error, match=words):
        await ask(Session(stdout, status, stderr), "json")


async def test_a_user_over_quota_is_told_how_much() -> None:
    """quota(1) ends with 1 then."""
    text = f"Disk quotas for user alice (uid 1000): \n{BLOCKS}/dev/sda1 120* 100 200 1 7 0 0 0\n"
    assert len(await ask(Session(text, 1), "quota")) == 2
    with pytest.raises(CommandFailed, match="cannot"):
        await ask(Session(text, 1, "quota: cannot open /dev/sda1"), "quota")


async def test_placeholders_are_filled_in_once_and_words_stay_words() -> None:
    session = Session("[]")
    await ask(session, "json", "tool", "-u={username}:{path}", "{other} $(id)", "")
    assert session.argv == ["tool", "-u=alice{path}:/scratch/{username}", "{other} $(id)", ""]


@pytest.mark.parametrize(("used", "limit", "left"), [(3, 7, 4), (9, 7, 0), (3, None, None), (0, 0, 0)])
def test_what_is_left(used: int, limit: int | None, left: int | None) -> None:
    """Nothing less than nothing."""
    assert Quota("bytes", "user", used, limit).left == left
