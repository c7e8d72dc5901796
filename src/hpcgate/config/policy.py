"""The settings of the policy: who may do what, where."""

import ipaddress
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from hpcgate.config.base import FROZEN, NARROWS, Model
from hpcgate.config.groups import Group
from hpcgate.config.values import AbsolutePath


def network(value: str) -> str:
    """Return an IP network, or a single address.

    Raises:
        ValueError: It is neither.
    """
    try:
        return str(ipaddress.ip_network(value))
    except ValueError:
        raise ValueError("must be an IP address or a network such as 10.1.0.0/16, without host bits") from None


def _several(value: Any) -> Any:
    return (value,) if isinstance(value, str | int) else value


def _prefix(value: str) -> str:
    plain = value.rstrip("/") or "/"
    if any(part in ("", ".", "..") for part in plain.split("/")[1:] if plain != "/"):
        raise ValueError("must be a plain path, without '.', '..' and empty parts")
    rest = plain.replace("{username}", "")
    if "{" in rest or "}" in rest:
        raise ValueError("may hold {username}, and no other braces")
    return plain


Network = Annotated[str, AfterValidator(network)]
Prefix = Annotated[AbsolutePath, AfterValidator(_prefix)]
Values = Annotated[tuple[str | bool | int, ...], BeforeValidator(_several)]
"""Values of a claim of which one is wanted; a single one may be given without a list."""


class PolicyRule(Model):
    """One rule. It applies to a request for which all of its conditions hold; a condition that is unset always does."""

    name: str = Field(min_length=1, max_length=100, description="The name, which users and the audit log are told.")
    effect: Literal["allow", "deny"] = Field("allow", description="What becomes of a request that it applies to.")
    users: Annotated[tuple[str, ...], NARROWS] = Field((), description="The user is one of these, by local name.")
    groups: Annotated[tuple[str, ...], NARROWS] = Field((), description="The token's groups hold one of these.")
    scopes: Annotated[tuple[str, ...], NARROWS] = Field((), description="The token has all of these scopes.")
    clients: Annotated[tuple[str, ...], NARROWS] = Field(
        (), description="The token was issued to one of these client ids."
    )
    claims: Annotated[Mapping[str, Values], NARROWS, *FROZEN] = Field(
        default_factory=lambda: MappingProxyType({}),
        description="Each claim, nested ones as `a.b`, has or holds one of its values; no values: it is there.",
    )
    networks: Annotated[tuple[Network, ...], NARROWS] = Field(
        (), description="The request comes from one of these IP networks."
    )
    systems: Annotated[tuple[str, ...], NARROWS] = Field((), description="The request is for one of these systems.")
    operations: Annotated[tuple[Group, ...], NARROWS] = Field(
        (),
        description="The request is in one of these groups of operations: " + ", ".join(Group) + ".",
    )
    paths: Annotated[tuple[Prefix, ...] | None, NARROWS] = Field(
        None,
        description="For `allow`: every path of the request must be, or be below, one of these real paths of the "
        "login node, {username} filled in; else it is denied. Unset: any path.",
    )

    @model_validator(mode="after")
    def _paths_allow(self) -> Self:
        if self.paths is not None and self.effect == "deny":
            raise ValueError("paths are for rules that allow: a list of what is denied would never be complete")
        if self.paths is not None and not self.paths:
            raise ValueError("paths must not be empty; leave it out to allow any path")
        return self

    @property
    def unconditional(self) -> bool:
        """Whether it applies to every request."""
        who = (self.users, self.groups, self.scopes, self.clients, self.claims, self.networks)
        return not any((*who, self.systems, self.operations))


class PolicySettings(Model):
    """Who may do what, where: the first rule that applies to a request decides."""

    default: Literal["deny", "allow"] = Field("deny", description="What becomes of a request that no rule applies to.")
    groups_claim: str = Field("groups", min_length=1, description="The claim with the groups, nested as `a.b`.")
    rules: tuple[PolicyRule, ...] = Field((), description="The rules, in order.")

    @field_validator("rules")
    @classmethod
    def _names(cls, value: tuple[PolicyRule, ...]) -> tuple[PolicyRule, ...]:
        names = [rule.name for rule in value]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two rules have the name {name}")
            if name == "default":
                raise ValueError("no rule may have the name default, which stands for the case that none applies")
        return value
