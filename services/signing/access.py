"""Step 1 for every endpoint: who calls. Whoever shows bad credentials has only so many tries in a second."""

from __future__ import annotations

from services.chassis.asgi import Request, Scope
from services.chassis.peer import Peer
from services.signing.callers import Caller, Callers, CredentialError
from services.signing.decisions import Decisions


class Access:
    """Turns a request into a caller.

    Args:
        callers: verify credentials.
        decisions: count those that were no good.
    """

    def __init__(self, callers: Callers, decisions: Decisions) -> None:
        self._callers = callers
        self._decisions = decisions

    async def caller(self, request: Request) -> Caller:
        """Who calls.

        Raises:
            CredentialError: there is not exactly one credential, or it is not good.
            RateLimitedError: too many such from the same address in this second.
            DatabaseError: the store of API keys cannot tell.
        """
        return await self.caller_of(request.scope)

    async def caller_of(self, scope: Scope) -> Caller:
        """As `caller`, of an ASGI scope."""
        peer: Peer | None = (scope.get("state") or {}).get("peer")
        try:
            return await self._callers.caller(peer, scope["headers"])
        except CredentialError:
            client = scope.get("client")
            self._decisions.refused_credential(client[0] if client else "unknown")
            raise
