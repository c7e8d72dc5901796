"""A session that cannot leave the paths of a rule: what it touches is checked where and when it is touched.

`Confined` stands in for a `Session` where the policy's rule has paths. It runs no command but one: the program
`hpcgate.filesystem.beneath_program`, which walks each path without following links past the rule's paths and works
relative to what it holds open. What the program cannot do is denied, commands of plug-ins among it.
"""

from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

from hpcgate.auth import Principal
from hpcgate.auth.policy import Grant
from hpcgate.errors import Denied, GatewayError
from hpcgate.filesystem import checksum, compress, extract, file_type, unpacking
from hpcgate.filesystem.beneath import DENIED, Beneath, bytes_of
from hpcgate.filesystem.confined_files import ConfinedFiles
from hpcgate.filesystem.tus import scripts
from hpcgate.ssh.commands.process import Process
from hpcgate.ssh.commands.quoting import Steering
from hpcgate.ssh.files import command_attributes
from hpcgate.ssh.files.coreutils_errors import quote, shown
from hpcgate.ssh.files.protocol import RemoteFiles
from hpcgate.ssh.files.streams import SYNC_PATIENCE, Streams
from hpcgate.ssh.pool import Pool
from hpcgate.ssh.runner import Completed
from hpcgate.ssh.session import Session

T = TypeVar("T")


class Confined(Session):
    """A session that is held to the paths of a grant.

    It has nothing of a `Session` but the names: whatever would reach the login node is defined here anew.
    """

    __slots__ = ("_beneath",)

    def __init__(self, session: Session, grant: Grant) -> None:
        self.username = session.username
        self.system = session.system
        self.node = session.node
        self.dedicated = session.dedicated
        self._beneath = Beneath(session, grant)

    @classmethod
    async def of(cls, session: Session, grant: Grant) -> "Confined":
        """Confine a session."""
        # Asked by a command of its own, which is not to be had later.
        await session.node.view(session.username).time_zone(session)
        return cls(session, grant)

    def __repr__(self) -> str:
        return f"<Confined {self._beneath.grant.rule} {self._beneath.session!r}>"

    async def run(
        self,
        argv: Sequence[str | bytes],
        *,
        stdin: bytes | AsyncIterable[bytes] = b"",
        limit: int | None = None,
        timeout: float | None = None,
        env: dict[str, str] | None = None,
        without: Steering | None = None,
    ) -> Completed:
        """Do what one of the gateway's own commands does, beneath the paths; any other is denied."""
        handler = _COMMANDS.get(argv[2]) if list(argv[:2]) == ["sh", "-c"] and isinstance(argv[2], str) else None
        if handler is not None:
            return await handler(self._beneath, [bytes_of(word) for word in argv[4:]])
        raise self._denial(argv)

    @asynccontextmanager
    async def process(
        self,
        argv: Sequence[str | bytes],
        *,
        stall: float,
        opening: float | None = None,
        env: dict[str, str] | None = None,
    ) -> AsyncIterator[Process]:
        """Start what one of the gateway's own commands does, beneath the paths; any other is denied."""
        if list(argv[:2]) == ["sh", "-c"] and argv[2] == unpacking.UNPACK:
            path, temporary, mark = map(bytes_of, argv[4:])
            started = self._beneath.process(
                "unpack", f"tar: {shown(path)}", stall=stall, path=path, temporary=temporary, mark=mark
            )
        elif list(argv[:2]) == ["tar", "-c"]:
            path = bytes_of(argv[argv.index("-C") + 1]).rstrip(b"/") + b"/" + bytes_of(argv[-1])
            started = self._beneath.process(
                "pack",
                f"tar: {shown(path)}",
                stall=stall,
                path=path,
                compression="gzip" if "-z" in argv else "none",
                plain="--hard-dereference" in argv,
                skip="--ignore-failed-read" in argv,
            )
        else:
            raise self._denial(argv)
        async with started as process:
            try:
                yield process
            except GatewayError:
                # It may be the denial that ended what the gateway's own command would have gone on with.
                if process.exit_status == DENIED:
                    await self._beneath.ended(process, argv)
                raise

    async def files(self) -> RemoteFiles:
        """Return the files beneath the paths."""
        return ConfinedFiles(self._beneath, self.node.view(self.username), self)

    @asynccontextmanager
    async def bulk(self) -> AsyncIterator[Streams]:
        """Lend the files beneath the paths for what streams."""
        yield ConfinedFiles(self._beneath, self.node.view(self.username), self)

    async def ask(self, argv: Sequence[str], request: bytes, *, limit: int | None = None) -> bytes:
        """Deny: no long-lived process is confined."""
        raise self._denial(argv)

    def dismiss(self, argv: Sequence[str]) -> None:
        """Do nothing: there is no long-lived process."""

    def _denial(self, argv: Sequence[str | bytes]) -> Denied:
        return Denied(
            self._beneath.grant.rule, f"what {bytes_of(argv[0]).decode(errors='replace')} does is not checked"
        )


# What the gateway's own scripts do, by their text; their arguments are those of the scripts.


async def _checksum(beneath: Beneath, words: list[bytes]) -> Completed:
    return await beneath.run("checksum", f"sha256sum: {shown(words[0])}", path=words[0])


async def _kind(beneath: Beneath, words: list[bytes]) -> Completed:
    return await beneath.run("kind", f"stat: cannot statx {quote(words[0])}", path=words[0])


_COMPRESSIONS = {b"": "none", b"-z": "gzip", b"-j": "bzip2", b"-J": "xz"}


async def _compress(beneath: Beneath, words: list[bytes]) -> Completed:
    source, _, _, target, _, how, follow, pattern, _ = words
    return await beneath.run(
        "compress",
        f"tar: {shown(source)}",
        path=source,
        target=target,
        compression=_COMPRESSIONS[how],
        dereference=bool(follow),
        pattern=pattern or None,
    )


async def _extract(beneath: Beneath, words: list[bytes]) -> Completed:
    source, target, how, _ = words
    return await beneath.run(
        "extract", f"tar: {shown(target)}", path=source, target=target, compression=_COMPRESSIONS[how]
    )


async def _sweep(beneath: Beneath, words: list[bytes]) -> Completed:
    return await beneath.run("sweep", "find", path=words[0], minutes=int(words[1]))


async def _join(beneath: Beneath, words: list[bytes]) -> Completed:
    private, target, *places = words
    pairs = zip(places[::2], places[1::2], strict=True)
    parts = [directory.rstrip(b"/") + b"/" + name + b"/.hpcgate-content" for directory, name in pairs]
    return await beneath.run(
        "join", f"cat: {shown(target)}", private=bool(private), path=target, parts=parts, timeout=SYNC_PATIENCE
    )


async def _adopt(beneath: Beneath, words: list[bytes]) -> Completed:
    old, new = words
    return await beneath.run("adopt", f"chmod: {shown(new)}", old=old, path=new)


async def _chmod(beneath: Beneath, words: list[bytes]) -> Completed:
    path, mode = words
    return await beneath.run("change", f"chmod: {quote(path)}", tool="chmod", to=mode, path=path)


async def _chown(beneath: Beneath, words: list[bytes]) -> Completed:
    path, owner = words
    return await beneath.run("change", f"chown: {quote(path)}", tool="chown", to=owner, path=path)


_COMMANDS: dict[str, Callable[[Beneath, list[bytes]], Awaitable[Completed]]] = {
    checksum.SCRIPT: _checksum,
    file_type.SCRIPT: _kind,
    compress.SCRIPT: _compress,
    extract.SCRIPT: _extract,
    scripts.SWEEP: _sweep,
    scripts.JOIN: _join,
    scripts.ADOPT_NEW: _adopt,
    command_attributes.CHMOD: _chmod,
    command_attributes.CHOWN: _chown,
}


class ConfinedPool:
    """Lends confined sessions; as `Pool` does.

    Args:
        pool: The system's connections.
        grant: What the user may touch.
    """

    def __init__(self, pool: Pool, grant: Grant) -> None:
        self._pool = pool
        self._grant = grant

    @asynccontextmanager
    async def lease(self, principal: Principal) -> AsyncIterator[Session]:
        """Lend a session."""
        async with self._pool.lease(principal) as session:
            yield await Confined.of(session, self._grant)

    @asynccontextmanager
    async def lease_bulk(self, principal: Principal, size: int | None = None) -> AsyncIterator[Session]:
        """Lend a session to move so many bytes by."""
        async with self._pool.lease_bulk(principal, size) as session:
            yield await Confined.of(session, self._grant)

    def is_bulk(self, size: int | None) -> bool:
        """Say whether so many bytes are to have a connection of their own."""
        return self._pool.is_bulk(size)

    async def perform(self, principal: Principal, work: Callable[[Session], Awaitable[T]], *, retry: bool) -> T:
        """Do some work on a confined session."""
        grant = self._grant

        async def confined(session: Session) -> T:
            return await work(await Confined.of(session, grant))

        return await self._pool.perform(principal, confined, retry=retry)
