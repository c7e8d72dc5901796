"""Which files the directives of a job's script name, for users who may reach some paths only.

A script's lines such as ``#SBATCH --output=/x`` are options of the command that submits it. They are read here more
strictly than any scheduler reads them: what is not known to name no file is refused, and where releases of schedulers
differ in how they read a line, each reading counts, or the line is refused.
"""

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

# Whichever scheduler it is: sbatch reads the lines of PBS and LSF, too.
_LINE = re.compile(r"[ \t]*:?#:?(SBATCH|PBS|BSUB)(.*)", re.DOTALL)
_MARK = re.compile(r"#:?(SBATCH|PBS|BSUB)")
# Burst buffers take files in and out as these lines say, before and behind the job (burst_buffer.conf(5)).
_STAGING = re.compile(r"[ \t]*#(BB|DW)")
# PBS goes on in the next line behind a backslash, whatever blanks follow it.
_CONTINUED = re.compile(r"\\[^\S\n]*\n")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_READ_DIFFERENTLY = re.compile(r"[\\`$]")
_OTHER_BLANKS = re.compile(r"[^\S \t]")
_LONGEST = 1000
"""Characters of a line. Some releases of PBS read a line of several thousand as two, and the second may be another."""


@dataclass(frozen=True, slots=True)
class Directives:
    """The options of a scheduler that a script may hold.

    Attributes:
        mark: What a line begins with after its ``#``.
        naming: The name of the option that gives the job its name.
        short: The letters of options, with their names; names of one letter may be left out.
        flags: The names of options without a value.
        harmless: The names of options with a value that is not a path.
        streams: The names of options whose value is a path of a standard stream.
        directories: The names of options whose value is a directory.
        words: What may stand alone.
        forbidden: Names of harmless options, with characters that would make their value name a file or another server.
        guides: Beginnings of the environment variables that tell the scheduler's commands files or servers; None, the
            default, says that any variable may.
    """

    mark: str
    naming: str
    short: Mapping[str, str] = field(default_factory=dict)
    flags: frozenset[str] = frozenset()
    harmless: frozenset[str] = frozenset()
    streams: frozenset[str] = frozenset()
    directories: frozenset[str] = frozenset()
    words: frozenset[str] = frozenset()
    forbidden: Mapping[str, str] = field(default_factory=dict)
    guides: tuple[str, ...] | None = None


class Unchecked(Exception):
    """Which files something of a submission names cannot be told; the text says of what."""


@dataclass(frozen=True, slots=True)
class Named:
    """What a script's directives name, as it is written there.

    Attributes:
        streams: Files of standard streams.
        directories: Working directories.
        named: Whether the job gets a name.
        slashed: Whether one of its names has a slash: that of a request is of a heterogeneous job's first part alone.
    """

    streams: tuple[str, ...]
    directories: tuple[str, ...]
    named: bool
    slashed: bool = False


def named(script: str, known: Directives) -> Named:
    """Return the files that a script's directives name.

    Lines count wherever they stand in the script, those behind the first command too.

    Raises:
        Unchecked: There is a directive that is not known, or not read the same by everybody.
    """
    streams: dict[str, None] = {}
    directories: dict[str, None] = {}
    names = slashed = False
    for line in dict.fromkeys([*script.split("\n"), *_CONTINUED.sub("", script).split("\n")]):
        for option, value in _options_of(line.removesuffix("\r"), known):
            if option in known.streams and value:
                streams[value] = None
            elif option in known.directories and value:
                directories[value] = None
            elif option not in known.flags | known.harmless or set(value) & set(known.forbidden.get(option, "")):
                raise Unchecked(_shown(line))
            names |= option == known.naming
            slashed |= option == known.naming and "/" in value
    return Named(tuple(streams), tuple(directories), names, slashed)


def _shown(line: str) -> str:
    return line.strip()[:200]


def _options_of(line: str, known: Directives) -> Iterator[tuple[str, str]]:
    """Yield the options of a line, those that it has in one reading only among them."""
    if _STAGING.match(line):
        raise Unchecked(_shown(line))
    if _MARK.search(line) is None:
        return
    if len(line) > _LONGEST or _CONTROL.search(line):
        raise Unchecked(_shown(line))
    match = _LINE.match(line)
    if match is None:
        return
    text = match[2]
    if match[1] != known.mark or _READ_DIFFERENTLY.search(text) or _OTHER_BLANKS.search(text):
        raise Unchecked(_shown(line))
    yield from _options(re.sub("[\"']", "", text).split(), known, _shown(line))
    if '"' in text or "'" in text:
        try:
            words = shlex.split(text)
        except ValueError:
            raise Unchecked(_shown(line)) from None
        yield from _options(words, known, _shown(line))


def _options(words: list[str], known: Directives, line: str) -> Iterator[tuple[str, str]]:
    """Yield whatever could be an option, even where it is another's value."""
    valued = known.streams | known.directories | known.forbidden.keys() | {known.naming}
    for index, word in enumerate(words):
        after = words[index + 1] if index + 1 < len(words) else ""
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            yield name, value if equals else after if name in valued else ""
        elif word.startswith("-") and len(word) > 1:
            name, value = known.short.get(word[1], word[1]), word[2:]
            # Flags in one word end where an option with a value begins, and not everywhere at the same letter.
            if value.startswith("=") or (name in known.flags and value.strip(word[1])):
                raise Unchecked(line)
            yield name, value or after
        elif index == 0 and word not in known.words:
            raise Unchecked(line)
