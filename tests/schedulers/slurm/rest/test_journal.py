"""What a query by REST leaves in the tracing log."""

from hpcgate.telemetry import journal
from hpcgate.telemetry.journal import Journal

from .stand_in import stand_in
from .test_client import LAB, slurm


async def test_the_url_and_the_status_are_noted() -> None:
    notes = Journal("r-1", "c-1", backend=[])
    before = journal.current.set(notes)
    try:
        async with stand_in(38) as server, slurm(38, server.url) as scheduler:
            await scheduler.partitions(LAB, show_hidden=False)
            noted = len(notes.backend or [])
            notes.open = False
            await scheduler.partitions(LAB, show_hidden=False)
    finally:
        journal.current.reset(before)
    assert notes.backend is not None
    assert {"url": f"{server.url}/slurm/v0.0.38/partitions", "response_status": "200"} in notes.backend
    # What comes after the request is none of it.
    assert len(notes.backend) == noted
