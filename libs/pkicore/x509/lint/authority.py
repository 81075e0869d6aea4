"""What a certificate has from its issuer: name, limits, identifiers, URLs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from cryptography import x509
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtensionOID

from pkicore.errors import ProfileError
from pkicore.x509.lint.subject import LintSubject
from pkicore.x509.name_constraints import check_name_constraints


def _name(subject: LintSubject) -> Iterator[str]:
    """RFC 5280 §4.1.2.4."""
    above = subject.issuer_certificate
    if subject.certificate.issuer.public_bytes() != above.subject.public_bytes() or not list(above.subject):
        yield "RFC 5280 §4.1.2.4: the issuer name is not the issuer's subject, byte for byte"


def _is_ca(subject: LintSubject) -> Iterator[str]:
    """RFC 5280 §4.2.1.9 and §4.2.1.3."""
    above = subject.issuer_certificate.extensions
    constraints = above.get_extension_for_class(x509.BasicConstraints).value
    if not constraints.ca or not above.get_extension_for_class(x509.KeyUsage).value.key_cert_sign:
        yield "RFC 5280 §4.2.1.9: the issuer is no CA that may sign certificates"
    if subject.profile.ca and subject.issuer is not None and constraints.path_length == 0:
        yield "RFC 5280 §4.2.1.9: the issuer's path length allows no CA below it"


def _family(subject: LintSubject) -> Iterator[str]:
    """The profile says which chains are mixed, and no other is."""
    families = subject.profile.families.get(subject.algorithm.family, ())
    if subject.issuer is not None and subject.issuer.family not in families:
        yield f"profile: {subject.algorithm.family} keys are not issued by the family {subject.issuer.family}"


def _name_constraints(subject: LintSubject) -> Iterator[str]:
    """RFC 5280 §4.2.1.10, for each CA of the chain that we have."""
    if subject.issuer is None or subject.names is None:
        return
    for constraints in subject.issuer.name_constraints:
        try:
            check_name_constraints(constraints, subject.names)
        except ProfileError as error:
            yield f"RFC 5280 §4.2.1.10: {error}"


def _extended_usages(subject: LintSubject) -> Iterator[str]:
    """BR §7.1.2.10.6: a CA that is for some usages issues for no others."""
    above = None if subject.issuer is None else subject.issuer.extended_key_usage
    if above is None or not subject.has(ExtensionOID.EXTENDED_KEY_USAGE):
        return
    if not set(subject.value(x509.ExtendedKeyUsage)) <= set(above):
        yield "BR §7.1.2.10.6: the extended key usage is none of those that the issuer is for"


def _key_identifier(subject: LintSubject) -> Iterator[str]:
    """RFC 5280 §4.2.1.1."""
    if subject.issuer is None:
        return
    found = subject.value(x509.AuthorityKeyIdentifier)
    if found.key_identifier != subject.issuer.subject_key_identifier.digest:
        yield "RFC 5280 §4.2.1.1: the authority key identifier is not the issuer's"


def _information(subject: LintSubject) -> Iterator[str]:
    """RFC 5280 §4.2.2.1."""
    issuer, profile = subject.issuer, subject.profile
    if issuer is None or not (profile.crl or profile.ocsp):
        return
    descriptions = subject.value(x509.AuthorityInformationAccess)
    found = [(item.access_method, str(item.access_location.value)) for item in descriptions]
    expected = [(AuthorityInformationAccessOID.OCSP, issuer.ocsp_url)] if profile.ocsp else []
    expected.append((AuthorityInformationAccessOID.CA_ISSUERS, issuer.aia_url))
    if found != expected or not all(url.startswith("http://") for _, url in found):
        yield "RFC 5280 §4.2.2.1: the authority information is not the issuer's http URLs"


def _distribution_points(subject: LintSubject) -> Iterator[str]:
    """RFC 5280 §4.2.1.13."""
    if subject.issuer is None or not subject.profile.crl:
        return
    urls = _urls(subject.value(x509.CRLDistributionPoints))
    if urls != [subject.issuer.crl_url_of(subject.certificate.serial_number)] or not urls[0].startswith("http://"):
        yield "RFC 5280 §4.2.1.13: the CRL distribution point is not the issuer's http URL"


def _freshest(subject: LintSubject) -> Iterator[str]:
    """RFC 5280 §4.2.1.15."""
    if subject.issuer is None or not subject.profile.freshest_crl:
        return
    if _urls(subject.value(x509.FreshestCRL)) != [subject.issuer.delta_url_of(subject.certificate.serial_number)]:
        yield "RFC 5280 §4.2.1.15: the freshest CRL is not the delta to the certificate's CRL"


def _urls(points: Iterable[x509.DistributionPoint]) -> list[str]:
    return [str(name.value) for point in points for name in point.full_name or ()]


OF_THE_SHAPE = (
    _name,
    _is_ca,
    _family,
    _extended_usages,
    _key_identifier,
    _information,
    _distribution_points,
    _freshest,
)
OF_EACH = (_name_constraints,)
