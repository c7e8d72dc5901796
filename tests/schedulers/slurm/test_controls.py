"""What is done to jobs by commands, with a squeue and a scontrol that are played."""

from collections.abc import Sequence
from typing import Any

import pytest

from hpcgate.auth import Principal
from hpcgate.errors import CommandFailed, SchedulerUnavailable
from hpcgate.schedulers.control import JobChanges
from hpcgate.schedulers.slurm.controls import CommandControls
from hpcgate.schedulers.slurm.job_ids import JobId
from hpcgate.ssh.runner import Completed

ALICE = Principal("alice", token="")
MARKED = "hpcgate:0123456789abcdef"


class Played:
    """Answers squeue with a text, in which ``{mark}`` stands for what rows begin with, and scontrol with nothing."""

    def __init__(self, listing: str) -> None:
        self._listing = listing
        self.changes: list[str] = []

    async def __call__(self, principal: Any, argv: Sequence[str], **_: Any) -> Completed:
        if argv[0] == "squeue":
            form = next(word for word in argv if word.startswith("--format=")).removeprefix("--format=")
            mark, end = form.split("%k")
            return Completed(tuple(argv), 0, self._listing.format(mark=mark, end=end).encode(), b"")
        self.changes.append(argv[-1])
        return Completed(tuple(argv), 0, b"", b"")


@pytest.mark.parametrize(
    ("listing", "comment"),
    [
        ("{mark}COMMENT{end}\n{mark}old " + MARKED + "{end}\n", "new " + MARKED),
        ("{mark}COMMENT{end}\n{mark}" + MARKED + " two\nlines{end}\n", "new " + MARKED),
        ("{mark}COMMENT{end}\n{mark}old{end}\n", "new"),
        # Of a job that squeue does not know scontrol says so.
        ("{mark}COMMENT{end}\n", "new"),
        ("a banner\n{mark}COMMENT{end}\n{mark}" + MARKED + "{end}\na line behind", "new " + MARKED),
    ],
)
async def test_a_comment_keeps_the_mark_that_squeue_shows(listing: str, comment: str) -> None:
    played = Played(listing)
    await CommandControls(played).change(ALICE, JobId.parse("7"), JobChanges(comment="new"))
    assert played.changes == [f"Comment={comment}"]


@pytest.mark.parametrize("listing", ["{mark}COMM", "{mark}COMMENT{end}\n{mark}old hpcg"])
async def test_a_comment_is_not_changed_where_the_list_breaks_off(listing: str) -> None:
    played = Played(listing)
    with pytest.raises(SchedulerUnavailable, match="squeue printed breaks off"):
        await CommandControls(played).change(ALICE, JobId.parse("7"), JobChanges(comment="new"))
    assert played.changes == []


@pytest.mark.parametrize("listing", ["", "squeue is not available today\n", "COMMENT\nold\n"])
async def test_a_comment_is_not_changed_where_squeue_shows_no_list(listing: str) -> None:
    """The mark of a submission would be lost, by which one in doubt is found."""
    played = Played(listing)
    with pytest.raises(CommandFailed, match="squeue printed"):
        await CommandControls(played).change(ALICE, JobId.parse("7"), JobChanges(comment="new"))
    assert played.changes == []
