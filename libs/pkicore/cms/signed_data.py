"""SignedData as it comes (RFC 5652 §5), with nothing in it believed."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from asn1crypto import cms, core, tsp
from cryptography import x509

from pkicore.cms.der import load_der, only, parsing
from pkicore.cms.digests import no_parameters, read_digest_identifier
from pkicore.cms.signing import (
    ALGORITHM_PROTECTION,
    CONTENT_TYPE,
    MESSAGE_DIGEST,
    SIGNED_DATA,
    SIGNING_CERTIFICATE_V2,
    SIGNING_TIME,
    TIMESTAMP,
    set_of,
)
from pkicore.errors import MalformedError, UnsupportedError
from pkicore.x509 import certificate as certificates

MAX_CMS_BYTES: Final = 256 * 1024
MAX_SIGNERS: Final = 8
MAX_CERTIFICATES: Final = 32
_MAX_ATTRIBUTES: Final = 32
_WHAT: Final = "the CMS"
_VERSIONS: Final = ("v1", "v3")


@dataclass(frozen=True, slots=True)
class UnverifiedSignerInfo:
    """What a signer is said to have signed; the attributes are those of RFC 5652 §11, RFC 5035 and RFC 6211.

    Attributes:
        signer: IssuerAndSerialNumber in DER, or the octets of a subject key identifier.
        digest_name: of the hash of the content.
        signature_oid: dotted object identifier of the signature algorithm.
        signature: its octets.
        message: the signed attributes as they were signed.
        content_type: dotted object identifier that was signed.
        message_digest: the digest that was signed.
        signing_time: None where it was not signed.
        certificate_hash: name of the hash and digest of the signer's certificate; None where it was not signed.
        timestamp_tokens: unsigned, over the signature.
    """

    signer: bytes
    digest_name: str
    signature_oid: str
    signature: bytes = field(repr=False)
    message: bytes = field(repr=False)
    content_type: str
    message_digest: bytes
    signing_time: datetime | None
    certificate_hash: tuple[str, bytes] | None
    timestamp_tokens: tuple[bytes, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class UnverifiedSignedData:
    """SignedData in DER.

    Attributes:
        content_type: dotted object identifier of the content.
        content: what is inside; None where the signature is detached.
        certificates: that were sent along; nobody vouches for them yet.
        signers: at least one.
    """

    content_type: str
    content: bytes | None = field(repr=False)
    certificates: tuple[x509.Certificate, ...]
    signers: tuple[UnverifiedSignerInfo, ...]

    @classmethod
    def parse(cls, der: bytes, *, max_bytes: int = MAX_CMS_BYTES) -> UnverifiedSignedData:
        """Read ContentInfo with SignedData.

        RFC 5652 allows BER around the signed attributes. This reader wants DER all over, which every signer in use
        writes, so that there is one way to read what was signed.

        Raises:
            MalformedError: not that, larger than `max_bytes`, no signer or more than 8, more than 32 certificates; a
                signer without the attributes contentType and messageDigest, or with an attribute given twice.
            UnsupportedError: another content, version or hash, or certificates of other kinds than X.509.
        """
        content_info = load_der(cms.ContentInfo, der, _WHAT, max_bytes=max_bytes)
        with parsing(_WHAT):
            if content_info["content_type"].dotted != SIGNED_DATA:
                raise UnsupportedError("the CMS is no SignedData")
            return _read(content_info["content"])


def _read(data: cms.SignedData) -> UnverifiedSignedData:
    if data["version"].native not in _VERSIONS:
        raise UnsupportedError("SignedData has version 1 or 3 here")
    infos, enclosed = data["signer_infos"], data["certificates"]
    if not 1 <= len(infos) <= MAX_SIGNERS:
        raise MalformedError(f"SignedData has 1 to {MAX_SIGNERS} signers")
    if len(enclosed) > MAX_CERTIFICATES:
        raise MalformedError(f"SignedData has at most {MAX_CERTIFICATES} certificates")
    encapsulated = data["encap_content_info"]
    return UnverifiedSignedData(
        content_type=encapsulated["content_type"].dotted,
        content=_content(encapsulated["content"]),
        certificates=tuple(_certificate(choice) for choice in enclosed),
        signers=tuple(_signer(info) for info in infos),
    )


def _content(content: Any) -> bytes | None:  # noqa: ANN401 - asn1crypto ships no types
    if isinstance(content, core.Void):
        return None
    if not isinstance(content, core.OctetString | core.ParsableOctetString):
        raise MalformedError("the content of SignedData is no OCTET STRING")
    return bytes(content)


def _certificate(choice: cms.CertificateChoices) -> x509.Certificate:
    if choice.name != "certificate":
        raise UnsupportedError("only X.509 certificates may come with SignedData")
    return certificates.load_der(choice.chosen.dump())


def _signer(info: cms.SignerInfo) -> UnverifiedSignerInfo:
    signature_algorithm = info["signature_algorithm"]
    if not no_parameters(signature_algorithm["parameters"]):
        raise UnsupportedError("signature algorithms with parameters are not offered")
    digest_name, signature_oid = read_digest_identifier(info["digest_algorithm"]), signature_algorithm["algorithm"]
    signed = _attributes(info["signed_attrs"])
    _check_protection(signed.get(ALGORITHM_PROTECTION), digest_name, signature_oid.dotted)
    identifier = info["sid"]
    by_name = identifier.name == "issuer_and_serial_number"
    return UnverifiedSignerInfo(
        signer=identifier.chosen.dump() if by_name else identifier.chosen.native,
        digest_name=digest_name,
        signature_oid=signature_oid.dotted,
        signature=info["signature"].native,
        message=_message(info["signed_attrs"]),
        content_type=_single(signed, CONTENT_TYPE).dotted,
        message_digest=_single(signed, MESSAGE_DIGEST).native,
        signing_time=_single(signed, SIGNING_TIME).native if SIGNING_TIME in signed else None,
        certificate_hash=_certificate_hash(signed),
        timestamp_tokens=tuple(token.dump() for token in _attributes(info["unsigned_attrs"]).get(TIMESTAMP, ())),
    )


def _attributes(attributes: cms.CMSAttributes | core.Void) -> dict[str, Any]:
    if len(attributes) > _MAX_ATTRIBUTES:
        raise MalformedError(f"a signer has at most {_MAX_ATTRIBUTES} attributes")
    found = {attribute["type"].dotted: attribute["values"] for attribute in attributes}
    if len(found) != len(attributes):
        raise MalformedError("a signer has an attribute twice")
    return found


def _message(attributes: cms.CMSAttributes) -> bytes:
    """What was signed is the SET OF in DER, and not the [0] that stands in its place (RFC 5652 §5.4)."""
    message = set_of(*(attribute.dump() for attribute in attributes))
    if message[1:] != attributes.dump()[1:]:
        raise MalformedError("the signed attributes are not in the order of DER")
    return message


def _single(attributes: dict[str, Any], kind: str) -> Any:  # noqa: ANN401 - asn1crypto ships no types
    return only(attributes.get(kind, ()), f"the signed attribute {kind}")


def _check_protection(values: Any, digest_name: str, signature_oid: str) -> None:  # noqa: ANN401 - likewise
    """RFC 6211 §2: both algorithms are the ones that are used."""
    if values is None:
        return
    protected = only(values, "CMSAlgorithmProtection")
    algorithm = protected["signature_algorithm"]
    if isinstance(algorithm, core.Void):
        raise MalformedError("CMSAlgorithmProtection names no signature algorithm")
    found = (read_digest_identifier(protected["digest_algorithm"]), algorithm["algorithm"].dotted)
    if found != (digest_name, signature_oid):
        raise MalformedError("CMSAlgorithmProtection names other algorithms than are used")


def _certificate_hash(attributes: dict[str, Any]) -> tuple[str, bytes] | None:
    """The first ESSCertIDv2 is the signer's (RFC 5035 §4)."""
    if SIGNING_CERTIFICATE_V2 not in attributes:
        return None
    binding: tsp.ESSCertIDv2 = _single(attributes, SIGNING_CERTIFICATE_V2)["certs"][0]
    return read_digest_identifier(binding["hash_algorithm"]), binding["cert_hash"].native
