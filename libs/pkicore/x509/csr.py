"""PKCS#10 requests (RFC 2986): what came in, and what may be believed of it.

A request proves possession of a key and asks for names. Everything else that it asks for (usages, validity, subject) is
the profile's to decide; what is dangerous to ask for at all is refused here, so that no later rule has to remember it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtensionOID, NameOID, SignatureAlgorithmOID

from pkicore.algorithms import Algorithm, PublicKey, known_public_key
from pkicore.encoding import DerReader, pem_split
from pkicore.errors import BadCsrError, BadKeyError, BadSignatureError, MalformedError
from pkicore.x509 import PARSE_ERRORS
from pkicore.x509.key_rules import check_certificate_key
from pkicore.x509.names import Names, canonical_dns, names_of

MAX_CSR_BYTES = 64 * 1024
_MAX_COMMON_NAME = 64
_PEM_LABELS = ("CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST")
_T = TypeVar("_T")
_ECDSA = frozenset(
    {
        SignatureAlgorithmOID.ECDSA_WITH_SHA256,
        SignatureAlgorithmOID.ECDSA_WITH_SHA384,
        SignatureAlgorithmOID.ECDSA_WITH_SHA512,
    }
)

# Critical requests that may be granted or refused by the profile; any other critical extension must be understood.
_UNDERSTOOD = frozenset(
    {
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
        ExtensionOID.BASIC_CONSTRAINTS,
        ExtensionOID.KEY_USAGE,
        ExtensionOID.EXTENDED_KEY_USAGE,
        ExtensionOID.SUBJECT_KEY_IDENTIFIER,
    }
)


@dataclass(frozen=True)
class VerifiedCsr:
    """A request whose signature, key and names were checked.

    Attributes:
        der: the request as it came, in DER.
        public_key: the key whose possession it proves.
        spki: that key as SubjectPublicKeyInfo, in its one form.
        algorithm: the table row of the key.
        subject: as asked for; no rule of ours copies it into a certificate.
        common_name: the common name asked for, if any.
        names: canonical; the names of the request and its common name where that is a host name with a dot.
    """

    der: bytes
    public_key: PublicKey
    spki: bytes
    algorithm: Algorithm
    subject: x509.Name
    common_name: str | None
    names: Names


@dataclass(frozen=True)
class UnverifiedCsr:
    """A request that parsed. Nothing in it may be believed."""

    der: bytes
    request: x509.CertificateSigningRequest

    @classmethod
    def parse(cls, data: bytes) -> UnverifiedCsr:
        """From DER or PEM of at most 64 KiB.

        Raises:
            MalformedError: anything else.
        """
        if len(data) > MAX_CSR_BYTES:
            raise MalformedError(f"a certificate request has at most {MAX_CSR_BYTES} bytes")
        der = _from_pem(data) if data.lstrip().startswith(b"-----BEGIN") else data
        outer = DerReader(der)
        try:
            outer.read_element()
            outer.finish()
            return cls(der, x509.load_der_x509_csr(der))
        except (*PARSE_ERRORS, MalformedError) as error:
            raise MalformedError("not a certificate request (PKCS #10) in PEM or DER: it does not parse") from error

    def verify(self, *, for_ca: bool = False) -> VerifiedCsr:
        """Check key, signature and content, in this order.

        Args:
            for_ca: whether it may say that it is for a CA. What it says is not heeded: the profile decides.

        Raises:
            MalformedError: a part that does not parse.
            BadKeyError: a key that is not offered or weak.
            BadSignatureError: no proof of possession.
            BadCsrError: it asks for what no request may ask for.
        """
        request = self.request
        key = self._key()
        algorithm = check_certificate_key(key)
        self._check_signature(key)
        _check_attributes(_parsed(lambda: request.attributes))
        extensions = _parsed(lambda: request.extensions)
        _check_extensions(extensions, for_ca=for_ca)
        subject = _parsed(self._subject)
        common_name = _common_name(subject)
        requested = _requested_names(extensions)
        _check_ip_common_name(common_name, requested)
        names = _with_host(requested, common_name)
        public_key = known_public_key(key)
        spki = public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return VerifiedCsr(self.der, public_key, spki, algorithm, subject, common_name, names)

    def _key(self) -> object:
        try:
            return self.request.public_key()
        except UnsupportedAlgorithm as error:
            raise BadKeyError("the key of the request is of a type that is not offered") from error
        except PARSE_ERRORS as error:
            raise BadKeyError("the key of the request does not parse") from error

    def _subject(self) -> x509.Name:
        with warnings.catch_warnings():
            # cryptography warns of attributes beyond their length limit; a stranger's request is no reason to warn us.
            warnings.simplefilter("ignore")
            return self.request.subject

    def _check_signature(self, key: object) -> None:
        try:
            digest = self.request.signature_hash_algorithm
            valid = self._verifies(key, digest)
        except PARSE_ERRORS as error:
            raise BadSignatureError("the signature of the request is of a kind that is not offered") from error
        if digest is not None and not isinstance(digest, hashes.SHA256 | hashes.SHA384 | hashes.SHA512):
            raise BadSignatureError(f"requests signed with {digest.name} prove nothing; use SHA-256 or better")
        if not valid:
            raise BadSignatureError("the signature of the request does not verify with its own key")

    def _verifies(self, key: object, digest: hashes.HashAlgorithm | None) -> bool:
        """As `is_signature_valid`, which reads the key anew: a fifth of the work, where it is of a curve."""
        request, is_ecdsa = self.request, self.request.signature_algorithm_oid in _ECDSA
        if digest is None or not (is_ecdsa and isinstance(key, ec.EllipticCurvePublicKey)):
            return request.is_signature_valid
        try:
            key.verify(request.signature, request.tbs_certrequest_bytes, ec.ECDSA(digest))
        except InvalidSignature:
            return False
        return True


def _from_pem(data: bytes) -> bytes:
    label = next((label for label in _PEM_LABELS if f"-----BEGIN {label}-----".encode() in data), _PEM_LABELS[0])
    ders = pem_split(data, label, max_bytes=MAX_CSR_BYTES)
    if len(ders) != 1:
        raise MalformedError("one certificate request at a time")
    return ders[0]


def _parsed(part: Callable[[], _T]) -> _T:
    try:
        return part()
    except x509.DuplicateExtension as error:
        raise BadCsrError("the request asks for the same extension twice") from error
    except PARSE_ERRORS as error:
        raise MalformedError("a part of the certificate request does not parse") from error


def _check_attributes(attributes: x509.Attributes) -> None:
    seen = [attribute.oid for attribute in attributes]
    if len(seen) != len(set(seen)):
        raise BadCsrError("the request carries the same attribute twice")


def _check_extensions(extensions: x509.Extensions, *, for_ca: bool) -> None:
    for extension in extensions:
        if extension.critical and extension.oid not in _UNDERSTOOD:
            raise BadCsrError(f"the critical extension {extension.oid.dotted_string} is not understood")
        if for_ca:
            continue
        value = extension.value
        if isinstance(value, x509.BasicConstraints) and value.ca:
            raise BadCsrError("a request may not ask for a CA certificate")
        if isinstance(value, x509.KeyUsage) and (value.key_cert_sign or value.crl_sign):
            raise BadCsrError("a request may not ask to sign certificates or CRLs")


def _common_name(subject: x509.Name) -> str | None:
    for attribute in subject:
        text = attribute.value if isinstance(attribute.value, str) else ""
        if any(not character.isprintable() for character in text):
            raise BadCsrError("the subject holds characters that cannot be printed")
    found = subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    if len(found) > 1:
        raise BadCsrError("the subject has several common names")
    if not found:
        return None
    name = found[0].value
    if not isinstance(name, str) or not 0 < len(name) <= _MAX_COMMON_NAME:
        raise BadCsrError(f"a common name has 1 to {_MAX_COMMON_NAME} characters (RFC 5280 appendix A, ub-common-name)")
    return name


def _requested_names(extensions: x509.Extensions) -> Names:
    try:
        return names_of(extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except x509.ExtensionNotFound:
        return Names()


def _check_ip_common_name(common_name: str | None, names: Names) -> None:
    try:
        address = ip_address(common_name or "")
    except ValueError:
        return
    if address not in names.ip:
        raise BadCsrError("an IP address in the common name must also be an IP address name (RFC 8738 §3)")


def _with_host(names: Names, common_name: str | None) -> Names:
    """RFC 8555 §7.4: clients may ask for a host name by the common name alone."""
    if common_name is None or "." not in common_name:
        return names
    try:
        host = canonical_dns(common_name)
    except BadCsrError:
        return names
    return Names.build(dns=(*names.dns, host), ip=names.ip, uri=names.uri, email=names.email)
