"""Composite ML-DSA against the vectors of its draft, in both directions, and against a stripper of halves."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa
from cryptography.hazmat.primitives.serialization import load_der_private_key

from pkicore.algorithms import ALGORITHMS, generate_private_key, sign_with
from pkicore.composite import (
    COMPOSITES,
    CompositeAlgorithm,
    CompositePublicKey,
    join,
    message_representative,
    mu_of,
    representative_of_digest,
    split,
    verify,
    verify_digest,
)
from pkicore.encoding import bit_string, object_identifier, sequence, tlv
from pkicore.errors import BadSignatureError, MalformedError, PkiError, UnsupportedError

VECTORS = json.loads((Path(__file__).parents[2] / "vectors/composite-mldsa.json").read_text())
MESSAGE, CONTEXT = base64.b64decode(VECTORS["m"]), base64.b64decode(VECTORS["ctx"])
P256 = COMPOSITES["id-MLDSA65-ECDSA-P256-SHA512"]


@dataclass(frozen=True)
class Vector:
    """What the draft's authors made with one combination."""

    algorithm: CompositeAlgorithm
    public_key: bytes
    private_key: bytes
    certificate: x509.Certificate
    signature: bytes
    signature_with_context: bytes

    @property
    def halves(self) -> tuple[mldsa.MLDSA65PrivateKey | mldsa.MLDSA87PrivateKey, Any]:
        """The two private keys: a seed of 32 octets, then RFC 5915 or a raw key."""
        seed, rest = self.private_key[:32], self.private_key[32:]
        kind = mldsa.MLDSA65PrivateKey if self.algorithm.mldsa == "ml-dsa-65" else mldsa.MLDSA87PrivateKey
        if self.algorithm.traditional == "ed25519":
            return kind.from_seed_bytes(seed), ed25519.Ed25519PrivateKey.from_private_bytes(rest)
        return kind.from_seed_bytes(seed), load_der_private_key(rest, None)


def _vector(test: dict[str, str]) -> Vector:
    raw = {name: base64.b64decode(value) for name, value in test.items() if name != "tcId"}
    certificate = x509.load_der_x509_certificate(raw["x5c"])
    algorithm = COMPOSITES[test["tcId"]]
    return Vector(algorithm, raw["pk"], raw["sk"], certificate, raw["s"], raw["sWithContext"])


ALL = [_vector(test) for test in VECTORS["tests"]]


@pytest.fixture(params=ALL, ids=[vector.algorithm.name for vector in ALL])
def vector(request: pytest.FixtureRequest) -> Vector:
    """Each combination in turn."""
    found = request.param
    assert isinstance(found, Vector)
    return found


def sign(vector: Vector, message: bytes, context: bytes = b"") -> bytes:
    """As the service does: mu to one key, M' to the other."""
    first, second = vector.halves
    representative = message_representative(vector.algorithm, message, context)
    mu = mu_of(vector.algorithm, first.public_key(), representative)
    return join(vector.algorithm, first.sign_mu(mu), sign_with(second, representative))


def test_every_composite_has_a_vector() -> None:
    """None is offered that was not proven against the draft."""
    assert {vector.algorithm.name for vector in ALL} == set(COMPOSITES)


def test_the_representative_is_that_of_the_appendix() -> None:
    """The draft's worked example, octet for octet."""
    found = message_representative(P256, bytes(range(10)), bytes.fromhex("0813061205162623"))
    assert found.hex() == (
        "436f6d706f73697465416c676f726974686d5369676e61747572657332303235434f4d505349472d4d4c44534136352d45434453412d"
        "503235362d5348413531320808130612051626230f89ee1fcb7b0a4f7809d1267a029719004c5a5e5ec323a7c3523a20974f9a3f202f"
        "56fadba4cd9e8d654ab9f2e96dc5c795ea176fa20ede8d854c342f903533"
    )


def test_signatures_of_the_draft_verify(vector: Vector) -> None:
    """With and without context, and each with the other's context does not."""
    key = CompositePublicKey.from_raw(vector.algorithm, vector.public_key)
    verify(key, vector.signature, MESSAGE)
    verify(key, vector.signature_with_context, MESSAGE, CONTEXT)
    for signature, message, context in [
        (vector.signature, MESSAGE, CONTEXT),
        (vector.signature_with_context, MESSAGE, b""),
        (vector.signature, MESSAGE + b"!", b""),
    ]:
        with pytest.raises(BadSignatureError):
            verify(key, signature, message, context)


def test_certificates_of_the_draft_verify(vector: Vector) -> None:
    """Their keys are read from, and written as, the SubjectPublicKeyInfo inside; identifiers agree."""
    key = CompositePublicKey.from_raw(vector.algorithm, vector.public_key)
    assert key.to_raw() == vector.public_key
    assert key.to_spki() in vector.certificate.tbs_certificate_bytes
    assert CompositePublicKey.from_spki(key.to_spki()) == key
    assert vector.certificate.signature_algorithm_oid.dotted_string == vector.algorithm.oid
    verify(key, vector.certificate.signature, vector.certificate.tbs_certificate_bytes)


def test_our_signatures_verify_with_the_halves_of_the_draft(vector: Vector) -> None:
    """Made from the draft's private keys by way of mu, they hold for its public key, whole and half by half."""
    signature = sign(vector, MESSAGE, CONTEXT)
    verify(CompositePublicKey.from_raw(vector.algorithm, vector.public_key), signature, MESSAGE, CONTEXT)
    first, _ = split(vector.algorithm, signature)
    own, _ = vector.halves
    assert vector.public_key.startswith(own.public_key().public_bytes_raw())
    own.public_key().verify(first, message_representative(vector.algorithm, MESSAGE, CONTEXT), vector.algorithm.label)


def test_the_mldsa_half_is_no_signature_by_itself(vector: Vector) -> None:
    """Its context is the label, so an ordinary verifier refuses it over M' and over the message."""
    first, _ = split(vector.algorithm, vector.signature)
    key = CompositePublicKey.from_raw(vector.algorithm, vector.public_key)
    for message in (MESSAGE, message_representative(vector.algorithm, MESSAGE)):
        with pytest.raises(InvalidSignature):
            key.mldsa.verify(first, message)


def test_each_half_must_hold(vector: Vector) -> None:
    """Halves by another key, altered, swapped in from another signature, or cut off."""
    algorithm = vector.algorithm
    key = CompositePublicKey.from_raw(algorithm, vector.public_key)
    first, second = split(algorithm, vector.signature)
    other_first, other_second = split(algorithm, vector.signature_with_context)
    stranger = sign_with(
        generate_private_key(ALGORITHMS[algorithm.traditional]), message_representative(algorithm, MESSAGE)
    )
    for forged in [
        bytes([first[0] ^ 1]) + first[1:] + second,
        first + second[:-1] + bytes([second[-1] ^ 1]),
        first + other_second,
        other_first + second,
        first + stranger,
        first,
        second,
        first + second + b"\x00",
        first + bytes(algorithm.max_traditional_signature + 1),
        b"",
    ]:
        with pytest.raises(BadSignatureError):
            verify(key, forged, MESSAGE)


def test_a_signature_is_of_one_combination() -> None:
    """The same two keys under another label make another signature."""
    other = COMPOSITES["id-MLDSA65-Ed25519-SHA512"]
    assert message_representative(P256, MESSAGE) != message_representative(other, MESSAGE)
    first = generate_private_key(ALGORITHMS["ml-dsa-65"]).public_key()
    with pytest.raises(UnsupportedError, match="not made of"):
        CompositePublicKey(P256, first, generate_private_key(ALGORITHMS["ed25519"]).public_key())  # type: ignore[arg-type]  # on purpose


def test_digests_do_instead_of_messages() -> None:
    """For messages that are elsewhere; of the right length only."""
    vector = ALL[0]
    key = CompositePublicKey.from_raw(vector.algorithm, vector.public_key)
    verify_digest(key, vector.signature, hashlib.sha512(MESSAGE).digest())
    for size in (0, 32, 63, 65):
        with pytest.raises(MalformedError):
            verify_digest(key, vector.signature, bytes(size))


def test_contexts_are_bounded() -> None:
    """255 octets fit their length octet, 256 do not; and a context is not part of the digest beside it."""
    assert len(representative_of_digest(P256, bytes(64), bytes(255))) == 32 + 33 + 1 + 255 + 64
    with pytest.raises(UnsupportedError, match="at most 255"):
        representative_of_digest(P256, bytes(64), bytes(256))


def test_halves_of_other_lengths_are_not_joined() -> None:
    """Neither the wrong ML-DSA nor something too long nor nothing; else they would be split elsewhere."""
    for first, second in [
        (bytes(4627), bytes(70)),
        (bytes(3309), b""),
        (bytes(3309), bytes(73)),
        (bytes(3308), b"\x00" * 71),
    ]:
        with pytest.raises(BadSignatureError):
            join(P256, first, second)


def _spki(oid: str, key: bytes, *, parameters: bytes = b"") -> bytes:
    return sequence(sequence(object_identifier(oid), parameters), bit_string(key))


def _compressed(vector: Vector) -> bytes:
    point = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), vector.public_key[1952:])
    numbers = point.public_numbers()
    return vector.public_key[:1952] + bytes([2 + numbers.y % 2]) + numbers.x.to_bytes(32, "big")


P256_VECTOR = next(vector for vector in ALL if vector.algorithm is P256)


@pytest.mark.parametrize(
    "der",
    [
        b"",
        b"\x30\x80\x00\x00",
        _spki(P256.oid, P256_VECTOR.public_key) + b"\x00",
        _spki(P256.oid, P256_VECTOR.public_key, parameters=b"\x05\x00"),
        _spki(P256.oid, P256_VECTOR.public_key[:-1]),
        _spki(P256.oid, P256_VECTOR.public_key + b"\x00"),
        _spki(P256.oid, _compressed(P256_VECTOR)),
        _spki(P256.oid, P256_VECTOR.public_key[:1952] + b"\x04" + bytes(64)),
        _spki(P256.oid, P256_VECTOR.public_key[:1952] + b"\x06" + P256_VECTOR.public_key[1953:]),
        _spki("1.3.6.1.5.5.7.6.46", P256_VECTOR.public_key),
        _spki("2.16.840.1.114027.80.8.1.28", P256_VECTOR.public_key),
        sequence(sequence(object_identifier(P256.oid)), tlv(3, b"\x01" + P256_VECTOR.public_key)),
        bytes(5000),
    ],
)
def test_other_keys_are_refused(der: bytes) -> None:
    """Bad DER, parameters, other lengths, points compressed, hybrid or off the curve, other identifiers."""
    with pytest.raises(PkiError) as caught:
        CompositePublicKey.from_spki(der)
    assert isinstance(caught.value, MalformedError | UnsupportedError)
