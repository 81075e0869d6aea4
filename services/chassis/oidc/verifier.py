"""Verifies the one bearer token of a request; a token that is not good raises, never counts as none."""

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import httpx

from pkicore.clock import Clock, unix
from pkicore.errors import BadTokenError, MalformedError, UnsupportedError
from pkicore.jose.jwt import MAX_JWT, TokenRules, UnverifiedJwt, VerifiedJwt
from services.chassis.errors import SettingsError
from services.chassis.oidc.issuer_keys import Fetch, IssuerKeys, discovery_fetch, file_fetch, url_client, url_fetch
from services.chassis.oidc.issuers import OidcIssuerSettings

_SCHEME: Final = "bearer"  # case-insensitive (RFC 9110 §11.1)


class _Issuer(NamedTuple):
    rules: TokenRules
    keys: IssuerKeys


class TokenVerifier:
    """Verifies tokens of the configured issuers.

    Args:
        issuers: those whose tokens are taken; none: every token is refused.
        clock: for the tokens' times.
        monotonic: seconds that never go back, for the age of keys.

    Raises:
        SettingsError: two issuers of one name, or roots that cannot be read.
    """

    def __init__(self, issuers: Sequence[OidcIssuerSettings], *, clock: Clock, monotonic: Callable[[], float]) -> None:
        self._clock = clock
        self._clients: list[httpx.AsyncClient] = []
        self._issuers: dict[str, _Issuer] = {}
        for settings in issuers:
            if settings.issuer in self._issuers:
                raise SettingsError(f"oidc_issuers has {settings.issuer!r} twice")
            keys = IssuerKeys(settings.issuer, self._fetch(settings), monotonic)
            self._issuers[settings.issuer] = _Issuer(settings.rules(), keys)

    def _fetch(self, settings: OidcIssuerSettings) -> Fetch:
        if settings.jwks_file is not None:
            return file_fetch(settings.jwks_file)
        client = url_client(settings.jwks_ca_file)
        self._clients.append(client)
        if settings.discover:
            return discovery_fetch(client, settings.issuer)
        return url_fetch(client, str(settings.jwks_url))

    async def aclose(self) -> None:
        """Close the connections to issuers."""
        for client in self._clients:
            await client.aclose()

    async def verify(self, token: str) -> VerifiedJwt:
        """Check a token.

        Raises:
            BadTokenError: it is not good, or of no configured issuer; `.reason` is one word.
        """
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


def bearer_token(authorization: Sequence[bytes]) -> str:
    """The token in a request's Authorization headers.

    Args:
        authorization: the values of all of them.

    Raises:
        BadTokenError: there is not exactly one, or it has no bearer token.
    """
    if len(authorization) != 1 or len(authorization[0]) > MAX_JWT + len(_SCHEME) + 1:
        raise BadTokenError("malformed", "the request has several Authorization headers, or one that is too long")
    try:
        scheme, _, token = authorization[0].decode("ascii").partition(" ")
    except UnicodeDecodeError as error:
        raise BadTokenError("malformed", "the Authorization header is not ASCII") from error
    if scheme.lower() != _SCHEME or not token:
        raise BadTokenError("malformed", "the Authorization header has no bearer token")
    return token
