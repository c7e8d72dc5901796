"""How schemathesis sends bodies of the media types that it does not know: as they are."""

from typing import Any

import schemathesis


@schemathesis.serializer("application/offset+octet-stream", "application/x-tar", "application/gzip")
def as_bytes(_: Any, value: Any) -> bytes:
    """Return the body for a value that was made from the schema."""
    return value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogatepass")
