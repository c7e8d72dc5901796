"""tail: the end of a file."""

from hpcgate.filesystem.base import Operation
from hpcgate.filesystem.excerpt import DEFAULT_LINES, Excerpt, ExcerptParameters
from hpcgate.filesystem.models import ContentUnit, FileContent
from hpcgate.ssh.session import Session


class TailParameters(ExcerptParameters):
    """How much of the end; with `skip_heading` all from the byte or line with that number, counted from 1."""

    skip_heading: bool = False


class Tail(Operation):
    """Return the end of a file."""

    name = "tail"
    method = "GET"
    Parameters = TailParameters
    Result = FileContent
    parameters: TailParameters

    def paths(self) -> tuple[bytes, ...]:
        """Return the path read."""
        return (self.parameters.path,)

    async def run(self, session: Session) -> FileContent:
        """Read as ``tail -c`` or ``tail -n`` do."""
        wanted = self.parameters
        excerpt = Excerpt(await session.files(), wanted.path, "tail", self.limits)
        count, in_lines = wanted.count, wanted.unit is ContentUnit.lines
        skip = wanted.skip_heading and count is not None
        number = DEFAULT_LINES if count is None else count
        if skip:
            content = await excerpt.span(await excerpt.start_of_line(number) if in_lines else max(0, number - 1))
        elif in_lines:
            content = await excerpt.last_lines(number)
        elif number == 0:
            content = await excerpt.span(0, 0)
        else:
            content = await excerpt.span(max(0, await excerpt.size() - number))
        return FileContent(
            content=content.decode("utf-8", "replace"),
            content_type=wanted.unit,
            # Without a count the contract has 10 here, not -10.
            start_position=-number if count is not None and not skip else number,
            end_position=-1,
        )
