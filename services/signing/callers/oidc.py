"""OIDC tokens: verified, made a caller by ids, and given to the one tenant that the configuration says."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Final, NamedTuple

from pkicore.clock import Clock
from pkicore.errors import BadTokenError
from services.chassis.oidc import TokenVerifier
from services.signing.callers.caller import Caller
from services.signing.callers.claims import Provider, claims_of
from services.signing.callers.errors import CredentialError
from services.signing.callers.issuers import Binding, SigningIssuerSettings

_ID_CLAIM: Final[Mapping[Provider, str]] = {"github": "repository_id", "gitlab": "project_id", "generic": "subject"}


class _Issuer(NamedTuple):
    settings: SigningIssuerSettings
    server_url: str
    bindings: tuple[Binding, ...]


class OidcCallers:
    """Turns a token into a caller.

    Args:
        issuers: those whose tokens are taken.
        clock: for the tokens' times.
        monotonic: seconds that never go back, for the age of the issuers' keys.

    Raises:
        SettingsError: two issuers of one name, or roots that cannot be read.
    """

    def __init__(
        self, issuers: Sequence[SigningIssuerSettings], *, clock: Clock, monotonic: Callable[[], float]
    ) -> None:
        self._tokens = TokenVerifier(issuers, clock=clock, monotonic=monotonic)
        self._issuers = {one.issuer: _Issuer(one, one.server(), one.bindings()) for one in issuers}

    async def aclose(self) -> None:
        """Close the connections to issuers."""
        await self._tokens.aclose()

    async def caller(self, token: str) -> Caller:
        """Whom the token names.

        Raises:
            CredentialError: it is not good, or names nobody who belongs to exactly one tenant.
        """
        try:
            verified = await self._tokens.verify(token)
            settings, server_url, bindings = self._issuers[verified.issuer]
            claims = claims_of(verified, settings.provider, server_url, settings.more_claims)
            tenant = _tenant(bindings, claims)
        except BadTokenError as error:
            raise CredentialError(error.reason, f"the bearer token is refused: {error}") from error
        id_claim = _ID_CLAIM[settings.provider]
        # An issuer's URL has no fragment, so no two identities have one name.
        name = f"{verified.issuer}#{id_claim}={claims[id_claim]}"
        return Caller("oidc", name, tenant, MappingProxyType(claims))


def _tenant(bindings: Iterable[Binding], claims: Mapping[str, str]) -> str:
    tenants = {tenant for tenant, wanted in bindings if wanted.items() <= claims.items()}
    if not tenants:
        raise BadTokenError("unbound", "the identity that it names belongs to no tenant")
    if len(tenants) > 1:
        raise BadTokenError("ambiguous", "the identity that it names is bound to several tenants")
    return tenants.pop()
