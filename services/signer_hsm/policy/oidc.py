"""Whom a bearer token names. A token that is not good is a refusal, never a fall-back to the certificate alone."""

from collections.abc import Callable, Sequence

import structlog

from pkicore.clock import Clock
from pkicore.errors import BadTokenError
from services.chassis.oidc import OidcIssuerSettings, TokenVerifier, bearer_token
from services.signer_hsm.errors import DeniedByPolicyError
from services.signer_hsm.policy.decision import OidcSubject


class OidcVerifier:
    """Turns `Authorization: Bearer` into a subject.

    Args:
        issuers: those whose tokens are taken; none: every token is refused.
        clock: for the tokens' times.
        monotonic: seconds that never go back, for the age of keys.

    Raises:
        SettingsError: two issuers of one name, or roots that cannot be read.
    """

    def __init__(self, issuers: Sequence[OidcIssuerSettings], *, clock: Clock, monotonic: Callable[[], float]) -> None:
        self._tokens = TokenVerifier(issuers, clock=clock, monotonic=monotonic)
        self._log = structlog.get_logger("oidc")

    async def aclose(self) -> None:
        """Close the connections to issuers."""
        await self._tokens.aclose()

    async def subject_of(self, authorization: Sequence[bytes]) -> OidcSubject | None:
        """The subject that the request's token names; None where it carries no Authorization header at all.

        Args:
            authorization: the values of the request's Authorization headers, all of them.

        Raises:
            DeniedByPolicyError: anything but one good token; the sentence has the reason in a word.
        """
        if not authorization:
            return None
        try:
            verified = await self._tokens.verify(bearer_token(authorization))
        except BadTokenError as error:
            self._log.warning("token refused", reason=error.reason, error=str(error))
            raise DeniedByPolicyError(f"the bearer token is refused: {error.reason}") from error
        claims = {name: value for name, value in verified.claims.items() if isinstance(value, str | int)}
        return OidcSubject(verified.issuer, verified.subject, claims)
