"""The limits of users and of clients."""

from collections.abc import Mapping
from operator import attrgetter
from types import MappingProxyType

from hpcgate.auth import Principal
from hpcgate.config.groups import Group
from hpcgate.config.rates import Rate, RateLimitSettings
from hpcgate.errors import RateLimited
from hpcgate.rates.base import Bucket, BucketStore
from hpcgate.rates.memory import MemoryCounter

_NO_HEADERS: Mapping[str, str] = MappingProxyType({})


class RateLimits:
    """Counts the requests of each user and of each client, by group of operations.

    Attributes:
        on: Whether anything has a limit.
    """

    def __init__(self, settings: RateLimitSettings) -> None:
        self.on = bool(settings.per_user or settings.per_client)
        self._settings = settings
        self._exempt = frozenset(settings.exempt_clients)
        self._counter: BucketStore = MemoryCounter()
        if self.on and settings.redis is not None:
            # Redis's client is an extra.
            from hpcgate.rates.redis import RedisCounter

            self._counter = RedisCounter(settings.redis)

    def __repr__(self) -> str:
        return f"<RateLimits {self._counter!r}>"

    async def take(
        self, principal: Principal, group: Group | None, count: int = 1, *, counted: int = 0
    ) -> Mapping[str, str]:
        """Count a request and return the response headers that tell how many are left.

        Args:
            principal: Who asks.
            group: What for; None is a route that does not say, which the lowest of all rates holds for.
            count: As how many requests it counts.
            counted: As how many it has been counted before.

        Raises:
            RateLimited: It is too many.
            Unavailable: As `BucketStore.take`.
        """
        client = principal.client_id
        if client is not None and client in self._exempt:
            return _NO_HEADERS
        buckets = []
        name = NO_GROUP if group is None else group.value
        if (rate := _rate(self._settings.per_user, group)) is not None:
            buckets.append(Bucket(f"user:{name}:{principal.username}", rate, count))
        if client is not None and (rate := _rate(self._settings.per_client, group)) is not None:
            buckets.append(Bucket(f"client:{name}:{client}", rate, count))
        if not buckets:
            return _NO_HEADERS
        least = min(bucket.rate.burst for bucket in buckets)
        if (whole := counted + count) > least:
            raise RateLimited(
                f"{whole} at once are more than the limit ({name}) ever allows; send at most {least} at a time",
                data={"reason": "rate_limit", "group": name},
            )
        verdict = await self._counter.take(buckets)
        headers = verdict.headers()
        if not verdict.allowed:
            whose = verdict.bucket.key.partition(":")[0]
            raise RateLimited(
                f"Too many requests ({name}) of this {whose}; try again in {headers['Retry-After']} s",
                data={"reason": "rate_limit", "group": name, "of": whose},
                headers=headers,
            )
        return headers

    async def close(self) -> None:
        """Close what is open."""
        await self._counter.close()


NO_GROUP = "other"
"""What the requests of routes are called that belong to no group of operations."""


def _rate(rates: Mapping[Group, Rate], group: Group | None) -> Rate | None:
    if group is not None:
        return rates.get(group)
    return min(rates.values(), key=attrgetter("rate"), default=None)
