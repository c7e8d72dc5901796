"""Who may use which system."""

from typing import Protocol

from hpcgate.auth.principal import Principal


class Authorizer(Protocol):
    """Says whether a user may use a system."""

    async def authorize(self, principal: Principal, system: str) -> None:
        """Return if the principal may use the system of that configured name.

        Raises:
            Forbidden: The user may not use the system.
            Unavailable: It could not be found out.
        """

    async def close(self) -> None:
        """Close what is open."""


class Everyone:
    """Lets every authenticated user use every system: no ``authorization`` is configured."""

    async def authorize(self, principal: Principal, system: str) -> None:
        """Allow everything: there is no service to ask."""

    async def close(self) -> None:
        """Do nothing: nothing is open."""
