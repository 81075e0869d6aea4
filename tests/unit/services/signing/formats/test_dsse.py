from __future__ import annotations

import base64
from collections.abc import Iterable

import orjson
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from securesystemslib import dsse as foreign
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer._key import SSlibKey

from pkicore.algorithms import ALGORITHMS, PrivateKey, algorithm_of, generate_private_key, sign_with
from pkicore.dsse import IN_TOTO_PAYLOAD, Envelope, key_id, pae, verify_all
from pkicore.errors import BadSignatureError
from services.signing.formats import SignedWith, dsse
from services.signing.statements import Subject, statement

STATEMENT = statement([Subject("app", {"sha256": "ab" * 32})], "https://slsa.dev/provenance/v1", b'{"a":"\xc3\xa9"}')


def signatures(keys: Iterable[PrivateKey], payload: bytes = STATEMENT) -> list[SignedWith]:
    """Each key's, over the PAE that the format asks for."""
    found = []
    for key in keys:
        message = dsse.to_sign("default.k", payload).message
        assert message is not None
        public_key = key.public_key()
        found.append(SignedWith("default.k", algorithm_of(public_key), public_key, sign_with(key, message)))
    return found


def hybrid() -> tuple[PrivateKey, PrivateKey]:
    """A P-256 and an ML-DSA-65 key."""
    return generate_private_key(ALGORITHMS["ecdsa-p256"]), generate_private_key(ALGORITHMS["ml-dsa-65"])


def foreign_key(key: PrivateKey) -> SSlibKey:
    """The public half as in-toto's tools know it, under the keyid of the envelope."""
    pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    return SSlibKey(key_id(key.public_key()), "ecdsa", "ecdsa-sha2-nistp256", {"public": pem})


def test_what_is_signed_is_the_pae() -> None:
    """The message is DSSE's encoding of payload type and payload, whole."""
    assert dsse.to_sign("default.k", STATEMENT) == ("default.k", pae(IN_TOTO_PAYLOAD, STATEMENT), None)


def test_both_keys_sign_one_hybrid_envelope() -> None:
    """The hybrid envelope is believed with both keys, and each single one with its own and no other."""
    keys = hybrid()
    both, classical, quantum_safe = dsse.outputs("hybrid", signatures(keys), STATEMENT)
    assert [output.name for output in (both, classical, quantum_safe)] == [
        "hybrid.dsse.json",
        "hybrid-es256.dsse.json",
        "hybrid-ml-dsa-65.dsse.json",
    ]
    public_keys = [key.public_key() for key in keys]
    verify_all(Envelope.parse(both.content), public_keys)
    verify_all(Envelope.parse(classical.content), public_keys[:1])
    with pytest.raises(BadSignatureError):
        verify_all(Envelope.parse(classical.content), public_keys)
    with pytest.raises(BadSignatureError):
        verify_all(Envelope.parse(quantum_safe.content), public_keys)


def test_one_signature_is_one_file() -> None:
    """A profile with one key has no second file of the same content."""
    (output,) = dsse.outputs("vsa", signatures(hybrid()[:1]), STATEMENT)
    assert (output.name, output.media_type) == ("vsa.dsse.json", "application/vnd.dsse.envelope.v1+json")


def test_securesystemslib_believes_the_classical_signature_of_a_hybrid() -> None:
    """in-toto's tools, which know no ML-DSA here, verify the envelope with the one key they know."""
    keys = hybrid()
    content = dsse.envelope(signatures(keys), STATEMENT)
    envelope = foreign.Envelope.from_dict(orjson.loads(content))
    accepted = envelope.verify([foreign_key(keys[0])], 1)
    assert list(accepted) == [key_id(keys[0].public_key())]
    altered = foreign.Envelope.from_dict(orjson.loads(content))
    altered.payload += b" "
    with pytest.raises(VerificationError):
        altered.verify([foreign_key(keys[0])], 1)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64 * 1024])
def test_a_payload_in_pieces_makes_the_same_bytes(size: int) -> None:
    """However a large payload is cut, the envelope is the one of the whole."""
    signed = signatures(hybrid()[:1])
    pieces = [STATEMENT[start : start + size] for start in range(0, len(STATEMENT), size)]
    assert b"".join(dsse.envelope_chunks(signed, pieces)) == dsse.envelope(signed, STATEMENT)


def test_the_envelope_has_standard_base64_and_names() -> None:
    """Members and order are those of DSSE, `keyid` is the hexadecimal SHA-256 of the key."""
    (signed,) = signatures(hybrid()[:1])
    members = orjson.loads(dsse.envelope([signed], STATEMENT))
    assert list(members) == ["payload", "payloadType", "signatures"]
    assert base64.b64decode(members["payload"]) == STATEMENT
    assert members["signatures"] == [
        {"keyid": key_id(signed.public_key), "sig": base64.b64encode(signed.signature).decode()}
    ]


def test_names_can_be_left_out() -> None:
    """Inside a bundle `keyid` is empty, so that no reader takes it for one of its own making."""
    (signed,) = signatures(hybrid()[:1])
    content = b"".join(dsse.envelope_chunks([signed], [STATEMENT], named=False))
    assert [one.key_id for one in Envelope.parse(content).signatures] == [""]
