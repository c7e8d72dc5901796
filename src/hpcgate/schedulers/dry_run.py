"""What a submission would be, and what the scheduler expects of it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DryRun:
    """A submission that was not made.

    Attributes:
        script: The script that would be submitted, None where it lies on the system.
        options: What would be asked of the scheduler besides, in its own words.
        tested: Whether the scheduler itself has looked at it; else it was only read by the gateway.
        start: When the job is expected to start, in Unix seconds.
        nodes: Where.
        partition: In which partition.
        processors: On how many processors.
        warnings: What the scheduler has said besides.
    """

    script: str | None
    options: tuple[str, ...] = ()
    tested: bool = False
    start: int | None = None
    nodes: str | None = None
    partition: str | None = None
    processors: int | None = None
    warnings: tuple[str, ...] = ()
