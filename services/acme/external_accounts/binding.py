"""The external account binding of a newAccount request (RFC 8555 §7.3.4): parsed, then verified with a MAC key."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from pkicore.errors import MalformedError, PkiError
from pkicore.jose.jwk import public_key_from_jwk, thumbprint
from pkicore.jose.strict import strict_base64url, strict_object
from services.acme.errors import AcmeError

MAC_ALGORITHMS: Final[Mapping[str, str]] = MappingProxyType({"HS256": "sha256", "HS384": "sha384", "HS512": "sha512"})
_MEMBERS: Final = {"protected", "payload", "signature"}
_HEADERS: Final = {"alg", "kid", "url"}
_OPTIONAL: Final = {"typ", "cty"}  # of no meaning here (RFC 7515 §4.1.9)
_MAX_KID: Final = 128


@dataclass(frozen=True, slots=True)
class UnverifiedBinding:
    """A well-formed binding; nothing in it may be believed before `verify`."""

    alg: str
    kid: str
    payload: bytes
    signature: bytes
    signing_input: bytes

    @classmethod
    def parse(cls, value: object, url: str) -> UnverifiedBinding:
        """Read a flattened JWS with MAC for this URL, that of newAccount.

        Raises:
            AcmeError: malformed, or badSignatureAlgorithm where alg is not HS256, HS384 or HS512.
        """
        try:
            return cls._parse(value, url)
        except MalformedError as error:
            raise AcmeError("malformed", f"externalAccountBinding: {error}") from error

    @classmethod
    def _parse(cls, value: object, url: str) -> UnverifiedBinding:
        if not isinstance(value, dict) or value.keys() != _MEMBERS:
            raise MalformedError("it must have exactly the strings protected, payload and signature")
        protected, payload, signature = value["protected"], value["payload"], value["signature"]
        if not all(isinstance(member, str) for member in (protected, payload, signature)):
            raise MalformedError("it must have exactly the strings protected, payload and signature")
        header = strict_object(strict_base64url(protected, "protected"), "the protected header")
        alg = header.get("alg")
        if not isinstance(alg, str) or alg not in MAC_ALGORITHMS:
            raise _bad_algorithm()
        if not _HEADERS <= header.keys() <= _HEADERS | _OPTIONAL:
            raise MalformedError("the protected header must have alg, kid and url, and no nonce, jwk or crit")
        kid = header["kid"]
        if not isinstance(kid, str) or not 0 < len(kid) <= _MAX_KID or not (kid.isascii() and kid.isprintable()):
            raise MalformedError(f"kid must be a string of 1 to {_MAX_KID} printable ASCII characters")
        if header["url"] != url:
            raise MalformedError("url must be that of newAccount, as in the outer JWS")
        octets = strict_base64url(payload, "payload"), strict_base64url(signature, "signature")
        return cls(alg, kid, *octets, f"{protected}.{payload}".encode())

    def verify(self, mac_key: bytes) -> None:
        """Check the MAC, in a time that tells nothing of it.

        Raises:
            AcmeError: unauthorized.
        """
        expected = hmac.digest(mac_key, self.signing_input, MAC_ALGORITHMS[self.alg])
        if not hmac.compare_digest(expected, self.signature):
            raise unknown_key()

    def require_key(self, account_key: str) -> None:
        """What is bound must be the key that signs the request; `account_key` is its thumbprint. Call `verify` first.

        Raises:
            AcmeError: malformed.
        """
        try:
            bound = thumbprint(public_key_from_jwk(strict_object(self.payload, "the payload")))
        except PkiError as error:
            raise AcmeError("malformed", f"externalAccountBinding: the payload is no public key: {error}") from error
        if not hmac.compare_digest(bound, account_key):
            raise AcmeError("malformed", "externalAccountBinding: the payload must be the key of the account")


def unknown_key() -> AcmeError:
    """One answer for a key identifier that there is not and a MAC that is wrong: neither can be searched for."""
    return AcmeError("unauthorized", "externalAccountBinding: the key identifier or the MAC is wrong")


def _bad_algorithm() -> AcmeError:
    algorithms: dict[str, Any] = {"algorithms": list(MAC_ALGORITHMS)}
    detail = "the alg of externalAccountBinding must be HS256, HS384 or HS512"
    return AcmeError("badSignatureAlgorithm", detail, extra=algorithms)


NOBODYS_KEY: Final = hashlib.sha512(b"no key identifier has this MAC key").digest()
"""Verified with where there is no key, so that both take the same time."""
