"""The limits of users and of clients."""

from collections.abc import Mapping
from types import MappingProxyType

from hpcgate.auth import Principal
from hpcgate.config.groups import Group
from hpcgate.config.rates import RateLimitSettings
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

    async def take(self, principal: Principal, group: Group) -> Mapping[str, str]:
        """Count one request and return the response headers that tell how many are left.

        Raises:
            RateLimited: It is one too many.
            Unavailable: As `BucketStore.take`.
        """
        client = principal.client_id
        if client is not None and client in self._exempt:
            return _NO_HEADERS
        buckets = []
        if (rate := self._settings.per_user.get(group)) is not None:
            buckets.append(Bucket(f"user:{group}:{principal.username}", rate))
        if client is not None and (rate := self._settings.per_client.get(group)) is not None:
            buckets.append(Bucket(f"client:{group}:{client}", rate))
        if not buckets:
            return _NO_HEADERS
        verdict = await self._counter.take(buckets)
        headers = verdict.headers()
        if not verdict.allowed:
            whose = verdict.bucket.key.partition(":")[0]
            raise RateLimited(
                f"Too many requests ({group}) of this {whose}; try again in {headers['Retry-After']} s",
                data={"reason": "rate_limit", "group": group.value, "of": whose},
                headers=headers,
            )
        return headers

    async def close(self) -> None:
        """Close what is open."""
        await self._counter.close()
