"""Token buckets, and what a request is told of them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from hpcgate.config.rates import Rate


@dataclass(frozen=True, slots=True)
class Bucket:
    """A bucket that a request takes tokens from.

    Attributes:
        key: Whose it is and of which group of operations.
        rate: Its size and how fast it fills.
        count: How many tokens are taken from it.
    """

    key: str
    rate: Rate
    count: int = 1


@dataclass(frozen=True, slots=True)
class RateDecision:
    """What became of taking tokens from each of several buckets: all were taken, or none.

    Attributes:
        allowed: Whether each held enough.
        bucket: The one with the fewest tokens left, or the one that takes longest to hold enough again.
        left: How many tokens it holds now.
        wait: Seconds until it holds enough.
    """

    allowed: bool
    bucket: Bucket
    left: float
    wait: float

    def headers(self) -> dict[str, str]:
        """Return the response headers that tell a client where it stands.

        https://datatracker.ietf.org/doc/html/draft-ietf-httpapi-ratelimit-headers-06
        """
        rate = self.bucket.rate
        full = math.ceil((rate.burst - self.left) / rate.rate)
        told = {
            "RateLimit-Limit": str(rate.burst),
            "RateLimit-Remaining": str(math.floor(self.left)),
            "RateLimit-Reset": str(full),
        }
        if not self.allowed:
            told["Retry-After"] = str(max(1, math.ceil(self.wait)))
        return told


def judged(buckets: Sequence[Bucket], tokens: Sequence[float]) -> RateDecision:
    """Return the verdict on buckets that held so many tokens before some were to be taken from each."""
    allowed = all(held >= bucket.count for bucket, held in zip(buckets, tokens, strict=True))
    states = [
        RateDecision(
            allowed,
            bucket,
            held - bucket.count if allowed else held,
            max(0.0, (bucket.count - held) / bucket.rate.rate),
        )
        for bucket, held in zip(buckets, tokens, strict=True)
    ]
    return min(states, key=lambda state: state.left) if allowed else max(states, key=lambda state: state.wait)


class BucketStore(Protocol):
    """Where the buckets are kept."""

    async def take(self, buckets: Sequence[Bucket]) -> RateDecision:
        """Take its tokens from each bucket, or none from any.

        Raises:
            Unavailable: It cannot be found out whether they hold one.
        """

    async def close(self) -> None:
        """Close what is open."""
