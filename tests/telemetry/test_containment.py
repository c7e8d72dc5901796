"""What one connection, one timer or one part of the server's tick gets wrong ends nothing else, and is counted."""

import ast
import asyncio
import functools
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import uvicorn
import uvloop
from uvicorn.server import ServerState

import hpcgate
from hpcgate.admission.queue import Admission
from hpcgate.server.front import Front
from hpcgate.server.http_protocol import Http
from hpcgate.server.idleness import Rest
from hpcgate.server.lifecycle import Server, _Look
from hpcgate.telemetry import containment
from hpcgate.telemetry.containment import FAULTS, Faults, contained, kept, on_loop_error, reaped

SOURCE = Path(hpcgate.__file__).parent
ELSEWHERE = ("demo", "transfers/streamer_program.py", "transfers/wormhole_program.py", "cli", "diagnosis")
"""Programs of their own, and commands that do one thing and end."""

HOOKS = frozenset(
    {"add_done_callback", "add_reader", "add_signal_handler", "add_writer", "call_at", "call_later", "call_soon"}
    | {"call_soon_threadsafe"}
)
SPAWNS = frozenset({"create_task", "ensure_future"})

TASKS = {
    # Where tasks begin, and what becomes of their errors.
    "api/": "awaited by the request",
    "auth/jwks.py:_fetch": "reaped",
    "auth/jwks.py:_refresh": "a group of a task that is reaped",
    "auth/jwks.py:open": "kept",
    "credentials/static.py:credential": "awaited by each who asks",
    "filesystem/tus/lock.py:locked": "awaited by the request",
    "gateway/background.py:start": "kept",
    "health/maintenance.py:_looked": "awaited by each who looks",
    "health/prober.py:_as_the_account": "a group within what is kept",
    "health/prober.py:round": "a group within what is kept",
    "http/disconnect.py:start": "reaped",
    "gateway/collector.py:monitored": "kept",
    "gateway/job_events.py:events": "awaited by the stream, or ended by it",
    "gateway/job_output.py:_merged": "awaited by the stream",
    "gateway/reload.py:reload": "reaped",
    "gateway/reload.py:tick": "contained in itself",
    "schedulers/many.py:_follow": "awaited by the request",
    "schedulers/slurm/rest/backend.py:_each": "a group of the request",
    "schedulers/slurm/sources.py:_ask_both": "a group of the request",
    "schedulers/slurm/sources.py:_patiently": "a group of the request",
    "schedulers/submitting.py:_follow": "awaited by the request",
    "server/lifecycle.py:_accept": "reaped",
    "server/lifecycle.py:_start": "awaited by the start",
    "server/lifecycle.py:_look_at_certificate": "taken by the next look",
    "sharing/flights.py:start": "reaped",
    "sharing/tasks.py:spawn": "reaped",
    "ssh/nodes.py:_first": "awaited, or closed",
    "ssh/pool.py:close": "awaited",
    "ssh/files/sftp_content.py": "awaited by the request",
    "ssh/files/sftp_files.py:read": "awaited by the request",
    "ssh/files/sftp_bulk_content.py:open": "awaited, or closed late",
}


class Fault(Exception):
    """What the tests have everything raise."""


class Broken:
    """Fails at whatever is asked of it."""

    def __getattr__(self, name: str) -> Any:
        raise Fault(name)

    def __getitem__(self, name: object) -> Any:
        raise Fault

    def __bool__(self) -> bool:
        raise Fault

    def __hash__(self) -> int:
        raise Fault

    def __call__(self, *_: object, **__: object) -> Any:
        raise Fault


@pytest.fixture(autouse=True)
def faults(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Count anew, and return the places of the lines in the log."""
    told: list[str] = []
    monkeypatch.setattr(FAULTS, "counts", {})
    monkeypatch.setattr(FAULTS, "_told", {})
    monkeypatch.setattr(
        containment, "log", SimpleNamespace(error=lambda event, *, where, **_: told.append(f"{event} {where}"))
    )
    return told


@functools.cache
def modules() -> tuple[tuple[str, ast.Module], ...]:
    paths = {path.relative_to(SOURCE).as_posix(): path for path in sorted(SOURCE.rglob("*.py"))}
    return tuple((name, ast.parse(path.read_text())) for name, path in paths.items() if not name.startswith(ELSEWHERE))


def is_contained(node: ast.AST) -> bool:
    """Say whether a decorator, or an expression, is a use of `contained`."""
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "contained"


def contained_names(tree: ast.Module) -> set[str]:
    """Return the functions and methods of a module that are contained."""
    functions = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))
    return {function.name for function in functions if any(map(is_contained, function.decorator_list))}


def is_safe(callback: ast.expr, names: set[str]) -> bool:
    """Say whether what the loop is to call is contained."""
    match callback:
        case ast.Call(func=ast.Name(id="partial"), args=[inner, *_]):
            return is_safe(inner, names)
        case ast.Call(func=inner):
            return is_contained(inner)
        case ast.Attribute(attr=name) | ast.Name(id=name):
            return name in names
    return False


def hooked() -> Iterator[tuple[str, ast.Call, set[str]]]:
    """Yield each call that has the event loop call something later."""
    for name, tree in modules():
        names = contained_names(tree)
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in HOOKS:
                yield f"{name}:{node.lineno}", node, names


def test_whatever_the_loop_calls_is_contained() -> None:
    found = list(hooked())
    assert len(found) > 15
    unsafe = []
    for where, call, names in found:
        position = 0 if cast("ast.Attribute", call.func).attr in ("call_soon", "add_done_callback") else 1
        if not is_safe(call.args[position], names):
            unsafe.append(f"{where}: {ast.unparse(call)}")
    assert not unsafe


def test_nobody_takes_the_hooks_for_later() -> None:
    """A bound method in a variable would hide what it is called with."""
    for name, tree in modules():
        called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and node.attr in HOOKS | SPAWNS:
                assert id(node) in called, f"{name}:{node.lineno}"


def spawning() -> Iterator[str]:
    for name, tree in modules():
        for function in ast.walk(tree):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                for node in ast.walk(function):
                    if isinstance(node, ast.Call) and getattr(node.func, "attr", "") in SPAWNS:
                        yield f"{name}:{function.name}"


def test_every_task_has_somebody_who_takes_its_error() -> None:
    found = set(spawning())
    assert not {place for place in found if not any(place.startswith(known) for known in TASKS)}
    assert not {known for known in TASKS if known != "api/" and not any(place.startswith(known) for place in found)}


def every_contained() -> Iterator[tuple[str, Callable[..., Any]]]:
    """Yield each function of the program that is contained, by its name."""
    for module in pkgutil.walk_packages([str(SOURCE)], "hpcgate."):
        if ".demo" in module.name or module.name.endswith(("_program", "__main__")):
            continue
        loaded = importlib.import_module(module.name)
        holders = [loaded, *(one for _, one in inspect.getmembers(loaded, inspect.isclass))]
        for holder in holders:
            for value in vars(holder).values():
                function = getattr(value, "__func__", value)
                if getattr(function, "contained_in", None) and getattr(function, "__module__", "") == module.name:
                    yield f"{module.name}.{function.__qualname__}", function


CONTAINED = dict(every_contained())


@pytest.mark.parametrize("name", CONTAINED)
def test_a_callback_that_raises_is_counted_and_logged_once(name: str, faults: list[str]) -> None:
    function = CONTAINED[name]
    broken = [Broken() for _ in inspect.signature(function).parameters]
    for _ in range(1000):
        function(*broken)
    place = function.contained_in  # type: ignore[attr-defined]
    assert FAULTS.counts[place] >= 1000
    assert faults == [f"internal.error {place}"]


def test_all_callbacks_were_found() -> None:
    """The scan by names and the scan of what is loaded agree."""
    assert {name.rpartition(".")[2] for name in CONTAINED} >= {
        name for _, tree in modules() for name in contained_names(tree)
    }


def failing(*_: Any, **__: Any) -> Any:
    raise Fault


async def async_failing(*_: Any) -> Any:
    raise Fault


def cancelled(*_: Any) -> Any:
    raise asyncio.CancelledError


def a_server() -> Server:
    config = uvicorn.Config(cast("Any", None))
    config.encoded_headers = []
    server = Server(config, Front())
    server.tls = cast("Any", SimpleNamespace(changed=lambda: False))
    server._look_at_load = lambda counter: None  # type: ignore[method-assign]
    return server


def overloaded(server: Server, **parts: Any) -> Server:
    """Have a server look at its load, which is more than it can bear."""
    del server._look_at_load
    admission = Admission(100, 1.0)
    for name, value in parts.items():
        setattr(admission, name, value)
    admission._calm = 0.0
    state = SimpleNamespace(gateway=SimpleNamespace(admission=admission))
    server.config.app = cast("Any", SimpleNamespace(state=state))
    server._last_look = _Look(0.0, 0)
    server._idleness = cast("Any", SimpleNamespace(since=lambda *_, **__: Rest(0.0, 0.1)))
    return server


PARTS: dict[str, Callable[[Server, Any], object]] = {
    # The parts of the tick, and how to have them fail.
    "tick.load": lambda server, fault: setattr(server, "_look_at_load", fault),
    "tick.admission": lambda server, fault: overloaded(server, look=fault),
    "tick.lobby": lambda server, fault: setattr(overloaded(server)._front.lobby, "look", fault),
    "tick.refusals": lambda server, fault: setattr(overloaded(server)._front.refusals, "look", fault),
    "tick.door": lambda server, fault: setattr(overloaded(server), "_accept", fault),
    "tick.certificate": lambda server, fault: setattr(server, "_look_at_certificate", fault),
    "tick.ends": lambda server, fault: setattr(server, "ends", SimpleNamespace(look=fault)),
    "tick.absences": lambda server, fault: setattr(server, "_absences", SimpleNamespace(look=fault)),
    "tick.reload": lambda server, fault: setattr(server.reloader, "tick", fault),
}


@pytest.mark.parametrize("fault", [failing, cancelled])
@pytest.mark.parametrize("place", PARTS)
async def test_a_part_of_the_tick_that_fails_ends_nothing(place: str, fault: Any, faults: list[str]) -> None:
    server = a_server()
    PARTS[place](server, fault)
    others = []
    if place != "tick.reload":
        server.reloader.tick = lambda: others.append(1)  # type: ignore[method-assign]
    for counter in (0, 100, 200):
        assert await server.on_tick(counter) is False
    assert FAULTS.counts[place] == 3
    assert faults == [f"internal.error {place}"]
    assert len(others) == (3 if place != "tick.reload" else 0)


async def test_what_fails_at_the_end_does_not_keep_the_process_from_ending(
    faults: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = a_server()
    monkeypatch.setattr(server, "_begin_to_stop", failing)
    monkeypatch.setattr(server, "_drain", failing)
    server.should_exit = True
    assert await server.on_tick(0) is True
    assert FAULTS.counts["tick.stop"] == 2
    closed = []

    async def shutdown() -> None:
        closed.append(1)

    server.servers = []
    server.lifespan = cast("Any", SimpleNamespace(shutdown=shutdown))
    for step in (server.reloader, server):
        monkeypatch.setattr(step, "stop" if step is server.reloader else "_stop_listening", async_failing)
    monkeypatch.setattr(server, "_finish", async_failing)
    await server.shutdown([])
    assert closed
    assert FAULTS.counts["stop"] == 3


async def test_uvicorns_part_of_the_tick_is_no_exception(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uvicorn.Server, "on_tick", async_failing)
    assert await a_server().on_tick(0) is False
    assert FAULTS.counts["tick.uvicorn"] == 1


async def test_what_goes_on_goes_on_after_a_fault(faults: list[str]) -> None:
    rounds = 0

    async def run() -> None:
        nonlocal rounds
        rounds += 1
        if rounds < 4:
            raise Fault

    await asyncio.wait_for(kept("a.place", run, pause=0.001), 30)
    assert rounds == 4
    assert FAULTS.counts["a.place"] == 3
    assert faults == ["internal.error a.place"]


async def test_a_task_that_nobody_awaits_is_heard_of(faults: list[str]) -> None:
    task = asyncio.create_task(async_failing())
    await asyncio.wait({task})
    reaped(task, "a.place")
    assert faults == ["internal.error a.place"]


async def test_what_the_loop_catches_itself_is_counted(faults: list[str]) -> None:
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(on_loop_error)
    loop.call_soon(failing)
    loop.call_soon(cancelled)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert FAULTS.counts["loop"] == 2
    assert len(faults) == 2  # two kinds


@pytest.mark.parametrize(
    "error",
    [
        ConnectionResetError(),
        BrokenPipeError(),
        RuntimeError("unable to perform operation on <TCPTransport closed=True>; the handler is closed"),
    ],
)
def test_a_transport_that_was_closed_meanwhile_is_normal(error: Exception, faults: list[str]) -> None:
    FAULTS.note("a.place", error)
    assert not faults
    assert not FAULTS.counts


def test_a_kind_is_logged_again_after_a_while(faults: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    counted = Faults()
    for _ in range(3):
        counted.note("a.place", Fault())
    counted.note("a.place", KeyError())
    assert len(faults) == 2
    monkeypatch.setattr(containment, "QUIET", 0.0)
    counted.note("a.place", Fault())
    assert len(faults) == 3
    assert counted.counts == {"a.place": 5}


def test_a_log_that_cannot_be_written_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(containment, "log", Broken())
    FAULTS.note("a.place", Fault())
    assert FAULTS.counts == {"a.place": 1, "log": 1}


def test_a_contained_block_lets_the_end_of_the_process_through() -> None:
    with pytest.raises(KeyboardInterrupt), contained("a.place"):
        raise KeyboardInterrupt


def test_a_client_who_left_is_refused_without_a_word() -> None:
    protocol = Http.__new__(Http)
    state = SimpleNamespace(total_requests=0)
    protocol.transport = cast("Any", SimpleNamespace(is_closing=lambda: True, write=failing, close=failing))
    protocol.server_state = cast("Any", state)
    cycle = SimpleNamespace(disconnected=False, response_complete=False)
    protocol.turn_away(cast("Any", cycle))
    assert cycle.response_complete
    assert state.total_requests == 1


HOOKS_OF_CONNECTIONS = {
    # What the event loop calls of a connection, and what a client does to have it called.
    "_unset_keepalive_if_required": b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "data_received": b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "eof_received": b"GET ",
    "connection_lost": b"\0",
    "on_message_begin": b"GET ",
    "on_header": b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "on_headers_complete": b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "on_body": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab",
    "on_message_complete": b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "_start_asgi_task": b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "_refuse": b"\0\r\n\r\n",
    "_discard": b"\0\r\n\r\n" + b"x" * 500_000,
}


def test_a_connection_that_cannot_begin_is_closed() -> None:
    aborted = []
    protocol = Http.__new__(Http)
    protocol.connection_made(cast("Any", SimpleNamespace(abort=lambda: aborted.append(1))))
    assert aborted
    assert FAULTS.counts["http.made"] == 1


@pytest.mark.parametrize("hook", HOOKS_OF_CONNECTIONS)
def test_a_connection_whose_hook_raises_is_alone_with_it(hook: str) -> None:
    """Whatever the loop or the parser calls: it is counted, and others are served before, meanwhile and after."""

    # The parser looks for its hooks when it is made.
    faulty: Any = type("Faulty", (Http,), {hook: failing})
    good = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    made: list[Http] = []

    async def serve(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    def make() -> Http:
        kind = faulty if len(made) == 1 else Http
        made.append(kind(config=config, server_state=state, app_state={}))
        return made[-1]

    config = uvicorn.Config(serve, http=Http, log_config=None)
    config.load()
    state = ServerState()

    async def come() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(on_loop_error)
        async with await loop.create_server(make, "127.0.0.1", 0) as server, asyncio.timeout(120):
            address = server.sockets[0].getsockname()
            reader, writer = await asyncio.open_connection(*address)
            writer.write(good)
            assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
            _, second = await asyncio.open_connection(*address)
            second.write(HOOKS_OF_CONNECTIONS[hook])
            if hook == "eof_received":
                second.write_eof()
            while not FAULTS.counts:
                await asyncio.sleep(0.01)
                if hook in ("connection_lost", "_discard"):
                    second.transport.abort()
            writer.write(good)
            assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
            _, another = await asyncio.open_connection(*address)
            for one in (writer, second, another):
                one.close()
            # A connection that nobody looks after would stay open.
            while not all(one.transport.is_closing() for one in made):
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.05)

    uvloop.run(come())
    assert sum(FAULTS.counts.values()) >= 1
