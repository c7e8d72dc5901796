"""The ``#SBATCH`` lines of a script.

sbatch reads them; slurmrestd does not, and a job would run without a word about what its script asked for. So they are
read here as sbatch reads them and become fields of the request. https://slurm.schedmd.com/sbatch.html
"""

import re
import shlex
from collections.abc import Iterator, Mapping

from hpcgate.errors import NotSupported, SubmissionRefused
from hpcgate.outbound.wording import clipped

_SHORT: Mapping[str, str] = {
    "A": "account", "a": "array", "b": "begin", "C": "constraint", "c": "cpus-per-task", "D": "chdir",
    "d": "dependency", "e": "error", "G": "gpus", "H": "hold", "i": "input", "J": "job-name", "L": "licenses",
    "N": "nodes", "n": "ntasks", "o": "output", "p": "partition", "Q": "quiet", "q": "qos", "t": "time",
    "v": "verbose", "W": "wait",
}  # fmt: skip

FLAGS = frozenset({"hold", "requeue", "no-requeue", "quiet", "verbose", "parsable", "wait"})
"""Options without a value."""

OPTIONAL = frozenset({"exclusive", "nice"})
"""Options whose value may be left out, and then can only stand after an equals sign."""

ABOUT_SBATCH = frozenset({"quiet", "verbose", "parsable", "wait"})
"""Options that change what sbatch prints and when it ends, and nothing else."""

VALUED = frozenset(
    {
        "account", "array", "begin", "comment", "constraint", "chdir", "cpus-per-task", "dependency", "error", "export",
        "gpus", "gpus-per-node", "gpus-per-task", "gres", "input", "job-name", "licenses", "mail-type", "mail-user",
        "mem", "mem-per-cpu", "nodes", "ntasks", "ntasks-per-node", "open-mode", "output", "partition", "qos",
        "reservation", "time", "time-min", "wckey",
    }
)  # fmt: skip
"""Options with a value that a request of slurmrestd can carry."""

_LINE = re.compile(r"#SBATCH(?=\s|$)(.*)")


def directives(script: str) -> dict[str, str]:
    """Return the options of a script's directives, by their long names; the last of a name counts.

    Directives end at the first line that is neither empty nor a comment.

    Raises:
        NotSupported: An option that a request cannot carry.
        SubmissionRefused: A line that cannot be read.
    """
    found: dict[str, str] = {}
    for line in script.split("\n")[1:]:
        stripped = line.strip()
        if stripped and not stripped.startswith("#"):
            break
        match = _LINE.match(line)
        if match is None:
            continue
        try:
            words = shlex.split(match[1], comments=True)
        except ValueError as error:
            raise SubmissionRefused(f"Cannot read the directive {clipped(line, 200)!r}: {error}") from error
        for name, value in _options(words):
            if name == "hetjob" or name not in FLAGS | OPTIONAL | VALUED:
                raise NotSupported(f"The directive #SBATCH --{name} is not supported over slurmrestd")
            found[name] = value
    return {name: value for name, value in found.items() if name not in ABOUT_SBATCH}


def _options(words: list[str]) -> Iterator[tuple[str, str]]:
    rest = iter(words)
    for word in rest:
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            if not equals and name in VALUED:
                value = _next(rest, word)
            yield name, value
        elif word.startswith("-") and len(word) > 1:
            long = _SHORT.get(word[1])
            if long is None:
                raise NotSupported(f"The directive #SBATCH {word} is not supported over slurmrestd")
            if long in FLAGS:
                for letter in word[1:]:
                    yield _SHORT.get(letter, letter), ""
            else:
                yield long, word[2:].removeprefix("=") or _next(rest, word)
        elif word == "hetjob":
            yield word, ""
        else:
            raise SubmissionRefused(f"Not an option of sbatch: {word!r}")


def _next(words: Iterator[str], option: str) -> str:
    try:
        return next(words)
    except StopIteration:
        raise SubmissionRefused(f"The option {option} requires an argument") from None
