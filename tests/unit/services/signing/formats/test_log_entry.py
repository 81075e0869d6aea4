from __future__ import annotations

import base64
import hashlib

import orjson
import pytest
import rfc8785
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from sigstore_models.rekor.v1 import TransparencyLogEntry
from sigstore_models.rekor.v2.entry import Entry

from pkicore.algorithms import ALGORITHMS, generate_private_key
from pkicore.errors import MalformedError, UnsupportedError
from pkicore.tlog.keys import NoteKey
from services.signing.formats.log_entry import LogEntry, entry_digest_name, hashed_rekord
from tests.support.sigstore_world import IDENTITY, Inclusion, SigstoreWorld

DIGEST = hashlib.sha256(b"artefact").digest()


@pytest.mark.parametrize("name", ["ecdsa-p256", "ecdsa-p384", "rsa-2048", "ml-dsa-65"])
def test_an_entry_is_canonical_and_read_by_sigstore_s_models(name: str) -> None:
    """The entry is its own RFC 8785 form, and says which key made which signature over which digest."""
    public_key = generate_private_key(ALGORITHMS[name]).public_key()
    body = hashed_rekord(public_key, b"signature", "sha256", DIGEST, None)
    assert rfc8785.dumps(orjson.loads(body)) == body
    entry = Entry.from_json(body)
    spec = entry.spec.hashed_rekord_v002
    assert (entry.kind, entry.api_version) == ("hashedrekord", "0.0.2")
    assert spec is not None
    assert spec.data.digest == DIGEST
    assert spec.signature.content == b"signature"
    assert spec.signature.verifier.public_key is not None
    spki = public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert spec.signature.verifier.public_key.raw_bytes == spki


async def test_in_certificate_mode_the_leaf_stands_in_the_entry() -> None:
    """The certificate takes the key's place, so that the log shows whose signature it is."""
    signed = await SigstoreWorld().sign_message(b"artefact", IDENTITY)
    leaf = signed.certificate_chain[0]
    entry = Entry.from_json(hashed_rekord(signed.public_key, signed.signature, "sha256", DIGEST, leaf))
    assert entry.spec.hashed_rekord_v002 is not None
    verifier = entry.spec.hashed_rekord_v002.signature.verifier
    assert verifier.public_key is None
    assert verifier.x509_certificate is not None
    assert verifier.x509_certificate.raw_bytes == leaf.public_bytes(Encoding.DER)


def test_an_unknown_hash_is_refused() -> None:
    """What Sigstore has no name for is not entered."""
    key = generate_private_key(ALGORITHMS["ecdsa-p256"])
    with pytest.raises(UnsupportedError):
        hashed_rekord(key.public_key(), b"s", "sha1", DIGEST, None)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("ecdsa-p256", "sha256"), ("ecdsa-p384", "sha384"), ("ml-dsa-65", "sha256")],
)
def test_the_digest_is_under_the_key_s_own_hash(name: str, expected: str) -> None:
    """ML-DSA has none of its own: there the artefact is named by the digest that every request has."""
    assert entry_digest_name(ALGORITHMS[name]) == expected


def test_the_members_are_sigstore_s() -> None:
    """Sigstore's models read what we write: 64-bit numbers as strings, octets in base64, no integrated time."""
    log = SigstoreWorld().log
    entry = log.add(b'{"entry":true}')
    read = TransparencyLogEntry.from_json(orjson.dumps(entry.members()))
    assert (read.log_index, read.inclusion_proof.log_index, read.inclusion_proof.tree_size) == (3, 3, 4)
    assert read.canonicalized_body == b'{"entry":true}'
    assert read.log_id.key_id == NoteKey(log.origin, log.note_key.public_key).log_id
    assert read.integrated_time is None
    assert read.inclusion_proof.checkpoint is not None
    root = read.inclusion_proof.checkpoint.envelope.split("\n")[2]
    assert base64.b64decode(root) == read.inclusion_proof.root_hash


def test_a_proof_of_another_tree_is_not_written() -> None:
    """Proof and checkpoint must be of one size, or no verifier would believe them."""
    entry = SigstoreWorld().log.add(b"entry")
    altered = LogEntry(entry.index, entry.log_id, entry.canonical_body, Inclusion(3, 5, ()), entry.checkpoint)
    with pytest.raises(MalformedError, match="another tree"):
        altered.members()
