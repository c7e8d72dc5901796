"""What users may do to jobs that they have: hold, release, requeue, suspend, resume, signal and change them."""

import re
import signal
from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Final

from hpcgate.errors import BadRequest
from hpcgate.schedulers.job_spec import Dependency


class Action(StrEnum):
    """What is done to a job as a whole."""

    HOLD = "hold"
    RELEASE = "release"
    REQUEUE = "requeue"
    SUSPEND = "suspend"
    RESUME = "resume"


@dataclass(frozen=True, slots=True)
class JobChanges:
    """What is to be changed of a job. None leaves it as it is.

    Attributes:
        time_limit: Seconds; a scheduler that counts minutes rounds them up.
        priority: As the scheduler counts it.
        dependencies: All that it waits for from now on; none if it is to wait for nothing.
    """

    time_limit: int | None = None
    partition: str | None = None
    priority: int | None = None
    name: str | None = None
    comment: str | None = None
    dependencies: tuple[Dependency, ...] | None = None

    def given(self) -> tuple[str, ...]:
        """Return the names of what is to be changed."""
        return tuple(field.name for field in fields(self) if getattr(self, field.name) is not None)


SIGNALS: Final[Mapping[str, int]] = {
    name.removeprefix("SIG"): number.value
    for name, number in signal.Signals.__members__.items()
    if not name.startswith("SIGRT")
}
"""The signals of Linux, by name (signal(7))."""

_NUMBER = re.compile(r"[0-9]{1,2}")


def signal_number(text: str) -> int:
    """Return the number of a signal that is given by name (``USR1``, ``SIGUSR1``, in any case) or by number.

    It is looked up here: slurmrestd 26.05 ends a job on a signal that it does not know.

    Raises:
        BadRequest: It is not one.
    """
    name = text.strip().upper().removeprefix("SIG")
    if _NUMBER.fullmatch(name) and name.isascii() and int(name) in SIGNALS.values():
        return int(name)
    if name in SIGNALS:
        return SIGNALS[name]
    raise BadRequest(f"signal: not a signal: {text[:40]!r}; known are {', '.join(SIGNALS)}")
