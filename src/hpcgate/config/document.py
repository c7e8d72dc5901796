"""Read YAML into plain values, with every mistake of form that a parser would pass over in silence."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from hpcgate.config.files import read_text
from hpcgate.config.mistakes import WHOLE_FILE, Location, Mistake, dotted


def read_document(path: Path) -> tuple[Any, list[Mistake]]:
    """Return the one document of a YAML file, and the mistakes of form in it; None where it cannot be read."""
    try:
        text = read_text(path, encoding="utf-8-sig")
    except OSError as error:
        return None, [Mistake(path, WHOLE_FILE, f"cannot be read: {error.strerror or type(error).__name__}")]
    except UnicodeDecodeError:
        return None, [Mistake(path, WHOLE_FILE, "cannot be read: not UTF-8 text")]
    try:
        loader = yaml.SafeLoader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None, [Mistake(path, WHOLE_FILE, "is empty")]
            mistakes = [
                Mistake(path, dotted(location), f"{what} (line {line})") for location, what, line in _form(node, (), ())
            ]
            if any("within itself" in mistake.message for mistake in mistakes):
                return None, mistakes
            return loader.construct_document(node), mistakes
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        # str(error) would quote the line, and with it perhaps a secret.
        mark = error.problem_mark or error.context_mark
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        what = error.problem or error.context or "cannot be parsed"
        return None, [Mistake(path, WHOLE_FILE, f"is not YAML: {what}{where}")]
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        return None, [Mistake(path, WHOLE_FILE, f"is not YAML: {error.reason}, line {line}")]
    except (RecursionError, ValueError, OverflowError):
        # PyYAML lets through what Python says of a date like 2024-99-99 or of nesting without end.
        return None, [Mistake(path, WHOLE_FILE, "is not YAML that can be read: impossible value or nesting too deep")]


def _form(node: yaml.Node, location: Location, above: tuple[int, ...]) -> Iterator[tuple[Location, str, int]]:
    """Yield location, what is wrong and line (from 1) of keys given twice and of anchors within themselves."""
    if id(node) in above:
        yield location, "refers to an anchor within itself", node.start_mark.line + 1
        return
    above = (*above, id(node))
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield from _form(item, (*location, index), above)
    elif isinstance(node, yaml.MappingNode):
        lines: dict[str, int] = {}
        for key, value in node.value:
            name = str(key.value) if isinstance(key, yaml.ScalarNode) else "?"
            here = (*location, name)
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if name in lines:
                    yield here, f"is given twice, first in line {lines[name]}", key.start_mark.line + 1
                lines.setdefault(name, key.start_mark.line + 1)
            yield from _form(value, here, above)
