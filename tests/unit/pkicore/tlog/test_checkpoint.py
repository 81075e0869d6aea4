import base64
import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key
from hypothesis import given
from hypothesis import strategies as st
from sigstore._internal.rekor.checkpoint import SignedCheckpoint
from sigstore._internal.trust import Keyring, RekorKeyring
from sigstore._utils import KeyID
from sigstore.errors import VerificationError
from sigstore_models.common import v1 as common

from pkicore.algorithms import ALGORITHMS, PublicKey, algorithm_of, generate_private_key, sign_with
from pkicore.errors import BadSignatureError, MalformedError, ProofError
from pkicore.tlog.checkpoint import Checkpoint, verify_checkpoint
from pkicore.tlog.keys import NoteKey
from pkicore.tlog.merkle import EMPTY_ROOT, MAX_SIZE, leaf_hash
from pkicore.tlog.note import Note
from pkicore.tlog.proofs import verify_inclusion

ORIGIN = "log.example/one"
ROOT = leaf_hash(b"entry")
ENCODED = base64.b64encode(ROOT).decode()
SIGNER = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
KEY = NoteKey(ORIGIN, SIGNER.public_key())
EXAMPLE = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
VECTORS = json.loads((Path(__file__).parents[3] / "vectors/transparency.json").read_text())


def published(text: str) -> bytes:
    """A note by the log's key with this text."""
    return Note(text, (KEY.assemble(SIGNER.sign(text.encode())),)).to_bytes()


def test_the_example_of_the_specification_is_read() -> None:
    """Origin, size and root of C2SP tlog-checkpoint, and the same text back."""
    checkpoint = Checkpoint.parse(EXAMPLE)
    assert (checkpoint.origin, checkpoint.size) == ("example.com/behind-the-sofa", 20852163)
    assert checkpoint.text == EXAMPLE


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa"])
def test_an_entry_of_a_public_log_is_proved(kind: str) -> None:
    """As Sigstore's logs signed and proved it: checkpoint by checkpoint key, entry by inclusion proof."""
    vector = VECTORS[kind]
    public_key = load_der_public_key(base64.b64decode(vector["public_key"]))
    assert isinstance(public_key, ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey)
    key, origin = NoteKey(vector["name"], public_key), vector["checkpoint"].split("\n")[0]
    checkpoint = verify_checkpoint(vector["checkpoint"].encode(), origin, [key])
    assert checkpoint.size == vector["size"]
    assert base64.b64encode(checkpoint.root).decode() == vector["root"]
    leaf, proof = base64.b64decode(vector["leaf_hash"]), [base64.b64decode(step) for step in vector["hashes"]]
    verify_inclusion(leaf, vector["index"], checkpoint.size, proof, checkpoint.root)
    with pytest.raises(ProofError):
        verify_inclusion(leaf, vector["index"] - 1, checkpoint.size, proof, checkpoint.root)


def test_a_checkpoint_is_believed_by_its_log_and_key() -> None:
    """Signed by the key, and of this origin."""
    data = published(Checkpoint(ORIGIN, 7, ROOT).text)
    assert verify_checkpoint(data, ORIGIN, [KEY]) == Checkpoint(ORIGIN, 7, ROOT)


def test_a_checkpoint_of_another_log_is_refused() -> None:
    """Though the key is the same."""
    with pytest.raises(ProofError, match="another log's"):
        verify_checkpoint(published(Checkpoint("log.example/two", 7, ROOT).text), ORIGIN, [KEY])


@pytest.mark.parametrize(("old", "new"), [(b"\n7\n", b"\n8\n"), (b"one\n", b"ome\n"), (ENCODED[:4].encode(), b"AAAA")])
def test_a_checkpoint_that_was_touched_is_refused(old: bytes, new: bytes) -> None:
    """In its size, origin or root."""
    data = published(Checkpoint(ORIGIN, 7, ROOT).text).replace(old, new, 1)
    with pytest.raises(BadSignatureError):
        verify_checkpoint(data, ORIGIN, [KEY])


def test_an_empty_log_has_the_root_of_nothing() -> None:
    """Size 0 is said with that root alone."""
    assert Checkpoint.parse(Checkpoint(ORIGIN, 0, EMPTY_ROOT).text).size == 0
    with pytest.raises(MalformedError, match="cannot be of its tree"):
        Checkpoint(ORIGIN, 0, ROOT)


def test_extension_lines_are_kept() -> None:
    """They are part of what was signed."""
    text = f"{ORIGIN}\n7\n{ENCODED}\nfirst\nsecond line\n"
    checkpoint = verify_checkpoint(published(text), ORIGIN, [KEY])
    assert checkpoint.extensions == ("first", "second line")
    assert checkpoint.text == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        f"{ORIGIN}\n7\n",
        f"{ORIGIN}\n7\n{ENCODED}",
        f"{ORIGIN}\n7\n{ENCODED}\nextension",
        f"{ORIGIN}\n7\n{ENCODED}\n\n",
        f"{ORIGIN}\n7\n{ENCODED}\n\nextension\n",
        f"\n7\n{ENCODED}\n",
        f"{ORIGIN}\n\n{ENCODED}\n",
        f"{ORIGIN}\n07\n{ENCODED}\n",
        f"{ORIGIN}\n+7\n{ENCODED}\n",
        f"{ORIGIN}\n-7\n{ENCODED}\n",
        f"{ORIGIN}\n 7\n{ENCODED}\n",
        f"{ORIGIN}\n7_0\n{ENCODED}\n",
        f"{ORIGIN}\n\u0667\n{ENCODED}\n",
        f"{ORIGIN}\n0x7\n{ENCODED}\n",
        f"{ORIGIN}\n7.0\n{ENCODED}\n",
        f"{ORIGIN}\n{MAX_SIZE + 1}\n{ENCODED}\n",
        f"{ORIGIN}\n{'9' * 5000}\n{ENCODED}\n",
        f"{ORIGIN}\n7\n{ENCODED[:-1]}\n",
        f"{ORIGIN}\n7\n{ENCODED} \n",
        f"{ORIGIN}\n7\n{base64.b64encode(ROOT[:31]).decode()}\n",
        f"{ORIGIN}\n7\n{base64.b64encode(ROOT + b'0').decode()}\n",
        f"{ORIGIN}\n7\n{ROOT.hex()}\n",
        f"{ORIGIN}\r\n7\r\n{ENCODED}\r\n",
        f"{ORIGIN}\n0\n{ENCODED}\n",
    ],
)
def test_a_checkpoint_in_another_form_is_refused(text: str) -> None:
    """Two readers cannot read two sizes or roots out of one text."""
    with pytest.raises(MalformedError):
        Checkpoint.parse(text)


@pytest.mark.parametrize(
    ("origin", "size", "root", "extensions"),
    [
        ("", 7, ROOT, ()),
        ("log\nexample", 7, ROOT, ()),
        ("log\texample", 7, ROOT, ()),
        (ORIGIN, -1, ROOT, ()),
        (ORIGIN, MAX_SIZE + 1, ROOT, ()),
        (ORIGIN, 7, ROOT[:31], ()),
        (ORIGIN, 7, ROOT, ("",)),
        (ORIGIN, 7, ROOT, ("one\ntwo",)),
    ],
)
def test_a_checkpoint_that_would_be_read_as_another_is_not_made(
    origin: str, size: int, root: bytes, extensions: tuple[str, ...]
) -> None:
    """Least of all one with lines hidden in its origin."""
    with pytest.raises(MalformedError):
        Checkpoint(origin, size, root, extensions)


LINES = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=20)


@given(LINES, st.integers(1, MAX_SIZE), st.binary(min_size=32, max_size=32), st.lists(LINES, max_size=3))
def test_every_checkpoint_is_read_as_it_was_written(origin: str, size: int, root: bytes, extensions: list[str]) -> None:
    """Through its text and through a note."""
    checkpoint = Checkpoint(origin, size, root, tuple(extensions))
    assert Checkpoint.parse(checkpoint.text) == checkpoint
    assert verify_checkpoint(published(checkpoint.text), origin, [KEY]) == checkpoint


@given(st.text("a0127=\n/+" + ENCODED, max_size=120))
def test_whatever_is_received_is_a_checkpoint_or_malformed(text: str) -> None:
    """And one that is taken has no other form."""
    try:
        checkpoint = Checkpoint.parse(text)
    except MalformedError:
        return
    assert checkpoint.text == text


@pytest.mark.parametrize("algorithm", ["ecdsa-p256", "ecdsa-p384", "ed25519"])
def test_sigstore_reads_a_checkpoint_of_ours(algorithm: str) -> None:
    """sigstore-python's own verification, which finds the key by the first octets of the log ID."""
    signer = generate_private_key(ALGORITHMS[algorithm])
    public_key = signer.public_key()
    assert isinstance(public_key, ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey)
    key, checkpoint = NoteKey(ORIGIN, public_key), Checkpoint(ORIGIN, 7, ROOT)
    line = key.assemble(sign_with(signer, checkpoint.text.encode()))
    theirs = SignedCheckpoint.from_text(Note(checkpoint.text, (line,)).to_bytes().decode())
    assert (theirs.checkpoint.origin, theirs.checkpoint.log_size) == (ORIGIN, 7)
    assert theirs.checkpoint.log_hash == ROOT.hex()
    theirs.signed_note.verify(sigstore_keyring(public_key), KeyID(key.log_id))
    stranger = generate_private_key(ALGORITHMS[algorithm]).public_key()
    with pytest.raises(VerificationError, match="invalid signature"):
        theirs.signed_note.verify(sigstore_keyring(stranger), KeyID(key.log_id))


def sigstore_keyring(public_key: PublicKey) -> RekorKeyring:
    """Sigstore's trust in one log."""
    details = {"ecdsa-p256": "PKIX_ECDSA_P256_SHA_256", "ecdsa-p384": "PKIX_ECDSA_P384_SHA_384"}
    name = details.get(algorithm_of(public_key).name, "PKIX_ED25519")
    spki = public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    document = {"rawBytes": base64.b64encode(spki).decode(), "keyDetails": name}
    return RekorKeyring(Keyring([common.PublicKey.from_json(json.dumps(document))]))
