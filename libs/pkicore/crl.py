"""Certificate revocation lists (RFC 5280 §5): entries encoded once, lists assembled from them, lists believed or not.

An entry is encoded when its certificate is revoked and kept as bytes; publishing splices the entries into a
TBSCertList, signs and writes. cryptography's builder would encode every entry again for each publication.

The caller's duties: CRL numbers strictly increase, and so does thisUpdate, since OpenSSL takes the newer of two lists
of one issuer by thisUpdate and ignores a list of the same second.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Literal, TypeAlias

from cryptography import x509

from pkicore.algorithms import algorithm_of, known_public_key, signature_algorithm_der, verify_signature
from pkicore.encoding import (
    SEQUENCE,
    bit_string,
    enumerated,
    explicit,
    extension,
    integer,
    sequence,
    tlv,
    x509_time,
)
from pkicore.errors import BadSignatureError, MalformedError, StaleStatusError, UnsupportedError
from pkicore.keys import SigningKey
from pkicore.x509 import PARSE_ERRORS

Scope: TypeAlias = Literal["user", "ca"]

REASONS: Mapping[str, int] = MappingProxyType(
    {
        "unspecified": 0,
        "keyCompromise": 1,
        "cACompromise": 2,
        "affiliationChanged": 3,
        "superseded": 4,
        "cessationOfOperation": 5,
        "certificateHold": 6,
        "removeFromCRL": 8,
        "privilegeWithdrawn": 9,
        "aACompromise": 10,
    }
)
"""CRLReason by its name in RFC 5280 §5.3.1; 7 is not used."""

MAX_CRL_BYTES = 64 * 1024 * 1024
CLOCK_SKEW = timedelta(minutes=5)
_VERSION_2 = integer(1)
_AUTHORITY_KEY_IDENTIFIER, _CRL_NUMBER, _ISSUING_POINT, _REASON_CODE = (
    "2.5.29.35",
    "2.5.29.20",
    "2.5.29.28",
    "2.5.29.21",
)
_ONLY_USER, _ONLY_CA = 0x81, 0x82
_TRUE = b"\xff"
_URI_NAME = 0x86


@dataclass(frozen=True)
class Revocation:
    """One revoked certificate; `reason` is a name of `REASONS`."""

    serial: int
    at: datetime
    reason: str


def encode_entry(revocation: Revocation) -> bytes:
    """One element of revokedCertificates in DER; the reason `unspecified` is left out (RFC 5280 §5.3.1).

    Raises:
        UnsupportedError: a reason that is not in the table.
    """
    if revocation.reason not in REASONS:
        raise UnsupportedError(f"{revocation.reason[:40]!r} is no revocation reason")
    code = REASONS[revocation.reason]
    extensions = sequence(extension(_REASON_CODE, enumerated(code))) if code else b""
    return sequence(integer(revocation.serial), x509_time(revocation.at), extensions)


async def build_crl(
    issuer_certificate: x509.Certificate,
    key: SigningKey,
    entries: Iterable[bytes],
    *,
    number: int,
    this_update: datetime,
    next_update: datetime,
    distribution_points: Sequence[str],
    scope: Scope | None,
) -> bytes:
    """A signed CRL of version 2 in DER, its signature checked.

    Args:
        issuer_certificate: whose list it is; the key is its key.
        key: signs.
        entries: from `encode_entry`.
        number: the CRL number; strictly increasing (RFC 5280 §5.2.3).
        this_update: strictly increasing too, see the module.
        next_update: when a newer list will be there.
        distribution_points: every URL at which the list is; they stand in the certificates, too (RFC 5280 §5.2.5).
            Empty, with scope None, for a root: its own certificate names no distribution point, and OpenSSL's
            CRL_CHECK_ALL, which looks for the root as well, takes only a list without one for it.
        scope: "user" for end entities only, "ca" for CAs only, None for both.

    Raises:
        BadSignatureError: what came back is no signature by the issuer's key.
        KeyUnavailableError: the key's back end does not answer.
    """
    revoked = b"".join(entries)
    algorithm = signature_algorithm_der(key.algorithm)
    tbs = sequence(
        _VERSION_2,
        algorithm,
        issuer_certificate.subject.public_bytes(),
        x509_time(this_update),
        x509_time(next_update),
        # RFC 5280 §5.1.2.6: where nothing is revoked, the list is absent, not empty.
        tlv(SEQUENCE, revoked) if revoked else b"",
        explicit(0, sequence(*_extensions(issuer_certificate, number, distribution_points, scope))),
    )
    signature = await key.sign(tbs)
    verify_signature(known_public_key(issuer_certificate.public_key()), signature, tbs)
    return sequence(tbs, algorithm, bit_string(signature))


def _extensions(
    issuer_certificate: x509.Certificate, number: int, distribution_points: Sequence[str], scope: Scope | None
) -> tuple[bytes, ...]:
    key_identifier = issuer_certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    found = (
        extension(_AUTHORITY_KEY_IDENTIFIER, sequence(tlv(0x80, key_identifier))),
        extension(_CRL_NUMBER, integer(number)),
    )
    if not distribution_points and scope is None:
        return found
    return (*found, extension(_ISSUING_POINT, _issuing_point(distribution_points, scope), critical=True))


def _issuing_point(urls: Sequence[str], scope: Scope | None) -> bytes:
    """IssuingDistributionPoint (RFC 5280 §5.2.5): fullName with every URL, and whom the list is about."""
    names = b"".join(tlv(_URI_NAME, url.encode("ascii")) for url in urls)
    point = explicit(0, tlv(0xA0, names)) if urls else b""
    about = {"user": tlv(_ONLY_USER, _TRUE), "ca": tlv(_ONLY_CA, _TRUE), None: b""}[scope]
    return sequence(point, about)


@dataclass(frozen=True)
class VerifiedCrl:
    """A list that its issuer signed and that was in force when it was checked.

    Attributes:
        der: the list as it came.
        issuer: the name that signed it.
        authority_key: the key identifier of the issuer.
        number: its CRL number.
        this_update: when it was made.
        next_update: until when it holds.
        scope: whom it is about; None for everybody.
        serials: the revoked serial numbers.
    """

    der: bytes
    issuer: x509.Name
    authority_key: bytes
    number: int
    this_update: datetime
    next_update: datetime
    scope: Scope | None
    serials: frozenset[int]

    @classmethod
    def verify(cls, der: bytes, issuer_certificate: x509.Certificate, at: datetime) -> VerifiedCrl:
        """Believe a list, or raise.

        Raises:
            MalformedError: it does not parse, is larger than 64 MiB, or lacks what RFC 5280 §5 demands.
            UnsupportedError: a delta, indirect or partial list, or a critical extension that is not understood.
            BadSignatureError: this issuer did not sign it.
            StaleStatusError: not in force at this time.
        """
        if len(der) > MAX_CRL_BYTES:
            raise MalformedError(f"a CRL has at most {MAX_CRL_BYTES} bytes")
        try:
            crl = x509.load_der_x509_crl(der)
            _check_signature(crl, issuer_certificate)
            verified = cls._read(der, crl)
            own = issuer_certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
        except (x509.ExtensionNotFound, *PARSE_ERRORS) as error:
            raise MalformedError("the CRL does not parse, or lacks a part that it needs") from error
        if verified.authority_key != own:
            raise BadSignatureError("the CRL names another key of its issuer")
        verified.check_current(at)
        return verified

    @classmethod
    def _read(cls, der: bytes, crl: x509.CertificateRevocationList) -> VerifiedCrl:
        extensions = crl.extensions
        if crl.next_update_utc is None:
            raise MalformedError("the CRL does not say until when it holds (RFC 5280 §5.1.2.5)")
        return cls(
            der=der,
            issuer=crl.issuer,
            authority_key=extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier or b"",
            number=extensions.get_extension_for_class(x509.CRLNumber).value.crl_number,
            this_update=crl.last_update_utc,
            next_update=crl.next_update_utc,
            scope=_scope(extensions),
            serials=frozenset(entry.serial_number for entry in crl),
        )

    def check_current(self, at: datetime) -> None:
        """The list is in force at this time.

        Raises:
            StaleStatusError: it is not yet, or no longer.
        """
        if self.this_update > at + CLOCK_SKEW:
            raise StaleStatusError(f"the CRL of {self.issuer.rfc4514_string()} is from the future")
        if self.next_update <= at:
            raise StaleStatusError(
                f"the CRL of {self.issuer.rfc4514_string()} ended {self.next_update:%Y-%m-%dT%H:%M:%SZ}"
            )


def _check_signature(crl: x509.CertificateRevocationList, issuer_certificate: x509.Certificate) -> None:
    if crl.issuer != issuer_certificate.subject:
        raise BadSignatureError("the CRL is another issuer's")
    public_key = known_public_key(issuer_certificate.public_key())
    if crl.signature_algorithm_oid.dotted_string != algorithm_of(public_key).signature_oid:
        raise BadSignatureError("the CRL is signed with another algorithm than its issuer's")
    # The parser has compared the inner and the outer algorithm already (RFC 5280 §5.1.1.2).
    if not crl.is_signature_valid(public_key):
        raise BadSignatureError("the signature of the CRL does not verify")


def _scope(extensions: x509.Extensions) -> Scope | None:
    scope: Scope | None = None
    for found in extensions:
        if isinstance(found.value, x509.IssuingDistributionPoint):
            scope = _scope_of(found.value)
        elif found.critical or isinstance(found.value, x509.DeltaCRLIndicator):
            raise UnsupportedError(f"CRLs with the extension {found.oid.dotted_string} are not understood")
    return scope


def _scope_of(point: x509.IssuingDistributionPoint) -> Scope | None:
    if point.indirect_crl or point.only_some_reasons or point.only_contains_attribute_certs:
        raise UnsupportedError("indirect and partial CRLs are not understood")
    if point.only_contains_ca_certs:
        return "ca"
    return "user" if point.only_contains_user_certs else None
