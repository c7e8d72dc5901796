"""What hpcgate uses of uvicorn beyond its documented interface: all of it stands in one table, and is still there.

docs/decisions/http-server.md says why. A new uvicorn that renames one of these names fails here, and so does code of
ours that begins to use another: then look at what the name does in uvicorn, and write it down.
"""

from __future__ import annotations

import ast
import inspect
import textwrap

import pytest
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from hpcgate.server import http_protocol, turns
from hpcgate.server.exchange import Exchange
from hpcgate.server.http_protocol import Http
from hpcgate.server.lifecycle import Server
from hpcgate.server.sockets import Sockets

TABLE: dict[type, tuple[type, set[str]]] = {
    Http: (
        HttpToolsProtocol,
        {
            "__init__",
            "_should_upgrade",
            "_start_asgi_task",
            "_unset_keepalive_if_required",
            "client",
            "config",
            "connection_lost",
            "connection_made",
            "cycle",
            "data_received",
            "eof_received",
            "expect_100_continue",
            "flow",
            "handle_websocket_upgrade",
            "headers",
            "loop",
            "on_body",
            "on_header",
            "on_headers_complete",
            "on_message_begin",
            "on_message_complete",
            "on_response_complete",
            "parser",
            "pause_writing",
            "pipeline",
            "resume_writing",
            "server_state",
            "tasks",
            "timeout_keep_alive",
            "timeout_keep_alive_handler",
            "timeout_keep_alive_task",
            "transport",
            "url",
        },
    ),
    Exchange: (
        RequestResponseCycle,
        {
            "access_log",
            "chunked_encoding",
            "default_headers",
            "disconnected",
            "expected_content_length",
            "flow",
            "keep_alive",
            "message_event",
            "on_response",
            "response_complete",
            "response_started",
            "scope",
            "send",
            "transport",
            "waiting_for_100_continue",
        },
    ),
    Sockets: (
        WebSocketsSansIOProtocol,
        {
            "close_sent",
            "close_timeout",
            "conn",
            "connection_lost",
            "data_received",
            "frames",
            "handle_cont",
            "handle_ping",
            "handshake_initiated",
            "keepalive_timeout",
            "loop",
            "on_task_complete",
            "read_paused",
            "receive",
            "resume_writing",
            "send",
            "send_receive_event_to_app",
            "transport",
            "writable",
        },
    ),
    Server: (
        uvicorn.Server,
        {
            "__init__",
            "_serve",
            "config",
            "force_exit",
            "handle_exit",
            "lifespan",
            "on_tick",
            "server_state",
            "servers",
            "should_exit",
            "shutdown",
            "started",
            "startup",
        },
    ),
}
"""Each class of ours: the class of uvicorn's that it derives from, and what it overrides or uses of that one."""


def tree_of(cls: type) -> ast.ClassDef:
    node = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    assert isinstance(node, ast.ClassDef)
    return node


def of_self(cls: type, *, assigned: bool) -> set[str]:
    """Return the attributes that a class's methods read or write, or only those that they write."""
    return {
        node.attr
        for node in ast.walk(tree_of(cls))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "self"
        and (not assigned or isinstance(node.ctx, ast.Store))
    }


def names_of(base: type) -> set[str]:
    """Return the names that an object of one of uvicorn's classes has, but for those of every object."""
    found: set[str] = set()
    for cls in base.__mro__:
        if cls.__module__.startswith("uvicorn"):
            found |= set(vars(cls)) | of_self(cls, assigned=True)
    return {name for name in found if not (name.startswith("__") and name != "__init__")}


@pytest.mark.parametrize("cls", TABLE, ids=lambda cls: cls.__name__)
def test_the_table_names_what_is_overridden_or_used(cls: type) -> None:
    base, table = TABLE[cls]
    assert (set(vars(cls)) | of_self(cls, assigned=False)) & names_of(base) == table


@pytest.mark.parametrize("cls", TABLE, ids=lambda cls: cls.__name__)
def test_whatever_a_class_uses_is_its_own_or_its_bases(cls: type) -> None:
    base, _ = TABLE[cls]
    inherited = {name for one in base.__mro__ for name in dir(one)}
    used = of_self(cls, assigned=False)
    assert used - set(vars(cls)) - of_self(cls, assigned=True) - names_of(base) - inherited == set()


def test_what_is_asked_of_a_request_under_way_is_there() -> None:
    """`cycle` is what serving calls uvicorn's request and answer."""
    used = {
        node.attr
        for module in (http_protocol, turns)
        for node in ast.walk(ast.parse(inspect.getsource(module)))
        if isinstance(node, ast.Attribute)
        and (
            (isinstance(node.value, ast.Name) and node.value.id == "cycle")
            or (isinstance(node.value, ast.Attribute) and node.value.attr in ("cycle", "_active"))
        )
    }
    assert used
    assert used - names_of(RequestResponseCycle) - set(vars(Exchange)) - set(dir(object)) == set()
