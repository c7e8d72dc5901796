"""scontrol show assoc_mgr: limits of accounts, and how much of them is used. https://slurm.schedmd.com/scontrol.html

The controller's own numbers, by which it refuses jobs: the database (sshare, sreport) learns of them an hour later.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hpcgate.errors import BadAnswer
from hpcgate.outbound.wording import clipped
from hpcgate.schedulers.base import AllocatedResource, Allocation
from hpcgate.schedulers.slurm import values
from hpcgate.schedulers.slurm.scontrol import pairs_of

_HEAD = "Current Association Manager state"
_MINUTES = re.compile(r"(?<![^\s=,()])([^\s=,()]+)=(N|\d{1,18})\((\d{1,18})\)")
_USER = re.compile(r"(.*)\(\d+\)")


def command(*, user: str | None = None, accounts: Sequence[str] = ()) -> list[str]:
    """Return the command that shows the associations of a user, or all of some accounts."""
    chosen = f"users={user}" if user is not None else "accounts=" + ",".join(accounts)
    return ["scontrol", "--oneliner", "show", "assoc_mgr", chosen, "flags=assoc"]


@dataclass(frozen=True, slots=True)
class Association:
    """What the controller keeps of an account, or of a user in an account.

    Attributes:
        user: None for the account's own.
        default: Whether it is the user's default account.
        minutes: Limit (None for none) and used minutes, by the resource.
    """

    account: str
    user: str | None
    partition: str | None
    default: bool
    minutes: Mapping[str, tuple[int | None, int]]


def parse(text: str) -> list[Association]:
    """Return the associations.

    Raises:
        BadAnswer: It is not scontrol's.
    """
    if not text.lstrip().startswith(_HEAD):
        raise BadAnswer(f"scontrol: {clipped(text.strip(), 400)}")
    return list(pairs_of(text, "ClusterName", _association))


def _association(pairs: Mapping[str, str]) -> Association:
    account = pairs["Account"]
    if not account:
        raise ValueError("no account")
    user = _USER.fullmatch(pairs["UserName"])
    minutes = {
        name: (None if limit == "N" else int(limit), int(used))
        for name, limit, used in _MINUTES.findall(pairs.get("GrpTRESMins", ""))
    }
    partition = values.text(pairs.get("Partition", ""))
    shown = (user[1] if user else pairs["UserName"]) or None
    return Association(account, shown, partition, pairs.get("DefAssoc") == "Yes", minutes)


def allocations(user: str, own: Sequence[Association], shared: Sequence[Association]) -> tuple[Allocation, ...]:
    """Return the accounts of a user, with the limits that all of the account share, and the user's own ones.

    Args:
        user: Whose accounts.
        own: The user's associations.
        shared: Those of the accounts, as far as they are shown to the user.
    """
    accounts: dict[str, bool] = {}
    resources: dict[str, list[AllocatedResource]] = {}
    for one in own:
        if one.user == user:
            accounts[one.account] = accounts.get(one.account, False) or one.default
    for one in shared:
        if one.user is None and one.account in accounts:
            resources[one.account] = _resources(one, "account")
    for one in own:
        if one.user == user and one.partition is None:
            resources.setdefault(one.account, []).extend(_resources(one, "user"))
    return tuple(
        Allocation(account, default, tuple(resources.get(account, ()))) for account, default in accounts.items()
    )


def _resources(association: Association, scope: str) -> list[AllocatedResource]:
    """Return what is limited or has been used; a user's own only where it is limited."""
    return [
        AllocatedResource(name, scope, limit, used, None if limit is None else max(0, limit - used))
        for name, (limit, used) in association.minutes.items()
        if limit is not None or (used and scope == "account")
    ]
