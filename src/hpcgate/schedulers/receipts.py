"""Receipts of submissions, in a directory of the user's on the login node: what makes a submission happen once.

A receipt is a directory named by a hash of user, system and key. In it each attempt to submit has a number and a file
of that name, which says who makes it and under which mark. The file is made by link(2), which succeeds for one only, on
NFS too, and is never replaced: whoever holds attempt N+1 has seen attempt N and knows that it is over. So there is no
lock that can be left behind, and none that somebody must break. Beside the file stand what the scheduler's command has
printed, how it ended, what the answer needs besides, and the job's id once it is known; each takes its name when it is
whole.

The command runs in a session of its own and writes to a file: it goes on when the connection, the gateway or the
script that waits for it is gone. Whether it still runs is told by its process id and the time when it began; on another
machine that shares the home directory it is taken to run for `receipt_scripts.LEASE` seconds.

Old receipts are swept by later claims, in the same way: who makes the next attempt of one may remove it.
"""

import hashlib
import secrets
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from hpcgate.errors import BadAnswer, GatewayError, NoSpace, PermissionDenied, RateLimited
from hpcgate.outbound.wording import clipped
from hpcgate.schedulers import keeper
from hpcgate.schedulers.keeper import Direct
from hpcgate.schedulers.receipt_scripts import MANY, SCRIPT, SWEEP_EVERY
from hpcgate.ssh.commands.quoting import Argv, called
from hpcgate.ssh.runner import understanding

State = Literal["none", "held", "open", "ended", "swept"]


@dataclass(frozen=True, slots=True)
class Receipts:
    """Where receipts lie, and how long they count.

    Attributes:
        directory: On the login node; ``~/`` is the user's home directory.
        lifetime: Seconds for which a key stands for its submission.
        most: Most receipts of a user.
    """

    directory: str
    lifetime: float
    most: int


@dataclass(frozen=True, slots=True)
class Once:
    """What a submission is to happen once for.

    Attributes:
        receipts: Where its receipt lies.
        name: The receipt's name.
        digest: Of all that is to be the same when the key is used again.
        memo: What the answer needs besides the job's id; without line ends.
    """

    receipts: Receipts
    name: str
    digest: str = ""
    memo: str = ""

    @classmethod
    def of(cls, receipts: Receipts, username: str, system: str, key: str, digest: str = "") -> "Once":
        """Return what a user's key stands for on a system."""
        words = "\0".join((username, system.casefold(), key))
        return cls(receipts, hashlib.sha256(words.encode()).hexdigest()[:32], digest)


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a receipt says of its latest attempt.

    Attributes:
        state: ``none`` if there is no receipt, ``held`` while the command runs, ``ended`` if it has ended, ``open``
            if it is gone and nobody knows how it ended, ``swept`` while the receipt is being removed.
        number: The attempt's number.
        age: Seconds since the attempt began, by the login node's clock.
        token: What tells the attempt from all others.
        mark: What the job is marked with.
        digest: Of the request.
        status: The exit status of the command, None if it is not known.
        job_id: The job's id, where somebody has found it out.
        memo: What the answer needs besides.
        printed: What the command has printed so far.
    """

    state: State
    number: int = 0
    age: int = 0
    token: str = ""
    mark: str = ""
    digest: str = ""
    status: int | None = None
    job_id: str | None = None
    memo: str = ""
    printed: str = ""

    @property
    def seen(self) -> str:
        """What names this attempt to whoever is to make the next one."""
        return f"{self.number} {self.token}" if self.number else ""


def new_header() -> str:
    """Return what stands before what is said of a receipt, and nothing else has printed."""
    return f"receipt-{secrets.token_hex(8)}"


def new_token() -> str:
    """Return what was never used before."""
    return secrets.token_hex(8)


def new_mark(name: str) -> str:
    """Return a mark for a receipt of that name; qsub takes up to 32 characters."""
    return f"{MARKED}{name[:16]}{secrets.token_hex(4)}"


MARKED: Final = "hpcgate:"


def claim(
    once: Once, header: str, token: str, mark: str, seen: str, argv: Argv, *, memo_size: int = 0
) -> list[str | bytes]:
    """Return the command that makes an attempt unless somebody else has, and says what the receipt says then.

    Args:
        once: What for.
        header: Stands before what is said.
        token: The attempt's own.
        mark: What the job is marked with.
        seen: The attempt that is known to be over, as `Receipt.seen`; empty if none is known.
        argv: The command of the scheduler.
        memo_size: Bytes of its input that come before the command's, and are the memo.
    """
    return [
        *_command("claim", once, header, seen, token, f"{mark} {once.digest}", name=called(argv)),
        *(_minutes(once.receipts), str(once.receipts.most), str(memo_size)),
        *argv,
    ]


def many(onces: Sequence[Once], direct: Direct) -> str:
    """Return the lines of shell that stand before the submissions of `claim_of_many`, in a program of
    `hpcgate.schedulers.many`.

    Args:
        onces: What for, all in one directory.
        direct: How the keeper runs the commands.
    """
    kept = onces[0].receipts
    words = (kept.directory, _minutes(kept), str(kept.most), new_token(), *(once.name for once in onces))
    perl = f"{direct.unless} || _hpcgate_perl={shlex.quote(keeper.script(direct))}"
    given = f"_hpcgate_given={shlex.quote(' '.join(direct.given))} _hpcgate_perl="
    return f"{MANY}\n{given}\n{perl}\n_hpcgate_receipts {shlex.join(words)}\n"


def claim_of_many(once: Once, header: str, token: str, mark: str) -> tuple[str, ...]:
    """Return what runs a command once in such a program, as `claim` does: a function, and words of its own."""
    return ("_hpcgate_once", header, once.name, token, f"{mark} {once.digest}")


def _minutes(kept: Receipts) -> str:
    return str(int(kept.lifetime // 60) + 60)


def look(once: Once, header: str) -> list[str | bytes]:
    """Return the command that says what the receipt says."""
    return _command("look", once, header, "", "", "", name="sh")


def settle(once: Once, header: str, receipt: Receipt, job_id: str) -> list[str | bytes]:
    """Return the command that writes a job's id into the receipt, and says what it says then."""
    return [*_command("settle", once, header, "", receipt.token, "", name="sh"), str(receipt.number), job_id]


def _command(
    mode: str, once: Once, header: str, seen: str, token: str, claimed: str, *, name: str
) -> list[str | bytes]:
    return ["sh", "-c", SCRIPT, name, mode, header, once.receipts.directory, once.name, seen, token, claimed]


_STATES: Mapping[str, State] = {"held": "held", "open": "open", "ended": "ended"}
_ROOM = ("No space left on device", "Disk quota exceeded")


def parse(output: str, header: str) -> Receipt:
    """Return what was said of a receipt.

    Raises:
        NoSpace: There is no room for one, and nothing was submitted.
        PermissionDenied: There can be none, and nothing was submitted.
        RateLimited: There are too many.
        BadAnswer: Nothing was said.
    """
    before, found, after = output.partition(header + " ")
    if not found:
        said = clipped(before.strip(), 400)
        raise BadAnswer(f"The receipt of the submission cannot be read: {said}" if said else "No receipt was shown")
    lines = after.split("\n", 7)
    match lines[0]:
        case "none":
            return Receipt("none")
        case "swept":
            return Receipt("swept")
        case "full":
            count = clipped(lines[1] if len(lines) > 1 else "", 20)
            raise RateLimited(
                f"There are receipts of {count} submissions already, which is the most that are kept",
                headers={"Retry-After": str(SWEEP_EVERY)},
            )
        case "failed":
            raise _failure(" ".join(after.split("\n")[1:]).strip())
    with understanding("The receipt of a submission"):
        state, number, now, attempt, status, job_id, memo, printed = lines
        token, mark, digest, since, *_ = attempt.split(" ")
        return Receipt(
            state=_STATES[state],
            number=_number(number),
            age=_number(now) - _number(since),
            token=token,
            mark=mark,
            digest=digest,
            status=None if status == "-" else _number(status),
            job_id=job_id or None,
            memo=memo,
            printed=printed,
        )


def _number(text: str) -> int:
    """Return a number of 18 digits at most; what stands in a receipt may be the user's own doing."""
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise ValueError("not a number")
    return int(text)


def _failure(words: str) -> GatewayError:
    message = f"The receipt of the submission cannot be kept, and nothing was submitted: {clipped(words, 400)}"
    return NoSpace(message) if any(phrase in words for phrase in _ROOM) else PermissionDenied(message)
