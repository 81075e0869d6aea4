"""The last look before the key signs: parse the to-be-signed bytes afresh and hold them against rules and profile.

Refuses, never warns. It shares no code with `tbs` beyond the tables, so that a mistake there is seen here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from types import MappingProxyType
from typing import TypeAlias

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtensionOID, NameOID

from pkicore.algorithms import Algorithm, algorithm_of, signature_algorithm_der
from pkicore.encoding import (
    GENERALIZED_TIME,
    INTEGER,
    SEQUENCE,
    UTC_TIME,
    DerReader,
    bit_string,
    integer,
    sequence,
    tlv,
)
from pkicore.errors import LintError, PkiError
from pkicore.identity import SpiffeId
from pkicore.x509 import PARSE_ERRORS
from pkicore.x509.fulcio import CLAIMS, ISSUER_CLAIM, OLD_ISSUER_OID
from pkicore.x509.key_rules import check_certificate_key
from pkicore.x509.names import names_of
from pkicore.x509.profiles import EXTENDED_KEY_USAGES, Profile
from pkicore.x509.tbs import MAX_COMMON_NAME, Issuer

_MAX_SERIAL_OCTETS = 20
_MIN_SERIAL_BITS = 64
_VERSION_3 = tlv(0xA0, integer(2))
_FIRST_GENERALIZED_YEAR = 2050
_ONE_SECOND = timedelta(seconds=1)
_CRITICAL = frozenset({ExtensionOID.BASIC_CONSTRAINTS, ExtensionOID.KEY_USAGE})
_MAY_BE_CRITICAL = ExtensionOID.SUBJECT_ALTERNATIVE_NAME
_UTF8_STRING = 0x0C
_OLD_ISSUER = x509.ObjectIdentifier(OLD_ISSUER_OID)
_NO_CLAIMS: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class _Subject:
    """What a rule looks at; `issuer` is None for a root, `claims` and `logged` are as for `lint_tbs`."""

    tbs: bytes
    certificate: x509.Certificate
    extensions: x509.Extensions
    algorithm: Algorithm
    profile: Profile
    issuer: Issuer | None
    claims: Mapping[str, str]
    logged: bool

    @property
    def issuer_certificate(self) -> x509.Certificate:
        return self.certificate if self.issuer is None else self.issuer.certificate


_Rule: TypeAlias = Callable[[_Subject], Iterator[str]]


def lint_tbs(
    tbs: bytes,
    profile: Profile,
    issuer: Issuer | None,
    *,
    claims: Mapping[str, str] = _NO_CLAIMS,
    logged: bool = False,
) -> None:
    """Refuse to-be-signed bytes that break a rule.

    Args:
        tbs: the bytes.
        profile: what they must be.
        issuer: whose key will sign them; None for a root.
        claims: Fulcio's extensions that were asked for, OID to value; these must be there, and no others.
        logged: whether the timestamps of a log must be there already; else they must not.

    Raises:
        LintError: with every finding, each named after its source.
    """
    findings: tuple[str, ...]
    try:
        # cryptography refuses, or warns of, what these two are about; so they come before its parser.
        findings = tuple(_version_and_serial(tbs))
        if not findings:
            certificate, algorithm = _parse(tbs)
            subject = _Subject(
                tbs, certificate, certificate.extensions, algorithm, profile, issuer, claims=claims, logged=logged
            )
            findings = tuple(finding for rule in _RULES for finding in _apply(rule, subject))
    except (PkiError, *PARSE_ERRORS) as error:
        raise LintError((f"RFC 5280 §4.1: the to-be-signed bytes do not parse: {error}",)) from error
    if findings:
        raise LintError(findings)


def _apply(rule: _Rule, subject: _Subject) -> Iterator[str]:
    try:
        yield from rule(subject)
    except x509.ExtensionNotFound as error:
        yield f"RFC 5280 §4.2: the extension {error.oid.dotted_string} is missing"


def _parse(tbs: bytes) -> tuple[x509.Certificate, Algorithm]:
    reader = DerReader(tbs)
    fields = reader.enter()
    reader.finish()
    for _ in range(2):
        fields.read_element()
    certificate = x509.load_der_x509_certificate(sequence(tbs, fields.read_element(), bit_string(b"")))
    return certificate, check_certificate_key(certificate.public_key())


def _version_and_serial(tbs: bytes) -> Iterator[str]:
    fields = DerReader(tbs).enter()
    if fields.read_element() != _VERSION_3:
        yield "RFC 5280 §4.1.2.1: a certificate with extensions has version 3"
    serial = fields.read(INTEGER)
    if not 0 < len(serial) <= _MAX_SERIAL_OCTETS or serial[0] & 0x80 or not any(serial):
        yield "RFC 5280 §4.1.2.2: a serial number is positive and has at most 20 octets"
    if int.from_bytes(serial, "big").bit_length() < _MIN_SERIAL_BITS:
        yield "BR §7.1: a serial number has at least 64 random bits"


def _encoding(subject: _Subject) -> Iterator[str]:
    fields = DerReader(subject.tbs).enter()
    for _ in range(2):
        fields.read_element()
    signer = algorithm_of(subject.issuer_certificate.public_key())
    if fields.read_element() != signature_algorithm_der(signer):
        yield f"RFC 5280 §4.1.2.3: the signature algorithm is not the issuer's, {signer.name}"
    fields.read(SEQUENCE)
    yield from _time_encoding(subject, fields.enter())


def _time_encoding(subject: _Subject, times: DerReader) -> Iterator[str]:
    certificate = subject.certificate
    for moment in (certificate.not_valid_before_utc, certificate.not_valid_after_utc):
        expected = UTC_TIME if moment.year < _FIRST_GENERALIZED_YEAR else GENERALIZED_TIME
        if not times.next_is(expected):
            yield "RFC 5280 §4.1.2.5: dates through 2049 are UTCTime, later ones GeneralizedTime"
        times.read_element()


def _issuer(subject: _Subject) -> Iterator[str]:
    above = subject.issuer_certificate
    if subject.certificate.issuer.public_bytes() != above.subject.public_bytes():
        yield "RFC 5280 §4.1.2.4: the issuer name is not the issuer's subject, byte for byte"
    constraints = above.extensions.get_extension_for_class(x509.BasicConstraints).value
    if not constraints.ca or not above.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign:
        yield "RFC 5280 §4.2.1.9: the issuer is no CA that may sign certificates"
    if subject.profile.ca and subject.issuer is not None and constraints.path_length == 0:
        yield "RFC 5280 §4.2.1.9: the issuer's path length allows no CA below it"
    families = subject.profile.families.get(subject.algorithm.family, ())
    if subject.issuer is not None and subject.issuer.family not in families:
        yield f"profile: {subject.algorithm.family} keys are not issued by the family {subject.issuer.family}"


def _validity(subject: _Subject) -> Iterator[str]:
    certificate, above = subject.certificate, subject.issuer_certificate
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if end < start:
        yield "RFC 5280 §4.1.2.5: notAfter lies before notBefore"
    if end - start + _ONE_SECOND > subject.profile.validity:
        yield f"profile: valid longer than {subject.profile.validity}, both ends included"
    if start < above.not_valid_before_utc or end > above.not_valid_after_utc:
        yield "profile: valid outside the issuer's own period"


def _key(subject: _Subject) -> Iterator[str]:
    if subject.algorithm.name not in subject.profile.keys:
        yield f"profile: {subject.algorithm.name} keys are not in the profile"
    expected = x509.SubjectKeyIdentifier.from_public_key(subject.certificate.public_key())
    found = subject.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    if found != expected:
        yield "RFC 5280 §4.2.1.2: the subject key identifier is not the SHA-1 of the key"


def _subject_name(subject: _Subject) -> Iterator[str]:
    attributes = list(subject.certificate.subject)
    if any(attribute.oid != NameOID.COMMON_NAME for attribute in attributes) or len(attributes) > 1:
        yield "profile: the subject is one common name or empty"
        return
    common_name = str(attributes[0].value) if attributes else None
    rule = subject.profile.subject
    if (rule == "empty" and common_name is not None) or (rule == "required" and common_name is None):
        yield f"profile: the subject must be {rule}"
    if common_name is not None and not 0 < len(common_name) <= MAX_COMMON_NAME:
        yield "RFC 5280 appendix A: a common name has 1 to 64 characters"
    if common_name is not None and rule == "first-name" and common_name not in _dns_names(subject):
        yield "BR §7.1.4.3: the common name is one of the DNS names"
    if subject.profile.ca and not attributes:
        yield "RFC 5280 §4.1.2.6: a CA has a subject"


def _dns_names(subject: _Subject) -> list[str]:
    try:
        names = subject.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return names.get_values_for_type(x509.DNSName)


def _extension_set(subject: _Subject) -> Iterator[str]:
    found = {extension.oid for extension in subject.extensions}
    expected = _expected_extensions(subject)
    for oid in sorted(found ^ expected, key=lambda oid: oid.dotted_string):
        word = "is missing" if oid in expected else "has no place in this profile"
        yield f"profile: the extension {oid.dotted_string} {word}"
    critical = set(_CRITICAL)
    if "timeStamping" in subject.profile.extended_key_usage:
        critical.add(ExtensionOID.EXTENDED_KEY_USAGE)  # RFC 3161 §2.3
    for extension in subject.extensions:
        if extension.oid != _MAY_BE_CRITICAL and extension.critical != (extension.oid in critical):
            yield f"RFC 5280 §4.2: the criticality of {extension.oid.dotted_string} is wrong"


def _expected_extensions(subject: _Subject) -> set[x509.ObjectIdentifier]:
    profile = subject.profile
    wanted = {
        ExtensionOID.BASIC_CONSTRAINTS: True,
        ExtensionOID.KEY_USAGE: True,
        ExtensionOID.SUBJECT_KEY_IDENTIFIER: True,
        ExtensionOID.AUTHORITY_KEY_IDENTIFIER: subject.issuer is not None,
        ExtensionOID.EXTENDED_KEY_USAGE: bool(profile.extended_key_usage),
        ExtensionOID.AUTHORITY_INFORMATION_ACCESS: profile.crl or profile.ocsp,
        ExtensionOID.CRL_DISTRIBUTION_POINTS: profile.crl,
        ExtensionOID.FRESHEST_CRL: profile.freshest_crl,
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME: set(profile.names.values()) != {"forbidden"},
        ExtensionOID.OCSP_NO_CHECK: profile.ocsp_no_check,
        ExtensionOID.PRECERT_SIGNED_CERTIFICATE_TIMESTAMPS: profile.sct and subject.logged,
    }
    claims = {x509.ObjectIdentifier(oid) for oid in subject.claims if profile.fulcio and oid in CLAIMS}
    if profile.fulcio:
        claims.add(_OLD_ISSUER)
    return claims | {oid for oid, present in wanted.items() if present}


def _claims(subject: _Subject) -> Iterator[str]:
    for oid, value in subject.claims.items():
        if oid not in CLAIMS or not subject.profile.fulcio:
            yield f"profile: the extension {oid} has no place in this profile"
            continue
        found = subject.extensions.get_extension_for_oid(x509.ObjectIdentifier(oid)).value
        if not isinstance(found, x509.UnrecognizedExtension) or found.value != tlv(_UTF8_STRING, value.encode()):
            yield f"Fulcio: the extension {oid} does not hold the claim as a UTF8String"


def _old_issuer(subject: _Subject) -> Iterator[str]:
    if not subject.profile.fulcio:
        return
    found = subject.extensions.get_extension_for_oid(_OLD_ISSUER).value
    expected = subject.claims.get(ISSUER_CLAIM, "").encode()
    if not isinstance(found, x509.UnrecognizedExtension) or not expected or found.value != expected:
        yield "Fulcio: the issuer is not said twice, in the old form and the new"


def _constraints(subject: _Subject) -> Iterator[str]:
    found = subject.extensions.get_extension_for_class(x509.BasicConstraints).value
    if (found.ca, found.path_length) != (subject.profile.ca, subject.profile.path_length):
        yield "RFC 5280 §4.2.1.9: CA flag or path length are not the profile's"


def _usages(subject: _Subject) -> Iterator[str]:
    usage = subject.extensions.get_extension_for_class(x509.KeyUsage).value
    found = {name for name, bit in _bits(usage).items() if bit}
    is_rsa = isinstance(subject.certificate.public_key(), rsa.RSAPublicKey)
    if found != {name for name in subject.profile.key_usage if name != "keyEncipherment" or is_rsa}:
        yield "RFC 5280 §4.2.1.3: the key usage is not the profile's"
    if not is_rsa and found & {"keyEncipherment", "dataEncipherment", "keyAgreement"}:
        source = "RFC 9881 §5" if subject.algorithm.family == "mldsa" else "RFC 8813 §3, RFC 8410 §5"
        yield f"{source}: {subject.algorithm.name} keys sign and do nothing else"
    yield from _extended_usages(subject)


def _bits(usage: x509.KeyUsage) -> dict[str, bool]:
    return {
        "digitalSignature": usage.digital_signature,
        "contentCommitment": usage.content_commitment,
        "keyEncipherment": usage.key_encipherment,
        "dataEncipherment": usage.data_encipherment,
        "keyAgreement": usage.key_agreement,
        "keyCertSign": usage.key_cert_sign,
        "cRLSign": usage.crl_sign,
    }


def _extended_usages(subject: _Subject) -> Iterator[str]:
    expected = {EXTENDED_KEY_USAGES[name] for name in subject.profile.extended_key_usage}
    found: set[str] = set()
    if expected:
        usages = subject.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        found = {oid.dotted_string for oid in usages}
    if found != expected:
        yield "RFC 5280 §4.2.1.12: the extended key usage is not the profile's"


def _alternative_names(subject: _Subject) -> Iterator[str]:
    try:
        extension = subject.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return
    if extension.critical != (not list(subject.certificate.subject)):
        yield "RFC 5280 §4.2.1.6: the alternative names are critical exactly where the subject is empty"
    names = names_of(extension.value)
    if list(extension.value) != names.general_names():
        yield "RFC 5280 §4.2.1.6: the alternative names are not in canonical form"
    try:
        subject.profile.check_names(names)
    except PkiError as error:
        yield f"profile: {error}"
    if len(names.uri) > 1:
        yield "X509-SVID §2: exactly one URI name"
    for uri in names.uri if not subject.profile.fulcio else ():
        SpiffeId.parse(uri)


def _authority(subject: _Subject) -> Iterator[str]:
    if subject.issuer is None:
        return
    authority = subject.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    if authority.key_identifier != subject.issuer.subject_key_identifier.digest:
        yield "RFC 5280 §4.2.1.1: the authority key identifier is not the issuer's"
    if subject.profile.crl or subject.profile.ocsp:
        yield from _access(subject, subject.issuer)
    if subject.profile.crl:
        urls = _urls(subject.extensions.get_extension_for_class(x509.CRLDistributionPoints).value)
        if urls != [subject.issuer.crl_url_of(subject.certificate.serial_number)] or not urls[0].startswith("http://"):
            yield "RFC 5280 §4.2.1.13: the CRL distribution point is not the issuer's http URL"
    if subject.profile.freshest_crl:
        urls = _urls(subject.extensions.get_extension_for_class(x509.FreshestCRL).value)
        if urls != [subject.issuer.delta_url_of(subject.certificate.serial_number)]:
            yield "RFC 5280 §4.2.1.15: the freshest CRL is not the delta to the certificate's CRL"


def _urls(points: Iterable[x509.DistributionPoint]) -> list[str]:
    return [str(name.value) for point in points for name in point.full_name or ()]


def _access(subject: _Subject, issuer: Issuer) -> Iterator[str]:
    descriptions = subject.extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
    found = [(item.access_method, str(item.access_location.value)) for item in descriptions]
    expected = [(AuthorityInformationAccessOID.OCSP, issuer.ocsp_url)] if subject.profile.ocsp else []
    expected.append((AuthorityInformationAccessOID.CA_ISSUERS, issuer.aia_url))
    if found != expected or not all(url.startswith("http://") for _, url in found):
        yield "RFC 5280 §4.2.2.1: the authority information is not the issuer's http URLs"


_RULES: tuple[_Rule, ...] = (
    _encoding,
    _issuer,
    _validity,
    _key,
    _subject_name,
    _extension_set,
    _constraints,
    _usages,
    _alternative_names,
    _claims,
    _old_issuer,
    _authority,
)
