"""Signed lists from encoded entries: complete ones, shards, deltas.

The caller's duties: CRL numbers strictly increase, and so does thisUpdate, since OpenSSL takes the newer of two lists
of one issuer by thisUpdate and ignores a list of the same second. A delta has the issuing distribution point of the
lists that it is for, and shares their numbers (RFC 5280 §5.2.3, §5.2.4).

A list of a million entries has fifty megabytes: it is hashed in its parts, copied once, and both beside the event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Literal, Protocol, TypeAlias, TypeVar, runtime_checkable

from cryptography import x509

from pkicore.algorithms import (
    Payload,
    PublicKey,
    known_public_key,
    signature_algorithm_der,
    verify_digest,
    verify_signature,
)
from pkicore.encoding import SEQUENCE, bit_string, explicit, extension, header, integer, sequence, tlv, x509_time
from pkicore.errors import MalformedError
from pkicore.keys import SigningKey
from pkicore.keys.remote import Reduction

Scope: TypeAlias = Literal["user", "ca"]

_VERSION_2 = integer(1)
_AUTHORITY_KEY_IDENTIFIER, _CRL_NUMBER, _DELTA_INDICATOR = "2.5.29.35", "2.5.29.20", "2.5.29.27"
_ISSUING_POINT, _FRESHEST = "2.5.29.28", "2.5.29.46"
_ONLY_USER, _ONLY_CA = 0x81, 0x82
_TRUE = b"\xff"
_URI_NAME = 0x86
_LARGE = 1 << 18  # octets from which a list is hashed and copied beside the event loop
_FIELDS_BEFORE_ENTRIES = 5  # version, signature, issuer, thisUpdate, nextUpdate (RFC 5280 §5.1.2)
_SHORT_LENGTH = 0x80

_T = TypeVar("_T")


@runtime_checkable
class _SignsReduced(Protocol):
    """A key that signs what stands for a message, too."""

    async def sign_reduced(self, kind: Payload, payload: bytes) -> bytes: ...


async def build_crl(  # noqa: PLR0913 - the fields of a list, each by its name
    issuer_certificate: x509.Certificate,
    key: SigningKey,
    entries: Iterable[bytes],
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
    tbs = _framed(
        _VERSION_2,
        algorithm,
        issuer_certificate.subject.public_bytes(),
        x509_time(this_update),
        x509_time(next_update),
        # RFC 5280 §5.1.2.6: where nothing is revoked, the list is absent, not empty.
        *((header(SEQUENCE, size), *revoked) if size else ()),
        explicit(0, sequence(*extensions)),
    )
    signature = await _signature(key, known_public_key(issuer_certificate.public_key()), tbs, size)
    return await _beside(size, b"".join, _framed(*tbs, algorithm, bit_string(signature)))


def entries_start(der: bytes) -> int:
    """The octet of a list at which its first entry begins.

    Raises:
        MalformedError: it does not begin as a list of version 2 does.
    """
    at, _ = _element(der, 0)
    at, _ = _element(der, at)
    for _ in range(_FIELDS_BEFORE_ENTRIES):
        _, at = _element(der, at)
    return _element(der, at)[0]


def stated_size(der: bytes) -> int:
    """How many octets a list has by its own first length; one without its entries has fewer.

    Raises:
        MalformedError: it does not begin as DER does.
    """
    return _element(der, 0)[1]


def _element(der: bytes, at: int) -> tuple[int, int]:
    """Where the content of the element at this octet begins and ends, which may be behind what is there."""
    length = der[at + 1 : at + 2]
    start = at + 2
    if not length:
        raise MalformedError("the list ends before its entries begin")
    if length[0] < _SHORT_LENGTH:
        return start, start + length[0]
    end = start + (length[0] & 0x7F)
    return end, end + int.from_bytes(der[start:end], "big")


async def _signature(key: SigningKey, public_key: PublicKey, tbs: Sequence[bytes], size: int) -> bytes:
    """A signature over these parts, checked."""
    if size >= _LARGE and key.algorithm.signature_hash is not None and isinstance(key, _SignsReduced):
        digest = await _beside(size, _digest, key.public_key, tbs)
        signature = await key.sign_reduced("digest", digest)
        verify_digest(public_key, signature, digest)
        return signature
    message = b"".join(tbs)
    signature = await key.sign(message)
    await _beside(size, verify_signature, public_key, signature, message)
    return signature


def _digest(public_key: PublicKey, parts: Iterable[bytes]) -> bytes:
    reduction = Reduction(public_key, "digest")
    for part in parts:
        reduction.update(part)
    return reduction.payload()


async def _beside(size: int, work: Callable[..., _T], *arguments: object) -> _T:
    """In a thread, if it takes long."""
    return work(*arguments) if size < _LARGE else await asyncio.to_thread(work, *arguments)


def _framed(*parts: bytes) -> tuple[bytes, ...]:
    """The parts of a SEQUENCE of these."""
    return header(SEQUENCE, sum(map(len, parts))), *parts


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
