"""Composite ML-DSA (draft-ietf-lamps-pq-composite-sigs-19): one key and one signature made of two that both must hold.

Both halves sign M' = prefix, label, |context|, context, SHA-512(message); ML-DSA has the label as its own context too.
So the ML-DSA half is no signature of anything by itself. Prototypes before draft -08 have other identifiers, labels and
encodings, and are not read. Off unless somebody asks for it, until the RFC has its number.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, TypeAlias

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pkicore.algorithms import algorithm_of, verify_signature
from pkicore.encoding import BIT_STRING, DerReader, bit_string, object_identifier, sequence
from pkicore.errors import BadSignatureError, MalformedError, UnsupportedError

MldsaPublicKey: TypeAlias = mldsa.MLDSA65PublicKey | mldsa.MLDSA87PublicKey
TraditionalPublicKey: TypeAlias = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey

MAX_CONTEXT: Final = 255  # octets
_PREFIX: Final = b"CompositeAlgorithmSignatures2025"
_ARC: Final = "1.3.6.1.5.5.7.6."
_DIGEST_SIZE: Final = 64
_UNCOMPRESSED: Final = 4
_MAX_SPKI: Final = 4096  # octets; the largest has about 2700


@dataclass(frozen=True, slots=True)
class CompositeAlgorithm:
    """One combination.

    Attributes:
        name: as in the draft.
        oid: dotted object identifier of keys and signatures; parameters are absent.
        label: that sets it apart from all others, in M' and as the context of ML-DSA.
        mldsa: name of the ML-DSA half in `pkicore.algorithms`.
        traditional: name of the other half there; it signs with its usual hash.
        mldsa_key_size: octets of the first half of a public key.
        mldsa_signature_size: octets of the first half of a signature.
        traditional_key_size: octets of the second half of a public key.
        max_traditional_signature: most octets of the second half of a signature.
    """

    name: str
    oid: str
    label: bytes
    mldsa: str
    traditional: str
    mldsa_key_size: int
    mldsa_signature_size: int
    traditional_key_size: int
    max_traditional_signature: int


_MLDSA_SIZES: Final = MappingProxyType({"ml-dsa-65": (1952, 3309), "ml-dsa-87": (2592, 4627)})
_TRADITIONAL_SIZES: Final = MappingProxyType({"ecdsa-p256": (65, 72), "ecdsa-p384": (97, 104), "ed25519": (32, 64)})


def _row(name: str, last_arc: int, mldsa_name: str, traditional: str) -> CompositeAlgorithm:
    label = b"COMPSIG-" + name.removeprefix("id-").encode()
    sizes = (*_MLDSA_SIZES[mldsa_name], *_TRADITIONAL_SIZES[traditional])
    return CompositeAlgorithm(name, f"{_ARC}{last_arc}", label, mldsa_name, traditional, *sizes)


COMPOSITES: Final[Mapping[str, CompositeAlgorithm]] = MappingProxyType(
    {
        row.name: row
        for row in (
            _row("id-MLDSA65-ECDSA-P256-SHA512", 45, "ml-dsa-65", "ecdsa-p256"),
            _row("id-MLDSA65-Ed25519-SHA512", 48, "ml-dsa-65", "ed25519"),
            _row("id-MLDSA87-ECDSA-P384-SHA512", 49, "ml-dsa-87", "ecdsa-p384"),
        )
    }
)
_BY_OID: Final = MappingProxyType({object_identifier(row.oid): row for row in COMPOSITES.values()})
_CURVES: Final[Mapping[str, type[ec.EllipticCurve]]] = MappingProxyType(
    {"ecdsa-p256": ec.SECP256R1, "ecdsa-p384": ec.SECP384R1}
)


@dataclass(frozen=True)
class CompositePublicKey:
    """Two public keys that stand for one.

    Attributes:
        algorithm: which combination.
        mldsa: the first half.
        traditional: the second half.
    """

    algorithm: CompositeAlgorithm
    mldsa: MldsaPublicKey
    traditional: TraditionalPublicKey

    def __post_init__(self) -> None:
        """Raises UnsupportedError where the halves are not those of the algorithm."""
        halves = (algorithm_of(self.mldsa).name, algorithm_of(self.traditional).name)
        if halves != (self.algorithm.mldsa, self.algorithm.traditional):
            raise UnsupportedError(f"{self.algorithm.name} is not made of {' and '.join(halves)}")

    @classmethod
    def from_raw(cls, algorithm: CompositeAlgorithm, data: bytes) -> CompositePublicKey:
        """From the two halves, one after the other, without anything between or around them.

        Raises:
            MalformedError: of another length, or a half that is no such key.
        """
        size = algorithm.mldsa_key_size
        if len(data) != size + algorithm.traditional_key_size:
            raise MalformedError(f"{len(data)} octets are no public key of {algorithm.name}")
        return cls(algorithm, _mldsa_key(algorithm, data[:size]), _traditional_key(algorithm, data[size:]))

    def to_raw(self) -> bytes:
        """The raw ML-DSA key, then the uncompressed point or the raw Ed25519 key."""
        traditional = self.traditional
        if isinstance(traditional, ec.EllipticCurvePublicKey):
            second = traditional.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        else:
            second = traditional.public_bytes_raw()
        return self.mldsa.public_bytes_raw() + second

    @classmethod
    def from_spki(cls, der: bytes) -> CompositePublicKey:
        """From SubjectPublicKeyInfo.

        Raises:
            MalformedError: not that in DER.
            UnsupportedError: of another algorithm than `COMPOSITES`.
        """
        if len(der) > _MAX_SPKI:
            raise MalformedError(f"a composite public key has at most {_MAX_SPKI} octets")
        outer = DerReader(der)
        spki = outer.enter()
        outer.finish()
        identifier, key = spki.enter(), spki.read(BIT_STRING)
        spki.finish()
        algorithm = _BY_OID.get(identifier.read_element())
        if algorithm is None:
            raise UnsupportedError(f"a composite public key is of {', '.join(COMPOSITES)}")
        identifier.finish()
        if key[:1] != b"\x00":
            raise MalformedError("a composite public key has whole octets")
        return cls.from_raw(algorithm, key[1:])

    def to_spki(self) -> bytes:
        """SubjectPublicKeyInfo in DER, the raw key straight in its BIT STRING."""
        return sequence(sequence(object_identifier(self.algorithm.oid)), bit_string(self.to_raw()))


def message_representative(algorithm: CompositeAlgorithm, message: bytes, context: bytes = b"") -> bytes:
    """M', what both halves sign.

    Raises:
        UnsupportedError: a context of more than 255 octets.
    """
    return representative_of_digest(algorithm, hashlib.sha512(message).digest(), context)


def representative_of_digest(algorithm: CompositeAlgorithm, digest: bytes, context: bytes = b"") -> bytes:
    """M' from the SHA-512 of the message, for messages that are elsewhere.

    Raises:
        UnsupportedError: a context of more than 255 octets.
        MalformedError: a digest of another length.
    """
    if len(context) > MAX_CONTEXT:
        raise UnsupportedError(f"a context has at most {MAX_CONTEXT} octets")
    if len(digest) != _DIGEST_SIZE:
        raise MalformedError(f"a SHA-512 digest has {_DIGEST_SIZE} octets")
    return b"".join((_PREFIX, algorithm.label, bytes((len(context),)), context, digest))


def mu_of(algorithm: CompositeAlgorithm, public_key: MldsaPublicKey, representative: bytes) -> bytes:
    """The 64 octets that a remote ML-DSA key signs for M' (FIPS 204 §6.2), with the label as context.

    The other half is an ordinary signature over M'.
    """
    hasher = mldsa.MLDSAMuHasher(public_key, algorithm.label)
    hasher.update(representative)
    return hasher.finalize()


def join(algorithm: CompositeAlgorithm, mldsa_signature: bytes, traditional_signature: bytes) -> bytes:
    """The composite signature of two halves; ECDSA as DER.

    Raises:
        BadSignatureError: a half of a length that no such signature has.
    """
    signature = mldsa_signature + traditional_signature
    if split(algorithm, signature) != (mldsa_signature, traditional_signature):
        raise BadSignatureError(f"the halves are not those of {algorithm.name}")
    return signature


def split(algorithm: CompositeAlgorithm, signature: bytes) -> tuple[bytes, bytes]:
    """The two halves of a composite signature, unverified.

    Raises:
        BadSignatureError: of a length that no such signature has.
    """
    size = algorithm.mldsa_signature_size
    if not size < len(signature) <= size + algorithm.max_traditional_signature:
        raise BadSignatureError(f"{len(signature)} octets are no signature of {algorithm.name}")
    return signature[:size], signature[size:]


def verify(public_key: CompositePublicKey, signature: bytes, message: bytes, context: bytes = b"") -> None:
    """Both halves hold, or raise.

    Raises:
        BadSignatureError: one of them does not.
        UnsupportedError: a context of more than 255 octets.
    """
    verify_digest(public_key, signature, hashlib.sha512(message).digest(), context)


def verify_digest(public_key: CompositePublicKey, signature: bytes, digest: bytes, context: bytes = b"") -> None:
    """As `verify`, from the SHA-512 of the message.

    Raises:
        BadSignatureError: one of the halves does not hold.
        UnsupportedError: a context of more than 255 octets.
        MalformedError: a digest of another length.
    """
    algorithm = public_key.algorithm
    representative = representative_of_digest(algorithm, digest, context)
    first, second = split(algorithm, signature)
    try:
        public_key.mldsa.verify(first, representative, algorithm.label)
    except InvalidSignature as error:
        raise BadSignatureError(f"the {algorithm.mldsa} half of the composite signature does not verify") from error
    verify_signature(public_key.traditional, second, representative)


def _mldsa_key(algorithm: CompositeAlgorithm, data: bytes) -> MldsaPublicKey:
    key_type = mldsa.MLDSA65PublicKey if algorithm.mldsa == "ml-dsa-65" else mldsa.MLDSA87PublicKey
    try:
        return key_type.from_public_bytes(data)
    except ValueError as error:
        raise MalformedError(f"the first half is no public key of {algorithm.mldsa}") from error


def _traditional_key(algorithm: CompositeAlgorithm, data: bytes) -> TraditionalPublicKey:
    try:
        if algorithm.traditional == "ed25519":
            return ed25519.Ed25519PublicKey.from_public_bytes(data)
        if data[0] != _UNCOMPRESSED:
            raise MalformedError("the point of a composite public key must be uncompressed")
        return ec.EllipticCurvePublicKey.from_encoded_point(_CURVES[algorithm.traditional](), data)
    except ValueError as error:
        raise MalformedError(f"the second half is no public key of {algorithm.traditional}") from error
