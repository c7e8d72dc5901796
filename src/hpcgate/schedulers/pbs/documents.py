"""What PBS's commands print: JSON, JSON that is not quite JSON, and attributes as text.

OpenPBS 23.06.06 writes its JSON by hand: a value that looks like a number to it stands bare (``inf``, ``.5``, ``5.``,
``+5``, but also a job's name ``1e5``), quotes and backslashes are escaped only sometimes, and all of that with exit
status 0. So a document that is not JSON is read line by line, one attribute each, and whatever cannot be read costs the
attribute or the job that it belongs to. Numbers are kept as they are written, since a job may be named ``007`` or
``1.50``. Later releases print valid JSON with tabs.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeAlias

from hpcgate.outbound.documents import decoded_in_turns, with_whole_characters

Value: TypeAlias = "str | list[Value] | Attributes"
Attributes: TypeAlias = dict[str, Value]
"""The attributes of a job, a node or a queue. Numbers, true, false and null are texts, as they were written."""

_MAX_VALUES = 3_000_000
"""Commas of an answer. One of 32 MiB has a million; each value takes a hundred bytes and more."""
_MAX_LINES = 3_000_000
_MAX_BROKEN = 100
"""Documents that are not JSON."""
_MAX_LINE = 1024 * 1024
"""Characters of a line in which backslashes are mended; a list of variables has some ten thousand."""
_LEAST_CHECKED = 1024 * 1024
_MANGLED = re.compile(rb"\^([\x02-\x34])((?:\^[\xc0-\xff])+)")
_DOCUMENT = re.compile(r"^(?=\{)", re.MULTILINE)
_INDENT = r"(?:\t| {4})"
_SECTION = re.compile(_INDENT + r'"(?P<name>[^"]*)":\s*\{\s*')
_ITEM = re.compile(_INDENT + r'{2}"(?P<name>.*)":\s*\{\s*')
_ATTRIBUTE = re.compile(_INDENT + r'{3}"(?P<name>.*?)":\s*(?P<value>.*)', re.DOTALL)
_NESTED = re.compile(_INDENT + r'{4}"(?P<name>.*?)":\s*(?P<value>.*)', re.DOTALL)
_BEGINS = re.compile(_INDENT + r'{1,4}["}\]]')
_LITERAL = re.compile(r'^ {12}"[^"\n]*":".*\\.*$', re.MULTILINE)
_ESCAPE = re.compile(r"\\(u[0-9A-Fa-f]{4}|.)", re.DOTALL)
_ESCAPES: Mapping[str, str] = {"n": "\n", "t": "\t", "r": "\r", "f": "\f", "b": "\b", '"': '"', "\\": "\\", "/": "/"}


def decoded(output: bytes) -> str:
    """Return the text of what a command printed.

    23.06.06 shows each byte of a character beyond ASCII as a caret and the byte plus 64, which may well be a quote or a
    newline; a sequence that can be nothing else becomes that character again.
    """

    def character(match: re.Match[bytes]) -> bytes:
        raw = bytes((byte - 64) % 256 for byte in match[0][1::2])
        try:
            raw.decode()
        except UnicodeDecodeError:
            return match[0]
        return raw

    return _MANGLED.sub(character, output).decode("utf-8", "replace")


def items(text: str, section: str) -> list[tuple[str, Attributes]]:
    """Return the jobs, nodes or queues of all documents in the text, in order; an id twice is there twice.

    Args:
        text: What was printed: any number of documents, other lines before and between them.
        section: ``Jobs``, ``nodes``, ``Queue`` or ``Server``.

    Raises:
        ValueError: It is not an answer of PBS's.
    """
    found: list[tuple[str, Attributes]] = []
    broken = 0
    if text.count(",") > _MAX_VALUES or text.count("\n") > _MAX_LINES:
        raise ValueError("too many values")
    for chunk in _DOCUMENT.split(text):
        if not chunk.startswith("{"):
            continue
        if len(chunk) < _LEAST_CHECKED or max(map(len, chunk.split("\n"))) <= _MAX_LINE:
            chunk = _LITERAL.sub(_with_backslashes, chunk)
        document = _strict(chunk)
        if document is None:
            broken += 1
            if broken > _MAX_BROKEN:
                raise ValueError("too many documents that are none")
            found += _salvaged(chunk, section)
            continue
        entries = document.get(section)
        if isinstance(entries, dict):
            found += [(name, entry) for name, entry in entries.items() if isinstance(entry, dict)]
    return found


_TIMESTAMP = re.compile(r'^\s{1,4}"timestamp":\s*(\d{1,12})\b', re.MULTILINE)


def timestamp(text: str) -> int | None:
    """Return when the (first) document was made, in Unix seconds."""
    match = _TIMESTAMP.search(text)
    return int(match[1]) if match else None


def _with_backslashes(match: re.Match[str]) -> str:
    """Escape backslashes that 23.06.06 leaves as they are in a job's own attributes (not in its variables)."""
    return re.sub(r'\\(?!["ntr])', r"\\\\", match[0])


def _strict(text: str) -> Attributes | None:
    try:
        loaded = decoded_in_turns(text, strict=False, parse_int=str, parse_float=str, parse_constant=str)
        return _textual(loaded) if isinstance(loaded, dict) else None
    except (ValueError, RecursionError):
        return None


def _textual(value: Any) -> Any:
    match value:
        case dict():
            return {name: _textual(item) for name, item in value.items()}
        case list():
            return [_textual(item) for item in value]
        case True:
            return "true"
        case False:
            return "false"
        case None:
            return "null"
    return value


def _salvaged(text: str, section: str) -> Iterator[tuple[str, Attributes]]:
    """Read a document that is not JSON by its indentation: item by item, strictly where an item is valid."""
    inside = False
    name: str | None = None
    lines: list[str] = []
    for line in [*_logical(text), "}"]:
        if match := _SECTION.fullmatch(line):
            inside = match["name"] == section
        starts = _ITEM.fullmatch(line) if inside else None
        if name is not None and (starts or _depth(line) < 3):
            yield name, _item(lines)
            name = None
        if starts:
            name, lines = _scalar(f'"{starts["name"]}"'), []
        elif name is not None:
            lines.append(line)


def _logical(text: str) -> Iterator[str]:
    """Yield the lines; one that begins neither a name nor an end goes on with the value before it."""
    held: str | None = None
    for line in text.split("\n"):
        if held is None or _BEGINS.match(line) or line.startswith(("{", "}")) or not line:
            if held is not None:
                yield held
            held = line
        else:
            held += "\n" + line
    if held is not None:
        yield held


def _depth(line: str) -> int:
    """Return by how many steps a line is indented; an end brace counts as deep as what it ends."""
    stripped = line.lstrip(" \t")
    if not stripped:
        return 9
    indent = line[: len(line) - len(stripped)]
    steps = indent.count("\t") + indent.count(" ") // 4
    return steps + 1 if stripped.startswith("}") and steps > 2 else steps


def _item(lines: Iterable[str]) -> Attributes:
    body = "\n".join(lines).rstrip().rstrip(",")
    strict = _strict("{" + body + "}")
    if strict is not None:
        return strict
    found: Attributes = {}
    nested: Attributes | None = None
    for line in body.split("\n") if "\n" not in body else _logical(body):
        if match := _NESTED.fullmatch(line):
            if nested is not None:
                nested[match["name"]] = _scalar(match["value"])
        elif match := _ATTRIBUTE.fullmatch(line):
            value = match["value"].strip()
            nested = None
            if value == "{":
                found[match["name"]] = nested = {}
            elif value.startswith("{"):
                found[match["name"]] = {}
            else:
                found[match["name"]] = _scalar(value)
    return found


def _scalar(value: str) -> str:
    value = value.rstrip().removesuffix(",").rstrip()
    if not value.startswith('"'):
        return value
    try:
        loaded = json.loads(with_whole_characters(value), strict=False)
        if isinstance(loaded, str):
            return loaded
    except (ValueError, RecursionError):
        pass
    inner = value[1:-1] if len(value) > 1 and value.endswith('"') else value[1:]
    return _ESCAPE.sub(_unescaped, inner)


def _unescaped(match: re.Match[str]) -> str:
    if match[1][0] == "u" and len(match[1]) == 5:
        character = chr(int(match[1][1:], 16))
        return "\N{REPLACEMENT CHARACTER}" if "\ud800" <= character <= "\udfff" else character
    return _ESCAPES.get(match[1], match[0])


# Text, as `qstat -f` and `pbs_rstat -F` print it.

_TEXT_ATTRIBUTE = re.compile(r" {0,4}(?P<name>[A-Za-z_][\w.]*) = (?P<value>.*)", re.DOTALL)


def blocks(text: str, title: str) -> list[tuple[str, dict[str, str]]]:
    """Return the attributes of each block of a text listing.

    Args:
        text: Blocks that begin with ``TITLE: NAME``; a line that begins with a tab goes on with the one before.
        title: ``Resv ID`` or ``Job Id``.
    """
    found: list[tuple[str, dict[str, str]]] = []
    for line in text.replace("\n\t", "").split("\n"):
        if line.startswith(title + ": "):
            found.append((line.removeprefix(title + ": ").strip(), {}))
        elif found and (match := _TEXT_ATTRIBUTE.fullmatch(line)):
            found[-1][1].setdefault(match["name"], match["value"])
    return found


# Reading attributes.


def text(attributes: Attributes, *path: str) -> str | None:
    """Return an attribute that is a text, or None if it is not there or empty.

    Args:
        attributes: Of a job, a node or a queue.
        path: The attribute's name, and the name of a resource or variable within it.
    """
    value: Value | None = attributes
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value if isinstance(value, str) and value else None
