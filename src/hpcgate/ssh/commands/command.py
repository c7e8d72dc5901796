"""One command on a login node: its channel, its bounded output, its input, and its end."""

import asyncio
from collections.abc import AsyncIterable

import asyncssh

from hpcgate.errors import BadAnswer, LoginNodeError, NeverBegan, NeverReached
from hpcgate.ssh.channels import Slot
from hpcgate.ssh.commands.quoting import WORD, feeding, is_joined, is_robbed, is_shared, opening
from hpcgate.telemetry.containment import contained

MAX_STDERR = 64 * 1024
_NOISE_KEPT = 4096
"""Bytes of what start-up files print that are kept: more than the mark takes, enough to tell what went wrong."""
MAX_NOISE = 16 * 1024 * 1024
"""Bytes that start-up files may print before the command begins: more than a banner, or than a mistake in a loop."""
MAX_ERRORS = 16 * 1024 * 1024
"""Bytes that a command may write on standard error, of which the beginning is kept."""
_BLOCK = 256 * 1024
_MAX_WORDS = 500
"""Characters of what start-up files have said last that are told."""
START_UP_FILES = "A start-up file of the login shell (such as ~/.bashrc, ~/.profile, ~/.zshenv or ~/.cshrc)"
MUDDLED = (
    f"What commands print does not come as they print it. {START_UP_FILES} may leave something running that prints as "
    "well, or send all output through a filter"
)


class Output:
    """What a command writes on one output, from its first byte on and up to a limit.

    What the user's start-up files wrote before the command began is dropped, however much it is.

    Attributes:
        content: What the command has written; before it began, the end of what others have.
        started: Whether the command has begun, on this output.
        fed: Whether it has begun and, if it has input, read the first line of that.
        shared: Whether something else has the command's input.
        drowned: Whether so much came before that it is not waited for any more, or it is muddled.
        muddled: Whether what the command says first has not come as it was said.
        total: Bytes that have come, kept or not.
    """

    __slots__ = (
        "_feeds",
        "_follows",
        "_noise",
        "_word",
        "content",
        "drowned",
        "fed",
        "limit",
        "muddled",
        "overflown",
        "pid",
        "shared",
        "started",
        "total",
    )

    def __init__(self, limit: int, word: str = WORD, *, feeds: bool = False, follows: bool = True) -> None:
        self.content = bytearray()
        self.limit = limit
        self.overflown = False
        self.started = False
        self.fed = False
        self.shared = False
        self.drowned = False
        self.muddled = False
        self.pid: int | None = None
        self._feeds = feeds
        self._follows = follows
        self._noise = 0
        self._word = word
        self.total = 0

    def feed(self, data: bytes) -> None:
        """Take what came; beyond the limit nothing more is kept."""
        self.total += len(data)
        if self.overflown:
            return
        self.content += data
        if not self.started:
            begin = opening(self.content, self._word, follows=self._follows)
            if begin is None:
                if self._follows and (muddled := opening(self.content, self._word)) is not None:
                    self.muddled = self.drowned = True
                    self.pid = muddled[1]
                    return
                del self.content[:-_NOISE_KEPT]
                self._noise += len(data)
                self.drowned = self._noise > MAX_NOISE
                return
            self.started = True
            self.shared = self._feeds and is_shared(self.content, self._word)
            self.pid = begin[1]
            del self.content[: begin[0]]
        if not self.fed:
            first = feeding(self.content, self._word) if self._feeds else 0
            if first is None:
                del self.content[:-_NOISE_KEPT]
                self._noise += len(data)
                self.drowned = self._noise > MAX_NOISE
                return
            self.fed = True
            del self.content[:first]
        if len(self.content) > self.limit:
            self.overflown = True
            del self.content[self.limit :]

    def flood(self) -> LoginNodeError:
        """Return the error for what was drowned."""
        if self.muddled:
            # What is not fed may have done what it was to do: only its answer is of no use.
            return (NeverBegan if self._feeds else BadAnswer)(MUDDLED)
        return NeverReached(f"{START_UP_FILES} prints without end, and the command never began")

    @property
    def written(self) -> bytes:
        """What the command has written."""
        return bytes(self.content) if self.fed else b""


class Command(asyncssh.SSHClientSession[bytes]):
    """A command under way, as asyncssh's callbacks see it.

    Attributes:
        begun: Resolved when the command has begun, or `done` is.
        heard: Resolved when the command has read the first line of its input, or `done` is.
        done: Resolved when the channel has closed or the output went over its limit.
        closed: Whether the channel has closed.
        error: Why the connection ended, if it did.
        complains: Whether it was given up for what it writes on standard error.
        unheard: Seconds after which it was given up for not having read the first line of its input, or None.
    """

    def __init__(self, slot: Slot, limit: int, word: str = WORD, *, feeds: bool = False) -> None:
        loop = asyncio.get_running_loop()
        self.stdout = Output(limit, word, feeds=feeds)
        self.stderr = Output(MAX_STDERR, word, follows=False)
        self.begun: asyncio.Future[None] = loop.create_future()
        self.done: asyncio.Future[None] = loop.create_future()
        self.heard: asyncio.Future[None] = loop.create_future()
        self.closed = False
        self.complains = False
        self.unheard: float | None = None
        self.word = word
        self._start_up: float | None = None
        self._listening: asyncio.TimerHandle | None = None
        self.error: Exception | None = None
        self.channel: asyncssh.SSHClientChannel[bytes] | None = None
        self._slot = slot
        self._resumed: asyncio.Future[None] | None = None

    def connection_made(self, chan: asyncssh.SSHClientChannel[bytes]) -> None:
        """The login node opened the channel."""
        self.channel = chan
        self._slot.opened()

    def data_received(self, data: bytes, datatype: int | None) -> None:
        """Take output as it comes."""
        if datatype is None:
            self.stdout.feed(data)
            if self.stdout.overflown or self.stdout.drowned:
                self._finish()
            elif self.stdout.started:
                self._begin()
                self._hear()
        else:
            self._complain(data)

    def eof_received(self) -> bool:
        """Leave the input open: the command may still read."""
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """The channel has closed, or the whole connection."""
        self.closed = True
        self.error = exc
        self._slot.release()
        if self._listening is not None:
            self._listening.cancel()
        self.resume_writing()
        self._finish()

    def pause_writing(self) -> None:
        """The command does not read as fast as it is written to."""
        if self._resumed is None:
            self._resumed = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        """The command reads again."""
        if self._resumed is not None:
            if not self._resumed.done():
                self._resumed.set_result(None)
            self._resumed = None

    @property
    def pid(self) -> int | None:
        """The process id of the command, known once it has begun."""
        return self.stdout.pid or self.stderr.pid

    @property
    def exit_status(self) -> int | None:
        """How it ended: the status, minus the number of a signal, or None if nothing is known."""
        return None if self.channel is None else self.channel.get_returncode()

    def check_begun(self) -> None:
        """Raise NeverBegan for a command that has ended and never began, so that nothing passes for its answer."""
        if self.stdout.drowned:
            raise self.stdout.flood()
        if not self.stdout.started:
            if is_joined(self.stdout.content, self.word):
                raise NeverBegan(f"Output and errors of commands come as one. {START_UP_FILES} may redirect them")
            raise NeverBegan(ended_early(self.exit_status, last_words(self.stderr, self.stdout)))
        self.check_input()

    def check_input(self) -> None:
        """Raise NeverBegan for a command that was not run because its input is not what was sent."""
        if self.unheard is not None:
            raise NeverReached(unread(self.unheard))
        if is_robbed(self.stderr.content, self.word):
            raise NeverBegan(f"What is sent to commands does not reach them. {START_UP_FILES} may redirect or read it")

    async def reached(self, seconds: float) -> None:
        """Wait until the command has begun, or ended, and nothing that comes before it can read its input.

        Raises:
            NeverReached: It takes longer than so many seconds.
        """
        self._start_up = seconds
        if self.begun.done():
            return
        try:
            async with asyncio.timeout(seconds):
                await self.begun
        except TimeoutError:
            raise NeverReached(out_of_time(seconds, last_words(self.stderr, self.stdout))) from None

    async def write(self, stdin: bytes | AsyncIterable[bytes]) -> None:
        """Write the input and its end; stops when the command has ended or takes no more.

        What there is to write is for a command that has begun, see `reached`: whoever came before would read it.
        """
        if self.channel is None:
            return
        if stdin:
            await self.greet()
        if isinstance(stdin, bytes):
            for start in range(0, len(stdin), _BLOCK):
                await self._write(self.channel, stdin[start : start + _BLOCK])
        else:
            async for block in stdin:
                await self._write(self.channel, block)
                if self.done.done():
                    return
        if not self.channel.is_closing():
            self.channel.write_eof()

    async def greet(self) -> None:
        """Write the line by which a command that is fed knows that its input is its own."""
        if self.channel is not None:
            if self._start_up is not None:
                loop = asyncio.get_running_loop()
                self._listening = loop.call_later(self._start_up, self._listen, self._start_up)
            await self._write(self.channel, self.word.encode() + b"\n")
            if self.stdout.shared:
                await self.heard

    @contained("ssh.command.listen")
    def _listen(self, seconds: float) -> None:
        """Give the command up unless it has read the first line of its input."""
        if not self.stdout.fed and not self.done.done():
            self.unheard = seconds
            self._finish()

    async def _write(self, channel: asyncssh.SSHClientChannel[bytes], block: bytes) -> None:
        if self.done.done() or channel.is_closing():
            return
        channel.write(block)
        if self._resumed is not None:
            await asyncio.wait((self._resumed, self.done), return_when=asyncio.FIRST_COMPLETED)

    def _complain(self, data: bytes) -> None:
        """Take standard error, and end the wait where it has no end."""
        self.stderr.feed(data)
        if self.stderr.drowned and not self.stdout.started:
            self.stdout.drowned = True
            self._finish()
        elif self.stderr.total > MAX_ERRORS:
            self.complains = True
            self._finish()

    def _begin(self) -> None:
        if not self.begun.done():
            self.begun.set_result(None)

    def _hear(self) -> None:
        if (self.stdout.fed or self.done.done()) and not self.heard.done():
            self.heard.set_result(None)

    def _finish(self) -> None:
        self._begin()
        if not self.done.done():
            self.done.set_result(None)
        self._hear()


def last_words(*outputs: Output) -> str:
    """Return the last line that was said on the outputs by what came before the command, of the first that has any."""
    for output in outputs:
        if output.started:
            continue
        lines = bytes(output.content).decode("utf-8", "replace").splitlines()
        words = next((line.strip() for line in reversed(lines) if line.strip()), "")
        if words:
            return "".join(letter if letter.isprintable() else "?" for letter in words[:_MAX_WORDS])
    return ""


def ended_early(status: int | None, words: str) -> str:
    """Return what is to be said of a login shell that has ended and never came to the command."""
    said = words or "no reason given"
    return (
        f"The login shell ended before the command began (exit {status}): {said}. {START_UP_FILES} may have ended it "
        "or run something else instead, or the account may not run commands"
    )


def unread(seconds: float) -> str:
    """Return what is to be said of a command that does not get what is sent to it."""
    return (
        f"What is sent to commands does not reach them within {seconds:g} s. {START_UP_FILES} may leave something "
        "running that reads it"
    )


def out_of_time(seconds: float, words: str) -> str:
    """Return what is to be said of a login shell that does not come to the command."""
    said = f"; the last it said is: {words}" if words else ""
    return (
        f"The login shell did not come to the command within {seconds:g} s, and nothing was sent to it. "
        f"{START_UP_FILES} may wait for input, run another shell, hang or take too long, or the home directory may not "
        f"answer{said}"
    )
