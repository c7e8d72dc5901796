"""Files that give users their local names."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated

from pydantic import AfterValidator

from hpcgate.config.files import read
from hpcgate.config.values import ReadableFile

MAX_FILE = 16 * 1024 * 1024
"""Most bytes of a file of names."""


class NoNames(ValueError):
    """The file cannot be used; the message says why and quotes none of it."""


def parse_names(text: str) -> Mapping[str, str]:
    """Read the lines of a file: a claim's value, in double quotes if it holds blanks, and the local name.

    Empty lines and those that begin with ``#`` do not count.

    Raises:
        NoNames: A line is not of that form, or a value is there twice.
    """
    names: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        try:
            words = shlex.split(line, comments=line.lstrip().startswith("#"))
        except ValueError:
            words = [""]
        if not words:
            continue
        if len(words) != 2 or not all(words):
            raise NoNames(f"line {number} is not a value and a name")
        if words[0] in names:
            raise NoNames(f"line {number} repeats the value of an earlier one")
        names[words[0]] = words[1]
    return MappingProxyType(names)


def _good(value: str) -> str:
    try:
        parse_names(read(Path(value), MAX_FILE).decode())
    except OSError as error:
        raise ValueError(f"cannot read {value}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{value} is not UTF-8 text") from None
    except NoNames as error:
        raise ValueError(f"{value}: {error}") from None
    return value


NamesFile = Annotated[ReadableFile, AfterValidator(_good)]
