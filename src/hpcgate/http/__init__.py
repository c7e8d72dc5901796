"""HTTP around the routes: heads, bodies, ids, headers, request log, disconnects and metrics. Pure ASGI."""
