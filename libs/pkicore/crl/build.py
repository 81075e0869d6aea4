"""Signed lists from encoded entries: complete ones, shards, deltas.

The caller's duties: CRL numbers strictly increase, and so does thisUpdate, since OpenSSL takes the newer of two lists
of one issuer by thisUpdate and ignores a list of the same second. A delta has the issuing distribution point of the
lists that it is for, and shares their numbers (RFC 5280 §5.2.3, §5.2.4).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Literal, TypeAlias

from cryptography import x509

from pkicore.algorithms import known_public_key, signature_algorithm_der, verify_signature
from pkicore.encoding import SEQUENCE, bit_string, explicit, extension, header, integer, sequence, tlv, x509_time
from pkicore.keys import SigningKey

Scope: TypeAlias = Literal["user", "ca"]

_VERSION_2 = integer(1)
_AUTHORITY_KEY_IDENTIFIER, _CRL_NUMBER, _DELTA_INDICATOR = "2.5.29.35", "2.5.29.20", "2.5.29.27"
_ISSUING_POINT, _FRESHEST = "2.5.29.28", "2.5.29.46"
_ONLY_USER, _ONLY_CA = 0x81, 0x82
_TRUE = b"\xff"
_URI_NAME = 0x86


async def build_crl(  # noqa: PLR0913 - the fields of a list, each by its name
    issuer_certificate: x509.Certificate,
    key: SigningKey,
    entries: Iterable[bytes | bytearray],
    *,
    number: int,
    this_update: datetime,
    next_update: datetime,
    distribution_points: Sequence[str],
    scope: Scope | None,
    base_number: int | None = None,
    freshest: Sequence[str] = (),
) -> bytes:
    """A signed CRL of version 2 in DER, its signature checked.

    Args:
        issuer_certificate: whose list it is; the key is its key.
        key: signs.
        entries: from `encode_entry`; several may be spliced together already.
        number: the CRL number; strictly increasing (RFC 5280 §5.2.3).
        this_update: strictly increasing too, see the module.
        next_update: when a newer list will be there.
        distribution_points: every URL at which the list is; they stand in the certificates, too (RFC 5280 §5.2.5).
            Empty, with scope None, for a root: its own certificate names no distribution point, and OpenSSL's
            CRL_CHECK_ALL, which looks for the root as well, takes only a list without one for it.
        scope: "user" for end entities only, "ca" for CAs only, None for both.
        base_number: makes it a delta: the number of the oldest list that it may be added to (RFC 5280 §5.2.4).
        freshest: where the delta to this list is (RFC 5280 §5.2.6).

    Raises:
        BadSignatureError: what came back is no signature by the issuer's key.
        KeyUnavailableError: the key's back end does not answer.
    """
    revoked = tuple(entries)
    size = sum(map(len, revoked))
    algorithm = signature_algorithm_der(key.algorithm)
    extensions = (
        _authority_key(issuer_certificate),
        extension(_CRL_NUMBER, integer(number)),
        b"" if base_number is None else extension(_DELTA_INDICATOR, integer(base_number), critical=True),
        _issuing_point(distribution_points, scope),
        extension(_FRESHEST, sequence(sequence(_point_name(freshest)))) if freshest else b"",
    )
    tbs = _spliced(
        _VERSION_2,
        algorithm,
        issuer_certificate.subject.public_bytes(),
        x509_time(this_update),
        x509_time(next_update),
        # RFC 5280 §5.1.2.6: where nothing is revoked, the list is absent, not empty.
        *((header(SEQUENCE, size), *revoked) if size else ()),
        explicit(0, sequence(*extensions)),
    )
    signature = await key.sign(tbs)
    verify_signature(known_public_key(issuer_certificate.public_key()), signature, tbs)
    return _spliced(tbs, algorithm, bit_string(signature))


def _spliced(*parts: bytes | bytearray) -> bytes:
    """A SEQUENCE of these, each copied once: a list of a million entries has fifty megabytes."""
    return b"".join((header(SEQUENCE, sum(map(len, parts))), *parts))


def _authority_key(issuer_certificate: x509.Certificate) -> bytes:
    key_identifier = issuer_certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    return extension(_AUTHORITY_KEY_IDENTIFIER, sequence(tlv(0x80, key_identifier)))


def _issuing_point(urls: Sequence[str], scope: Scope | None) -> bytes:
    """IssuingDistributionPoint (RFC 5280 §5.2.5): fullName with every URL, and whom the list is about."""
    if not urls and scope is None:
        return b""
    about = {"user": tlv(_ONLY_USER, _TRUE), "ca": tlv(_ONLY_CA, _TRUE), None: b""}[scope]
    return extension(_ISSUING_POINT, sequence(_point_name(urls) if urls else b"", about), critical=True)


def _point_name(urls: Sequence[str]) -> bytes:
    """The distributionPoint field of a DistributionPoint or IssuingDistributionPoint."""
    return explicit(0, tlv(0xA0, b"".join(tlv(_URI_NAME, url.encode("ascii")) for url in urls)))
