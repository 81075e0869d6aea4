"""Whom a bearer token names. A token that is not good is a refusal, never a fall-back to the certificate alone."""

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import httpx
import structlog

from pkicore.clock import Clock, unix
from pkicore.errors import BadTokenError, MalformedError, UnsupportedError
from pkicore.jose.jwt import MAX_JWT, TokenRules, UnverifiedJwt, VerifiedJwt
from services.signer_hsm.errors import DeniedByPolicyError, KeyPolicyError
from services.signer_hsm.policy.decision import OidcSubject
from services.signer_hsm.policy.issuer_keys import IssuerKeys, file_fetch, url_client, url_fetch
from services.signer_hsm.policy.issuers import OidcIssuerSettings

_SCHEME: Final = "bearer"  # case-insensitive (RFC 9110 §11.1)


class _Issuer(NamedTuple):
    rules: TokenRules
    keys: IssuerKeys


class OidcVerifier:
    """Turns `Authorization: Bearer` into a subject.

    Args:
        issuers: those whose tokens are taken; none: every token is refused.
        clock: for the tokens' times.
        monotonic: seconds that never go back, for the age of keys.

    Raises:
        KeyPolicyError: two issuers of one name, or roots that cannot be read.
    """

    def __init__(self, issuers: Sequence[OidcIssuerSettings], *, clock: Clock, monotonic: Callable[[], float]) -> None:
        self._clock = clock
        self._clients: list[httpx.AsyncClient] = []
        self._issuers: dict[str, _Issuer] = {}
        self._log = structlog.get_logger("oidc")
        for settings in issuers:
            if settings.issuer in self._issuers:
                raise KeyPolicyError(f"oidc_issuers has {settings.issuer!r} twice")
            if settings.jwks_file is not None:
                fetch = file_fetch(settings.jwks_file)
            else:
                client = url_client(settings.jwks_ca_file)
                self._clients.append(client)
                fetch = url_fetch(client, str(settings.jwks_url))
            self._issuers[settings.issuer] = _Issuer(settings.rules(), IssuerKeys(settings.issuer, fetch, monotonic))

    async def aclose(self) -> None:
        """Close the connections to issuers."""
        for client in self._clients:
            await client.aclose()

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
            verified = await self._verify(_token(authorization))
        except BadTokenError as error:
            self._log.warning("token refused", reason=error.reason, error=str(error))
            raise DeniedByPolicyError(f"the bearer token is refused: {error.reason}") from error
        claims = {name: value for name, value in verified.claims.items() if isinstance(value, str | int)}
        return OidcSubject(verified.issuer, verified.subject, claims)

    async def _verify(self, token: str) -> VerifiedJwt:
        try:
            unverified = UnverifiedJwt.parse(token)
        except MalformedError as error:
            raise BadTokenError("malformed", str(error)) from error
        except UnsupportedError as error:
            raise BadTokenError("algorithm", str(error)) from error
        issuer = self._issuers.get(unverified.unverified_issuer)
        if issuer is None:
            raise BadTokenError("issuer", "the token is of an issuer that is not configured")
        if unverified.alg not in issuer.rules.algorithms:
            raise BadTokenError("algorithm", f"the token's alg {unverified.alg} is not allowed for this issuer")
        key = await issuer.keys.find(unverified.kid, unverified.alg)
        if key is None:
            raise BadTokenError("key", "the token names a key that the issuer does not publish")
        return unverified.verify(key, issuer.rules, unix(self._clock.now()))


def _token(authorization: Sequence[bytes]) -> str:
    if len(authorization) > 1 or len(authorization[0]) > MAX_JWT + len(_SCHEME) + 1:
        raise BadTokenError("malformed", "the request has several Authorization headers, or one that is too long")
    try:
        scheme, _, token = authorization[0].decode("ascii").partition(" ")
    except UnicodeDecodeError as error:
        raise BadTokenError("malformed", "the Authorization header is not ASCII") from error
    if scheme.lower() != _SCHEME or not token:
        raise BadTokenError("malformed", "the Authorization header has no bearer token")
    return token
