"""head: the beginning of a file."""

from hpcgate.filesystem.base import Operation
from hpcgate.filesystem.excerpt import DEFAULT_LINES, Excerpt, ExcerptParameters
from hpcgate.filesystem.models import ContentUnit, FileContent
from hpcgate.ssh.session import Session


class HeadParameters(ExcerptParameters):
    """How much of the beginning; with `skip_trailing` all but so much of the end."""

    skip_trailing: bool = False


class Head(Operation):
    """Return the beginning of a file."""

    name = "head"
    method = "GET"
    Parameters = HeadParameters
    Result = FileContent
    parameters: HeadParameters

    def paths(self) -> tuple[bytes, ...]:
        """Return the path read."""
        return (self.parameters.path,)

    async def run(self, session: Session) -> FileContent:
        """Read as ``head -c`` or ``head -n`` do."""
        wanted = self.parameters
        excerpt = Excerpt(await session.files(), wanted.path, "head", self.limits)
        count, in_lines = wanted.count, wanted.unit is ContentUnit.lines
        if count is None:
            count, skip = DEFAULT_LINES, False
        else:
            skip = wanted.skip_trailing
        if skip:
            end = await excerpt.start_of_last_lines(count) if in_lines else await excerpt.size() - count
            content = await excerpt.span(0, end)
        elif in_lines:
            content = await excerpt.first_lines(count)
        else:
            content = await excerpt.span(0, count)
        return FileContent(
            content=content.decode("utf-8", "replace"),
            content_type=wanted.unit,
            start_position=0,
            end_position=-count if skip else count,
        )
