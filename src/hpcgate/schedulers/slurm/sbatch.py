"""sbatch: submission.

The script and the environment go through standard input: ``--export`` cannot carry a comma, and a command line shows in
the process list and has a limit of 128 KiB. So a few lines of shell read the variables, set them for sbatch alone, and
leave the rest of the input, the script, to it. The input is a file (`hpcgate.schedulers.submitting`), of which they
read no byte too many.

What is called sbatch may be a site's wrapper, which prints what it likes around the job's id, or instead of it. So the
job gets a tag in its comment by which the controller itself can say what its id is. https://slurm.schedmd.com/sbatch.html
"""

import re
import secrets
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from hpcgate.errors import BadRequest
from hpcgate.outbound.wording import clipped
from hpcgate.schedulers.base import JobDescription
from hpcgate.schedulers.dry_run import DryRun
from hpcgate.schedulers.keeper import Direct
from hpcgate.schedulers.slurm import attributes, squeue, values
from hpcgate.schedulers.slurm.delimiters import parse_rows
from hpcgate.schedulers.slurm.job_ids import JobId
from hpcgate.schedulers.slurm.variables import SUBMITTING
from hpcgate.schedulers.submitting import uncoloured
from hpcgate.schedulers.variables import LOGIN, check_variable
from hpcgate.ssh.commands.quoting import KEEPING_FUNCTIONS, WHOLE_PATH, as_text

_OPTIONS: Mapping[str, str] = {
    "name": "job-name",
    "account": "account",
    "reservation": "reservation",
    "partition": "partition",
    "constraints": "constraint",
    "working_directory": "chdir",
    "standard_input": "input",
    "standard_output": "output",
    "standard_error": "error",
}

NO_PROGRAM = 67
"""Exit status if what is called sbatch is a script, which may take no notice of ``--test-only``."""

NO_DIRECTORY = 66
"""Exit status if the working directory cannot be entered."""

_TOOLS = "cd ls printf read test [ command date dd grep env sbatch"
_PATH = f"_hpcgate_path=$PATH; {WHOLE_PATH}"
_CD = (
    'cd -- "$1" >/dev/null 2>&1 || { _hpcgate_why=$(ls -d -- "$1/." 2>&1 >/dev/null); '
    'printf "cd: %s: %s\\n" "$1" "${_hpcgate_why##*: }"; exit ' + str(NO_DIRECTORY) + "; }; "
)

_ENTER = (
    # What the user's shell has exported is for the job, but for what is called here. Not every shell says why it cannot
    # enter a directory; ls does.
    f"{KEEPING_FUNCTIONS}{_TOOLS}; {_PATH}exec 2>&1; {_CD}"
)

_FIND = (
    f"unset {' '.join((*LOGIN, *SUBMITTING))}; "
    "_hpcgate_tool=$(command -v sbatch) || _hpcgate_tool=sbatch; "
    "_hpcgate_kind=wrapper; _hpcgate_magic=; "
    'case $_hpcgate_tool in (/*) { IFS= read -r _hpcgate_magic <"$_hpcgate_tool"; } 2>/dev/null; '
    "case $_hpcgate_magic in (\"$(printf '\\177')ELF\"*) _hpcgate_kind=program;; esac;; esac; "
)

_SAY = (
    "_hpcgate_since=; test $_hpcgate_kind = program || _hpcgate_since=$(date +%s); "
    'printf "%s %s %s\\n" "$2" "$_hpcgate_kind" "$_hpcgate_since"; _hpcgate_comment=$3; '
    'if [ -n "$4" ] && grep -q "^#SBATCH.*--com[a-z]*[= ]" -- "$4"; then _hpcgate_comment=; fi 2>/dev/null; '
)

_EXEC = 'exec env -u LC_ALL -u LANGUAGE "PATH=$_hpcgate_path" "$@"'

_READER = (
    f"{_ENTER}{_FIND}{_SAY}shift 4; "
    'if [ -n "$_hpcgate_comment" ]; then set -- "--comment=$_hpcgate_comment" "$@"; fi; '
    'set -- "$_hpcgate_tool" "$@"; read -r _hpcgate_size; '
    'if [ "$_hpcgate_size" -gt 0 ]; then eval "set -- $(dd bs="$_hpcgate_size" count=1 2>/dev/null) \\"\\$@\\""; fi; '
    f"{_EXEC}"
)
"""sbatch itself takes a working directory that does not exist, and the job then dies without a word.

``sbatch`` is looked up before a PATH of the job can hide it. A comment that a script at a path asks for stays as it is.
LC_ALL and LANGUAGE are the gateway's own, for messages that can be matched. The shell's variables have names that no
user exports: an exported variable that is set here would reach the job.
"""


_TESTER = _READER.replace("exec env", f"test $_hpcgate_kind = program || exit {NO_PROGRAM}; exec env")

_ONE = "_hpcgate_sbatch"

PRELUDE = (
    f"unset -f {_TOOLS}; {_PATH}{_FIND}{_ONE}() {{ {_CD}{_SAY}"
    "_hpcgate_size=$5 _hpcgate_by=$6; shift 6; "
    'set -- "$@" "$_hpcgate_tool"; '
    'if [ -n "$_hpcgate_comment" ]; then set -- "$@" "--comment=$_hpcgate_comment"; fi; '
    'while [ "$_hpcgate_size" -gt 0 ]; do set -- "$@" "$1"; shift; _hpcgate_size=$((_hpcgate_size - 1)); done; '
    # The variables of the job's own stand first. env costs as much as a third of what sbatch does.
    'case $_hpcgate_kind$_hpcgate_by in (program) unset LC_ALL LANGUAGE; export PATH="$_hpcgate_path"; '
    'while [ "$1" != "$_hpcgate_tool" ]; do export "$1"; shift; done; '
    'exec ${_hpcgate_apart:+"$_hpcgate_apart"} "$@" ;; esac; '
    # What is to go on whatever becomes of the others says so.
    'exec ${_hpcgate_apart:+"$_hpcgate_apart"} env -u LC_ALL -u LANGUAGE "PATH=$_hpcgate_path" "$@"; }'
)
"""Defines, for many submissions by one shell, what does for each what `_READER` does, with few processes more than
sbatch. The options come first and then the variables, and change places."""

DIRECT = Direct(
    r"""
$how{_hpcgate_sbatch} = sub {
  my ($directory, $header, $comment, $unseen, $size, $by, @words) = @_;
  chdir $directory or said("cd: $directory: $!", NO_DIRECTORY);
  $ENV{PWD} = $directory;
  my @options = splice @words, 0, $size;
  if (length $unseen and open my $script, "<", $unseen) {
    while (<$script>) { if (/^#SBATCH.*--com[a-z]*[= ]/) { $comment = ""; last } }
  }
  unshift @options, "--comment=$comment" if length $comment;
  delete @ENV{"LC_ALL", "LANGUAGE"};
  $ENV{PATH} = $given{path};
  for (@words) { my ($name, $value) = split /=/, $_, 2; $ENV{$name} = $value }
  note("$header program ");
  become($given{tool}, @options);
};
""".replace("NO_DIRECTORY", str(NO_DIRECTORY)),
    given=("tool", "path"),
    unless="[ $_hpcgate_kind != program ]",
)
"""Does the same for the keeper of receipts."""


def entering_command(directory: bytes) -> list[str | bytes]:
    """Return the command that tries a working directory; if it cannot be entered, it says why on standard output."""
    return ["sh", "-c", _ENTER, "cd", directory]


_TAGGED = "hpcgate:"


@dataclass(frozen=True, slots=True)
class Tag:
    """What a submission is known by.

    Attributes:
        header: Stands before all that sbatch prints.
        comment: Is in the job's comment, if jobs are tagged.
    """

    header: str
    comment: str

    @classmethod
    def new(cls) -> "Tag":
        """Return one that was never used."""
        return cls(f"sbatch-{secrets.token_hex(8)}", f"{_TAGGED}{secrets.token_hex(8)}")

    @classmethod
    def marked(cls, mark: str) -> "Tag":
        """Return the one of a submission with a mark (`hpcgate.schedulers.receipts`)."""
        return cls(f"sbatch-{mark.removeprefix(_TAGGED)}", mark)


def command(job: JobDescription, tag: Tag, *, tagged: bool = True, script: str | None = None) -> list[str | bytes]:
    """Return the command that submits a job; its standard input is `stdin`.

    Each value is one argument together with its option's name, so that none can become an option.

    Args:
        job: The job.
        tag: What it is known by.
        tagged: Whether it is to have the tag.
        script: The beginning of the script at its path, whose own comment is kept beside the tag. Without it, the
            comment of such a script stays as it is.

    Raises:
        BadRequest: A value holds a NUL.
    """
    options = attributes.options(job.attributes)
    asked = options.pop("comment", None)
    own = asked or _own_comment((job.script if script is None else script) or "")
    comment = f"{own} {tag.comment}" if own else tag.comment
    # A comment that the request asks for does not stand behind that of a script at a path.
    unseen = (job.script_path or b"") if script is None and asked is None else b""
    arguments: list[str | bytes] = ["sh", "-c", _READER, "sbatch", job.working_directory, tag.header]
    arguments += [comment if tagged else asked or "", unseen, "--parsable"]
    for attribute, option in _OPTIONS.items():
        value = getattr(job, attribute)
        if value:
            arguments.append(_option(option, value))
    arguments += [f"--{option}" if value is None else f"--{option}={value}" for option, value in options.items()]
    if job.environment:
        # The default, said so that no directive or SBATCH_EXPORT takes the variables away that were asked for.
        arguments.append("--export=ALL")
    if job.script_path is not None:
        arguments += ["--", job.script_path]
    for argument in arguments:
        if isinstance(argument, str) and "\0" in argument:
            raise BadRequest(f"A NUL character cannot be submitted: {argument!r}")
    return arguments


def _option(name: str, value: str | bytes) -> str | bytes:
    return f"--{name}={value}" if isinstance(value, str) else b"--%b=%b" % (name.encode(), value)


_FIXED = 8
"""How many words of `command` stand before the options, some of them a user's own."""


def test_command(job: JobDescription, tag: Tag) -> list[str | bytes]:
    """Return the command that asks sbatch what would become of a job; its standard input is `stdin`.

    A script in sbatch's place is not run: it may submit the job all the same.
    """
    argv = command(job, tag, tagged=False)
    place = argv.index("--parsable", _FIXED)
    return [*argv[:2], _TESTER, *argv[3 : place + 1], "--test-only", *argv[place + 1 :]]


def options(job: JobDescription) -> tuple[str, ...]:
    """Return the options with which a job is submitted, but for what the gateway adds for itself."""
    argv = command(job, Tag.new(), tagged=False)
    return tuple(map(as_text, argv[argv.index("--parsable", _FIXED) + 1 :]))


TEST_ENVIRONMENT: Mapping[str, str] = {"SLURM_TIME_FORMAT": "%s"}
"""slurm_make_time_str of Slurm's own: times in Unix seconds."""

# 26.05 has a letter behind the time.
_EXPECTED = re.compile(
    r"Job \d+ to start at (?P<start>\S+)(?: \S+)? using (?P<processors>\d+) processors on nodes (?P<nodes>\S+)"
    r" in partition (?P<partition>\S+)"
)


_LAST_START = 253402300799
"""Unix seconds: the end of the year 9999. Behind jobs without a time limit Slurm expects a start many thousand years
later, which is a date that most programs cannot read, and says that none is expected."""


def parse_test(said: "Said", job: JobDescription) -> DryRun:
    """Return what sbatch expects of a job."""
    match = _EXPECTED.search(said.words)
    if match is None:
        return DryRun(job.script, options(job), tested=True, warnings=said.remarks)
    start = values.integer(match["start"])
    return DryRun(
        job.script,
        options(job),
        tested=True,
        start=None if start is None or start > _LAST_START else start,
        nodes=match["nodes"],
        partition=match["partition"],
        processors=values.integer(match["processors"]),
        warnings=tuple(line for line in said.remarks if not _EXPECTED.search(line)),
    )


def many_command(job: JobDescription, tag: Tag, *, tagged: bool = True, script: str | None = None) -> list[str | bytes]:
    """Return the command behind `PRELUDE` that submits a job; its standard input is the script.

    Raises:
        BadRequest: A value holds a NUL, or a job cannot have one of the variables.
    """
    _, _, _, _, directory, header, comment, unseen, *options = command(job, tag, tagged=tagged, script=script)
    variables = _variables(job)
    by = "" if all(map(_UNSPECIAL.match, variables)) else "env"
    return [_ONE, directory, header, comment, unseen, str(len(options)), by, *options, *variables]


_UNSPECIAL = re.compile(
    r"(?!BASH_|COMP_|KSH_|LC_|POSIX|PROMPT_|READLINE_|SH_|TRY_|USER_|ZSH_)[A-Za-z][A-Za-z0-9]*_[A-Za-z0-9_]*="
)
"""Variables that mean nothing to any shell, which may thus set them by itself: bash alone has some fifty that it takes
no values for or does something at, all but a few without an underscore."""


def script_of(job: JobDescription) -> bytes:
    """Return the script as it is submitted.

    Raises:
        BadRequest: It is not Unicode.
    """
    try:
        return (job.script or "").encode()
    except UnicodeEncodeError as error:
        raise BadRequest(f"The script is not valid Unicode: {error.reason}") from error


def _variables(job: JobDescription) -> list[str]:
    words = []
    for name, value in {**job.default_environment, **job.environment}.items():
        check_variable(name, value)
        words.append(f"{name}={value}")
    return words


_HEAD = 64 * 1024
"""Bytes of a script in which a comment of its own is looked for."""


def head_command(job: JobDescription) -> list[str | bytes]:
    """Return the command that prints the beginning of the script at its path."""
    text = f'exec dd bs={_HEAD} count=1 <"$1" 2>/dev/null'
    return ["sh", "-c", text, "sbatch", job.script_path or b""]


_DIRECTIVE = re.compile(r"#SBATCH\s+(.*)")


def _own_comment(script: str) -> str:
    """Return the comment that a script asks for, or an empty text."""
    comment = ""
    for line in script.split("\n")[1:]:
        if line.strip() and not line.startswith("#"):
            break
        match = _DIRECTIVE.match(line)
        if match is None or "--com" not in line:
            continue
        try:
            words = iter(shlex.split(match[1], comments=True))
        except ValueError:
            continue
        for word in words:
            option, equals, value = word.partition("=")
            if len(option) >= len("--com") and "--comment".startswith(option):
                comment = value if equals else next(words, "")
    return comment


_WAITS = re.compile(r"^#SBATCH\s.*(?:--wait|-[A-Za-z]*W)", re.MULTILINE)


def waits(script: str) -> bool:
    """Return whether a script may ask sbatch to wait for its end."""
    return _WAITS.search(script) is not None


def stdin(job: JobDescription) -> bytes:
    """Return what `command` reads: a line with the size in bytes of the variables, these, and the script.

    The variables are words of shell, quoted, so that nothing in them has a meaning.

    Raises:
        BadRequest: A job cannot have one of the variables, or the script is not Unicode.
    """
    variables = " ".join(map(shlex.quote, _variables(job))).encode()
    return b"%d\n%b%b" % (len(variables), variables, script_of(job))


_LONGEST_REMARK = 1000
"""Characters of one that a user is told."""
_MOST_REMARKS = 20


@dataclass(frozen=True, slots=True)
class Said:
    """What was printed about a submission.

    Attributes:
        began: Whether it came so far as to run sbatch.
        program: Whether it was Slurm's own sbatch that printed it, and not a script in its place.
        since: The login node's clock before a script in its place was started, in Unix seconds.
        words: All of it.
        jobs: What may be a job's id, with the name of another cluster if one stands with it; each once, in order.
    """

    began: bool
    program: bool
    since: int | None
    words: str
    jobs: tuple[tuple[str, str | None], ...]

    @property
    def remarks(self) -> tuple[str, ...]:
        """What sbatch itself has said beside the id: its warnings, and what a site's plug-ins tell users."""
        if not self.program:
            return ()
        lines = (line.removeprefix("sbatch: ") for line in self.words.split("\n") if line.startswith("sbatch: "))
        return tuple(clipped(line, _LONGEST_REMARK) for line in dict.fromkeys(lines) if line.strip())[:_MOST_REMARKS]


_PARSABLE = re.compile(r"\s*([0-9]{1,10})(?:;([^\s;]+))?\s*")
_SENTENCE = re.compile(r"Submitted batch job ([0-9]{1,10})(?: on cluster (\S+))?")
_SHELL = re.compile(r"^(?:sbatch|sh): (?:line )?\d+: ", re.MULTILINE)


def parse(output: str, tag: Tag) -> Said:
    """Return what was printed, colours and whatever stands before the header left out."""
    before, header, after = output.partition(tag.header)
    head, _, printed = after.partition("\n")
    kind, _, since = head.strip().partition(" ")
    words = uncoloured(printed if header else before).strip()
    found: dict[tuple[str, str | None], None] = {}
    for line in words.split("\n"):
        match = _PARSABLE.fullmatch(line) or _SENTENCE.search(line)
        if match is not None and match[1].strip("0"):
            found[match[1].lstrip("0"), match[2]] = None
    return Said(bool(header), kind == "program", values.integer(since), _SHELL.sub("", words), tuple(found))


# Finding out from the controller.


@dataclass(frozen=True, slots=True)
class Candidate:
    """A job of the user's in the queue.

    Attributes:
        base: The id that a submission gives.
        submitted: Unix seconds.
        directory: Its working directory.
        comment: Its comment.
    """

    base: str
    submitted: int
    directory: str
    comment: str


_COLUMNS = ("%i", "%V", "%Z", "%k")


def queue_command(username: str, mark: str) -> list[str]:
    """Return the command that lists what is needed to find a job by its tag, of all jobs of a user."""
    return ["squeue", "--all", "--states=all", f"--user={username}", f"--format={squeue.format_of(_COLUMNS, mark)}"]


def parse_queue(text: str, mark: str) -> list[Candidate]:
    """Return what `queue_command` printed."""

    def candidate(row: Sequence[str]) -> Candidate:
        job_id = JobId.read(row[0])
        if job_id is None:
            raise ValueError("no job")
        return Candidate(job_id.base, values.integer(row[1]) or 0, row[2], row[3])

    return parse_rows("squeue", squeue.rows_of(text, mark), len(_COLUMNS), candidate)


CLOCKS = 2
"""Seconds by which the clocks of a login node and of the controller may differ."""


def chosen(queue: Iterable[Candidate], said: Said, tag: Tag, job: JobDescription) -> str | None:
    """Return the id of the job that was submitted, None if it is not in the queue or cannot be told from others.

    It is the one with the tag. A wrapper may drop the comment: then, of those without any tag, it is the one whose id
    was printed and that was submitted since; and if no id was printed, but that something was submitted, the only one
    since in its directory.
    """
    jobs = list(queue)
    printed = {job_id for job_id, cluster in said.jobs if cluster is None}
    tagged = list(dict.fromkeys(found.base for found in jobs if tag.comment in found.comment))
    if tagged:
        return next((base for base in tagged if base in printed), tagged[0])
    if said.since is None:
        return None
    recent = [found for found in jobs if found.submitted >= said.since - CLOCKS and _TAGGED not in found.comment]
    named = {found.base for found in recent if found.base in printed}
    if not named and re.search("submitted|queued", said.words, re.IGNORECASE):
        named = {found.base for found in recent if found.directory == job.working_directory.text}
    return named.pop() if len(named) == 1 else None
