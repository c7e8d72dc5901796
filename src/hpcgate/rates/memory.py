"""Buckets in the memory of this process."""

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence

from hpcgate.rates.base import Bucket, RateDecision, judged

MAX_BUCKETS = 100_000
"""Buckets that are kept; the one that was used longest ago, and so is the fullest, is forgotten first."""


class MemoryCounter:
    """Counts by itself.

    Args:
        clock: Seconds that never go back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def __repr__(self) -> str:
        return f"<MemoryCounter {len(self._buckets)} buckets>"

    async def take(self, buckets: Sequence[Bucket]) -> RateDecision:
        """Take a token from each bucket, or none from any."""
        now = self._clock()
        held = [self._held(bucket, now) for bucket in buckets]
        verdict = judged(buckets, held)
        for bucket, tokens in zip(buckets, held, strict=True):
            self._buckets[bucket.key] = (tokens - bucket.count if verdict.allowed else tokens, now)
            self._buckets.move_to_end(bucket.key)
        while len(self._buckets) > MAX_BUCKETS:
            self._buckets.popitem(last=False)
        return verdict

    def _held(self, bucket: Bucket, now: float) -> float:
        tokens, since = self._buckets.get(bucket.key, (float(bucket.rate.burst), now))
        return min(float(bucket.rate.burst), tokens + (now - since) * bucket.rate.rate)

    async def close(self) -> None:
        """Close nothing."""
