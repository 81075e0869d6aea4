"""Which extensions there are, how critical, and what is in those that are the profile's alone."""

from __future__ import annotations

from collections.abc import Iterator

from cryptography import x509
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID, ExtensionOID

from pkicore.encoding import NULL, tlv
from pkicore.x509.fulcio import CLAIMS, ISSUER_CLAIM, OLD_ISSUER_OID
from pkicore.x509.lint.subject import LintSubject

_CRITICAL = frozenset({ExtensionOID.BASIC_CONSTRAINTS, ExtensionOID.KEY_USAGE, ExtensionOID.NAME_CONSTRAINTS})
_MAY_BE_CRITICAL = ExtensionOID.SUBJECT_ALTERNATIVE_NAME
_NO_REV_AVAIL = x509.ObjectIdentifier("2.5.29.56")
_OLD_ISSUER = x509.ObjectIdentifier(OLD_ISSUER_OID)
_UTF8_STRING = 0x0C


def _set(subject: LintSubject) -> Iterator[str]:
    """What the profile wants is there, and nothing else."""
    found = {extension.oid for extension in subject.extensions}
    expected = _expected(subject)
    for oid in sorted(found ^ expected, key=lambda oid: oid.dotted_string):
        word = "is missing" if oid in expected else "has no place in this profile"
        yield f"profile: the extension {oid.dotted_string} {word}"


def _expected(subject: LintSubject) -> set[x509.ObjectIdentifier]:
    profile = subject.profile
    wanted = {
        ExtensionOID.BASIC_CONSTRAINTS: True,
        ExtensionOID.KEY_USAGE: True,
        ExtensionOID.SUBJECT_KEY_IDENTIFIER: True,
        ExtensionOID.AUTHORITY_KEY_IDENTIFIER: subject.issuer is not None,
        ExtensionOID.EXTENDED_KEY_USAGE: bool(profile.extended_key_usage),
        ExtensionOID.CERTIFICATE_POLICIES: bool(profile.policies),
        ExtensionOID.NAME_CONSTRAINTS: profile.name_constraints is not None,
        ExtensionOID.AUTHORITY_INFORMATION_ACCESS: profile.crl or profile.ocsp,
        ExtensionOID.CRL_DISTRIBUTION_POINTS: profile.crl,
        ExtensionOID.FRESHEST_CRL: profile.freshest_crl,
        _NO_REV_AVAIL: profile.no_rev_avail,
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME: set(profile.names.values()) != {"forbidden"},
        ExtensionOID.TLS_FEATURE: profile.must_staple,
        ExtensionOID.OCSP_NO_CHECK: profile.ocsp_no_check,
        ExtensionOID.PRECERT_SIGNED_CERTIFICATE_TIMESTAMPS: profile.sct and subject.logged,
    }
    claims = {x509.ObjectIdentifier(oid) for oid in subject.claims if profile.fulcio and oid in CLAIMS}
    if profile.fulcio:
        claims.add(_OLD_ISSUER)
    return claims | {oid for oid, present in wanted.items() if present}


def _criticality(subject: LintSubject) -> Iterator[str]:
    """RFC 5280 §4.2; RFC 3161 §2.3 for time-stamping authorities."""
    critical = set(_CRITICAL)
    if "timeStamping" in subject.profile.extended_key_usage:
        critical.add(ExtensionOID.EXTENDED_KEY_USAGE)
    for extension in subject.extensions:
        if extension.oid != _MAY_BE_CRITICAL and extension.critical != (extension.oid in critical):
            yield f"RFC 5280 §4.2: the criticality of {extension.oid.dotted_string} is wrong"


def _constraints(subject: LintSubject) -> Iterator[str]:
    """RFC 5280 §4.2.1.9."""
    found = subject.value(x509.BasicConstraints)
    if (found.ca, found.path_length) != (subject.profile.ca, subject.profile.path_length):
        yield "RFC 5280 §4.2.1.9: CA flag or path length are not the profile's"


def _name_constraints(subject: LintSubject) -> Iterator[str]:
    """RFC 5280 §4.2.1.10."""
    wanted = subject.profile.name_constraints
    if wanted is not None and subject.value(x509.NameConstraints) != wanted:
        yield "RFC 5280 §4.2.1.10: the name constraints are not the profile's"


def _policies(subject: LintSubject) -> Iterator[str]:
    """RFC 5280 §4.2.1.4."""
    if subject.profile.policies:
        found = [policy.policy_identifier.dotted_string for policy in subject.value(x509.CertificatePolicies)]
        if found != list(subject.profile.policies):
            yield "RFC 5280 §4.2.1.4: the certificate policies are not the profile's"


def _staple(subject: LintSubject) -> Iterator[str]:
    """RFC 7633 §4."""
    wanted = x509.TLSFeature([x509.TLSFeatureType.status_request])
    if subject.profile.must_staple and subject.value(x509.TLSFeature) != wanted:
        yield "RFC 7633 §4: the TLS feature is status_request and no other"


def _no_check(subject: LintSubject) -> Iterator[str]:
    """RFC 6960 §4.2.2.2.1."""
    if subject.has(ExtensionOID.OCSP_NO_CHECK) and not _is_for(subject, ExtendedKeyUsageOID.OCSP_SIGNING):
        yield "RFC 6960 §4.2.2.2.1: OCSPNoCheck is for responders"


def _no_rev_avail(subject: LintSubject) -> Iterator[str]:
    """RFC 9608 §2 and §3."""
    if not subject.has(_NO_REV_AVAIL):
        return
    found = subject.extensions.get_extension_for_oid(_NO_REV_AVAIL).value
    if not isinstance(found, x509.UnrecognizedExtension) or found.value != NULL:
        yield "RFC 9608 §2: the value of noRevAvail is NULL"
    if subject.value(x509.BasicConstraints).ca:
        yield "RFC 9608 §3: noRevAvail is for end entities"
    asked_after = subject.has(ExtensionOID.CRL_DISTRIBUTION_POINTS) or subject.has(ExtensionOID.FRESHEST_CRL)
    if asked_after or _names_responder(subject):
        yield "RFC 9608 §3: noRevAvail never comes with CRL distribution points, a freshest CRL or an OCSP responder"


def _names_responder(subject: LintSubject) -> bool:
    if not subject.has(ExtensionOID.AUTHORITY_INFORMATION_ACCESS):
        return False
    access = subject.value(x509.AuthorityInformationAccess)
    return any(item.access_method == AuthorityInformationAccessOID.OCSP for item in access)


def _is_for(subject: LintSubject, usage: x509.ObjectIdentifier) -> bool:
    return subject.has(ExtensionOID.EXTENDED_KEY_USAGE) and usage in subject.value(x509.ExtendedKeyUsage)


def _claims(subject: LintSubject) -> Iterator[str]:
    """Fulcio's extensions: those that were asked for, as UTF8Strings."""
    for oid, value in subject.claims.items():
        if oid not in CLAIMS or not subject.profile.fulcio:
            yield f"profile: the extension {oid} has no place in this profile"
            continue
        found = subject.extensions.get_extension_for_oid(x509.ObjectIdentifier(oid)).value
        if not isinstance(found, x509.UnrecognizedExtension) or found.value != tlv(_UTF8_STRING, value.encode()):
            yield f"Fulcio: the extension {oid} does not hold the claim as a UTF8String"


def _old_issuer(subject: LintSubject) -> Iterator[str]:
    """The issuer's old form, its octets alone."""
    if not subject.profile.fulcio:
        return
    found = subject.extensions.get_extension_for_oid(_OLD_ISSUER).value
    expected = subject.claims.get(ISSUER_CLAIM, "").encode()
    if not isinstance(found, x509.UnrecognizedExtension) or not expected or found.value != expected:
        yield "Fulcio: the issuer is not said twice, in the old form and the new"


OF_THE_SHAPE = (
    _set,
    _criticality,
    _constraints,
    _name_constraints,
    _policies,
    _staple,
    _no_check,
    _no_rev_avail,
    _claims,
    _old_issuer,
)
