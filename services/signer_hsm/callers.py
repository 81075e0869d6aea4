"""Who asks: the verified TLS peer, and whom its bearer token names, if it shows one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple, get_args

from pkicore.errors import MalformedError
from pkicore.identity import SpiffeId
from services.chassis.errors import ForbiddenError
from services.chassis.peer import Peer
from services.signer_hsm.decisions import Decisions
from services.signer_hsm.errors import DeniedByPolicyError
from services.signer_hsm.policy import Act, Caller, OidcVerifier
from services.signer_hsm.wire import split_key_id

_ACTS: Final[dict[str, Act]] = {act: act for act in get_args(Act)}
_KEY_AT: Final = 2  # v1/keys/ID


class Callers:
    """Turns a request's connection and headers into a caller."""

    def __init__(self, tokens: OidcVerifier, decisions: Decisions) -> None:
        self._tokens = tokens
        self._decisions = decisions

    async def caller(self, peer: Peer | None, headers: Iterable[tuple[bytes, bytes]], method: str, path: str) -> Caller:
        """Who asks.

        Args:
            peer: of the connection.
            headers: of the request.
            method: of the request; with the path it tells what a bad token was shown for.
            path: of the request.

        Raises:
            ForbiddenError: the certificate names nobody.
            DeniedByPolicyError: a token that is not good; that is on record.
            RateLimitedError: the caller has had too many refusals in this second.
        """
        identity = None if peer is None else peer.spiffe_id
        if not isinstance(identity, SpiffeId):
            raise ForbiddenError("the caller's certificate has no SPIFFE ID")
        shown = [value for name, value in headers if name == b"authorization"]
        bearer = Caller(identity)
        if not shown:
            return bearer
        self._decisions.check_budget(bearer)
        try:
            return Caller(identity, await self._tokens.subject_of(shown))
        except DeniedByPolicyError:
            await self._decisions.refuse_token(bearer, *_asked(method, path))
            raise


class _Asked(NamedTuple):
    act: Act
    tenant: str
    key: str | None


def _asked(method: str, path: str) -> _Asked:
    """What a request is about, as far as its path says; a key that only the body names stays unnamed."""
    parts = path.strip("/").split("/")
    try:
        tenant, key = split_key_id(parts[_KEY_AT]) if parts[1:2] == ["keys"] and len(parts) > _KEY_AT else ("", None)
    except MalformedError:
        tenant, key = "", None
    act = _ACTS.get(parts[-1])
    if act is None and parts[-1] == "approvals":
        act = "approve"
    if act is None and len(parts) > _KEY_AT:
        act = "show"
    return _Asked(act or ("create" if method == "POST" else "list"), tenant, key)
