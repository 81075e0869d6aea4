"""Detached CMS SignedData over an artefact that only its digests are known of (RFC 5652, ML-DSA after RFC 9882).

One SignerInfo for each key, all about the same content. OpenSSL before 3.5 knows no ML-DSA and refuses the whole where
one signer is unknown to it: so beside a hybrid one stands a second file with the classical signers alone. Every key
needs a certificate, since CMS names signers by theirs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from cryptography import x509

from pkicore.cms import SignedAttributes, SignerInfo, assemble, signed_attributes
from pkicore.errors import UnsupportedError
from pkicore.tsp import token_of
from services.signing.formats import Output, SignedWith, ToSign

MEDIA_TYPE: Final = "application/pkcs7-signature"
HYBRID: Final = "detached.p7s"
CLASSICAL: Final = "detached-classical.p7s"


@dataclass(frozen=True, slots=True)
class PreparedSigner:
    """What one key of a CMS signature signs.

    Attributes:
        key_id: of the key, as the signer names it.
        chain: its certificate and those above it.
        attributes: that are signed.
    """

    key_id: str
    chain: tuple[x509.Certificate, ...]
    attributes: SignedAttributes

    @property
    def to_sign(self) -> ToSign:
        """The signed attributes in DER."""
        return ToSign(self.key_id, message=self.attributes.message)


def prepare(
    key_id: str, chain: Sequence[x509.Certificate], digests: Mapping[str, bytes], signing_time: datetime
) -> PreparedSigner:
    """What a key signs about an artefact.

    Args:
        key_id: of the key, as the signer names it.
        chain: its certificate and those above it.
        digests: of the artefact by the name of the hash; ML-DSA needs sha512.
        signing_time: whole seconds.

    Raises:
        UnsupportedError: the key has no certificate, or the digest that it needs is not among them.
        MalformedError: a digest of the wrong length.
    """
    if not chain:
        raise UnsupportedError(f"a CMS signature needs a certificate, and {key_id} has none")
    return PreparedSigner(key_id, tuple(chain), signed_attributes(chain[0], digests, signing_time=signing_time))


def outputs(signers: Sequence[PreparedSigner], signed: Sequence[SignedWith]) -> list[Output]:
    """The files: one with all signers, and where these are a mixture, one with the classical signers.

    A timestamp of a signature goes along as unsigned attribute (RFC 3161 appendix A).

    Raises:
        BadSignatureError: a signature that its certificate's key did not make.
        UnsupportedError: no signer.
    """
    infos = [_signer_info(prepared, one) for prepared, one in zip(signers, signed, strict=True)]
    found = [Output(HYBRID, MEDIA_TYPE, _assembled(signers, infos))]
    classical = [number for number, one in enumerate(signed) if not one.algorithm.quantum_safe]
    if classical and len(classical) < len(signed):
        content = _assembled([signers[number] for number in classical], [infos[number] for number in classical])
        found.append(Output(CLASSICAL, MEDIA_TYPE, content))
    return found


def _signer_info(prepared: PreparedSigner, signed: SignedWith) -> SignerInfo:
    token = None if signed.timestamp is None else token_of(signed.timestamp)
    return SignerInfo(prepared.attributes, signed.signature, token)


def _assembled(signers: Sequence[PreparedSigner], infos: Sequence[SignerInfo]) -> bytes:
    certificates = dict.fromkeys(certificate for signer in signers for certificate in _sent_along(signer.chain))
    return assemble(infos, certificates=certificates)


def _sent_along(chain: Sequence[x509.Certificate]) -> list[x509.Certificate]:
    """The signer's, and what is between it and the root; a root that is sent along convinces nobody."""
    return [chain[0], *(certificate for certificate in chain[1:] if certificate.subject != certificate.issuer)]
