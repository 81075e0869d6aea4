from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import mldsa

from pkicore.algorithms import ALGORITHMS, PrivateKey, generate_private_key, sign_with, verify_signature
from pkicore.dsse import IN_TOTO_PAYLOAD, Envelope, Signature, pae
from pkicore.errors import BadSignatureError, UnsupportedError
from services.signing.formats import composite, raw
from services.signing.statements import Subject, statement

STATEMENT = statement([Subject("app", {"sha256": "ab" * 32})], "https://example.org/predicate", b"{}")
PAIRS = [
    ("id-MLDSA65-ECDSA-P256-SHA512", "ml-dsa-65", "ecdsa-p256"),
    ("id-MLDSA65-Ed25519-SHA512", "ml-dsa-65", "ed25519"),
    ("id-MLDSA87-ECDSA-P384-SHA512", "ml-dsa-87", "ecdsa-p384"),
]


def halves(first: str = "ml-dsa-65", second: str = "ecdsa-p256") -> tuple[PrivateKey, PrivateKey]:
    """Fresh component keys."""
    return generate_private_key(ALGORITHMS[first]), generate_private_key(ALGORITHMS[second])


def prepared(keys: tuple[PrivateKey, PrivateKey], algorithm: str = composite.DEFAULT) -> composite.PreparedComposite:
    """What both are asked to sign."""
    first, second = keys
    return composite.PreparedComposite(
        ("default.c-mldsa", first.public_key()), ("default.c-es", second.public_key()), STATEMENT, algorithm=algorithm
    )


def sign_halves(found: composite.PreparedComposite, keys: tuple[PrivateKey, PrivateKey]) -> tuple[bytes, bytes]:
    """As a far signer does it: mu for the one, the message for the other."""
    first, second = keys
    assert isinstance(first, mldsa.MLDSA65PrivateKey | mldsa.MLDSA87PrivateKey)
    assert found.mldsa.digest is not None
    assert found.traditional.message is not None
    return first.sign_mu(found.mldsa.digest["mu"]), sign_with(second, found.traditional.message)


@pytest.mark.parametrize(("algorithm", "first", "second"), PAIRS)
def test_two_far_signatures_become_one(algorithm: str, first: str, second: str) -> None:
    """Each combination is put together of a signature over mu and one over M', and believed as a whole."""
    keys = halves(first, second)
    found = prepared(keys, algorithm)
    assert (found.mldsa.key_id, found.traditional.key_id) == ("default.c-mldsa", "default.c-es")
    output = found.finish(*sign_halves(found, keys))
    assert (output.name, output.media_type) == ("composite.dsse.json", "application/vnd.dsse.envelope.v1+json")
    envelope = Envelope.parse(output.content)
    assert envelope.payload == STATEMENT
    assert [one.key_id for one in envelope.signatures] == [composite.key_id(found.public_key)]
    composite.verify_envelope(envelope, found.public_key)


def test_the_ml_dsa_half_alone_signs_nothing() -> None:
    """Its context is the label, so that it verifies neither for the PAE nor for M' by itself."""
    keys = halves()
    found = prepared(keys)
    first, _ = sign_halves(found, keys)
    message = found.traditional.message
    assert message is not None
    for content in (message, pae(IN_TOTO_PAYLOAD, STATEMENT)):
        with pytest.raises(BadSignatureError):
            verify_signature(keys[0].public_key(), first, content)
    digest = found.mldsa.digest
    assert digest is not None
    raw.verify(keys[0].public_key(), first, digest)  # what mu stands for is the composite's M' under its label


def test_a_half_by_another_key_never_leaves() -> None:
    """What the signer answers is verified before it is put together: either half alone is not enough."""
    keys, others = halves(), halves()
    found = prepared(keys)
    own, foreign = sign_halves(found, keys), sign_halves(found, others)
    for mixed in ((own[0], foreign[1]), (foreign[0], own[1])):
        with pytest.raises(BadSignatureError):
            found.finish(*mixed)


@pytest.mark.parametrize(
    ("algorithm", "first", "second"),
    [
        ("id-MLDSA44-ECDSA-P256-SHA256", "ml-dsa-65", "ecdsa-p256"),
        ("id-MLDSA65-ECDSA-P256-SHA512", "ml-dsa-87", "ecdsa-p256"),
        ("id-MLDSA65-ECDSA-P256-SHA512", "ml-dsa-65", "ecdsa-p384"),
        ("id-MLDSA65-ECDSA-P256-SHA512", "ecdsa-p256", "ml-dsa-65"),
        ("id-MLDSA65-ECDSA-P256-SHA512", "ml-dsa-65", "rsa-2048"),
        ("id-MLDSA65-ECDSA-P256-SHA512", "ml-dsa-44", "ecdsa-p256"),
    ],
)
def test_other_pairs_are_refused(algorithm: str, first: str, second: str) -> None:
    """A combination that is not offered, or keys that are not its halves, are refused before anything is signed."""
    with pytest.raises(UnsupportedError):
        prepared(halves(first, second), algorithm)


def test_another_payload_is_not_believed() -> None:
    """Payload and payload type are both signed."""
    keys = halves()
    found = prepared(keys)
    envelope = Envelope.parse(found.finish(*sign_halves(found, keys)).content)
    for altered in (
        Envelope(envelope.payload_type, envelope.payload + b" ", envelope.signatures),
        Envelope("application/json", envelope.payload, envelope.signatures),
        Envelope(envelope.payload_type, envelope.payload, (Signature("", b"garbage"),)),
    ):
        with pytest.raises(BadSignatureError):
            composite.verify_envelope(altered, found.public_key)


def test_foreign_signatures_beside_it_are_passed_over() -> None:
    """An envelope may have further signatures; the composite one is found among them."""
    keys = halves()
    found = prepared(keys)
    envelope = Envelope.parse(found.finish(*sign_halves(found, keys)).content)
    crowded = Envelope(envelope.payload_type, envelope.payload, (Signature("x", b"other"), *envelope.signatures))
    composite.verify_envelope(crowded, found.public_key)
