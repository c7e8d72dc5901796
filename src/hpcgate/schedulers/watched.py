"""What a scheduler offers to those who watch jobs: lists, and the runs that it has recorded."""

from collections.abc import Sequence

from hpcgate.auth import Principal
from hpcgate.schedulers.snapshot import Seen


class Watched:
    """The part of a scheduler that events of jobs stand on. The default tells of none."""

    @property
    def tells_events(self) -> bool:
        """Whether there are `closer` and `runs`."""
        return False

    def apart(self, seen: Seen) -> Sequence[Seen]:
        """Return tasks of an array that wait together as jobs of their own; any other job as it is."""
        return (seen,)

    async def clock(self, principal: Principal) -> int | None:
        """Return the scheduler's time in Unix seconds; None if it does not tell."""
        return None

    async def closer(self, principal: Principal, found: Sequence[Seen], *, user: str | None) -> Sequence[Seen]:
        """Return jobs of a snapshot with what it does not tell: how they ended, how often they were requeued.

        Args:
            principal: Who asks.
            found: The jobs.
            user: Whose the snapshot is; None for everybody's.
        """
        return found

    async def runs(
        self, principal: Principal, *, user: str | None, since: int | None = None, records: Sequence[str] = ()
    ) -> Sequence[Seen] | None:
        """Return runs of jobs that are recorded, earlier ones of jobs that were requeued included, in order.

        Args:
            principal: Who asks.
            user: Whose; None for everybody's.
            since: Those of which something happened since then, in Unix seconds; None for those of `records`.
            records: The records' own ids (`Seen.raw`).

        Returns:
            None if there is no history.

        Raises:
            SchedulerUnavailable: The history does not answer, or has not been told all yet.
        """
        return None
