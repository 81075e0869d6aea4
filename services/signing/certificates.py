"""Short-lived certificates for OIDC identities, as Fulcio has them: the identity in the certificate, the key used once.

The service holds no signing key but these: each is made in this process's memory for one request, proves itself to our
own CA, signs what the request is about, and is dropped; it is never written anywhere. What the CA answers is believed
for nothing: 1 the leaf is for this key · 2 it leads to the CA that verifiers are told of, for code signing · 3 their
certificate log has promised to keep it · 4 it says this identity and no more · 5 it does not live long.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Final, Protocol

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.serialization import Encoding

from pkicore import dsse
from pkicore.algorithms import ALGORITHMS, Algorithm, Payload, sign_with
from pkicore.clock import Clock
from pkicore.cms.der import UTF8_STRING
from pkicore.encoding import tlv
from pkicore.errors import BadCertificateError, UnsupportedError
from pkicore.keys.remote import Reduction
from pkicore.x509.certificate import load_chain
from services.signing.callers.certificate_identity import FULCIO_ARC, CertificateIdentity
from services.signing.trusted_root import TrustedRoot
from services.signing.verification import Identity, check_identity, verify_leaf

LONGEST_LIFE: Final = timedelta(hours=1)
_OLD_ISSUER: Final = f"{FULCIO_ARC}.1"  # deprecated and a raw string; sigstore-python's CLI knows no other
_ALGORITHM: Final = ALGORITHMS["ecdsa-p256"]
_HASH: Final = hashes.SHA256()


class CertificateIssuer(Protocol):
    """The CA, as this module needs it."""

    async def issue(self, csr: bytes, identity: CertificateIdentity) -> bytes:
        """The chain in PEM, leaf first, without the root.

        Args:
            csr: PKCS#10 in DER, with the identity's one name.
            identity: what the certificate is to say.

        Raises:
            CaRefusedError: it says no.
            CaUnavailableError: no usable answer.
        """
        ...


class EphemeralKey:
    """A P-256 key that lives as long as its block; a `services.signing.keys.JobKey`.

    Attributes:
        name: what the record calls all of them: their certificates tell them apart.
        key_id: likewise.
        algorithm: of the key.
        public_key: its public half.
        chain: its certificate and those above it, without the root; empty until it is certified.
    """

    name = key_id = "certificate"
    algorithm: Algorithm = _ALGORITHM
    chain: tuple[x509.Certificate, ...] = ()

    def __init__(self) -> None:
        self._private_key: ec.EllipticCurvePrivateKey | None = ec.generate_private_key(ec.SECP256R1())
        self.public_key: ec.EllipticCurvePublicKey = self._private_key.public_key()

    def __repr__(self) -> str:
        return f"EphemeralKey({dsse.key_id(self.public_key)})"

    async def sign(self, message: bytes) -> bytes:
        """ECDSA over the whole message, as DER.

        Raises:
            UnsupportedError: the key was dropped.
        """
        return sign_with(self._held(), message)

    async def sign_reduced(self, kind: Payload, payload: bytes) -> bytes:
        """ECDSA over the SHA-256 of a message that is not at hand, as DER.

        Raises:
            UnsupportedError: the key was dropped, or the payload is of another kind or length.
        """
        if kind != "digest" or len(payload) != _HASH.digest_size:
            raise UnsupportedError(f"a P-256 key signs SHA-256 digests, not {len(payload)} octets of {kind}")
        return self._held().sign(payload, ec.ECDSA(Prehashed(_HASH)))

    async def reduction(self) -> Reduction:
        """A reduction that `sign_reduced` takes."""
        return Reduction(self.public_key, "digest")

    def request(self, identity: CertificateIdentity) -> bytes:
        """PKCS#10 in DER: the key's proof of possession, with the identity's one name."""
        builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
        names = x509.SubjectAlternativeName([_name(identity)])
        request = builder.add_extension(names, critical=True).sign(self._held(), _HASH)
        return request.public_bytes(Encoding.DER)

    def drop(self) -> None:
        """Never sign again."""
        self._private_key = None

    def _held(self) -> ec.EllipticCurvePrivateKey:
        if self._private_key is None:
            raise UnsupportedError("this key was dropped with the request that it was made for")
        return self._private_key


@asynccontextmanager
async def certified_key(
    identity: CertificateIdentity, issuer: CertificateIssuer, root: TrustedRoot, clock: Clock
) -> AsyncIterator[EphemeralKey]:
    """A key for one request, certified; dropped when the block ends, however it ends.

    Args:
        identity: what the certificate says.
        issuer: the CA.
        root: what verifiers are told to trust; what they would not believe is not signed with.
        clock: where the time comes from.

    Raises:
        BadCertificateError: the CA answered another certificate than was asked for, or one that nobody would believe.
        ProofError: it has no timestamp of the certificate log that verifiers know.
        WrongIdentityError: it is for somebody else.
        CaRefusedError: the CA says no.
        CaUnavailableError: the CA gives no usable answer.
    """
    key = EphemeralKey()
    try:
        chain = load_chain(await issuer.issue(key.request(identity), identity))
        check_certificate(chain, key, identity, root, clock.now())
        key.chain = chain
        yield key
    finally:
        key.drop()


def check_certificate(
    chain: tuple[x509.Certificate, ...],
    key: EphemeralKey,
    identity: CertificateIdentity,
    root: TrustedRoot,
    now: datetime,
) -> None:
    """Rules 1 to 5 of this module.

    Raises:
        BadCertificateError: see `certified_key`.
        ProofError: likewise.
        BadSignatureError: a signature in it does not verify.
        WrongIdentityError: it is for somebody else.
    """
    if not chain or chain[0].public_key() != key.public_key:
        raise BadCertificateError("the CA answered a certificate for another key")
    leaf = chain[0]
    verify_leaf(leaf, root, now)
    check_identity(leaf, Identity(identity.san_uri or identity.san_email or "", identity.issuer))
    claims = {oid: tlv(UTF8_STRING, text.encode()) for oid, text in identity.extensions.items()}
    if {_OLD_ISSUER: identity.issuer.encode(), **_said(leaf)} != {_OLD_ISSUER: identity.issuer.encode(), **claims}:
        raise BadCertificateError("the CA answered a certificate that says something else of the identity")
    if leaf.not_valid_after_utc - leaf.not_valid_before_utc > LONGEST_LIFE:
        raise BadCertificateError(f"a certificate of a key that is dropped at once lives {LONGEST_LIFE} at most")


def _said(leaf: x509.Certificate) -> Mapping[str, bytes]:
    """What the certificate says in Fulcio's extensions, in DER by dotted OID."""
    found = (item.value for item in leaf.extensions if item.oid.dotted_string.startswith(f"{FULCIO_ARC}."))
    return {item.oid.dotted_string: item.value for item in found if isinstance(item, x509.UnrecognizedExtension)}


def _name(identity: CertificateIdentity) -> x509.GeneralName:
    if identity.san_uri is not None:
        return x509.UniformResourceIdentifier(identity.san_uri)
    return x509.RFC822Name(identity.san_email or "")
