"""What a route declares of itself. One that declares nothing wants a token, and a small body or none."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, TypeVar

from starlette.routing import BaseRoute

from hpcgate.gateway.gateway import Gateway
from hpcgate.http.body import Bounds

E = TypeVar("E", bound=Callable[..., Any])

MAX_BODY = 1024 * 1024
"""The most bytes of a body of which nothing else is declared."""


class Kind(Enum):
    """How a route takes a body."""

    WHOLE = "read into memory, then used"
    STREAM = "used while it arrives; counted by `StreamSlots`"
    PART = "used while it arrives; short, and not counted as a stream"


@dataclass(frozen=True, slots=True)
class Terms:
    """On which terms a route is reached.

    Attributes:
        public: Whether it is for everybody; then its body is never read.
        one_spelling: Whether nothing but its own path leads to it: a proxy's rule may be all that keeps others away.
        body: How it takes a body.
        limit: The most bytes of a body that is read whole.
        headers: Headers that the answers to those turned away have, too.
    """

    public: bool = False
    one_spelling: bool = False
    body: Kind = Kind.WHOLE
    limit: int = MAX_BODY
    headers: Mapping[str, str] = field(default_factory=dict)

    def bounds(self, gateway: Gateway) -> Bounds:
        """Return what a body of it may take, as it is configured."""
        http, streams = gateway.settings.http, gateway.settings.streams
        if self.body is Kind.WHOLE:
            return Bounds(self.limit, http.body_timeout)
        waits = self.body is Kind.PART
        return Bounds(streams.max_upload_size, streams.stall_timeout, http.min_body_rate, waits=waits)


PROTECTED = Terms()
PUBLIC = Terms(public=True)
MONITORED = Terms(public=True, one_spelling=True)
"""Of metrics: for whoever reaches the port, from which proxies keep others away."""
_NAME = "__hpcgate_terms__"


def on(terms: Terms) -> Callable[[E], E]:
    """Declare the terms of an endpoint; stands over it or under its route."""

    def declare(endpoint: E) -> E:
        setattr(endpoint, _NAME, terms)
        return endpoint

    return declare


def terms_of(route: BaseRoute) -> Terms:
    """Return the terms of a route."""
    terms: Terms = getattr(getattr(route, "endpoint", None), _NAME, PROTECTED)
    return terms
