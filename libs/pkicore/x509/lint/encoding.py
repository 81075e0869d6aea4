"""The basic fields as bytes, and the period (RFC 5280 §4.1.2)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pkicore.algorithms import algorithm_of, known_public_key, signature_algorithm_der
from pkicore.encoding import GENERALIZED_TIME, INTEGER, UTC_TIME, DerReader, integer, tlv
from pkicore.errors import MalformedError
from pkicore.x509.lint.subject import LintSubject

_MAX_SERIAL_OCTETS = 20
_MIN_SERIAL_BITS = 64
_VERSION_3 = tlv(0xA0, integer(2))
_EXTENSIONS = 0xA3
_FEWEST_FIELDS = 7
_FIRST_GENERALIZED_YEAR = 2050
_ONE_SECOND = timedelta(seconds=1)


def elements_of(tbs: bytes) -> Sequence[bytes]:
    """The fields of a TBSCertificate (RFC 5280 §4.1), each in DER: eight, in what this CA makes.

    Raises:
        MalformedError: the bytes are none.
    """
    outer = DerReader(tbs)
    fields = outer.enter().read_elements()
    outer.finish()
    if len(fields) < _FEWEST_FIELDS:
        raise MalformedError("a certificate has seven fields and more")
    return fields


def version_and_serial(elements: Sequence[bytes]) -> Iterator[str]:
    """RFC 5280 §4.1.2.1, §4.1.2.2 and BR §7.1."""
    if elements[0] != _VERSION_3:
        yield "RFC 5280 §4.1.2.1: a certificate with extensions has version 3"
    serial = DerReader(elements[1]).read(INTEGER)
    if not 0 < len(serial) <= _MAX_SERIAL_OCTETS or serial[0] & 0x80 or not any(serial):
        yield "RFC 5280 §4.1.2.2: a serial number is positive and has at most 20 octets"
    if int.from_bytes(serial, "big").bit_length() < _MIN_SERIAL_BITS:
        yield "BR §7.1: a serial number has at least 64 random bits"


def _signature(subject: LintSubject) -> Iterator[str]:
    """RFC 5280 §4.1.2.3."""
    signer = algorithm_of(subject.issuer_certificate.public_key())
    if subject.elements[2] != signature_algorithm_der(signer):
        yield f"RFC 5280 §4.1.2.3: the signature algorithm is not the issuer's, {signer.name}"


def _times(subject: LintSubject) -> Iterator[str]:
    """RFC 5280 §4.1.2.5."""
    certificate, times = subject.certificate, subject.elements[4]
    second = 4 + times[3]  # behind the header of the sequence and the first time, which parsed
    for moment, tag in ((certificate.not_valid_before_utc, times[2]), (certificate.not_valid_after_utc, times[second])):
        if tag != (UTC_TIME if moment.year < _FIRST_GENERALIZED_YEAR else GENERALIZED_TIME):
            yield "RFC 5280 §4.1.2.5: dates through 2049 are UTCTime, later ones GeneralizedTime"


def _period(subject: LintSubject) -> Iterator[str]:
    """RFC 5280 §4.1.2.5, and what the profile and the issuer allow."""
    certificate, above = subject.certificate, subject.issuer_certificate
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if end < start:
        yield "RFC 5280 §4.1.2.5: notAfter lies before notBefore"
    if end - start + _ONE_SECOND > subject.profile.validity:
        yield f"profile: valid longer than {subject.profile.validity}, both ends included"
    if start < above.not_valid_before_utc or end > above.not_valid_after_utc:
        yield "profile: valid outside the issuer's own period"


def _key(subject: LintSubject) -> Iterator[str]:
    """RFC 5280 §4.1.2.7, RFC 3279 §2.3.1, RFC 9881 §4: one form, with the parameters that its algorithm has."""
    expected = known_public_key(subject.public_key).public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if subject.elements[6] != expected:
        yield f"RFC 5280 §4.1.2.7: the key is not in the one form of {subject.algorithm.name} keys"


def _unique_identifiers(subject: LintSubject) -> Iterator[str]:
    """RFC 5280 §4.1.2.8."""
    if any(element[0] != _EXTENSIONS for element in subject.elements[7:]):
        yield "RFC 5280 §4.1.2.8: conforming CAs make no unique identifiers"


OF_THE_SHAPE = (_signature, _unique_identifiers)
OF_EACH = (_times, _period, _key)
