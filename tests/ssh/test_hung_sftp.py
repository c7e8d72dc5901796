"""An SFTP server that agrees on the version and then says nothing more: what is asked of it ends in time."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest

from hpcgate.errors import TimedOut
from tests.ssh.conftest import MakePool
from tests.ssh.nodes import LoginNodes, principal

CONTENT = b"x" * 1000
HUNG = """\
#!/usr/bin/perl
binmode STDOUT; $| = 1; sysread STDIN, my $init, 9;
print pack "NCN", 5, 2, 3;
1 while sysread STDIN, my $more, 65536;
"""


async def test_streams_end_in_time_and_the_pool_is_healthy(make_pool: MakePool, nodes: LoginNodes) -> None:
    program = nodes.directory / "hung-sftp"
    program.write_text(HUNG)
    program.chmod(0o755)
    node = nodes.start(sftp=str(program))
    pool = make_pool(node, timeout={"command_execution": 1}, helper=False)
    stored: bytes | None = None

    async def content() -> AsyncIterator[bytes]:
        yield CONTENT

    async with asyncio.timeout(120), pool.lease(principal(nodes.alice)) as session:
        async with session.bulk() as streams:
            with pytest.raises(TimedOut):
                await streams.open(b"/etc/passwd").__aenter__()
        async with session.bulk() as streams:
            # By commands, until the server that was given up has ended; then by another one, that hangs likewise.
            with suppress(TimedOut):
                await streams.replace(f"{nodes.alice.home}/hung".encode(), content())
                stored = CONTENT
        assert (await session.run(["true"], timeout=60)).ok
    path = nodes.alice.home / "hung"
    assert (path.read_bytes() if path.exists() else None) == stored
    path.unlink(missing_ok=True)
    await asyncio.sleep(0)
    node.stop()
