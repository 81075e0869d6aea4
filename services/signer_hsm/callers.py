"""Who asks: the verified TLS peer, and whom its bearer token names, if it shows one."""

from __future__ import annotations

from collections.abc import Iterable

from pkicore.identity import SpiffeId
from services.chassis.errors import ForbiddenError
from services.chassis.peer import Peer
from services.signer_hsm.policy import Caller, OidcVerifier


class Callers:
    """Turns a request's connection and headers into a caller."""

    def __init__(self, tokens: OidcVerifier) -> None:
        self._tokens = tokens

    async def caller(self, peer: Peer | None, headers: Iterable[tuple[bytes, bytes]]) -> Caller:
        """Who asks.

        Raises:
            ForbiddenError: the certificate names nobody.
            DeniedByPolicyError: a token that is not good.
        """
        identity = None if peer is None else peer.spiffe_id
        if not isinstance(identity, SpiffeId):
            raise ForbiddenError("the caller's certificate has no SPIFFE ID")
        shown = [value for name, value in headers if name == b"authorization"]
        return Caller(identity, await self._tokens.subject_of(shown) if shown else None)
