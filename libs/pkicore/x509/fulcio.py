"""What Fulcio's certificates say of an OIDC identity: one extension for each claim, a UTF8String in DER.

The arc is 1.3.6.1.4.1.57264.1 (https://github.com/sigstore/fulcio/blob/main/docs/oid-info.md). Numbers .1 to .6 are
raw strings and deprecated; of these the issuer alone is written, since verifiers look for it there, and nobody may ask
for it: it is that of .8.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from cryptography import x509

from pkicore.encoding import tlv
from pkicore.errors import ProfileError

MAX_CLAIM: Final = 2048
"""Octets of a value."""
_ARC: Final = "1.3.6.1.4.1.57264.1"
_UTF8_STRING: Final = 0x0C
_NAMES: Final = (
    "issuer",
    "build-signer-uri",
    "build-signer-digest",
    "runner-environment",
    "source-repository-uri",
    "source-repository-digest",
    "source-repository-ref",
    "source-repository-id",
    "source-repository-owner-uri",
    "source-repository-owner-id",
    "build-config-uri",
    "build-config-digest",
    "build-trigger",
    "run-invocation-uri",
    "source-repository-visibility",
    "deployment-environment",
)
CLAIMS: Final[Mapping[str, str]] = MappingProxyType(
    {f"{_ARC}.{number}": name for number, name in enumerate(_NAMES, start=8)}
)
"""OID to what the claim is, in the order of their numbers."""
ISSUER_CLAIM: Final = f"{_ARC}.8"
OLD_ISSUER_OID: Final = f"{_ARC}.1"
"""The issuer again, its octets alone: sigstore-python compares no other."""
_ORDER: Final = {oid: place for place, oid in enumerate(CLAIMS)}


def claim_extensions(claims: Mapping[str, str]) -> list[x509.UnrecognizedExtension]:
    """The extensions of a certificate, not critical, in the order of their numbers; first the issuer's old form.

    Args:
        claims: OID to value.

    Raises:
        ProfileError: an OID that no certificate may have at somebody's wish, or a value that is empty or too long.
    """
    for oid, value in claims.items():
        if oid not in CLAIMS:
            raise ProfileError(f"the extension {oid[:64]!a} is not offered; there are {_ARC}.8 to {_ARC}.23")
        if not 0 < len(_octets(oid, value)) <= MAX_CLAIM:
            raise ProfileError(f"the value of the extension {oid} has 1 to {MAX_CLAIM} octets")
    old = [(OLD_ISSUER_OID, claims[ISSUER_CLAIM].encode())] if ISSUER_CLAIM in claims else []
    new = [(oid, tlv(_UTF8_STRING, claims[oid].encode())) for oid in sorted(claims, key=_ORDER.__getitem__)]
    return [x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), value) for oid, value in (*old, *new)]


def _octets(oid: str, value: str) -> bytes:
    if not value.isprintable():
        raise ProfileError(f"the value of the extension {oid} has characters that cannot be printed")
    return value.encode()
