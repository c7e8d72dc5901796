"""Who has a stream without an end has to be somebody whom a new request would be let in for, all the while.

A request is judged once, and is over a moment later. A stream goes on for as long as its token says, which may be a
day: meanwhile the token may be revoked, its key withdrawn, the user taken out of the map of names or out of a system.
"""

import asyncio
import time

from hpcgate.auth.authorizer import Authorizer
from hpcgate.auth.principal import Principal
from hpcgate.auth.tokens import TokenVerifier
from hpcgate.errors import Forbidden, GatewayError, Unauthenticated
from hpcgate.gateway.streams import Streams
from hpcgate.telemetry.containment import FAULTS

EVERY = 30.0
"""Seconds between two looks at those whose streams go on."""
AT_ONCE = 16
"""Questions to the identity provider, or to the authorization service, under way at a time."""


class Rechecks:
    """Ends streams whose users would not be let in any more.

    Args:
        streams: Those of a gateway.
        tokens: Verifies their tokens.
        authorizer: Says who may use which system.
        spared: Seconds before a token expires in which new requests are refused and streams go on (`min_token_ttl`).
        every: Seconds between two looks.
    """

    def __init__(
        self,
        streams: Streams,
        tokens: TokenVerifier,
        authorizer: Authorizer,
        *,
        spared: float = 0,
        every: float = EVERY,
    ) -> None:
        self._streams = streams
        self._tokens = tokens
        self._authorizer = authorizer
        self._spared = spared
        self._every = every

    async def run(self) -> None:
        """Look at all of them again and again."""
        while True:
            await asyncio.sleep(self._every)
            await self.look()

    async def look(self) -> None:
        """Look at each of them once. What cannot be found out now ends nothing."""
        room = asyncio.Semaphore(AT_ONCE)

        async def judge(principal: Principal, system: str) -> bool:
            async with room:
                return await self._let_in(principal, system)

        groups = self._streams.endless()
        whose = [(group[0].principal, group[0].system) for group in groups]
        answers = await asyncio.gather(*(judge(one, system) for one, system in whose if one is not None))
        for group, let_in in zip(groups, answers, strict=True):
            if not let_in:
                for stream in group:
                    stream.close("revoked")

    def _is_spared(self, principal: Principal) -> bool:
        ends = principal.expires_at
        return bool(self._spared) and ends is not None and time.time() >= ends - self._spared

    async def _let_in(self, principal: Principal, system: str) -> bool:
        try:
            if principal.api_key is None and not self._is_spared(principal):
                found = await self._tokens.principal(principal.token)
                if found.username != principal.username:
                    return False
            if system:
                await self._authorizer.authorize(principal, system)
        except (Unauthenticated, Forbidden):
            return False
        except GatewayError:
            pass  # it cannot be told now
        except Exception as error:  # a fault of ours or of a plug-in's: the others are looked at all the same
            FAULTS.note("gateway.rechecks", error)
        return True
