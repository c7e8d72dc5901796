"""The zoo's table as a page: what was tried, and what comes of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from tests.cluster import test_sites_scheduler as scheduler
from tests.sites import test_file_systems as file_systems
from tests.sites import test_hanging_home as hanging
from tests.sites import test_old_tools as old
from tests.sites.operations import OPERATIONS, VERBS
from tests.sites.surroundings import TOOLS, UMASKS, VARIABLES, Tools
from tests.sites.test_accounts import ACCOUNTS
from tests.sites.test_expiry import EXPIRED
from tests.sites.test_machines import SYSTEM_SHELLS
from tests.sites.test_other_start_up import SETTINGS, STARTS
from tests.sites.test_shells import BY_SFTP, FORCED, REFUSALS, SHELLS
from tests.sites.test_start_up import AMID_SFTP, HARMFUL, HARMLESS, WAYS

MAX = 60
"""Characters of a case's text that are shown."""
ALL, SOME = (", ".join(f"`{name}`" for name in table) for table in (VERBS, OPERATIONS))
INTRODUCTION = f"""\
# What your site may have

Between the gateway and the work stand things of your users' and of your site's: start-up files, shells, variables,
wrappers, versions of tools. Each row below is tried by the tests, on a real sshd and a real Slurm. *Right* means that
all operations give what they give without it. Otherwise the cell says what still does, and all else is answered with
the status and words that say why: nothing is stored in part, and no job is lost or made twice.

This page is made from the tables in `tests/sites` and `tests/cluster/test_sites_scheduler.py` by `make sites`. A case
of yours that is missing is one line there. `{{real}}` stands for the real program.

The operations are {ALL}.
Each row of start-up files, shells, accounts, variables and tools meets all of them. Only of start-up files in the way,
`make test` has each meet {SOME}, which stand for the ways in which things are started, and one file of each kind all
operations; `make test-deep` has each meet all.
The ways of file access are SFTP, an SFTP server that sshd has the login shell start, and commands (`ssh.files`)."""


def page() -> str:
    """Return the page's text."""
    return "\n".join([INTRODUCTION, *_start_up(), *_shells(), *_surroundings(), *_file_systems(), *_scheduler()]) + "\n"


def _start_up() -> Iterable[str]:
    yield from _heading(
        "Start-up files",
        "What `~/.bashrc` does before it comes to the command. It has `ssh.start_up_timeout` for that. Where it stands"
        " in the way, each operation that needs the shell is 424 and names the start-up file; others come right;"
        " nothing stays on the login node, and once the file is mended, everything works again.",
    )
    rows = [(name, _code(text), *(_harmless(name, way) for way in WAYS)) for name, text in HARMLESS.items()]
    rows += [(name, _code(text), *["right or 424"] * len(WAYS)) for name, text in HARMFUL.items()]
    yield from _table(("it", "for instance", *WAYS), rows)
    yield from _heading("Start-up files of other shells", "Those of zsh, csh and fish, and what sshd runs itself.")
    others = [
        (name, _code(one.file), _code(one.text), "right or 424" if one.harmful else "right")
        for name, one in STARTS.items()
    ]
    yield from _table(("it", "where", "for instance", "SFTP and commands"), others)


def _harmless(name: str, way: str) -> str:
    return "right or 424" if name in AMID_SFTP and "behind" in way else "right"


def _shells() -> Iterable[str]:
    yield from _heading("Login shells and accounts", "All else is 424, in the words of what refused it.")
    rows = [(_code(name), "right", "right") for name in SHELLS]
    rows += [(_code(name), _cell(BY_SFTP), "424") for name in REFUSALS]
    for command in FORCED:
        rows.append((_code(f"ForceCommand {command}"), _cell(BY_SFTP if command == "internal-sftp" else ()), "424"))
    rows += [(f"`{name}` as `/bin/sh`", "right", "right") for name in SYSTEM_SHELLS]
    rows += [(f"an sshd with {name}: {_code(text)}", "right", "right") for name, text in SETTINGS.items()]
    rows += [(f"an account with {name}", "right", "right") for name in ACCOUNTS]
    rows.append(("a banner of a megabyte", "right", "right"))
    rows.append(("a home that is not there", "right", "right"))
    rows += [
        (f"a file server that does not answer: {name}", "408 or 424, others and other files right", "the same")
        for name in hanging.CASES
    ]
    rows += [(f"PAM, for {name} has expired", "424", "424") for name in EXPIRED]
    rows.append(("PAM, for the password must be changed", "424", "424"))
    yield from _table(("login shell, or what sshd runs instead", "SFTP", "commands"), rows)


def _surroundings() -> Iterable[str]:
    yield from _heading("Variables", "Whatever of these a start-up file exports, all operations come right.")
    yield from _table(
        ("variables", "for instance"),
        [(name, _exports(one)) for name, one in VARIABLES.items()],
    )
    yield from ("", f"So they do with a umask of {', '.join(f'`{umask}`' for umask in UMASKS)}.")
    yield from _heading("Tools", "What stands before the login node's own on the users' PATH.")
    rows = [(name, " ".join(map(_code, tools.shims)), _outcome(tools)) for name, tools in TOOLS.items()]
    for name in old.TOOLS:
        programs = {"busybox": old.BUSYBOX, "2014": tuple(old.SINCE)}.get(name, ("tar",))
        rows.append((f"those of {name}", " ".join(map(_code, programs)), "right"))
    yield from _table(("tools", "which", "what comes of it"), rows)
    yield from _heading(
        "The oldest tools",
        "What login nodes have had since 2012 to 2014, CentOS 7 for one, is enough: GNU coreutils 8.20, tar 1.26,"
        " findutils 4.5.11, grep 2.20, file 5.11, and any POSIX shell. perl and python3 are used where they are there."
        " What came after coreutils 8.22, or after those, is used nowhere, or only where it is found to be known. The"
        " tests refuse it by these patterns:",
    )
    yield from _table(
        ("tool", "refused, with the version that it came with"),
        [
            (_code(tool), ", ".join(f"{_code(words)} ({version})" for version, words in later.items()))
            for tool, later in old.SINCE.items()
            if later
        ],
    )


def _file_systems() -> Iterable[str]:
    yield from _heading(
        "File systems that fail",
        "Over quota, served by NFS, Lustre, GPFS or autofs, or of few abilities: played by a file system of FUSE that"
        " gives these errors to these calls, some only where a file is closed. In all ways of file access: what was"
        " there before stays whole, nothing is left behind, and the same request comes right once the fault has gone."
        " Where a part of a resumable upload is lost, even amid the file, the client is told to send that part again.",
    )
    rows = [
        (
            name,
            _code(", ".join(f"{call}: {what}" for call, what in fault.faults.items())),
            ", ".join(_code(operation.__name__) for operation in fault.operations),
            "right" if fault.status is None else f"{fault.status}: {fault.words}",
        )
        for name, fault in file_systems.FAULTS.items()
    ]
    yield from _table(("it", "for instance", "for", "what comes of it"), rows)


def _scheduler() -> Iterable[str]:
    yield from _heading("Slurm: the users' own variables", "They change nothing of what jobs are seen or cancelled.")
    rows = [(name, _exports(one)) for name, one in scheduler.VARIABLES.items()]
    yield from _table(("variables", "for instance"), rows)
    yield from _heading("Slurm: wrappers around sbatch", "What a site has put in sbatch's place.")
    wrappers = scheduler.WRAPPERS | scheduler.TRACKED
    answers = [(name, _code(text), "201 with the id") for name, text in wrappers.items()]
    answers += [(f"a submission that waits, {name}", "`--wait`", "201 with the id") for name in scheduler.WAITS]
    answers += [(name, _code(text), "400 in its words") for name, (text, _) in scheduler.REFUSALS.items()]
    answers += [(name, _code(text), "503, and nothing is submitted") for name, text in scheduler.BUSY.items()]
    yield from _table(("it", "for instance", "what comes of it"), answers)
    yield from _heading("Slurm: wrappers around what is asked", "Jobs are seen and cancelled all the same.")
    queries = [(name, _code(next(iter(shims.values())))) for name, shims in scheduler.QUERIES.items()]
    yield from _table(("it", "for instance"), queries)
    yield from _heading(
        "Slurm: lists that break off",
        "Squeue or sacct prints a part of its list, or rows that cannot be read, and ends well, and nobody else knows"
        " the job. What is not in such a list may exist: 503 with Retry-After, never an empty list, never 404. If the"
        " other source answers, its jobs are shown, and `X-Hpcgate-Jobs-Missing` says which one is missing.",
    )
    partial = [(name, _code(next(iter(shims.values()))), "503") for name, shims in scheduler.PARTIAL.items()]
    yield from _table(("it", "for instance", "what comes of it"), partial)
    yield from _heading(
        "Slurm: tools that refuse",
        "Squeue and sacct, scontrol, id, for `GET jobs`, `/status/…/nodes`, `partitions`, `reservations`, `userinfo`.",
    )
    refusals = [(name, _code(text), "503, 501 or 424, in its words") for name, (text, _) in scheduler.REFUSING.items()]
    yield from _table(("it", "for instance", "what comes of it"), refusals)
    yield from _heading("Slurm: scancel and sacctmgr", "What a site has put in their place.")
    answers = [
        (f"scancel: {name}", _code(text), str(code)) for name, (text, code, _) in scheduler.CANCELLATIONS.items()
    ]
    answers += [(f"sacctmgr: {name}", _code(text), "200 without accounts") for name, text in scheduler.SACCTMGR.items()]
    yield from _table(("it", "for instance", "what comes of it"), answers)


def _outcome(tools: Tools) -> str:
    if not tools.fails:
        return "right"
    return ", ".join(f"`{name}`: `{words}`" for name, words in tools.fails.items()) + "; the rest right"


def _exports(variables: Mapping[str, str]) -> str:
    if not variables:
        return "all that the manual pages list"
    return _code(" ".join(f"{name}={value}" for name, value in variables.items()))


def _heading(title: str, text: str) -> Iterable[str]:
    yield from ("", f"## {title}", "", *([text, ""] if text else []))


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> Iterable[str]:
    head = list(head)
    yield "| " + " | ".join(head) + " |"
    yield "|" + "---|" * len(head)
    for row in rows:
        yield "| " + " | ".join(row) + " |"


def _cell(right: Iterable[str]) -> str:
    names = set(right)
    if names == set(VERBS):
        return "right"
    return ", ".join(f"`{name}`" for name in VERBS if name in names) or "424"


def _code(text: str) -> str:
    shown = " ".join(text.replace("`", "'").split())
    return "`" + (shown if len(shown) <= MAX else shown[:MAX] + " ...").replace("|", "\\|") + "`"
