"""The policy of the configuration: who may do what, where."""

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_network

from hpcgate.auth.claims import holds, scopes, texts
from hpcgate.auth.networks import lies_in
from hpcgate.auth.principal import Principal
from hpcgate.config import PolicyRule, PolicySettings
from hpcgate.config.groups import Group
from hpcgate.errors import Denied


@dataclass(frozen=True, slots=True)
class Grant:
    """What a request was allowed by.

    Attributes:
        rule: The rule's name.
        paths: Real paths on the login node below which every path of the request must lie; None for any.
    """

    rule: str
    paths: tuple[bytes, ...] | None = None

    def covers(self, real: bytes) -> bool:
        """Tell whether a real path is allowed."""
        return self.paths is None or any(inside(real, path) for path in self.paths)


def inside(path: bytes, top: bytes) -> bool:
    """Tell whether a real path is another one or below it."""
    return path == top or path.startswith(top.rstrip(b"/") + b"/")


FREE = Grant("default")
"""What a request is allowed by where nothing is configured."""


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of the policy.

    Attributes:
        system: The system's configured name.
        group: The group of operations.
        source: The client's IP address, None if it has none (a Unix socket).
    """

    system: str
    group: Group
    source: str | None


class Policy:
    """Decides by the first rule that applies."""

    def __init__(self, settings: PolicySettings | None) -> None:
        """Keep the settings; None lets everybody do everything."""
        self._settings = settings
        self._rules = tuple(map(_Rule, settings.rules)) if settings is not None else ()

    @property
    def free(self) -> bool:
        """Whether there is none: everybody may do everything."""
        return self._settings is None

    def decide(self, principal: Principal, question: Question) -> Grant:
        """Return what allows the request.

        Raises:
            Denied: By a rule, or since none applies.
        """
        if self._settings is None:
            return FREE
        groups = texts(principal.claims, self._settings.groups_claim)
        for rule in self._rules:
            if rule.applies(principal, groups, question):
                return rule.verdict(principal)
        if self._settings.default == "deny":
            raise Denied("default")
        return FREE


class _Rule:
    def __init__(self, settings: PolicyRule) -> None:
        self._settings = settings
        self._networks = tuple(ip_network(text) for text in settings.networks)
        self._systems = frozenset(name.casefold() for name in settings.systems)

    def applies(self, principal: Principal, groups: frozenset[str], question: Question) -> bool:
        rule = self._settings
        claims = principal.claims
        return (
            (not rule.operations or question.group in rule.operations)
            and (not self._systems or question.system.casefold() in self._systems)
            and (not rule.users or principal.username in rule.users)
            and (not rule.groups or not groups.isdisjoint(rule.groups))
            and (not rule.scopes or scopes(claims).issuperset(rule.scopes))
            and (not rule.clients or principal.client_id in rule.clients)
            and all(holds(claims, name, wanted) for name, wanted in rule.claims.items())
            and (not self._networks or self._from_there(question.source))
        )

    def _from_there(self, source: str | None) -> bool:
        return lies_in(source, self._networks)

    def verdict(self, principal: Principal) -> Grant:
        rule = self._settings
        if rule.effect == "deny":
            raise Denied(rule.name)
        return Grant(rule.name, None if rule.paths is None else _filled(rule.paths, principal.username))


def _filled(paths: Sequence[str], username: str) -> tuple[bytes, ...]:
    return tuple(path.replace("{username}", username).encode() for path in paths)
