"""sacctmgr: the accounts of a user. https://slurm.schedmd.com/sacctmgr.html"""

from collections.abc import Sequence

from hpcgate.schedulers.base import Account
from hpcgate.schedulers.slurm.delimiters import parse_rows


def command(username: str) -> list[str]:
    """Return the command that lists the associations of a user."""
    return [
        "sacctmgr", "--noheader", "--parsable2", "--readonly", "show", "user", "where", f"name={username}",
        "withassoc", "format=DefaultAccount,Account",
    ]  # fmt: skip


def parse(text: str) -> tuple[Account, ...]:
    """Return the accounts, each once, the default one flagged. An account's name holds no ``|``."""

    def account(row: Sequence[str]) -> Account:
        default, name = row
        if not name:
            raise ValueError("no account")
        return Account(name, default=name == default)

    rows = (line.split("|") for line in text.split("\n") if line)
    return tuple(dict.fromkeys(parse_rows("sacctmgr", rows, 2, account)))
