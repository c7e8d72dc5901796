"""The one file of a multipart/form-data body, streamed while it arrives (RFC 7578)."""

import re
from collections.abc import AsyncIterator
from typing import Self
from urllib.parse import unquote_to_bytes

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from hpcgate.api.streaming import body_of
from hpcgate.errors import BadRequest, TooLarge

FIELD = b"file"
MAX_OTHER = 64 * 1024
"""The most bytes of headers and of other fields that are read before and after the file."""


class MultipartFile:
    """The part named ``file`` of a request's body.

    Attributes:
        filename: The file name that the client gave, or None.
    """

    def __init__(self, request: Request, boundary: bytes, limit: int) -> None:
        self.filename: bytes | None = None
        self._limit = limit
        self._received = 0
        self._other = 0
        self._in_file = False
        self._found = False
        self._body_ended = False
        self._blocks: list[bytes] = []
        self._header_name = b""
        self._header_value = b""
        self._headers: dict[bytes, bytes] = {}
        # What stands before, between and after the parts counts as well.
        self._stream = body_of(request, limit=limit + 2 * MAX_OTHER)
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._part_begin,
                "on_header_field": self._header_field,
                "on_header_value": self._header_text,
                "on_header_end": self._header_end,
                "on_headers_finished": self._headers_finished,
                "on_part_data": self._part_data,
                "on_part_end": self._part_end,
                "on_end": self._end,
            },
        )

    @classmethod
    async def open(cls, request: Request, *, limit: int) -> Self:
        """Read up to the headers of the file's part.

        Args:
            request: The request, its body unread.
            limit: The most bytes that the file may have.

        Raises:
            TimedOut: The client sends too slowly, or nothing.
            BadRequest: The body is not multipart/form-data, or has no part named ``file``.
        """
        kind, options = parse_options_header(request.headers.get("content-type"))
        boundary = options.get(b"boundary")
        if kind != b"multipart/form-data" or not boundary:
            raise BadRequest("The body must be multipart/form-data with a boundary.")
        try:
            part = cls(request, boundary, limit)
        except FormParserError as error:
            raise BadRequest("The boundary of the body cannot be used.", caused_by=[str(error)]) from None
        while not part._found:
            if not await part._read():
                raise BadRequest("The body has no part named 'file'.")
        return part

    async def content(self) -> AsyncIterator[bytes]:
        """Yield the file's bytes.

        Raises:
            TooLarge: It has more than the limit.
            TimedOut: The client sends too slowly, or nothing.
            BadRequest: The body ended before the file did.
        """
        while True:
            blocks, self._blocks = self._blocks, []
            for block in blocks:
                yield block
            if self._body_ended:
                return
            if not await self._read() and not self._body_ended:
                raise BadRequest("The upload ended before the file was whole.")

    async def _read(self) -> bool:
        async for block in self._stream:
            if block:
                try:
                    self._parser.write(block)
                except FormParserError as error:
                    raise BadRequest(
                        "The body is not well-formed multipart/form-data.", caused_by=[str(error)]
                    ) from None
                return True
        return False

    def _part_begin(self) -> None:
        self._headers = {}

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]
        self._count(end - start)

    def _header_text(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]
        self._count(end - start)

    def _header_end(self) -> None:
        name = self._header_name.lower()
        if name in self._headers:
            raise BadRequest("A part of the body has a header twice, of which one reader takes the first.")
        self._headers[name] = self._header_value
        self._header_name = self._header_value = b""

    def _headers_finished(self) -> None:
        name, filename = disposition(self._headers.get(b"content-disposition", b""))
        if name == FIELD:
            if self._found:
                raise BadRequest("The body has more than one part named 'file'.")
            self._found = self._in_file = True
            self.filename = filename

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if not self._in_file:
            self._count(end - start)
            return
        self._received += end - start
        if self._received > self._limit:
            raise TooLarge(f"The file is larger than {self._limit} bytes; PUT files/content takes any size.")
        self._blocks.append(data[start:end])

    def _part_end(self) -> None:
        self._in_file = False

    def _end(self) -> None:
        self._body_ended = True

    def _count(self, size: int) -> None:
        self._other += size
        if self._other > MAX_OTHER:
            raise BadRequest("The body has too many or too large fields besides the file.")


_QUOTED = rb'"(?:[^"\\]|\\.)*(?:"|\\?\Z)'  # in quotes it is part of a value, perhaps of the plain file name
_EXTENDED = re.compile(
    _QUOTED
    + rb"""
    | ;\s*filename\*\s*=\s*(?P<quote>"?)(?P<charset>utf-8|iso-8859-1)'[^';"]*'(?P<value>[^";\s]+)(?P=quote)
    """,
    re.IGNORECASE | re.VERBOSE | re.DOTALL,
)
_PARAMETER = re.compile(_QUOTED + rb"|;\s*(?P<name>(?:file)?name\*?)\s*=", re.IGNORECASE | re.DOTALL)
_ESCAPED = re.compile(rb"%(22|0[AaDd])")


def disposition(value: bytes) -> tuple[bytes | None, bytes | None]:
    """Return the name and the file name of a part's Content-Disposition header.

    Clients write a quote, a line feed and a carriage return in a file name as ``%22``, ``%0A``, ``%0D`` (WHATWG HTML,
    multipart/form-data encoding algorithm). Some, .NET among them, use ``filename*`` (RFC 8187) although RFC 7578
    forbids it; it is then the one to be taken (RFC 6266, section 4.3), for what stands beside it is a makeshift.

    Raises:
        BadRequest: It has one of the two twice, of which one reader takes the first and another the last.
    """
    named = [match["name"].lower() for match in _PARAMETER.finditer(value) if match["name"]]
    if len(set(named)) < len(named):
        raise BadRequest("A part of the body has a name or a file name twice.")
    _, options = parse_options_header(value)
    filename = _extended(value)
    if filename is None and (plain := options.get(b"filename")) is not None:
        filename = _ESCAPED.sub(lambda match: bytes.fromhex(match[1].decode()), plain)
    return options.get(b"name"), filename


def _extended(value: bytes) -> bytes | None:
    """Return the ``filename*`` of a Content-Disposition, None if there is none that can be read."""
    for match in _EXTENDED.finditer(value):
        if match["charset"] is None:
            continue
        name = unquote_to_bytes(match["value"])
        if match["charset"].lower() == b"iso-8859-1":
            return name.decode("latin-1").encode()
        return name
    return None
