"""The yardstick: what the HTTP server makes of a constant answer, without routes, tokens or SSH."""

import sys

import uvicorn
from starlette.types import Receive, Scope, Send

BODY = b'{"output":{"mode":33188,"ino":1,"dev":1,"nlink":1,"uid":1,"gid":1,"size":1,"atime":1,"ctime":1,"mtime":1}}'


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer anything with `BODY`."""
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(BODY)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": BODY})


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), loop="uvloop", lifespan="off", log_level="error")
