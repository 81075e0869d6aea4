"""Lists as a relying party meets them: believed, or refused (RFC 5280 §6.3)."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509

from pkicore.algorithms import algorithm_of, known_public_key
from pkicore.crl.build import Scope
from pkicore.errors import BadSignatureError, MalformedError, StaleStatusError, UnsupportedError
from pkicore.x509 import PARSE_ERRORS

MAX_CRL_BYTES = 64 * 1024 * 1024
CLOCK_SKEW = timedelta(minutes=5)


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
        distribution_points: the URLs that it is for: it speaks only of certificates that name one of them. Empty: of
            all certificates of its issuer within its scope.
        serials: the revoked serial numbers.
    """

    der: bytes
    issuer: x509.Name
    authority_key: bytes
    number: int
    this_update: datetime
    next_update: datetime
    scope: Scope | None
    distribution_points: frozenset[str]
    serials: frozenset[int]

    @classmethod
    def verify(cls, der: bytes, issuer_certificate: x509.Certificate, at: datetime) -> VerifiedCrl:
        """Believe a list, or raise.

        Raises:
            MalformedError: it does not parse, is larger than 64 MiB, or lacks what RFC 5280 §5 demands.
            UnsupportedError: a delta, indirect or partial list, one whose distribution point is no URL, or a critical
                extension that is not understood.
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
        scope, points = _whom(extensions)
        return cls(
            der=der,
            issuer=crl.issuer,
            authority_key=extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier or b"",
            number=extensions.get_extension_for_class(x509.CRLNumber).value.crl_number,
            this_update=crl.last_update_utc,
            next_update=crl.next_update_utc,
            scope=scope,
            distribution_points=points,
            serials=frozenset(entry.serial_number for entry in crl),
        )

    def covers(self, urls: Collection[str]) -> bool:
        """Whether it speaks of the certificates of its issuer that name these distribution points (RFC 5280 §6.3.3)."""
        return not self.distribution_points or not self.distribution_points.isdisjoint(urls)

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


def _whom(extensions: x509.Extensions) -> tuple[Scope | None, frozenset[str]]:
    """Scope and distribution points of the list."""
    whom: tuple[Scope | None, frozenset[str]] = None, frozenset()
    for found in extensions:
        if isinstance(found.value, x509.IssuingDistributionPoint):
            whom = _scope_of(found.value), _urls_of(found.value)
        elif found.critical or isinstance(found.value, x509.DeltaCRLIndicator):
            raise UnsupportedError(f"CRLs with the extension {found.oid.dotted_string} are not understood")
    return whom


def _scope_of(point: x509.IssuingDistributionPoint) -> Scope | None:
    if point.indirect_crl or point.only_some_reasons or point.only_contains_attribute_certs:
        raise UnsupportedError("indirect and partial CRLs are not understood")
    if point.only_contains_ca_certs:
        return "ca"
    return "user" if point.only_contains_user_certs else None


def _urls_of(point: x509.IssuingDistributionPoint) -> frozenset[str]:
    """A list with a name that is no URL would be for nobody, were the name left out: it is refused instead."""
    names = point.full_name or []
    urls = frozenset(name.value for name in names if isinstance(name, x509.UniformResourceIdentifier))
    if point.relative_name is not None or (names and not urls):
        raise UnsupportedError("CRLs whose distribution point is no URL are not understood")
    return urls
