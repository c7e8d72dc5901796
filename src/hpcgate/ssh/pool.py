"""Connections to the login nodes, one a user, kept while they are used."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from hpcgate.auth import Principal
from hpcgate.errors import CommandFailed
from hpcgate.ssh.session import Session


class Pool:
    """The connections of one system."""

    @asynccontextmanager
    async def lease(self, principal: Principal) -> AsyncIterator[Session]:
        """Lend the user's session, connecting first if there is no live connection."""
        if principal:
            raise CommandFailed("placeholder")
        yield Session()
