"""Request bodies that are on their way: how many of each user, and how much memory those take that are kept whole."""

from collections import Counter

from hpcgate.errors import RateLimited, Unavailable

USER_SHARE = 4
"""A user may have one part in so many of the memory."""


class Arrivals:
    """The bounds on request bodies, of one process.

    Args:
        most_per_user: Bodies of one user that may be arriving at a time.
        memory: Bytes of bodies that may be kept at a time, of all users.
    """

    def __init__(self, most_per_user: int, memory: int) -> None:
        self._most_per_user = most_per_user
        self._memory = memory
        self._arriving: Counter[str] = Counter()
        self._kept: Counter[str] = Counter()
        self.kept = 0
        """Bytes that are kept now."""
        self.waiting = 0
        """Requests that do nothing but wait for their bodies, those that streams count apart."""

    def __repr__(self) -> str:
        """Tell how much is on its way."""
        return f"<Arrivals {self._arriving.total()} arriving, {self.kept}/{self._memory} bytes kept>"

    def begin(self, username: str, *, waits: bool) -> None:
        """Count a body that is about to arrive.

        Args:
            username: The sender.
            waits: Whether its request counts as one that waits.

        Raises:
            RateLimited: The user has too many.
        """
        if self._arriving[username] >= self._most_per_user:
            raise RateLimited(
                f"You have {self._most_per_user} request bodies under way; wait for one to end.",
                headers={"Retry-After": "1"},
            )
        self._arriving[username] += 1
        self.waiting += waits

    def end(self, username: str, *, waits: bool) -> None:
        """Take note that a body has arrived, or never will."""
        _take(self._arriving, username, 1)
        self.waiting -= waits

    def keep(self, username: str, size: int) -> None:
        """Count bytes that are kept.

        Raises:
            RateLimited: They are more than the user's share.
            Unavailable: They are more than there is room for.
        """
        share = self._memory // USER_SHARE
        if self._kept[username] + size > share:
            raise RateLimited(
                f"Your requests under way hold {share} bytes; wait for one to end.", headers={"Retry-After": "1"}
            )
        if self.kept + size > self._memory:
            raise Unavailable("The requests under way hold too many bytes.", headers={"Retry-After": "1"})
        self._kept[username] += size
        self.kept += size

    def drop(self, username: str, size: int) -> None:
        """Take note that bytes are no longer kept."""
        _take(self._kept, username, size)
        self.kept -= size


def _take(counted: Counter[str], name: str, number: int) -> None:
    counted[name] -= number
    if not counted[name]:
        del counted[name]
