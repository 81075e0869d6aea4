"""ID tokens and access tokens: JSON Web Tokens as compact JWS (RFC 7519, RFC 7515 §7.1), checked as RFC 8725 advises.

1 bound the size · 2 parse header and claims strictly · 3 the type is a token's (RFC 8725 §3.11) · 4 the algorithm is
allowed and the key's own (§3.1, §3.2) · 5 verify the signature · 6 issuer and audience are exactly the expected ones
(§3.8, §3.9) · 7 the times fit · 8 there is a subject.
Keys in the header (`jwk`, `jku`, `x5c`, `x5u`) are never looked at (§3.10). Which issuer a token claims chooses the
rules and keys to check it with, and is believed only afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from pkicore.algorithms import PublicKey, algorithm_of
from pkicore.errors import BadKeyError, BadSignatureError, BadTokenError, MalformedError, UnsupportedError
from pkicore.jose.jwk import public_key_from_jwk
from pkicore.jose.jws import JWS_ALGORITHMS, UnverifiedJws
from pkicore.jose.strict import strict_base64url, strict_object

MAX_JWT: Final = 16 * 1024  # characters; a signature of ML-DSA-87 takes 6170
MAX_JWKS: Final = 256 * 1024  # octets
_MAX_KEYS: Final = 100
_MAX_TEXT: Final = 1024  # characters of kid, iss and aud
_MAX_SUBJECT: Final = 255  # OpenID Connect Core §2
_MAX_AUDIENCES: Final = 32
_MAX_TIME: Final = 253_402_300_799  # 9999-12-31T23:59:59Z
_PARTS: Final = 3
_REFUSED_HEADERS: Final = ("crit", "b64", "zip", "enc")
_TYPES: Final = frozenset({"jwt", "at+jwt"})  # RFC 7519 §5.1, RFC 9068 §2.1


@dataclass(frozen=True, slots=True)
class TokenRules:
    """What is expected of an issuer's tokens.

    Attributes:
        issuer: the `iss`, exactly.
        audience: what `aud` must be, or have among others.
        algorithms: the `alg` words that are allowed, of `JWS_ALGORITHMS`.
        clock_skew: seconds that the issuer's clock may be wrong.
        max_age: seconds since `iat` at most, whatever `exp` says.
    """

    issuer: str
    audience: str
    algorithms: frozenset[str]
    clock_skew: int
    max_age: int


@dataclass(frozen=True, slots=True)
class VerifiedJwt:
    """What the issuer says; only `UnverifiedJwt.verify` makes one.

    Attributes:
        issuer: the `iss`.
        subject: the `sub`.
        issued_at: the `iat`, Unix seconds.
        expires_at: the `exp`, Unix seconds.
        claims: all claims, these included.
    """

    issuer: str
    subject: str
    issued_at: int
    expires_at: int
    claims: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class UnverifiedJwt:
    """A well-formed token; nothing in it may be believed before `verify`.

    Attributes:
        alg: the algorithm that the header names.
        kid: the key that the header names.
        unverified_issuer: the `iss`, to choose rules and keys by.
        unverified_claims: the claims.
        jws: the signature and what it is over.
    """

    alg: str
    kid: str | None
    unverified_issuer: str
    unverified_claims: Mapping[str, Any]
    jws: UnverifiedJws

    @classmethod
    def parse(cls, token: str) -> UnverifiedJwt:
        """Read a compact JWS with claims.

        Raises:
            MalformedError: too large, not that form, headers that are refused, or claims that are no JSON object.
            UnsupportedError: `alg` is not in `JWS_ALGORITHMS`; `none` and HMAC never are.
        """
        if len(token) > MAX_JWT:
            raise MalformedError(f"the token is longer than {MAX_JWT} characters")
        parts = token.split(".")
        if len(parts) != _PARTS:
            raise MalformedError("the token is not three parts with dots between them")
        protected, payload, signature = parts
        header = strict_object(strict_base64url(protected, "the token's header"), "the token's header")
        alg, kid = _check_header(header)
        octets = strict_base64url(payload, "the token's payload")
        claims = strict_object(octets, "the token's payload")
        jws = UnverifiedJws(
            alg=alg,
            kid=kid,
            jwk=None,
            nonce=None,
            url=None,
            payload=octets,
            signature=strict_base64url(signature, "the token's signature"),
            signing_input=f"{protected}.{payload}".encode(),
        )
        return cls(alg, kid, _text(claims, "iss", _MAX_TEXT), claims, jws)

    def verify(self, public_key: PublicKey, rules: TokenRules, at: int) -> VerifiedJwt:
        """Check the token with a key of the issuer that the rules are about.

        Args:
            public_key: a key that the issuer publishes.
            rules: what is expected.
            at: the present, Unix seconds.

        Raises:
            BadTokenError: the signature or a claim is not what the rules want; `.reason` is one word.
        """
        if self.alg not in rules.algorithms:
            raise BadTokenError("algorithm", f"the token's alg {self.alg} is not allowed for this issuer")
        try:
            self.jws.verify(public_key)
        except UnsupportedError as error:
            raise BadTokenError("algorithm", f"the token does not fit its key: {error}") from error
        except (BadSignatureError, BadKeyError) as error:
            raise BadTokenError("signature", "the token's signature does not verify") from error
        return _check_claims(self.unverified_claims, rules, at)


class JwkSet:
    """The keys that an issuer publishes (RFC 7517 §5)."""

    def __init__(self, keys: Mapping[tuple[str | None, str], PublicKey]) -> None:
        self._keys = MappingProxyType(dict(keys))

    @classmethod
    def parse(cls, data: bytes) -> JwkSet:
        """Read a JWK set; keys that this project does not take are passed over, as RFC 7517 §5 wants it.

        Raises:
            MalformedError: not a JWK set, too large, two keys of one name and algorithm, or no key that can be used.
        """
        if len(data) > MAX_JWKS:
            raise MalformedError(f"the JWK set has more than {MAX_JWKS} octets")
        members = strict_object(data, "the JWK set").get("keys")
        if not isinstance(members, list) or len(members) > _MAX_KEYS:
            raise MalformedError(f"the JWK set must have keys, {_MAX_KEYS} at most")
        keys: dict[tuple[str | None, str], PublicKey] = {}
        for kid, public_key in _usable(members):
            name = (kid, algorithm_of(public_key).jws)
            if name in keys:
                raise MalformedError(f"the JWK set has two {name[1]} keys with the kid {kid!r}")
            keys[name] = public_key
        if not keys:
            raise MalformedError("the JWK set has no key that can be used")
        return cls(keys)

    def find(self, kid: str | None, alg: str) -> PublicKey | None:
        """The key that a header names; without a kid the set's only key of that algorithm, if there is but one."""
        if kid is not None:
            return self._keys.get((kid, alg))
        fitting = [key for (_, its_alg), key in self._keys.items() if its_alg == alg]
        return fitting[0] if len(fitting) == 1 else None


def _usable(members: list[Any]) -> Iterator[tuple[str | None, PublicKey]]:
    for jwk in members:
        if not isinstance(jwk, dict):
            raise MalformedError("a key of the JWK set is not a JSON object")
        kid = jwk.get("kid")
        if kid is not None and (not isinstance(kid, str) or not 0 < len(kid) <= _MAX_TEXT):
            raise MalformedError(f"the kid of a JWK must be a string of 1 to {_MAX_TEXT} characters")
        try:
            yield kid, public_key_from_jwk(jwk)
        except (UnsupportedError, BadKeyError, MalformedError):
            continue


def _check_header(header: Mapping[str, Any]) -> tuple[str, str | None]:
    for name in _REFUSED_HEADERS:
        if name in header:
            raise MalformedError(f"the token's header must not have {name}")
    alg, typ = header.get("alg"), header.get("typ", "JWT")
    if not isinstance(alg, str):
        raise MalformedError("the token's header lacks alg")
    if alg not in JWS_ALGORITHMS:
        raise UnsupportedError(f"the alg of a token must be one of {', '.join(JWS_ALGORITHMS)}")
    if not isinstance(typ, str) or typ.lower().removeprefix("application/") not in _TYPES:
        raise MalformedError("the typ of a token must be JWT or at+jwt")
    return alg, _text(header, "kid", _MAX_TEXT) if "kid" in header else None


def _check_claims(claims: Mapping[str, Any], rules: TokenRules, at: int) -> VerifiedJwt:
    if claims["iss"] != rules.issuer:
        raise BadTokenError("issuer", "the token is of another issuer")
    if rules.audience not in _audiences(claims):
        raise BadTokenError("audience", "the token is for another audience")
    expires, issued = _time(claims, "exp"), _time(claims, "iat")
    not_before = _time(claims, "nbf") if "nbf" in claims else issued
    if at >= expires + rules.clock_skew:
        raise BadTokenError("expired", "the token has expired")
    if max(not_before, issued) > at + rules.clock_skew:
        raise BadTokenError("not-yet", "the token is not valid yet")
    if at - issued > rules.max_age + rules.clock_skew:
        raise BadTokenError("too-old", f"the token is older than {rules.max_age} seconds")
    try:
        subject = _text(claims, "sub", _MAX_SUBJECT)
    except MalformedError as error:
        raise BadTokenError("subject", str(error)) from error
    return VerifiedJwt(rules.issuer, subject, int(issued), int(expires), claims)


def _audiences(claims: Mapping[str, Any]) -> tuple[str, ...]:
    """The `aud` claim, one or several (RFC 7519 §4.1.3)."""
    audience = claims.get("aud")
    several = audience if isinstance(audience, list) else [audience]
    if len(several) > _MAX_AUDIENCES or not all(isinstance(one, str) for one in several):
        raise BadTokenError("audience", "the token's aud is neither a string nor a list of strings")
    return tuple(several)


def _time(claims: Mapping[str, Any], name: str) -> float:
    """A NumericDate (RFC 7519 §2), fractions allowed."""
    value = claims.get(name)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= _MAX_TIME:
        raise BadTokenError("times", f"the token must have {name}, in seconds since 1970")
    return value


def _text(members: Mapping[str, Any], name: str, most: int) -> str:
    value = members.get(name)
    if not isinstance(value, str) or not 0 < len(value) <= most or not value.isprintable():
        raise MalformedError(f"the token's {name} must be a string of 1 to {most} printable characters")
    return value
