"""Buckets in Redis, for replicas that count together. Needs the extra ``redis``."""

import asyncio
import math
import time
from collections.abc import Sequence
from typing import Any, Final, cast

import structlog
from redis._parsers import _AsyncRESP2Parser
from redis.asyncio import Redis
from redis.exceptions import InvalidResponse

from hpcgate.config.rates import RedisSettings
from hpcgate.errors import Unavailable
from hpcgate.rates.base import Bucket, RateDecision, judged
from hpcgate.rates.memory import MemoryCounter

log = structlog.get_logger(__name__)

MAX_ANSWER: Final = 64 * 1024
"""Most bytes of an answer: a number for each bucket of a request."""
PAUSE: Final = 1.0
"""Seconds for which a server that did not answer is not asked again."""

# One step for all replicas, by the server's clock. A bucket that has become full again is forgotten.
_TAKE: Final = """
local clock = redis.call('TIME')
local now = clock[1] + clock[2] / 1000000
local held, enough = {}, true
for i, key in ipairs(KEYS) do
    local rate, burst, count = tonumber(ARGV[3 * i - 2]), tonumber(ARGV[3 * i - 1]), tonumber(ARGV[3 * i])
    local kept = redis.call('HMGET', key, 'tokens', 'since')
    local tokens = tonumber(kept[1]) or burst
    local since = tonumber(kept[2]) or now
    held[i] = math.min(burst, tokens + math.max(0, now - since) * rate)
    enough = enough and held[i] >= count
end
local told = {}
for i, key in ipairs(KEYS) do
    local rate, burst, count = tonumber(ARGV[3 * i - 2]), tonumber(ARGV[3 * i - 1]), tonumber(ARGV[3 * i])
    local left = enough and held[i] - count or held[i]
    redis.call('HSET', key, 'tokens', string.format('%.6f', left), 'since', string.format('%.6f', now))
    redis.call('PEXPIRE', key, math.ceil((burst - left) / rate * 1000) + 1000)
    told[i] = string.format('%.6f', held[i])
end
return told
"""


class _Bounded(_AsyncRESP2Parser):
    """Reads an answer to a bound of its bytes, and no further."""

    _taken = 0

    async def read_response(self, disable_decoding: bool = False) -> Any:
        self._taken = 0
        return await super().read_response(disable_decoding)

    async def _read(self, length: int) -> bytes:
        self._take(length)
        return await super()._read(length)

    async def _readline(self) -> bytes:
        line = await super()._readline()
        self._take(len(line))
        return line

    def _take(self, size: int) -> None:
        self._taken += size
        if size < 0 or self._taken > MAX_ANSWER:
            raise InvalidResponse("more than an answer may have")


class RedisCounter:
    """Counts in Redis; while that does not answer, by itself or not at all, as the settings say."""

    def __init__(self, settings: RedisSettings) -> None:
        self._settings = settings
        self._alone = MemoryCounter()
        self._down_until = 0.0
        self._down = False
        self._redis = Redis.from_url(
            settings.url.get_secret_value(),
            socket_timeout=settings.timeout,
            socket_connect_timeout=settings.timeout,
            decode_responses=True,
            # Its answers are numbers, and RESP2 has fewer kinds of anything.
            protocol=2,
            parser_class=_Bounded,
        )
        self._take = self._redis.register_script(_TAKE)

    def __repr__(self) -> str:
        """Tell whether the server answers; its URL may hold a password."""
        return f"<RedisCounter {'down' if self._down else 'up'}>"

    async def take(self, buckets: Sequence[Bucket]) -> RateDecision:
        """Take a token from each bucket, or none from any.

        Raises:
            Unavailable: Redis does not answer, and the settings say to refuse then.
        """
        if time.monotonic() >= self._down_until:
            try:
                held = await self._ask(buckets)
            except Exception as error:  # redis-py takes what a server says for what it should be
                self._fails(error)
            else:
                self._answers()
                return judged(buckets, held)
        if self._settings.when_down == "refuse":
            raise Unavailable("The rate limits cannot be checked now", headers={"Retry-After": "1"})
        return await self._alone.take(buckets)

    async def _ask(self, buckets: Sequence[Bucket]) -> list[float]:
        keys = [self._settings.prefix + bucket.key for bucket in buckets]
        numbers = [number for bucket in buckets for number in (bucket.rate.rate, bucket.rate.burst, bucket.count)]
        async with asyncio.timeout(self._settings.timeout):
            answer = await self._take(keys=keys, args=numbers)
        held = [float(text) for text in cast("list[str]", answer)]
        if len(held) != len(buckets) or not all(map(math.isfinite, held)):
            raise ValueError("not the answer to what was asked")
        return held

    def _fails(self, error: Exception) -> None:
        self._down_until = time.monotonic() + PAUSE
        if not self._down:
            # Not what the error says: it may show the server's URL.
            log.error("rate_limits.redis_down", error=type(error).__name__, meanwhile=self._settings.when_down)
        self._down = True

    def _answers(self) -> None:
        if self._down:
            log.warning("rate_limits.redis_up")
        self._down = False

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()
