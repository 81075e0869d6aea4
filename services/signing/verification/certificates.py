"""Whether a short-lived certificate was good, and whose it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from cryptography import x509

from pkicore.cms.der import UTF8_STRING
from pkicore.ct.sct import SignedCertificateTimestamp
from pkicore.ct.verify import verify_embedded_sct
from pkicore.encoding import tlv
from pkicore.errors import BadCertificateError, PkiError, ProofError
from pkicore.x509 import PARSE_ERRORS
from pkicore.x509.chain import verify_chain
from services.signing.trusted_root import TrustedAuthority, TrustedRoot
from services.signing.verification.errors import WrongIdentityError

ISSUER_OID: Final = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.8")
_SHORT: Final = 128


@dataclass(frozen=True, slots=True)
class Identity:
    """Who must have signed.

    Attributes:
        name: the certificate's one subjectAltName, a URI or an e-mail address; compared to the letter.
        issuer: the OIDC issuer that vouched for it.
    """

    name: str
    issuer: str


def verify_leaf(certificate: x509.Certificate, root: TrustedRoot, at: datetime) -> SignedCertificateTimestamp:
    """The leaf led to a trusted CA at this time, is for code signing, and a trusted log has promised to keep it.

    Raises:
        BadCertificateError: no such path, or not for code signing.
        ProofError: no timestamp of a trusted log in it.
        BadSignatureError: the timestamp is not the log's.
    """
    chain = _chain(certificate, root.authorities, at)
    _check_usage(certificate)
    failure: PkiError = ProofError("no certificate log is trusted at this time")
    for log in root.ct_logs:
        try:
            sct = verify_embedded_sct(certificate, chain[1], log.public_key, at)
        except PkiError as error:
            failure = error
            continue
        if log.period.covers(datetime.fromtimestamp(sct.timestamp / 1000, at.tzinfo)):
            return sct
    raise failure


def check_identity(certificate: x509.Certificate, identity: Identity) -> None:
    """The certificate has this one name and was made for a token of this issuer.

    Raises:
        WrongIdentityError: it is another's.
        BadCertificateError: it does not say, or its extensions do not parse.
    """
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        issuer = certificate.extensions.get_extension_for_oid(ISSUER_OID).value
    except (x509.ExtensionNotFound, *PARSE_ERRORS) as error:
        raise BadCertificateError("the certificate does not say whose it is, or who vouched for that") from error
    found = [name.value for name in names if isinstance(name, x509.UniformResourceIdentifier | x509.RFC822Name)]
    if len(names) != 1 or found != [identity.name]:
        raise WrongIdentityError(f"signed by {', '.join(found)[:_SHORT]!a}, not by {identity.name!a}")
    expected = tlv(UTF8_STRING, identity.issuer.encode())
    if not isinstance(issuer, x509.UnrecognizedExtension) or issuer.value != expected:
        raise WrongIdentityError(f"the signer's identity is not one that {identity.issuer!a} vouched for")


def _chain(
    certificate: x509.Certificate, authorities: Sequence[TrustedAuthority], at: datetime
) -> tuple[x509.Certificate, ...]:
    failure = BadCertificateError("no certificate authority is trusted at this time")
    for authority in authorities:
        if not authority.period.covers(at):
            continue
        try:
            return verify_chain(certificate, authority.chain[:-1], authority.chain[-1:], at, "code-signing")
        except BadCertificateError as error:
            failure = error
    raise failure


def _check_usage(certificate: x509.Certificate) -> None:
    try:
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except (x509.ExtensionNotFound, *PARSE_ERRORS) as error:
        raise BadCertificateError("the certificate does not say what its key is for") from error
    if not usage.digital_signature:
        raise BadCertificateError("the certificate's key is not for signatures")
