"""Print docs/api.md from an OpenAPI schema on standard input: `hpcgate openapi | python scripts/api_reference.py`."""

import json
import sys
from typing import Any


def reference(schema: dict[str, Any]) -> str:
    """Return the page: a table of endpoints for each tag, in the schema's order."""
    lines = ["# API", "", "Made from the OpenAPI schema, which a running gateway shows whole at `/docs` and `/redoc`."]
    groups: dict[str, list[str]] = {}
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            row = f"| `{method.upper()} {path}` | {_words(operation)} |"
            groups.setdefault((operation.get("tags") or ["other"])[0], []).append(row)
    for tag, rows in groups.items():
        lines += ["", f"## {tag.capitalize()}", "", "| Endpoint | What it does |", "|---|---|", *rows]
    return "\n".join(lines) + "\n"


def _words(operation: dict[str, Any]) -> str:
    text = operation.get("description") or operation.get("summary") or ""
    return " ".join(text.split("\n\n")[0].split()).replace("|", "\\|")


if __name__ == "__main__":
    print(reference(json.load(sys.stdin)), end="")
