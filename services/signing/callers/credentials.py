"""The one credential of a request. Two at once are refused: nobody chooses between two identities."""

from __future__ import annotations

from collections.abc import Iterable

from pkicore.errors import BadTokenError
from services.chassis.oidc import bearer_token
from services.chassis.peer import Peer
from services.signing.callers.api_keys import PREFIX, ApiKeys
from services.signing.callers.caller import Caller
from services.signing.callers.errors import CredentialError
from services.signing.callers.mtls import MtlsCallers
from services.signing.callers.oidc import OidcCallers


class Callers:
    """Turns a request's connection and headers into a caller."""

    def __init__(self, api_keys: ApiKeys, tokens: OidcCallers, peers: MtlsCallers) -> None:
        self._api_keys = api_keys
        self._tokens = tokens
        self._peers = peers

    async def caller(self, peer: Peer | None, headers: Iterable[tuple[bytes, bytes]]) -> Caller:
        """Who calls.

        Args:
            peer: the verified TLS peer; None where it showed no certificate.
            headers: of the request, names in lower case.

        Raises:
            CredentialError: there is not exactly one credential, or it is not good.
            DatabaseError: the store of API keys cannot tell.
        """
        shown = [value for name, value in headers if name == b"authorization"]
        if peer is not None and shown:
            raise CredentialError("several", "the request has a client certificate and an Authorization header")
        if peer is not None:
            return self._peers.caller(peer)
        if not shown:
            raise CredentialError("none", "the request has neither a client certificate nor an Authorization header")
        try:
            text = bearer_token(shown)
        except BadTokenError as error:
            raise CredentialError(error.reason, str(error)) from error
        return await (self._api_keys if text.startswith(PREFIX) else self._tokens).caller(text)
