"""Print docs/users/job-fields.md anew: its table is what each scheduler's own table makes of an example.

Run it by ``make job-fields``.
"""

import json
from pathlib import Path

from hpcgate.errors import NotSupported
from hpcgate.schedulers.base import JobDescription
from hpcgate.schedulers.job_spec import FIELDS, JobAttributes
from hpcgate.schedulers.pbs import attributes as pbs
from hpcgate.schedulers.pbs import qsub
from hpcgate.schedulers.slurm import attributes as slurm
from hpcgate.schedulers.slurm.rest import submission
from hpcgate.schedulers.slurm.rest.versions import VERSIONS, ApiVersion
from hpcgate.ssh.commands.quoting import as_text
from tests.schedulers.described import described
from tests.schedulers.job_examples import EXAMPLES

PAGE = Path(__file__).parents[2] / "docs" / "users" / "job-fields.md"
BEGIN, END = "<!-- the table: make job-fields -->", "<!-- end of the table -->"
_SCRIPT = "#!/bin/sh\n"


def page() -> str:
    """Return the page with its table made anew."""
    text = PAGE.read_text()
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n\n{table()}\n{END}{tail}"


def table() -> str:
    """Return the table."""
    lines = [
        "| field | sbatch | slurmrestd | qsub of OpenPBS |",
        "|---|---|---|---|",
    ]
    for field in FIELDS:
        example = EXAMPLES[field]
        cells = (f"`{field}`", _sbatch(field, example), _rest(example), _qsub(field, example))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _job(attributes: JobAttributes) -> JobDescription:
    return described("/", script=_SCRIPT, attributes=attributes)


def _sbatch(field: str, example: JobAttributes) -> str:
    try:
        options = slurm.options(example)
    except NotSupported:
        return "501"
    words = [f"--{name}" if value is None else f"--{name}={value}" for name, value in options.items()]
    found = next((row for row in slurm.TABLE if row.field == field), None)
    shown = f"`{' '.join(words)}`"
    return shown if found is None else f"[{shown}]({found.manual})"


def _rest(example: JobAttributes) -> str:
    """Return the request's field, with the versions in which it is another or none."""
    made: dict[str, list[int]] = {}
    for version in VERSIONS.values():
        made.setdefault(_body(example, version), []).append(version.number)
    return "<br>".join(f"{shown}{_span(numbers)}" for shown, numbers in made.items())


def _span(numbers: list[int]) -> str:
    if len(numbers) == len(VERSIONS):
        return ""
    first, last = f"v0.0.{numbers[0]}", f"v0.0.{numbers[-1]}"
    if numbers[-1] == max(VERSIONS):
        return f" from {first} on"
    return f" in {first}" if first == last else f" in {first} to {last}"


def _body(example: JobAttributes, version: ApiVersion) -> str:
    try:
        body = submission.body(_job(example), "alice", version)["job"]
    except NotSupported:
        return "501"
    plain = submission.body(_job(JobAttributes()), "alice", version)["job"]
    return f"`{', '.join(sorted(name for name in body if name not in plain))}`"


def _qsub(field: str, example: JobAttributes) -> str:
    try:
        argv = qsub.command(_job(example), _SCRIPT.encode())
    except NotSupported:
        return "501"
    words = list(map(as_text, argv[argv.index("-f") + 1 :]))
    if example.begin is not None:
        words += ["-a", "CCYYMMDDhhmm.SS"]
    shown = " ".join(word if word.isascii() and " " not in word else json.dumps(word) for word in words)
    manual = next((row.manual for row in pbs.TABLE if row.field == field), "")
    return f"`{shown}`, {manual}" if manual else f"`{shown}`, qsub(1B)"


if __name__ == "__main__":
    print(page(), end="")
