"""mTLS identities: the SPIFFE ID of the verified peer, and the tenant that the configuration gives it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from pkicore.errors import IdentityError
from pkicore.identity import SpiffeId
from services.chassis.errors import SettingsError
from services.chassis.peer import Peer
from services.signing.callers.caller import Caller
from services.signing.callers.errors import CredentialError
from services.signing.callers.tenants import TenantName

_ANY: Final = "/*"


def _check_pattern(text: str) -> str:
    try:
        SpiffeId.parse(text.removesuffix(_ANY))
    except IdentityError as error:
        raise ValueError(f"must be a SPIFFE ID, or one that ends in /*: {error}") from error
    return text


class MtlsBinding(BaseModel):
    """Whose tenant a peer belongs to."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    spiffe_id: Annotated[str, AfterValidator(_check_pattern)] = Field(
        description="of the peer; the last segment may be *, any one segment"
    )
    tenant: TenantName = Field(description="on whose behalf it calls")


class MtlsCallers:
    """Turns a verified TLS peer into a caller.

    Args:
        bindings: those who may call; a full SPIFFE ID goes before a pattern.

    Raises:
        SettingsError: one SPIFFE ID or pattern twice.
    """

    def __init__(self, bindings: Sequence[MtlsBinding]) -> None:
        self._tenants = {binding.spiffe_id: binding.tenant for binding in bindings}
        if len(self._tenants) < len(bindings):
            raise SettingsError("mtls_callers has a spiffe_id twice")

    def caller(self, peer: Peer) -> Caller:
        """Who is at the other end.

        Raises:
            CredentialError: the certificate names nobody, or nobody who belongs to a tenant.
        """
        if peer.spiffe_id is None:
            raise CredentialError("unbound", "the caller's certificate has no SPIFFE ID")
        name = str(peer.spiffe_id)
        tenant = self._tenants.get(name) or self._tenants.get(name.rpartition("/")[0] + _ANY)
        if tenant is None:
            raise CredentialError("unbound", "the caller's SPIFFE ID belongs to no tenant")
        return Caller("mtls", name, tenant)
