"""A gateway with a WebSocket that says again what it hears: ``python -m tests.server.echoing CONFIG PORT``."""

import asyncio
import sys
from pathlib import Path

from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket

from hpcgate.api.access import access_of
from hpcgate.api.terms import BY_SSH, Terms, on
from hpcgate.config import Settings, load
from hpcgate.config.groups import Group
from hpcgate.errors import PathNotFound
from hpcgate.server import run
from hpcgate.server.app import Application, create_app


@on(Terms(Group.FS_READ, BY_SSH))
async def echo(websocket: WebSocket) -> None:
    """Say again what is heard; some words have a meaning."""
    if websocket.query_params.get("missing"):
        raise PathNotFound("No such file or directory")
    await websocket.accept()
    while True:
        text = await websocket.receive_text()
        match text:
            case "leave":
                return
            case "fail":
                raise PathNotFound("No such file or directory")
            case "crash":
                raise RuntimeError("secret")
            case "flood":
                while True:
                    await websocket.send_text("x" * 65536)
                    await asyncio.sleep(0)
            case "who":
                access = access_of(websocket)
                await websocket.send_text(f"{access.principal.username} on {access.system.name}")
            case _:
                await websocket.send_text(text)


async def undeclared(websocket: WebSocket) -> None:
    """Say nothing of its terms."""
    await websocket.accept()


def with_echo(settings: Settings) -> Application:
    """Return the application with the two."""
    app = create_app(settings)
    app.router.routes.append(WebSocketRoute("/filesystem/{system_name}/echo", echo))
    app.router.routes.append(WebSocketRoute("/filesystem/{system_name}/undeclared", undeclared))
    return app


if __name__ == "__main__":
    config = Path(sys.argv[1])
    vars(run)["create_app"] = with_echo
    run.serve(load(config), host="127.0.0.1", port=int(sys.argv[2]), load=lambda: load(config))
