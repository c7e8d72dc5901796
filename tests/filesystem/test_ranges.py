"""Range headers, well-formed and otherwise."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcgate.errors import RangeNotSatisfiable
from hpcgate.filesystem.ranges import MAX_RANGES, ByteRange, MultipartRanges, parse_range


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ("bytes=0-0", [(0, 1)]),
        ("bytes=0-", [(0, 100)]),
        ("bytes=-1", [(99, 1)]),
        ("bytes=-1000", [(0, 100)]),
        ("bytes=99-1000", [(99, 1)]),
        ("Bytes= 1-2 ,\t5-6", [(1, 2), (5, 2)]),
        ("bytes=5-6,1-2", [(5, 2), (1, 2)]),
        ("bytes=,1-2,,", [(1, 2)]),
        ("bytes=1-2,200-300", [(1, 2)]),
        ("bytes=0-9,10-19", [(0, 20)]),
        ("bytes=50-59,0-9,5-52", [(0, 60)]),
        ("bytes=0-0,2-2,1-1", [(0, 3)]),
        (None, None),
        ("", None),
        ("bytes", None),
        ("bytes=", None),
        ("bytes=,", None),
        ("bytes=-", None),
        ("bytes=a-b", None),
        ("bytes=2-1", None),
        ("bytes=1-2;3-4", None),
        ("bytes=1-2,x", None),
        ("bytes=1_0-20", None),
        ("bytes=٣-4", None),
        ("lines=1-2", None),
        ("bytes=" + "9" * 30 + "-", None),
        ("bytes=" + ",".join(f"{2 * n}-{2 * n}" for n in range(MAX_RANGES + 1)), None),
    ],
)
def test_parse_range(header: str | None, found: list[tuple[int, int]] | None) -> None:
    """Ranges are parsed as RFC 9110 says."""
    total = 1000 if header and len(header) > 200 else 100
    parts = parse_range(header, total)
    assert (None if parts is None else [(part.offset, part.size) for part in parts]) == found


@pytest.mark.parametrize("header", ["bytes=100-", "bytes=100-200", "bytes=-0", "bytes=100-,200-"])
def test_not_satisfiable(header: str) -> None:
    """A range outside the file is 416 with the file's size."""
    with pytest.raises(RangeNotSatisfiable) as caught:
        parse_range(header, 100)
    assert caught.value.headers == {"Content-Range": "bytes */100"}


def test_empty_files() -> None:
    """The last bytes of an empty file are all of it; no other range can be satisfied."""
    assert parse_range("bytes=-5", 0) is None
    with pytest.raises(RangeNotSatisfiable):
        parse_range("bytes=0-", 0)


specs = st.one_of(
    st.tuples(st.integers(0, 60), st.integers(0, 60)).map(lambda pair: f"{min(pair)}-{max(pair)}"),
    st.integers(0, 60).map(lambda first: f"{first}-"),
    st.integers(0, 60).map(lambda size: f"-{size}"),
)


@given(st.lists(specs, min_size=1, max_size=20), st.integers(0, 50))
def test_parts_cover_what_was_asked_for_and_never_overlap(asked: list[str], total: int) -> None:
    wanted: set[int] = set()
    for spec in asked:
        first, _, last = spec.partition("-")
        if not first:
            wanted |= set(range(max(0, total - int(last)), total))
        else:
            wanted |= set(range(int(first), min(total, int(last) + 1 if last else total)))
    try:
        parts = parse_range("bytes=" + ", ".join(asked), total)
    except RangeNotSatisfiable:
        assert not wanted
        return
    if parts is None:
        assert not total
        return
    covered = [offset for part in parts for offset in range(part.offset, part.end)]
    assert len(covered) == len(set(covered))
    assert set(covered) == wanted


@given(st.text())
def test_any_header_is_survived(header: str) -> None:
    for text in (header, f"bytes={header}"):
        with contextlib.suppress(RangeNotSatisfiable):
            parse_range(text, 10)


def test_too_many_parts_are_not_looked_at_further() -> None:
    header = "bytes=" + ",".join(f"{3 * number}-{3 * number}" for number in range(MAX_RANGES))
    assert parse_range(f"{header},0-", 10**9) == [ByteRange(0, 10**9)]
    assert parse_range(f"{header},{3 * MAX_RANGES}-{3 * MAX_RANGES},0-", 10**9) is None


def test_multipart_length() -> None:
    """The length of an answer in parts is known beforehand."""
    parts = MultipartRanges([ByteRange(0, 3), ByteRange(50, 20)], 100, "text/plain", "B")
    body = b"".join(parts.head(part) + b"x" * part.size for part in parts.parts) + parts.tail
    assert parts.length == len(body)
    assert body.startswith(b"\r\n--B\r\nContent-Type: text/plain\r\nContent-Range: bytes 0-2/100\r\n\r\nxxx\r\n--B\r\n")
    assert body.endswith(b"\r\n--B--\r\n")
    assert MultipartRanges([], 1, "x").boundary != MultipartRanges([], 1, "x").boundary
