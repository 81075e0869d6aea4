"""What stands for a message at a signer, from its pieces."""

from __future__ import annotations

import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric import mldsa
from hypothesis import given
from hypothesis import strategies as st

from pkicore.algorithms import ALGORITHMS, Payload, generate_private_key
from pkicore.errors import UnsupportedError
from pkicore.keys.remote import Reduction, reduce_message

P384 = generate_private_key(ALGORITHMS["ecdsa-p384"]).public_key()
MLDSA = mldsa.MLDSA65PrivateKey.generate()
ED25519 = generate_private_key(ALGORITHMS["ed25519"]).public_key()


@given(st.lists(st.binary(max_size=300), max_size=8))
def test_pieces_come_to_the_same_as_the_whole(pieces: list[bytes]) -> None:
    """However a message is cut, its digest and its mu are those of the whole."""
    whole = b"".join(pieces)
    for public_key, kind in ((P384, "digest"), (MLDSA.public_key(), "mu")):
        payload_kind: Payload = "digest" if kind == "digest" else "mu"
        reduction = Reduction(public_key, payload_kind)
        for piece in pieces:
            reduction.update(piece)
        assert reduction.payload() == reduce_message(public_key, payload_kind, whole)


def test_the_digest_is_that_of_the_keys_hash() -> None:
    """SHA-384 for P-384."""
    reduction = Reduction(P384, "digest")
    reduction.update(b"message")
    assert reduction.payload() == hashlib.sha384(b"message").digest()


def test_the_mu_is_one_that_ml_dsa_signs() -> None:
    """A signature over it is an ordinary one over the message."""
    reduction = Reduction(MLDSA.public_key(), "mu")
    reduction.update(b"mess")
    reduction.update(b"age")
    MLDSA.public_key().verify(MLDSA.sign_mu(reduction.payload()), b"message")


@pytest.mark.parametrize(
    ("public_key", "kind"), [(ED25519, "digest"), (ED25519, "message"), (P384, "mu"), (P384, "message")]
)
def test_what_cannot_be_reduced_is_refused(public_key: object, kind: Payload) -> None:
    """Keys that take whole messages, and kinds that a key has not."""
    with pytest.raises(UnsupportedError):
        Reduction(public_key, kind)  # type: ignore[arg-type]  # one of the table's keys
