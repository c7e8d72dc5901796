"""JSON as services send it: strict, finite and not too deep."""

import json
import math
from typing import Any

MAX_DEPTH = 64
"""Most arrays and objects within each other. What walks a value by recursion can take as much."""


def decoded(data: bytes, *, once: bool = False) -> Any:
    """Decode JSON in UTF-8 (RFC 8259).

    Args:
        data: The text.
        once: Refuse an object that has a name twice: who reads the first and who reads the last differ.

    Raises:
        ValueError: It is not JSON, or nested too deeply, or has a number that is not finite or has thousands of digits.
    """
    try:
        value = json.loads(
            data.decode("utf-8"),
            parse_constant=_refused,
            parse_float=_finite,
            object_pairs_hook=_once if once else None,
        )
    except RecursionError:
        raise ValueError("nested too deeply") from None
    # What has few brackets is not deep.
    if data.count(b"[") + data.count(b"{") > MAX_DEPTH and _depth(value) > MAX_DEPTH:
        raise ValueError("nested too deeply")
    return value


def string_at(value: Any, *path: str) -> str:
    """Return a string within objects.

    Raises:
        ValueError: There is none.
    """
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    if not isinstance(value, str):
        raise ValueError(f"no {'.'.join(path)}")
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a name twice")
    return value


def _depth(value: Any) -> int:
    depth, level = 0, [value]
    while level and depth <= MAX_DEPTH:
        level = [
            item
            for one in level
            if isinstance(one, (dict, list))
            for item in (one.values() if isinstance(one, dict) else one)
        ]
        depth += 1
    return depth


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("a number is too large")
    return number


def _refused(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
