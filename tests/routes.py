"""Paths of the API with something for each of their parameters, also for those that a new route brings."""


class _Named(dict[str, str]):
    def __missing__(self, name: str) -> str:
        return "1"


def at(path: str, **given: str) -> str:
    """Return a path of the OpenAPI document with ``given`` for its parameters, and 1 for the others."""
    return path.format_map(_Named(given))
