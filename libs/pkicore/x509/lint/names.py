"""The subject and its alternative names."""

from __future__ import annotations

from collections.abc import Iterator

from cryptography import x509
from cryptography.x509.oid import ExtensionOID, NameOID

from pkicore.errors import PkiError
from pkicore.x509.lint.subject import LintSubject
from pkicore.x509.tbs import MAX_COMMON_NAME


def _subject_form(subject: LintSubject) -> Iterator[str]:
    """One common name or nothing, as the profile says."""
    attributes = list(subject.certificate.subject)
    if any(attribute.oid != NameOID.COMMON_NAME for attribute in attributes) or len(attributes) > 1:
        yield "profile: the subject is one common name or empty"
        return
    rule = subject.profile.subject
    if (rule == "empty" and attributes) or (rule == "required" and not attributes):
        yield f"profile: the subject must be {rule}"


def _subject_of_ca(subject: LintSubject) -> Iterator[str]:
    """RFC 5280 §4.1.2.6."""
    if subject.profile.ca and not list(subject.certificate.subject):
        yield "RFC 5280 §4.1.2.6: a CA has a subject"


def _common_name(subject: LintSubject) -> Iterator[str]:
    """RFC 5280 appendix A (ub-common-name), BR §7.1.4.3."""
    for attribute in subject.certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME):
        common_name = str(attribute.value)
        if not 0 < len(common_name) <= MAX_COMMON_NAME:
            yield "RFC 5280 appendix A: a common name has 1 to 64 characters"
        if subject.profile.subject == "first-name" and common_name not in _dns_names(subject):
            yield "BR §7.1.4.3: the common name is one of the DNS names"


def _dns_names(subject: LintSubject) -> tuple[str, ...]:
    return () if subject.names is None else subject.names.dns


def _criticality(subject: LintSubject) -> Iterator[str]:
    """RFC 5280 §4.2.1.6."""
    if not subject.has(ExtensionOID.SUBJECT_ALTERNATIVE_NAME):
        return
    if subject.extension(x509.SubjectAlternativeName).critical != (not list(subject.certificate.subject)):
        yield "RFC 5280 §4.2.1.6: the alternative names are critical exactly where the subject is empty"


def _canonical(subject: LintSubject) -> Iterator[str]:
    """RFC 5280 §4.2.1.6: at least one, each once, in the one form that is compared."""
    names = subject.names
    if names is None:
        return
    if names.is_empty or list(subject.value(x509.SubjectAlternativeName)) != names.general_names():
        yield "RFC 5280 §4.2.1.6: the alternative names are not in canonical form"


def _allowed(subject: LintSubject) -> Iterator[str]:
    """Types, number and places as the profile says."""
    if subject.names is None:
        return
    try:
        subject.profile.check_names(subject.names)
    except PkiError as error:
        yield f"profile: {error}"


OF_EACH = (_subject_form, _subject_of_ca, _common_name, _criticality, _canonical, _allowed)
