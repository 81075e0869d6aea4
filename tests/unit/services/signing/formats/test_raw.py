from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import mldsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pkicore.algorithms import ALGORITHMS, PublicKey, generate_private_key, sign_with
from pkicore.errors import BadSignatureError, UnsupportedError
from pkicore.keys.remote import Reduction
from services.signing.formats import Output, SignedWith, raw
from tests.support.openssl import openssl

ARTEFACT = b"release 1.0\n" * 1000
DIGESTS = {name: hashlib.new(name, ARTEFACT).digest() for name in ("sha256", "sha384", "sha512")}


def digests_for(public_key: PublicKey) -> dict[str, bytes]:
    """Every hash of the artefact, and mu where the key has one."""
    if not isinstance(public_key, mldsa.MLDSA44PublicKey | mldsa.MLDSA65PublicKey | mldsa.MLDSA87PublicKey):
        return dict(DIGESTS)
    reduction = Reduction(public_key, "mu")
    reduction.update(ARTEFACT)
    return {**DIGESTS, "mu": reduction.payload()}


@pytest.mark.parametrize("name", ["ecdsa-p256", "ecdsa-p384", "rsa-2048", "ml-dsa-44", "ml-dsa-65", "ml-dsa-87"])
def test_a_signature_over_an_artefact_verifies_from_its_digest_alone(name: str) -> None:
    """What a key signed over the whole artefact is believed for the digest or mu that the format asks for."""
    key = generate_private_key(ALGORITHMS[name])
    signature = sign_with(key, ARTEFACT)
    raw.verify(key.public_key(), signature, digests_for(key.public_key()))


@pytest.mark.parametrize("name", ["ecdsa-p256", "rsa-2048", "ml-dsa-65"])
def test_another_artefact_is_not_believed(name: str) -> None:
    """One bit of the digest or mu makes the signature worthless."""
    key = generate_private_key(ALGORITHMS[name])
    digests = digests_for(key.public_key())
    wanted = raw.needed_digest(ALGORITHMS[name])
    digests[wanted] = bytes([digests[wanted][0] ^ 1]) + digests[wanted][1:]
    with pytest.raises(BadSignatureError):
        raw.verify(key.public_key(), sign_with(key, ARTEFACT), digests)


@pytest.mark.parametrize(
    ("name", "needed"),
    [("ecdsa-p256", "sha256"), ("ecdsa-p384", "sha384"), ("rsa-4096", "sha256"), ("ml-dsa-87", "mu")],
)
def test_the_refusal_says_which_digest_is_missing(name: str, needed: str) -> None:
    """Without the digest that the key needs, the error names key, algorithm and digest."""
    with pytest.raises(UnsupportedError, match=rf"default\.k \({name}\) needs the artefact's {needed}"):
        raw.to_sign("default.k", ALGORITHMS[name], {"sha224": b""})


def test_exactly_one_digest_is_handed_on() -> None:
    """Of several digests the signer gets the one that its key signs, and no message."""
    found = raw.to_sign("default.k", ALGORITHMS["ecdsa-p384"], DIGESTS)
    assert found == ("default.k", None, {"sha384": DIGESTS["sha384"]})


@pytest.mark.parametrize(("name", "length"), [("ecdsa-p256", 31), ("rsa-2048", 64), ("ml-dsa-65", 32)])
def test_a_digest_of_the_wrong_length_is_refused(name: str, length: int) -> None:
    """Nothing but a digest of the hash's own length is signed, so that no short one slips through as another's."""
    needed = raw.needed_digest(ALGORITHMS[name])
    with pytest.raises(UnsupportedError, match=f"not {length}"):
        raw.to_sign("default.k", ALGORITHMS[name], {needed: bytes(length)})


def test_ed25519_has_no_raw_signatures() -> None:
    """Ed25519 needs the artefact itself, which never comes here, so it is refused before anything is signed."""
    with pytest.raises(UnsupportedError, match="whole messages"):
        raw.to_sign("default.k", ALGORITHMS["ed25519"], DIGESTS)
    key = generate_private_key(ALGORITHMS["ed25519"])
    with pytest.raises(UnsupportedError):
        raw.verify(key.public_key(), sign_with(key, ARTEFACT), DIGESTS)


@pytest.mark.parametrize("signature", [b"", b"0", bytes(64), b"\x30\x06\x02\x01\x00\x02\x01\x00"])
def test_garbage_is_a_bad_signature(signature: bytes) -> None:
    """What is no signature at all raises the same error as one that does not verify."""
    key = generate_private_key(ALGORITHMS["ecdsa-p256"])
    with pytest.raises(BadSignatureError):
        raw.verify(key.public_key(), signature, DIGESTS)


@pytest.mark.parametrize("name", ["ecdsa-p256", "rsa-2048"])
def test_openssl_verifies_the_file(name: str, tmp_path: Path) -> None:
    """`openssl dgst -verify` takes the file as it is served."""
    key = generate_private_key(ALGORITHMS[name])
    signed = SignedWith("default.k", ALGORITHMS[name], key.public_key(), sign_with(key, ARTEFACT))
    output = raw.output(signed)
    (tmp_path / output.name).write_bytes(output.content)
    (tmp_path / "artefact").write_bytes(ARTEFACT)
    pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "key.pem").write_bytes(pem)
    signature, artefact = tmp_path / output.name, tmp_path / "artefact"
    found = openssl("dgst", "-sha256", "-verify", tmp_path / "key.pem", "-signature", signature, artefact)
    assert "Verified OK" in found


@pytest.mark.parametrize(
    ("name", "number", "expected"),
    [("ecdsa-p256", 1, "raw-es256.sig"), ("ecdsa-p256", 2, "raw-es256-2.sig"), ("ml-dsa-65", 1, "raw-ml-dsa-65.sig")],
)
def test_files_are_named_after_algorithm_and_subject(name: str, number: int, expected: str) -> None:
    """The first subject's file has no number, the further ones theirs."""
    key = generate_private_key(ALGORITHMS[name])
    signed = SignedWith("default.k", ALGORITHMS[name], key.public_key(), b"signature")
    assert raw.output(signed, number) == Output(expected, "application/octet-stream", b"signature")
