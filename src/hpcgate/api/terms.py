"""What a route declares of itself, in one place over it: all but its method, path and documentation, which stand below.

One that declares nothing wants a token, takes a small body or none, is denied by any policy and counts against the
lowest of the rate limits.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, TypeVar

from starlette.routing import BaseRoute

from hpcgate.config.groups import Group
from hpcgate.config.probing import ServiceName
from hpcgate.gateway.gateway import Gateway
from hpcgate.http.body import Bounds

E = TypeVar("E", bound=Callable[..., Any])

MAX_BODY = 1024 * 1024
"""The most bytes of a body of which nothing else is declared."""


class Kind(Enum):
    """How a route takes a body."""

    WHOLE = "read into memory, then used"
    STREAM = "used while it arrives; counted by `Streams`"
    PART = "used while it arrives; short, and not counted as a stream"


@dataclass(frozen=True, slots=True)
class Terms:
    """On which terms a route is reached.

    Attributes:
        group: The group of operations that rules and rate limits know it by. None is nobody's: any policy denies it.
        no_system: Whether it is about no system, and so about nothing that a rule says, but for every valid token. Any
            policy denies a route whose path names no system and that does not say so.
        needs: The services of its system that it cannot do without, those that others stand on first. File systems
            are not among them: which one it is the request's path tells (`System.admit`).
        public: Whether it is for everybody; then its body is never read, and a system in its path is but a name.
        one_spelling: Whether nothing but its own path leads to it: a proxy's rule may be all that keeps others away.
        body: How it takes a body.
        limit: The most bytes of a body that is read whole.
        headers: Headers that the answers to those turned away have, too.
        direct: Whether requests reach it past FastAPI (`hpcgate.api.fast_path`); then its endpoint takes the request
            and the path's parameters, reads the rest by itself and answers.
    """

    group: Group | None = None
    needs: tuple[ServiceName, ...] = ()
    no_system: bool = False
    public: bool = False
    one_spelling: bool = False
    body: Kind = Kind.WHOLE
    limit: int = MAX_BODY
    headers: Mapping[str, str] = field(default_factory=dict)
    direct: bool = False

    def bounds(self, gateway: Gateway) -> Bounds:
        """Return what a body of it may take, as it is configured."""
        http, streams = gateway.settings.http, gateway.settings.streams
        if self.body is Kind.WHOLE:
            return Bounds(self.limit, http.body_timeout)
        waits = self.body is Kind.PART
        return Bounds(streams.max_upload_size, streams.stall_timeout, http.min_body_rate, waits=waits)

    def services(self, *, scheduler_by_ssh: bool) -> tuple[ServiceName, ...]:
        """Return the services that it needs.

        Args:
            scheduler_by_ssh: Whether the scheduler is reached through the login node, and stands on it.
        """
        return BY_JOBS if scheduler_by_ssh and self.needs == BY_SCHEDULER else self.needs


PROTECTED = Terms()
PUBLIC = Terms(public=True)
MONITORED = Terms(public=True, one_spelling=True)
"""Of metrics: for whoever reaches the port, from which proxies keep others away."""

BY_SSH: tuple[ServiceName, ...] = ("ssh",)
"""What a route needs that works on the login node."""
BY_SCHEDULER: tuple[ServiceName, ...] = ("scheduler",)
"""What a route needs that asks the scheduler, by whatever way that is reached."""
BY_JOBS: tuple[ServiceName, ...] = ("ssh", "scheduler")
"""What a route needs that works on the login node and by jobs."""

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
