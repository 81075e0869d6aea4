"""Keys in this process sign payloads as the whole messages would be signed, and wrong signatures are found out."""

from __future__ import annotations

from itertools import product

import pytest

from pkicore.algorithms import ALGORITHMS, Payload, PrivateKey, generate_private_key
from services.signer_hsm.backends.payloads import check_offered, kinds_of, sign_payload, verify_payload
from services.signer_hsm.errors import BadAnswerError, NotOfferedError
from services.signer_hsm.schemes import SCHEMES, Scheme, schemes_of
from tests.support.payloads import check_signature, payload_of

MESSAGE = b"a message"
ROWS = [
    (name, scheme.name, kind)
    for name, row in ALGORITHMS.items()
    if name not in {"rsa-3072", "rsa-4096"}
    for scheme, kind in product(schemes_of(row), sorted(kinds_of(row)))
]


@pytest.fixture(scope="module")
def keys() -> dict[str, PrivateKey]:
    """One key per algorithm."""
    return {name: generate_private_key(ALGORITHMS[name]) for name in {row[0] for row in ROWS}}


@pytest.mark.parametrize(("name", "scheme_name", "kind"), ROWS)
def test_signs_and_verifies(keys: dict[str, PrivateKey], name: str, scheme_name: str, kind: Payload) -> None:
    """A signature over the payload is one over the message; a changed payload or signature is a bad answer."""
    key, scheme = keys[name], SCHEMES[scheme_name]
    payload = payload_of(key.public_key(), scheme, kind, MESSAGE)
    signature = sign_payload(key, scheme, kind, payload)
    check_signature(key.public_key(), scheme, signature, MESSAGE)
    verify_payload(key.public_key(), scheme, kind, payload, signature)
    other = bytes([payload[0] ^ 1]) + payload[1:]
    broken = signature[:-1] + bytes([signature[-1] ^ 1])
    for wrong_payload, wrong_signature in (
        (other, signature),
        (payload, broken),
        (payload, b""),
        (payload, b"\x30\x00"),
    ):
        with pytest.raises(BadAnswerError):
            verify_payload(key.public_key(), scheme, kind, wrong_payload, wrong_signature)


def test_a_digest_hashed_twice_is_found_out(keys: dict[str, PrivateKey]) -> None:
    """A back end that hashes the digest again has signed something else."""
    key, scheme = keys["ecdsa-p256"], SCHEMES["ES256"]
    digest = payload_of(key.public_key(), scheme, "digest", MESSAGE)
    twice = sign_payload(key, scheme, "digest", payload_of(key.public_key(), scheme, "digest", digest))
    with pytest.raises(BadAnswerError):
        verify_payload(key.public_key(), scheme, "digest", digest, twice)


def test_a_longer_salt_is_found_out(keys: dict[str, PrivateKey]) -> None:
    """PSS with a salt of another length than the digest's is not what X.509 and JOSE want."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import padding, rsa

    key = keys["rsa-2048"]
    assert isinstance(key, rsa.RSAPrivateKey)
    longest = padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.MAX_LENGTH)
    signature = key.sign(MESSAGE, longest, hashes.SHA256())
    digest = payload_of(key.public_key(), SCHEMES["PS256"], "digest", MESSAGE)
    with pytest.raises(BadAnswerError):
        verify_payload(key.public_key(), SCHEMES["PS256"], "digest", digest, signature)


def test_another_keys_signature_is_found_out(keys: dict[str, PrivateKey]) -> None:
    """A good signature of another key of the same algorithm is a bad answer, under mu too."""
    other = generate_private_key(ALGORITHMS["ml-dsa-65"])
    mu = payload_of(keys["ml-dsa-65"].public_key(), SCHEMES["ML-DSA-65"], "mu", MESSAGE)
    signature = sign_payload(other, SCHEMES["ML-DSA-65"], "mu", mu)
    with pytest.raises(BadAnswerError):
        verify_payload(keys["ml-dsa-65"].public_key(), SCHEMES["ML-DSA-65"], "mu", mu, signature)


@pytest.mark.parametrize("scheme", [scheme for scheme in SCHEMES.values() if scheme.family != "rsa"])
def test_schemes_of_other_keys_are_refused(scheme: Scheme) -> None:
    """An RSA key offers no scheme of another family."""
    row = ALGORITHMS["rsa-2048"]
    with pytest.raises(NotOfferedError):
        check_offered(row, kinds_of(row), scheme, "digest")


def test_kinds_that_a_key_does_not_take_are_refused() -> None:
    """The kinds of the key decide, not those of the algorithm."""
    row = ALGORITHMS["ml-dsa-44"]
    check_offered(row, frozenset({"message"}), SCHEMES["ML-DSA-44"], "message")
    with pytest.raises(NotOfferedError, match="takes message, not mu"):
        check_offered(row, frozenset({"message"}), SCHEMES["ML-DSA-44"], "mu")
