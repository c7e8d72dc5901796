"""JSON as services send it: strict, finite and not too deep."""

import json
import math
import re
from typing import Any

MAX_DEPTH = 64
"""Most arrays and objects within each other. What walks a value by recursion can take as much."""
MAX_IN_A_ROW = 200_000
"""Values between the ends of two objects of what is decoded in a thread: they take some hundredths of a second."""
_WINDOW = 256 * 1024
"""Characters that are looked at in one go."""
_ESCAPED = re.compile(
    r"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    r"|(?P<half>u[dD][89a-fA-F][0-9a-fA-F]{2})|u|[^u](?:\\[^u]){0,1000})",
    re.DOTALL,
)
"""What begins with a backslash: a pair of surrogates, half of one, and all else, of which many in a row are one.

Not any number: each repetition takes some sixty bytes until the match ends.
"""


def decoded(data: bytes, *, strict: bool = False) -> Any:
    """Decode JSON in UTF-8 (RFC 8259); half of a surrogate pair becomes U+FFFD, as no answer could hold it.

    Args:
        data: The text.
        strict: Refuse what two readers may take for different things: an object that has a name twice, and half of a
            surrogate pair.

    Raises:
        ValueError: It is not JSON, or nested too deeply, or has a number that is not finite or has thousands of digits.
    """
    text = data.decode("utf-8")
    whole = with_whole_characters(text)
    if strict and whole != text:
        raise ValueError("half of a surrogate pair")
    try:
        value = json.loads(
            whole,
            parse_constant=_refused,
            parse_float=_finite,
            object_pairs_hook=_once if strict else None,
        )
    except RecursionError:
        raise ValueError("nested too deeply") from None
    # What has few brackets is not deep.
    if data.count(b"[") + data.count(b"{") > MAX_DEPTH and _depth(value) > MAX_DEPTH:
        raise ValueError("nested too deeply")
    return value


def decoded_in_turns(text: str, **options: Any) -> Any:
    """Decode large JSON in a thread, so that the event loop has its turns meanwhile.

    The decoder keeps the interpreter to itself until it calls something in Python, which it does for each object here.
    So there may be only so many values in a row without the end of an object. Characters are as `decoded` has them.

    Args:
        text: The text.
        options: As those of `json.loads`.

    Raises:
        ValueError: It is not JSON, or has more than `MAX_IN_A_ROW` values without an object.
        RecursionError: It is nested too deeply.
    """
    if _longest_row(text) > MAX_IN_A_ROW:
        raise ValueError("too many values in a row")
    return json.loads(with_whole_characters(text), object_hook=_as_it_is, **options)


def with_whole_characters(text: str) -> str:
    """Return JSON in which U+FFFD stands for each half of a surrogate pair (RFC 8259, section 8.2)."""
    if "\\ud" not in text and "\\uD" not in text:
        return text
    return _ESCAPED.sub(lambda match: match[0] if match["half"] is None else "\\ufffd", text)


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


def _as_it_is(value: Any) -> Any:
    return value


def _longest_row(text: str) -> int:
    """Return about how many values follow one another without the end of an object, strings apart."""
    row = longest = 0
    in_string = False
    held = ""
    for start in range(0, len(text), _WINDOW):
        window = held + text[start : start + _WINDOW]
        held = ""
        if "\\" in window:
            # Within a string a backslash takes the next character with it: pairs of them first, then quotes.
            window = window.replace("\\\\", "")
            held = "\\" if window.endswith("\\") else ""
            window = window.replace('\\"', "")
        parts = window.split('"')
        outside = "".join(parts[1 if in_string else 0 :: 2])
        in_string ^= len(parts) % 2 == 0
        before, ended, rest = outside.partition("}")
        row += _values(before)
        longest = max(longest, row)
        if ended:
            row = _values(rest.rpartition("}")[2])
    return max(longest, row)


def _values(outside: str) -> int:
    return outside.count(",") + outside.count("[")


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
