"""The table of caches in docs/security.md: each cache of the source stands in it, and each that it names is there."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.auth.test_two_tokens import CACHES

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src/hpcgate"
KEYED = frozenset({
    "dict", "OrderedDict", "defaultdict", "ChainMap", "WeakKeyDictionary", "WeakValueDictionary",
    "TTLCache", "LRUCache", "LFUCache", "Recent", "Flights",
})  # fmt: skip
"""What finds values by keys; a Counter only counts."""
MEMORIES = frozenset({"cache", "lru_cache", "cached_property", "alru_cache", "cached"})
"""Decorators that remember what a function returned."""

BOOKKEEPING = {
    "admission/queue.py:Admission._held": "how many requests each asker has",
    "admission/line.py:Line._by_length": "requests that wait, by who asks; gone with the last of them",
    "admission/line.py:Line.blocked": "requests that wait, by who asks; gone with the last of them",
    "admission/line.py:Line.queues": "requests that wait, by who asks; gone with the last of them",
    "api/fast_path.py:DirectRoutes._literal": "the routes",
    "api/fast_path.py:DirectRoutes._open": "the routes",
    "api/models/base.py:BodyParameters.unused": "fields of one model",
    "api/multipart.py:MultipartFile._headers": "the headers of one part",
    "api/remarks.py:Queries._known": "the routes, and the parameters of each",
    "ssh/survey.py:Surveyor._accepted": "what each machine proved, within one check",
    "ssh/survey.py:Surveyor._shown": "what each machine showed, within one check",
    "ssh/survey.py:Surveyor._turns": "the machines that are looked at, within one check",
    "diagnosis/system.py:Crowds._known": "how login nodes took a crowd, within one check",
    "config/old_format.py:Translation._origins": "where in one file a setting stood",
    "config/old_format.py:Translation.data": "one file",
    "errors.py:GatewayError.headers": "what one answer carries",
    "filesystem/base.py:Parameters._fields_by_name": "the names of one model's fields",
    "filesystem/slots.py:PathLocks._locks": "who writes where; gone with the writers",
    "filesystem/tus/registry.py:UploadRegistry._writers": "who writes which upload; gone with the writer",
    "health/maintenance.py:NoticeWatch._trouble": "which file's trouble was logged, one a system",
    "http/metrics.py:RequestMetrics._counted": "metrics, by routes and systems",
    "http/metrics.py:RequestMetrics._received": "metrics, by routes and systems",
    "http/metrics.py:RequestMetrics._sent": "metrics, by routes and systems",
    "outbound/client.py:HttpClient._headers": "what each request to one service carries",
    "gateway/background.py:Background._tasks": "what goes on by itself, by its name",
    "gateway/job_output.py:JobOutput.begun_at": "the files of one answer",
    "gateway/job_output.py:JobOutput.followers": "the files of one answer",
    "gateway/reload.py:Gateways._retiring": "gateways of before a reload, until they are closed",
    "schedulers/reads.py:_Batch.wanted": "who waits for one query, by job; within `_Generation`",
    "schedulers/reading.py:Reader._users": "whose answer is being read; gone with the reading",
    "schedulers/scripts.py:Scripts._read": "scripts at paths that jobs of one request name",
    "schedulers/scripts.py:Scripts._turns": "scripts at paths that jobs of one request name",
    "schedulers/slurm/sources.py:Absent.sources": "which sources answered one request",
    "server/sink.py:Ends._ends": "connections that were closed; gone with them",
    "sharing/flights.py:Flights._joined": "how many wait for what is under way; gone with the last of them",
    "sharing/flights.py:Flights._under_way": "each object that has one stands in the table by its own name",
    "sharing/recent.py:Recent._kept": "each object that has one stands in the table by its own name",
    "ssh/brake.py:Brake._trying": "who tries to log in; gone with the try",
    "ssh/places.py:Places.idle": "those of `Places.current` that nobody uses",
    "ssh/files/sftp_bulk.py:BulkSftp._extensions": "what one server says it can do",
    "ssh/files/sftp_bulk.py:BulkSftp._requests": "requests under way on one channel",
    "ssh/unsent.py:Unsent._held": "channels that wait until a connection has sent what is before them",
    "telemetry/containment.py:Faults._told": "which faults were logged, by places in the source",
    "telemetry/containment.py:Faults.counts": "metrics, by places in the source",
    "telemetry/journal.py:Journal.who": "who made one request",
    "telemetry/recorder.py:Recorder._by_stage": "metrics",
    "telemetry/recorder.py:Recorder._known": "metrics, by systems and operations",
    "telemetry/recorder.py:Recorder._tokens": "metrics, by kinds of refusals",
    "telemetry/tally.py:Counter._series": "metrics, by labels that no caller makes up",
    "telemetry/tally.py:Histogram._series": "metrics, by labels that no caller makes up",
    "telemetry/writer.py:Writers._by_name": "the logs of the process",
    "server/refusals.py:Lobby._turns": "connections that are left unread, by who asks; gone with the last of them",
    "server/refusals.py:Lobby._unread": "connections that are left unread; gone once they are read or lost",
    "gateway/job_events.py:JobEvents._ahead": "what one client has been told",
    "gateway/job_events.py:JobEvents._apart": "what one client has been told",
    "gateway/ledger.py:Ledger._base": "a user's jobs as one kind of token sees them, while somebody follows them",
    "gateway/ledger.py:Ledger._known": "a user's jobs as one kind of token sees them, while somebody follows them",
    "gateway/ledger.py:Ledger._tasks": "one user's arrays that wait, as the last list has them",
    "gateway/ledger.py:Ledger._missing": "those of them that the records do not know yet",
    "gateway/ledger.py:Ledger.behind": "those of them of which not all can be told yet",
    "gateway/watching.py:Poller.ledgers": "what becomes of users' jobs; gone with the last who follows them",
    "gateway/watching.py:Poller.watchers": "those who wait for jobs, by user; gone with the last of them",
    "gateway/watching.py:Watching._pollers": "who asks for whom, as long as somebody waits",
}
"""What is kept by keys and holds no answer for anybody else: who is there, what is counted."""


def finds(tree: ast.Module, path: str) -> Iterator[str]:
    """Return the names of all that a module keeps by keys for longer than a call."""
    for node in tree.body:
        yield from (f"{path}:{name}" for name in _remembering(node, in_class=False))
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=value) if _keyed(value) or _empty_set(value):
                yield f"{path}:{name}"
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value) if _keyed(value) or _empty_set(
                value
            ):
                yield f"{path}:{name}"
    for scope in ast.walk(tree):
        # What is frozen is a value, and dies with it.
        if isinstance(scope, ast.ClassDef) and "frozen=True" not in "".join(map(ast.unparse, scope.decorator_list)):
            yield from (f"{path}:{scope.name}.{name}" for name in _of_class(scope))


def _of_class(scope: ast.ClassDef) -> Iterator[str]:
    for node in scope.body:
        yield from _remembering(node, in_class=True)
        match node:
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value) if _keyed(value):
                yield name
            case ast.Assign(targets=[ast.Name(id=name)], value=value) if _keyed(value):
                yield name
    found = set()
    for part in ast.walk(scope):
        match part:
            case (
                ast.Assign(targets=[*targets], value=value) | ast.AnnAssign(target=targets, value=ast.expr() as value)
            ) if _keyed(value):
                found |= {
                    target.attr
                    for target in (targets if isinstance(targets, list) else [targets])
                    if isinstance(target, ast.Attribute)
                    and isinstance(target.value, ast.Name)
                    and target.value.id == "self"
                }
    yield from sorted(found)


def _remembering(node: ast.stmt, *, in_class: bool) -> Iterator[str]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        for decorator in node.decorator_list:
            called = isinstance(decorator, ast.Call)
            if _name(decorator.func if isinstance(decorator, ast.Call) else decorator) not in MEMORIES:
                continue
            if called and not in_class and isinstance(node, ast.FunctionDef):
                continue  # It has a bound, and what it gives is made of what it is asked alone.
            yield node.name


def _keyed(value: ast.expr) -> bool:
    match value:
        case ast.Dict(keys=[]):
            return True
        case ast.Call(func=func, keywords=keywords) if _name(func) == "field":
            return any(one.arg == "default_factory" and _name(one.value) in KEYED for one in keywords)
        case ast.Call(func=func):
            return _name(func) in KEYED
    return False


def _empty_set(value: ast.expr) -> bool:
    """Say whether a module fills a set later on; one of an object's is who is there."""
    return isinstance(value, ast.Call) and _name(value.func) == "set" and not value.args


def _name(node: ast.expr) -> str:
    if isinstance(node, ast.Subscript):
        return _name(node.value)
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def in_source() -> set[str]:
    return {
        name
        for path in sorted(SOURCE.rglob("*.py"))
        if not path.is_relative_to(SOURCE / "demo")
        for name in finds(ast.parse(path.read_text()), str(path.relative_to(SOURCE)))
    }


def rows() -> dict[tuple[str, ...], list[str]]:
    """Return the rows of the table by the names in their first cell."""
    section = (ROOT / "docs/security.md").read_text().partition("\n## Caches\n")[2].partition("\n## ")[0]
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line.startswith("|")
    ]
    return {tuple(re.findall(r"`([\w/]+\.py:[\w.]+)`", first)): rest for first, *rest in cells[2:]}


def test_each_cache_of_the_source_is_in_the_table() -> None:
    listed = {name for names in rows() for name in names}
    assert in_source() - listed - set(BOOKKEEPING) == set(), "a cache, or bookkeeping: say which, and why"
    assert not listed & set(BOOKKEEPING)


def test_what_the_table_and_the_list_name_is_there() -> None:
    found = in_source()
    assert set(BOOKKEEPING) <= found
    for names in rows():
        assert names
        for name in names:
            path, _, attribute = name.partition(":")
            assert name in found or re.search(rf"\b{attribute.rpartition('.')[2]}\b", (SOURCE / path).read_text()), name


def test_no_cell_is_empty() -> None:
    for names, cells in rows().items():
        assert len(cells) == 5, names
        assert all(cells), names


def test_each_cache_that_tokens_do_not_share_has_a_test() -> None:
    apart = {name for names, cells in rows().items() if cells[-1].startswith("apart") for name in names}
    assert apart == {name for names in CACHES for name in names}


@pytest.mark.parametrize(
    "text",
    [
        "class A:\n def __init__(self):\n  self.x: dict[str, int] = {}",
        "class A:\n def f(self):\n  self.x = OrderedDict()",
        "class A:\n def f(self):\n  self.x = collections.defaultdict(list)",
        "class A:\n def f(self):\n  self.x = TTLCache(10, ttl=5)",
        "class A:\n def f(self):\n  self.x = OrderedDict[str, int]()",
        "class A:\n x: dict[str, int] = field(default_factory=dict, repr=False)",
        "class A:\n x: dict[str, int] = {}",
        "class A:\n @cached_property\n def x(self): ...",
        "class A:\n @lru_cache(10)\n async def x(self): ...",
        "@functools.cache\ndef x(): ...",
        "@alru_cache(10)\nasync def x(): ...",
        "x = {}",
        "x: set[int] = set()",
        "x: dict[str, int] = dict()",
    ],
)
def test_caches_are_found(text: str) -> None:
    """Each way of writing a cache is found."""
    assert [found.rpartition(":")[2].rpartition(".")[2] for found in finds(ast.parse(text), "a.py")] == ["x"]


@pytest.mark.parametrize(
    "text",
    ["def f():\n x = {}", "x = {1: 2}", "class A:\n def f(self):\n  self.x = []", "@lru_cache(9)\ndef x(y): ..."],
)
def test_tables_and_what_a_call_keeps_are_none(text: str) -> None:
    assert not list(finds(ast.parse(text), "a.py"))
