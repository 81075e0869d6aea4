import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519, mldsa

from pkicore.algorithms import sign_with
from pkicore.errors import BadSignatureError, MalformedError, ProofError, UnsupportedError
from pkicore.tlog.checkpoint import Checkpoint, verify_checkpoint
from pkicore.tlog.cosignature import MAX_TIMESTAMP, Cosignature, Cosigner
from pkicore.tlog.keys import NoteKey
from pkicore.tlog.merkle import leaf_hash
from pkicore.tlog.note import Note, verify_note

ORIGIN, NAME, NOW = "log.example/one", "witness.example/w1", 1_900_000_000
CHECKPOINT = Checkpoint(ORIGIN, 7, leaf_hash(b"entry"))
SIGNER = mldsa.MLDSA44PrivateKey.from_seed_bytes(bytes(range(32)))
COSIGNER = Cosigner(NAME, SIGNER.public_key())
LOG_SIGNER = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
LOG_KEY = NoteKey(ORIGIN, LOG_SIGNER.public_key())


def cosigned(checkpoint: Checkpoint = CHECKPOINT, timestamp: int = NOW) -> bytes:
    """A checkpoint by the log, with a cosignature."""
    own = LOG_KEY.assemble(LOG_SIGNER.sign(checkpoint.text.encode()))
    signature = sign_with(SIGNER, COSIGNER.message(checkpoint, timestamp))
    return Note(checkpoint.text, (own, COSIGNER.assemble(timestamp, signature))).to_bytes()


def test_what_is_signed_is_the_structure_of_the_specification() -> None:
    """Octet for octet: label, name, time, origin, start, end, root."""
    assert COSIGNER.message(CHECKPOINT, NOW) == (
        b"subtree/v1\n\0\x12witness.example/w1"
        + NOW.to_bytes(8, "big")
        + b"\x0flog.example/one"
        + bytes(8)
        + (7).to_bytes(8, "big")
        + CHECKPOINT.root
    )


def test_key_id_and_verifier_key_are_those_of_the_specification() -> None:
    """Type 0x06 over the raw key of 1312 octets; the verifier key leads back to the cosigner."""
    raw = SIGNER.public_key().public_bytes_raw()
    assert len(raw) == 1312
    assert COSIGNER.key_id == hashlib.sha256(NAME.encode() + b"\n\x06" + raw).digest()[:4]
    assert Cosigner.from_vkey(COSIGNER.vkey) == COSIGNER
    assert COSIGNER.vkey.startswith(f"{NAME}+{COSIGNER.key_id.hex()}+B")


def test_log_and_cosigner_vouch_together() -> None:
    """Both are demanded and verified; the time is the cosigner's."""
    assert verify_checkpoint(cosigned(), ORIGIN, [LOG_KEY, COSIGNER]) == CHECKPOINT
    cosignature = Cosignature.parse(Note.parse(cosigned()).signature_of(COSIGNER))
    assert cosignature.timestamp == NOW
    assert len(cosignature.signature) == 2420


def test_a_log_may_be_vouched_for_by_its_cosignature_alone() -> None:
    """A note with the ML-DSA-44 line only, as C2SP recommends to new logs."""
    assert verify_checkpoint(cosigned(timestamp=0), ORIGIN, [COSIGNER]) == CHECKPOINT


@pytest.mark.parametrize("octet", [0, 7, 8, 2427])
def test_a_cosignature_that_was_touched_is_refused(octet: int) -> None:
    """In its time or in its signature."""
    signature = bytearray(Note.parse(cosigned()).signature_of(COSIGNER))
    signature[octet] ^= 1
    with pytest.raises(BadSignatureError, match=r"cosignature of witness\.example/w1"):
        COSIGNER.verify(CHECKPOINT.text, bytes(signature))


@pytest.mark.parametrize(
    "checkpoint",
    [
        Checkpoint("log.example/two", 7, CHECKPOINT.root),
        Checkpoint(ORIGIN, 8, CHECKPOINT.root),
        Checkpoint(ORIGIN, 7, leaf_hash(b"other")),
    ],
)
def test_a_cosignature_is_of_one_log_size_and_root(checkpoint: Checkpoint) -> None:
    """It does not carry over to another checkpoint."""
    with pytest.raises(BadSignatureError):
        COSIGNER.verify(checkpoint.text, Note.parse(cosigned()).signature_of(COSIGNER))


def test_a_cosignature_commits_to_its_signers_name() -> None:
    """The same key under another name has not signed."""
    other = Cosigner("witness.example/w2", SIGNER.public_key())
    with pytest.raises(ProofError, match="0 signatures"):
        verify_note(cosigned(), [other])
    with pytest.raises(BadSignatureError):
        other.verify(CHECKPOINT.text, Note.parse(cosigned()).signature_of(COSIGNER))


def test_extension_lines_are_not_covered() -> None:
    """C2SP says so; the log's own signature covers them."""
    extended = Checkpoint(ORIGIN, 7, CHECKPOINT.root, ("extension",))
    COSIGNER.verify(extended.text, Note.parse(cosigned()).signature_of(COSIGNER))


def test_a_signature_over_the_text_is_no_cosignature() -> None:
    """Nor is anything but a checkpoint cosigned."""
    plain = Cosignature(NOW, sign_with(SIGNER, CHECKPOINT.text.encode())).to_bytes()
    with pytest.raises(BadSignatureError):
        COSIGNER.verify(CHECKPOINT.text, plain)
    with pytest.raises(MalformedError, match="checkpoint"):
        COSIGNER.verify("no checkpoint\n", plain)


@pytest.mark.parametrize("data", [b"", bytes(8), bytes(2427), bytes(2429), b"\x80" + bytes(2427)])
def test_a_cosignature_of_another_form_is_refused(data: bytes) -> None:
    """Too short, too long, or of a time beyond 63 bits."""
    with pytest.raises(MalformedError, match="no ML-DSA-44 cosignature"):
        COSIGNER.verify(CHECKPOINT.text, data)


@pytest.mark.parametrize("timestamp", [-1, MAX_TIMESTAMP + 1])
def test_a_time_out_of_range_is_not_signed(timestamp: int) -> None:
    """Before anything is signed."""
    with pytest.raises(MalformedError, match="time"):
        COSIGNER.message(CHECKPOINT, timestamp)


def test_names_fit_their_fields() -> None:
    """255 octets at most, of cosigner and of origin; and a name that a note can hold."""
    with pytest.raises(MalformedError, match="1 to 255 octets"):
        Cosigner("w" * 256, SIGNER.public_key())
    with pytest.raises(MalformedError, match="1 to 255 octets"):
        COSIGNER.message(Checkpoint("ö" * 128, 7, CHECKPOINT.root), NOW)
    with pytest.raises(MalformedError, match="name of a note's key"):
        Cosigner("a b", SIGNER.public_key())


def test_verifier_keys_of_other_kinds_are_no_cosigners() -> None:
    """An Ed25519 verifier key, and one of the right type with a short key."""
    with pytest.raises(UnsupportedError, match="0x06 is wanted"):
        Cosigner.from_vkey(LOG_KEY.vkey)
    key_id = hashlib.sha256(b"w\n\x06").digest()[:4].hex()
    with pytest.raises(MalformedError, match="holds no ML-DSA-44 key"):
        Cosigner.from_vkey(f"w+{key_id}+Bg==")
