"""How much of a file system its user may use, by a command that the site has configured."""

import re
from dataclasses import dataclass

from hpcgate.config.quotas import QuotaSettings
from hpcgate.errors import BadAnswer, CommandFailed, ToolMissing
from hpcgate.filesystem.quota_formats import MANY, PARSERS, Quota
from hpcgate.outbound.wording import clipped
from hpcgate.ssh.runner import Completed, understanding
from hpcgate.ssh.session import Session

LONGEST = 128 * 1024
"""Bytes that a command may print; they are read on the event loop."""
_NOT_RUN = (126, 127)
"""Exit statuses of a shell that cannot run a command, or does not find it."""
_PLACEHOLDER = re.compile(r"(\{username\}|\{path\})")
_SHOWN = 400
"""Characters of what a command has said that a user is told."""


@dataclass(frozen=True, slots=True)
class QuotaCommand:
    """The command of one file system.

    Attributes:
        path: Where it is mounted.
        settings: What is run, and what it prints.
    """

    path: str
    settings: QuotaSettings

    def argv(self, username: str) -> list[str]:
        """Return the words of the command for a user; a placeholder's value is never looked at for another one."""
        values = {"{username}": username, "{path}": self.path}
        return ["".join(values.get(part, part) for part in _PLACEHOLDER.split(word)) for word in self.settings.command]

    async def run(self, session: Session) -> tuple[Quota, ...]:
        """Return the quotas that the command tells of.

        Raises:
            ToolMissing: There is no such command on the login node.
            CommandFailed: It failed, in its own words.
            BadAnswer: It printed something else.
            TimedOut, TooLarge: It takes longer, or prints more.
        """
        argv = self.argv(session.username)
        done = await session.run(argv, limit=LONGEST, timeout=self.settings.timeout)
        tool = argv[0]
        if done.exit_status in _NOT_RUN:
            raise ToolMissing(tool, "quotas")
        # quota(1) fails where a user is over quota, and says how much all the same.
        tolerant = self.settings.format == "quota" and done.exit_status == 1 and not done.words
        if not done.ok and not tolerant:
            raise CommandFailed(f"{tool}: {_said(done) or f'it ended with exit status {done.exit_status}'}")
        with understanding(tool):
            found = PARSERS[self.settings.format](done.stdout.decode("utf-8", "replace"))
        if found is None:
            raise BadAnswer(f"{tool} told of no quota ({self.settings.format}): {_said(done) or 'it printed nothing'}")
        if len(found) > MANY:
            raise BadAnswer(f"{tool} told of {len(found)} quotas, and at most {MANY} are taken")
        return tuple(found)


def _said(done: Completed) -> str:
    return clipped(done.words or done.stdout.decode("utf-8", "replace").strip(), _SHOWN)
