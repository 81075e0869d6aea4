"""Who signed this content (RFC 5652 §5.6)?

1 the content type is the expected one, outside and in the signed attributes · 2 the signed digest is that of the
content · 3 the algorithms are those of the signer's key · 4 the signed hash of the certificate is that of the signer's
certificate, where there is one · 5 the certificate may sign · 6 the signature is by its key · 7 every signer that the
caller names is among them.
Whether the certificates lead to a trusted root, were in force and are for this purpose, is the caller's question. So is
how many signers there must be: a stripped signature leaves no trace, so name them all.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from pkicore.algorithms import Algorithm, PublicKey, algorithm_of, known_public_key, verify_signature
from pkicore.cms.digests import accepted_digests, all_digests
from pkicore.cms.signed_data import UnverifiedSignedData, UnverifiedSignerInfo
from pkicore.cms.signing import ID_DATA, issuer_and_serial
from pkicore.errors import BadCertificateError, BadSignatureError, MalformedError, UnsupportedError
from pkicore.x509 import PARSE_ERRORS

_RSA_ENCRYPTION: Final = "1.2.840.113549.1.1.1"  # the name RFC 3370 §3.2 gives to PKCS#1 v1.5 signatures


@dataclass(frozen=True, slots=True)
class VerifiedSigner:
    """The key of this certificate signed the content; who that is, a chain must tell.

    Attributes:
        certificate: of the signer.
        algorithm: of its key.
        signing_time: as the signer claims it; None where it claims none.
        certificate_is_signed: whether the signature covers the certificate (RFC 5035).
        signature: its octets.
        timestamp_tokens: over the signature, unverified.
    """

    certificate: x509.Certificate
    algorithm: Algorithm
    signing_time: datetime | None
    certificate_is_signed: bool
    signature: bytes = field(repr=False)
    timestamp_tokens: tuple[bytes, ...] = field(repr=False)


def verify_detached(
    der: bytes, content: bytes | Mapping[str, bytes], *, signers: Sequence[x509.Certificate] = ()
) -> tuple[VerifiedSigner, ...]:
    """Check a detached signature over data.

    Args:
        der: ContentInfo with SignedData.
        content: what was signed, or its digests by the name of the hash.
        signers: certificates whose keys must all have signed.

    Raises:
        MalformedError: it does not parse, or has a content of its own.
        UnsupportedError: a form or algorithm that is not offered, or a digest that is needed but not given.
        BadSignatureError: another content, a signature that does not verify, or a signer missing.
        BadCertificateError: a signer's certificate is not there, or not for signatures.
    """
    signed_data = UnverifiedSignedData.parse(der)
    if signed_data.content is not None:
        raise MalformedError("a detached signature must not have a content of its own")
    digests = all_digests(content) if isinstance(content, bytes) else content
    return verify_signed_data(signed_data, digests, content_type=ID_DATA, signers=signers)


def verify_signed_data(
    signed_data: UnverifiedSignedData,
    digests: Mapping[str, bytes],
    *,
    content_type: str,
    signers: Sequence[x509.Certificate] = (),
) -> tuple[VerifiedSigner, ...]:
    """Every signer of it, all of whom must have signed; see the numbered rules above.

    Args:
        signed_data: as parsed.
        digests: of the content, by the name of the hash.
        content_type: dotted object identifier of what the caller takes the content for.
        signers: certificates whose keys must all have signed; they need not have been sent along.

    Raises:
        UnsupportedError: an algorithm that is not offered, or a digest that is needed but not given.
        BadSignatureError: another content, a signature that does not verify, or a signer missing.
        BadCertificateError: a signer's certificate is not there, or not for signatures.
        BadKeyError: an RSA key that the rules refuse.
    """
    if signed_data.content_type != content_type:
        raise BadSignatureError(f"the content is of type {signed_data.content_type}, not {content_type}")
    known = (*signers, *signed_data.certificates)
    verified = tuple(_verify(info, digests, content_type, known) for info in signed_data.signers)
    found = {signer.certificate for signer in verified}
    for certificate in signers:
        if certificate not in found:
            raise BadSignatureError(f"no signature by the certificate {certificate.serial_number:x}")
    return verified


def _verify(
    info: UnverifiedSignerInfo, digests: Mapping[str, bytes], content_type: str, known: Iterable[x509.Certificate]
) -> VerifiedSigner:
    certificate = _signer_certificate(info, known)
    public_key = _public_key(certificate)
    algorithm = algorithm_of(public_key)
    _check_content(info, digests, content_type)
    _check_algorithms(info, algorithm)
    _check_certificate(info, certificate)
    verify_signature(public_key, info.signature, info.message)
    return VerifiedSigner(
        certificate=certificate,
        algorithm=algorithm,
        signing_time=info.signing_time,
        certificate_is_signed=info.certificate_hash is not None,
        signature=info.signature,
        timestamp_tokens=info.timestamp_tokens,
    )


def _signer_certificate(info: UnverifiedSignerInfo, known: Iterable[x509.Certificate]) -> x509.Certificate:
    for certificate in known:
        if info.signer in {issuer_and_serial(certificate), _key_identifier(certificate)}:
            return certificate
    raise BadCertificateError("the certificate of a signer is not there")


def _public_key(certificate: x509.Certificate) -> PublicKey:
    try:
        return known_public_key(certificate.public_key())
    except PARSE_ERRORS as error:
        raise UnsupportedError("the key of a signer is none that is offered") from error


def _key_identifier(certificate: x509.Certificate) -> bytes | None:
    try:
        return certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    except x509.ExtensionNotFound:
        return None
    except PARSE_ERRORS as error:
        raise BadCertificateError("a certificate whose extensions do not parse") from error


def _check_content(info: UnverifiedSignerInfo, digests: Mapping[str, bytes], content_type: str) -> None:
    if info.content_type != content_type:
        raise BadSignatureError(f"what was signed is of type {info.content_type}, not {content_type}")
    if info.digest_name not in digests:
        raise UnsupportedError(f"the signature needs the {info.digest_name} digest of the content")
    if not hmac.compare_digest(info.message_digest, digests[info.digest_name]):
        raise BadSignatureError("another content was signed")


def _check_algorithms(info: UnverifiedSignerInfo, algorithm: Algorithm) -> None:
    names = {algorithm.signature_oid} | ({_RSA_ENCRYPTION} if algorithm.family == "rsa" else set())
    if info.signature_oid not in names:
        raise UnsupportedError(f"the signature algorithm {info.signature_oid} is not the one of {algorithm.name} keys")
    if info.digest_name not in accepted_digests(algorithm):
        raise UnsupportedError(f"signatures by {algorithm.name} keys are not believed with {info.digest_name}")


def _check_certificate(info: UnverifiedSignerInfo, certificate: x509.Certificate) -> None:
    if info.certificate_hash is not None:
        name, expected = info.certificate_hash
        found = hashlib.new(name, certificate.public_bytes(Encoding.DER)).digest()
        if not hmac.compare_digest(found, expected):
            raise BadSignatureError("the signature was made for another certificate")
    try:
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        return
    except PARSE_ERRORS as error:
        raise BadCertificateError("a certificate whose extensions do not parse") from error
    if not (usage.digital_signature or usage.content_commitment):
        raise BadCertificateError("the certificate of a signer is not for signatures")
