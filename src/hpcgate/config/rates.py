"""The settings of the rate limits."""

from collections.abc import Mapping
from importlib.util import find_spec
from types import MappingProxyType
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, SecretStr, field_validator

from hpcgate.config.base import FROZEN, Model
from hpcgate.config.groups import Group
from hpcgate.config.secrets import Secret
from hpcgate.config.values import Seconds


def _redis_url(value: SecretStr) -> SecretStr:
    if not value.get_secret_value().startswith(("redis://", "rediss://", "unix://")):
        raise ValueError("must be a URL that begins with redis:// or rediss:// or unix://")
    return value


class Rate(Model):
    """A token bucket: it holds `burst` requests and is filled again at `rate`."""

    rate: float = Field(gt=0, le=1e6, allow_inf_nan=False, description="Requests a second in the long run.")
    burst: int = Field(ge=1, le=1_000_000, description="Most requests at once after a pause.")


Rates = Annotated[Mapping[Group, Rate], *FROZEN]


class RedisSettings(Model):
    """Where several replicas count together."""

    url: Annotated[Secret, AfterValidator(_redis_url)] = Field(
        description="The server, such as redis://:PASSWORD@redis.example.org:6379/0; rediss:// is with TLS."
    )
    timeout: Seconds = Field(0.25, description="Seconds that one answer may take.")
    prefix: str = Field("hpcgate:rate:", description="What the names of the keys begin with.")
    when_down: Literal["count_alone", "refuse"] = Field(
        "count_alone",
        description="While it does not answer: let each replica count by itself, or answer 503 to what has a limit.",
    )


class RateLimitSettings(Model):
    """How many requests users and clients may send, by group of operations. What is not named has no limit."""

    per_user: Rates = Field(
        default_factory=lambda: MappingProxyType({}), description="Of each user, all of the user's clients together."
    )
    per_client: Rates = Field(
        default_factory=lambda: MappingProxyType({}),
        description="Of each OAuth2 client id, all of its users together.",
    )
    exempt_clients: tuple[str, ...] = Field((), description="Client ids whose requests are not counted.")
    redis: RedisSettings | None = Field(None, description="Count in Redis; in the memory of each process if unset.")

    @field_validator("redis")
    @classmethod
    def _installed(cls, value: RedisSettings | None) -> RedisSettings | None:
        if value is not None and find_spec("redis") is None:
            raise ValueError("needs an extra that is not installed: pip install 'hpcgate[redis]'")
        return value
