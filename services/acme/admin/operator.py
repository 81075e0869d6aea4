"""Who asks: the verified TLS peer, whom the guard has let in."""

from __future__ import annotations

import fastapi

from services.chassis.errors import ForbiddenError


def operator_of(request: fastapi.Request) -> str:
    """The SPIFFE ID of the operator, for the audit log.

    Raises:
        ForbiddenError: the peer has none, and so was never let in.
    """
    peer = request.scope.get("state", {}).get("peer")
    if peer is None or peer.spiffe_id is None:
        raise ForbiddenError("operators are known by their SPIFFE ID")
    return str(peer.spiffe_id)
