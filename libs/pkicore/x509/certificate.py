"""From to-be-signed bytes to a certificate, and from PEM to a chain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from pkicore.algorithms import (
    Algorithm,
    PublicKey,
    algorithm_of,
    known_public_key,
    signature_algorithm_der,
    verify_signature,
)
from pkicore.encoding import DerReader, bit_string, pem_join, pem_split, sequence
from pkicore.errors import BadCertificateError, MalformedError
from pkicore.keys import SigningKey
from pkicore.x509 import PARSE_ERRORS
from pkicore.x509.lint import lint_tbs
from pkicore.x509.profiles import Profile
from pkicore.x509.tbs import build_root_tbs, random_serial, validity

_MAX_CHAIN = 16
_PEM_LABEL = "CERTIFICATE"


def assemble(tbs: bytes, signature: bytes, algorithm: Algorithm) -> x509.Certificate:
    """Certificate ::= SEQUENCE { tbsCertificate, signatureAlgorithm, signatureValue } (RFC 5280 §4.1.1).

    Raises:
        MalformedError: the to-be-signed bytes do not parse.
    """
    der = sequence(tbs, signature_algorithm_der(algorithm), bit_string(signature))
    try:
        return x509.load_der_x509_certificate(der)
    except PARSE_ERRORS as error:
        raise MalformedError("the certificate does not parse") from error


@dataclass(frozen=True)
class Signer:
    """What a certificate of an issuer is verified with, taken from the issuer's own certificate once."""

    name: bytes
    public_key: PublicKey
    algorithm: Algorithm

    @classmethod
    def of(cls, certificate: x509.Certificate) -> Signer:
        """The signer whose certificate this is.

        Raises:
            UnsupportedError, BadKeyError: its key is not offered.
        """
        public_key = known_public_key(certificate.public_key())
        return cls(certificate.subject.public_bytes(), public_key, algorithm_of(public_key))

    def verify(self, certificate: x509.Certificate, tbs: bytes) -> None:
        """A fresh certificate is what was linted, and this signer signed it.

        Raises:
            BadCertificateError: other bytes, another issuer name or another algorithm.
            BadSignatureError: the signature does not verify with the issuer's key.
        """
        if certificate.tbs_certificate_bytes != tbs:
            raise BadCertificateError("the signed bytes are not the bytes that were checked")
        if _issuer_name(tbs) != self.name:
            raise BadCertificateError("the certificate names another issuer")
        if certificate.signature_algorithm_oid.dotted_string != self.algorithm.signature_oid:
            raise BadCertificateError("the certificate names another signature algorithm than its issuer's")
        verify_signature(self.public_key, certificate.signature, tbs)

    async def certify(self, tbs: bytes, key: SigningKey) -> x509.Certificate:
        """Have linted bytes signed with this signer's key, and check what comes back.

        Raises:
            KeyUnavailableError: the key's back end does not answer.
            BadSignatureError: what came back is no signature by the issuer's key.
            BadCertificateError: the bytes name another issuer or algorithm.
            MalformedError: the bytes do not parse.
        """
        certificate = assemble(tbs, await key.sign(tbs), key.algorithm)
        self.verify(certificate, tbs)
        return certificate


def _issuer_name(tbs: bytes) -> bytes:
    fields = DerReader(tbs).enter()
    for _ in range(3):  # version, serial, signature
        fields.read_element()
    return fields.read_element()


def verify_issued(certificate: x509.Certificate, issuer_certificate: x509.Certificate, tbs: bytes) -> None:
    """As `Signer.verify`.

    Raises:
        BadCertificateError, BadSignatureError: as there.
    """
    Signer.of(issuer_certificate).verify(certificate, tbs)


async def sign_certificate(tbs: bytes, key: SigningKey, issuer_certificate: x509.Certificate) -> x509.Certificate:
    """As `Signer.certify`, for one certificate.

    Raises:
        KeyUnavailableError, BadSignatureError, BadCertificateError, MalformedError: as there.
    """
    return await Signer.of(issuer_certificate).certify(tbs, key)


async def self_signed_root(
    profile: Profile, key: SigningKey, *, common_name: str, now: datetime, serial: int | None = None
) -> x509.Certificate:
    """A root certificate, valid as long as the profile says.

    Raises:
        ProfileError: the common name or the key does not fit the profile.
        LintError: the profile does not describe a root.
        BadSignatureError: what came back is no signature by this key.
        KeyUnavailableError: the key's back end does not answer.
    """
    not_before, not_after = validity(profile, None, now)
    tbs = build_root_tbs(
        profile,
        serial=random_serial() if serial is None else serial,
        not_before=not_before,
        not_after=not_after,
        public_key=key.public_key,
        common_name=common_name,
    )
    lint_tbs(tbs, profile, None)
    root = assemble(tbs, await key.sign(tbs), key.algorithm)
    verify_issued(root, root, tbs)
    return root


def load_chain(pem: bytes) -> tuple[x509.Certificate, ...]:
    """The certificates of a PEM text, in its order, at most 16.

    Raises:
        MalformedError: anything else in it.
    """
    ders = pem_split(pem, _PEM_LABEL)
    if len(ders) > _MAX_CHAIN:
        raise MalformedError(f"a chain has at most {_MAX_CHAIN} certificates")
    return tuple(load_der(der) for der in ders)


def load_der(der: bytes) -> x509.Certificate:
    """One certificate in DER.

    Raises:
        MalformedError: it does not parse.
    """
    try:
        return x509.load_der_x509_certificate(der)
    except PARSE_ERRORS as error:
        raise MalformedError("the certificate does not parse") from error


def crl_urls(certificate: x509.Certificate) -> list[str]:
    """Where the CRL is that speaks for a certificate, as its distribution points have it (RFC 5280 §4.2.1.13)."""
    try:
        points = certificate.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
    except x509.ExtensionNotFound:
        return []
    names = (name for point in points for name in point.full_name or ())
    return [name.value for name in names if isinstance(name, x509.UniformResourceIdentifier)]


def to_pem(certificates: Sequence[x509.Certificate]) -> bytes:
    """PEM blocks in the given order."""
    return pem_join(_PEM_LABEL, *(certificate.public_bytes(Encoding.DER) for certificate in certificates))
