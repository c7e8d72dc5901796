from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcgate.outbound import wording
from hpcgate.outbound.wording import clipped, masked, one_line

JWT = "eyJhbGciOiJSUzI1NiJ9." + "Pq7-_x" * 400 + "." + "s1gN" * 80
OPAQUE = "0123456789abcdef" * 3 + "ghijkl"


@pytest.mark.parametrize("token", [JWT, OPAQUE])
@pytest.mark.parametrize("most", [10, 40, 300, 5000])
@pytest.mark.parametrize("before", ["", "no such token: ", "x" * 30, "x" * 295])
def test_a_token_is_masked_before_the_text_is_cut(token: str, most: int, before: str) -> None:
    said = clipped(f"{before} {token} and so on", most, token)
    assert token[:16] not in said
    assert len(said) <= most + 3


@given(st.integers(0, 2600), st.integers(16, 2600))
def test_a_piece_of_a_token_is_masked_too(begin: int, length: int) -> None:
    piece = JWT[begin : begin + length]
    if len(piece) >= 16:
        assert piece not in masked(f"invalid: {piece}...", JWT)


def test_a_jwt_is_known_by_its_looks() -> None:
    assert masked(f"Bearer {JWT}.") == "Bearer ***"
    assert masked(f"got {JWT[:60]}...") == "got ***"


def test_other_words_stay() -> None:
    """Words that are not secret stay as they are, up to the bound."""
    words = "OTP wrong for user alice at https://keys.example.org/api/v1/ssh-keys (request 0b6d2c8e-1f6e-4a0e-9d3b)"
    assert masked(words, JWT, OPAQUE, "", "a") == words
    assert clipped("x" * 400, 300) == "x" * 300 + "..."


def test_one_line_of_what_prints() -> None:
    assert one_line("a\r\nb\x1b[31m\x00 c") == "a b [31m c"


@pytest.mark.parametrize(("most", "looked_at"), [(300, 64 * 1024), (100_000, 200_000)])
def test_of_a_long_text_no_more_is_looked_through_than_is_shown(
    most: int, looked_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[int] = []

    def noted(text: str, *_: str) -> str:
        looked.append(len(text))
        return text

    monkeypatch.setattr(wording, "masked", noted)
    assert clipped("x" * 1_000_000, most) == "x" * most + "..."
    assert looked == [looked_at]
