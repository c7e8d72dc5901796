"""Who has found a service silent of late, and for whom that counts.

What a user's own commands say may be the user's own doing: it counts for that user alone. Once two users have found the
same, it counts for all.
"""

from collections.abc import Callable
from time import monotonic

from hpcgate.sharing.recent import Recent

MAX_USERS = 10_000
"""How many users' findings are remembered."""


class Doubts:
    """Whether there is doubt that a service answers.

    Args:
        lasts: Seconds for which a finding counts.
        clock: Seconds, of which only differences count.
    """

    def __init__(self, lasts: float, clock: Callable[[], float] = monotonic) -> None:
        self._lasts = lasts
        self._clock = clock
        self._found = Recent[str, bool](MAX_USERS, clock)
        self._last = ("", 0.0)
        self._shared_until = 0.0

    def __repr__(self) -> str:
        return f"<Doubts of {len(self._found)}{' and all' if self.shared else ''}>"

    @property
    def shared(self) -> bool:
        """Whether there is doubt for everybody."""
        return self._clock() < self._shared_until

    def begin(self, username: str) -> None:
        """Note that a user has found the service silent."""
        until = self._clock() + self._lasts
        other, others_until = self._last
        if self.shared or (other not in ("", username) and self._clock() < others_until):
            self._shared_until = until
        self._found.keep(username, True, until)
        self._last = (username, until)

    def hold(self, username: str) -> bool:
        """Say whether there is doubt for a user."""
        return self.shared or self._found.get(username) is not None

    def end(self, username: str) -> None:
        """Note that a user has had an answer."""
        self._shared_until = 0.0
        self._found.forget(username)
        if self._last[0] == username:
            self._last = ("", 0.0)
