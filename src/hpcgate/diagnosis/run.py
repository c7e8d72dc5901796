"""``hpcgate check --connect``: everything that a configuration names, all at the same time."""

import asyncio
from contextlib import AsyncExitStack

from hpcgate.auth import Principal
from hpcgate.auth.jwks import Jwks
from hpcgate.auth.openfga import OpenFga
from hpcgate.auth.service_account import ServiceLogin
from hpcgate.auth.tokens import TokenVerifier
from hpcgate.config import Cluster, Settings, plugin
from hpcgate.credentials.base import CredentialSource
from hpcgate.diagnosis.idp import look_at_idp
from hpcgate.diagnosis.system import Crowds, Who, look_at_system
from hpcgate.ssh.survey import Finding, Surveyor

IDP = "IdP"


async def walk(settings: Settings, token: str | None = None) -> list[tuple[str, Finding]]:
    """Look at the IdP and at every system.

    Args:
        settings: The configuration.
        token: Whose login is tried; None takes each system's service account.

    Returns:
        What each finding is about, the IdP or a system, and the finding.
    """
    async with AsyncExitStack() as stack:
        authentication = settings.auth.authentication
        jwks = Jwks(authentication)
        stack.push_async_callback(jwks.close)
        tokens = TokenVerifier(authentication, jwks, settings.http.max_header_size)
        stack.push_async_callback(tokens.close)
        credentials: CredentialSource = plugin("hpcgate.credentials", settings.ssh_credentials.type)(
            settings.ssh_credentials
        )
        stack.push_async_callback(credentials.close)

        def who(cluster: Cluster) -> Who | None:
            if token is not None:

                async def user() -> Principal:
                    return await tokens.principal(token)

                return Who(user, "`hpcgate token --show` with this configuration and the token says more")
            account = cluster.service_account
            if account is None:
                return None
            advice = "see that the IdP knows the service_account, and that the gateway would accept its token"
            return Who(ServiceLogin(account, authentication, tokens).principal, advice)

        authorizer = None if settings.auth.authorization is None else OpenFga(settings.auth.authorization)
        if authorizer is not None:
            stack.push_async_callback(authorizer.close)
        crowds, surveyor = Crowds(), Surveyor()
        idp, *systems = await asyncio.gather(
            _about_idp(settings, jwks),
            *(
                look_at_system(cluster, credentials, who(cluster), authorizer, crowds=crowds, surveyor=surveyor)
                for cluster in settings.clusters
            ),
        )
        return [*idp, *(found for system in systems for found in system)]


async def _about_idp(settings: Settings, jwks: Jwks) -> list[tuple[str, Finding]]:
    return [(IDP, finding) for finding in await look_at_idp(settings.auth.authentication, jwks)]
