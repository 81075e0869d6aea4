"""The X509-SVID standard of SPIFFE, for every certificate with a SPIFFE ID; and all of it where `svid = true`.

Not here, as it is a rule of ours: a certificate may have a SPIFFE ID and be for clients alone (profile `client`). It is
no SVID then, since §4.4 wants both usages.
"""

from __future__ import annotations

from collections.abc import Iterator

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID

from pkicore.errors import IdentityError
from pkicore.identity import SpiffeId
from pkicore.x509.lint.key import usages_of
from pkicore.x509.lint.subject import LintSubject


def _one_uri(subject: LintSubject) -> Iterator[str]:
    """X509-SVID §2."""
    if len(subject.uris) > 1 or (subject.profile.svid and not subject.uris):
        yield "X509-SVID §2: exactly one URI name"


def _spiffe_id(subject: LintSubject) -> Iterator[str]:
    """X509-SVID §2 and §3.1: the scheme spiffe, a trust domain, and a path that is not the root's."""
    for uri in () if subject.profile.fulcio else subject.uris:
        try:
            SpiffeId.parse(uri)
        except IdentityError as error:
            yield f"X509-SVID §2: {error}"


def _is_leaf(subject: LintSubject) -> Iterator[str]:
    """X509-SVID §4.1."""
    if _is_identity(subject) and subject.value(x509.BasicConstraints).ca:
        yield "X509-SVID §4.1: the CA flag of a leaf is false"


def _key_usage(subject: LintSubject) -> Iterator[str]:
    """X509-SVID §4.3."""
    if not _is_identity(subject):
        return
    extension = subject.extension(x509.KeyUsage)
    found = usages_of(extension.value)
    if not extension.critical or "digitalSignature" not in found or found & {"keyCertSign", "cRLSign"}:
        yield "X509-SVID §4.3: the key usage is critical, has digitalSignature, and neither keyCertSign nor cRLSign"


def _extended_key_usage(subject: LintSubject) -> Iterator[str]:
    """X509-SVID §4.4."""
    both = {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    if not subject.profile.svid or not subject.has(ExtensionOID.EXTENDED_KEY_USAGE):
        return
    if not both <= set(subject.value(x509.ExtendedKeyUsage)):
        yield "X509-SVID §4.4: the extended key usage has serverAuth and clientAuth"


def _is_identity(subject: LintSubject) -> bool:
    return not subject.profile.fulcio and bool(subject.uris)


def _svid(subject: LintSubject) -> Iterator[str]:
    if subject.uris or subject.profile.svid:
        for rule in (_one_uri, _spiffe_id, _is_leaf, _key_usage, _extended_key_usage):
            yield from rule(subject)


OF_EACH = (_svid,)
