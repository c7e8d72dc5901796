"""Marks between the columns of a listing that no job can contain.

A job's name may hold any character that Slurm's tools could be told to separate columns with, newlines included. So
each command gets a random mark of its own, which nobody can have put into a name beforehand.
"""

import secrets
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from hpcgate.schedulers import reading

Parsed = TypeVar("Parsed")


def new_mark() -> str:
    """Return a mark: 16 random letters that mean nothing to Slurm's format options."""
    return "".join(secrets.choice("ghjkqvwxyz") for _ in range(16))


def parse_rows(
    tool: str, rows: Iterator[Sequence[str]], width: int, parse: Callable[[Sequence[str]], Parsed]
) -> list[Parsed]:
    """Parse each row; one that cannot be parsed is logged and skipped.

    Args:
        tool: The command that printed the rows, for the log.
        rows: The columns of each row.
        width: How many columns a row has.
        parse: What makes an object of them; a ValueError means that it cannot.

    Raises:
        BadAnswer: Hardly any can be parsed.
    """

    def parsed(row: Sequence[str]) -> Parsed:
        if len(row) != width:
            raise ValueError(f"{len(row)} columns instead of {width}")
        return parse(row)

    return reading.rows(
        "slurm.row_skipped", tool, rows, parsed, lambda row: repr([column[:400] for column in row[:40]])
    )
