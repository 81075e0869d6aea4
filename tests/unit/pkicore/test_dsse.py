"""DSSE envelopes: the specification's vector, foreign verifiers, and everything an attacker may rearrange."""

from __future__ import annotations

import base64
import hashlib
import json

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from securesystemslib.dsse import Envelope as ForeignEnvelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer._key import SSlibKey
from sigstore.dsse import Envelope as SigstoreEnvelope

from pkicore.algorithms import ALGORITHMS, PrivateKey, PublicKey, generate_private_key, sign_with
from pkicore.dsse import (
    IN_TOTO_PAYLOAD,
    MAX_ENVELOPE_BYTES,
    MAX_SIGNATURES,
    Envelope,
    Signature,
    encode_chunks,
    envelope_head,
    envelope_tail,
    key_hint,
    key_id,
    pae,
    pae_head,
    verify_all,
)
from pkicore.errors import BadSignatureError, MalformedError

PAYLOAD = b'{"_type":"https://in-toto.io/Statement/v1"}'
CLASSICAL = generate_private_key(ALGORITHMS["ecdsa-p256"])
QUANTUM_SAFE = generate_private_key(ALGORITHMS["ml-dsa-65"])
BOTH = [CLASSICAL.public_key(), QUANTUM_SAFE.public_key()]
STRANGER = generate_private_key(ALGORITHMS["ed25519"])


def signed(*keys: PrivateKey, payload_type: str = IN_TOTO_PAYLOAD, payload: bytes = PAYLOAD) -> Envelope:
    """An envelope with a signature by each key."""
    message = pae(payload_type, payload)
    signatures = tuple(Signature(key_id(key.public_key()), sign_with(key, message)) for key in keys)
    return Envelope(payload_type, payload, signatures)


def wire(**changes: object) -> bytes:
    """An envelope as it may come, with some members replaced."""
    members: dict[str, object] = {
        "payload": base64.b64encode(PAYLOAD).decode(),
        "payloadType": IN_TOTO_PAYLOAD,
        "signatures": [{"keyid": "k", "sig": "AAAA"}],
    }
    return json.dumps({name: value for name, value in (members | changes).items() if value is not None}).encode()


def test_the_encoding_is_that_of_the_specification() -> None:
    """The example of protocol.md, to the octet."""
    found = pae("http://example.com/HelloWorld", b"hello world")
    assert found == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"


def test_lengths_count_octets_and_not_characters() -> None:
    """A payload type outside ASCII is as long as its UTF-8."""
    assert pae_head("é", 0) == b"DSSEv1 2 \xc3\xa9 0 "


def test_the_envelope_of_the_specification_is_read() -> None:
    """The example of envelope.md has no keyid, which is the same as an empty one."""
    text = (
        b'{"payload": "aGVsbG8gd29ybGQ=", "payloadType": "http://example.com/HelloWorld", "signatures": [{"sig": '
        b'"A3JqsQGtVsJ2O2xqrI5IcnXip5GToJ3F+FnZ+O88SjtR6rDAajabZKciJTfUiHqJPcIAriEGAHTVeCUjW2JIZA=="}]}'
    )
    envelope = Envelope.parse(text)
    assert (envelope.payload, envelope.payload_type) == (b"hello world", "http://example.com/HelloWorld")
    assert [(one.key_id, len(one.signature)) for one in envelope.signatures] == [("", 64)]


@given(
    payload_type=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=512),
    payload=st.binary(max_size=200),
    signatures=st.lists(
        st.builds(Signature, st.text(st.characters(exclude_categories=["Cs"])), st.binary()), min_size=1, max_size=16
    ),
)
def test_what_is_written_is_read(payload_type: str, payload: bytes, signatures: list[Signature]) -> None:
    """Any envelope survives the wire."""
    envelope = Envelope(payload_type, payload, tuple(signatures))
    assert Envelope.parse(envelope.to_json()) == envelope


@given(st.lists(st.binary(max_size=10)))
def test_an_envelope_made_in_chunks_is_the_same(chunks: list[bytes]) -> None:
    """Head, base64 in chunks of any size, and tail make the bytes of `to_json`."""
    envelope = Envelope(IN_TOTO_PAYLOAD, b"".join(chunks), (Signature("k", b"s"),))
    tail = envelope_tail(envelope.payload_type, envelope.signatures)
    assert b"".join((envelope_head(), *encode_chunks(chunks), tail)) == envelope.to_json()


def test_members_come_in_the_order_of_the_specification() -> None:
    """payload, payloadType, signatures with keyid and sig, without a space."""
    text = Envelope("t", b"\xfb\xff", (Signature("k", b"\xfb\xff"),)).to_json()
    assert text == b'{"payload":"+/8=","payloadType":"t","signatures":[{"keyid":"k","sig":"+/8="}]}'


def test_key_ids_are_hashes_of_the_public_key() -> None:
    """In hexadecimal for envelopes of ours, in base64 for Sigstore bundles."""
    spki = BOTH[0].public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert key_id(BOTH[0]) == hashlib.sha256(spki).hexdigest()
    assert base64.b64decode(key_hint(BOTH[0])) == hashlib.sha256(spki).digest()


@pytest.mark.parametrize("algorithm", ["ecdsa-p256", "ecdsa-p384", "rsa-2048", "ed25519", "ml-dsa-44", "ml-dsa-87"])
def test_every_algorithm_signs_envelopes(algorithm: str) -> None:
    """Whatever is in the table verifies, and not over another payload."""
    key = generate_private_key(ALGORITHMS[algorithm])
    envelope = signed(key)
    verify_all(envelope, [key.public_key()])
    with pytest.raises(BadSignatureError):
        verify_all(Envelope(IN_TOTO_PAYLOAD, PAYLOAD + b" ", envelope.signatures), [key.public_key()])


@pytest.mark.parametrize("keys", [BOTH, BOTH[:1], BOTH[1:], dict(zip("ab", BOTH, strict=True)), [*BOTH, BOTH[0]]])
def test_a_hybrid_envelope_satisfies_each_policy(keys: dict[str, PublicKey] | list[PublicKey]) -> None:
    """Both keys, or one alone where that is the policy; a key named twice is one key."""
    verify_all(Envelope.parse(signed(CLASSICAL, QUANTUM_SAFE).to_json()), keys)


@pytest.mark.parametrize("keys", [(CLASSICAL,), (QUANTUM_SAFE,), (CLASSICAL, CLASSICAL), (CLASSICAL, STRANGER)])
def test_a_missing_signature_is_not_made_up_by_others(keys: tuple[PrivateKey, ...]) -> None:
    """Stripped, doubled or replaced by a stranger's: a policy of two keys wants both."""
    with pytest.raises(BadSignatureError, match="no valid signature by the"):
        verify_all(signed(*keys), BOTH)


def test_strangers_do_no_harm() -> None:
    """Signatures by keys outside the policy are ignored, wherever they stand and whatever they claim to be."""
    envelope = signed(STRANGER, CLASSICAL, QUANTUM_SAFE)
    claims = tuple(Signature(key_id(BOTH[0]), one.signature) for one in envelope.signatures)
    verify_all(Envelope(envelope.payload_type, envelope.payload, claims), BOTH)


def test_the_key_id_decides_nothing() -> None:
    """A stranger's signature under the key's id is no signature of the key; a wrong id over a good one is no matter."""
    forged = tuple(Signature(key_id(BOTH[0]), one.signature) for one in signed(STRANGER).signatures)
    with pytest.raises(BadSignatureError):
        verify_all(Envelope(IN_TOTO_PAYLOAD, PAYLOAD, forged), BOTH[:1])
    anonymous = tuple(Signature("somebody", one.signature) for one in signed(CLASSICAL).signatures)
    verify_all(Envelope(IN_TOTO_PAYLOAD, PAYLOAD, anonymous), BOTH[:1])


def test_an_empty_policy_accepts_nothing() -> None:
    """A configuration that names no key must not read as one that asks for none."""
    with pytest.raises(BadSignatureError, match="without keys"):
        verify_all(signed(CLASSICAL), [])
    with pytest.raises(BadSignatureError, match="without keys"):
        verify_all(signed(CLASSICAL), {})


def test_the_payload_type_is_signed() -> None:
    """Neither another type, nor octets moved between type and payload, keeps the signature."""
    envelope = signed(CLASSICAL, payload_type="a", payload=b"1 b")
    for payload_type, payload in [("text/plain", b"1 b"), ("a ", b"1 b"), ("a 3 1", b"b")]:
        with pytest.raises(BadSignatureError):
            verify_all(Envelope(payload_type, payload, envelope.signatures), BOTH[:1])


@pytest.mark.parametrize(
    "text",
    [
        b'{"payload":"AA==","payload":"AQ==","payloadType":"t","signatures":[{"sig":"AA=="}]}',
        b'{"payload":"AA==","payloadType":"t","payloadType":"u","signatures":[{"sig":"AA=="}]}',
        b'{"payload":"AA==","payloadType":"t","signatures":[{"sig":"AA==","sig":"AQ=="}]}',
        b'{"payload":"AA==","payloadType":"t","signatures":[{"sig":"AA==","x":{"y":1,"y":2}}]}',
        b'{"payload":"AA==","payloadType":"t","p\\u0061yload":"AQ==","signatures":[{"sig":"AA=="}]}',
    ],
)
def test_a_member_given_twice_is_refused(text: bytes) -> None:
    """At every depth and however it is spelled: two readers must not see two envelopes."""
    with pytest.raises(MalformedError, match="twice"):
        Envelope.parse(text)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"null",
        b'"payload"',
        wire() + b"x",
        wire()[:-1],
        wire(payload=None),
        wire(payload=1),
        wire(payloadType=None),
        wire(payloadType=""),
        wire(payloadType="t" * 513),
        wire(signatures=None),
        wire(signatures=[]),
        wire(signatures={"sig": "AAAA"}),
        wire(signatures=["AAAA"]),
        wire(signatures=[{"keyid": "k"}]),
        wire(signatures=[{"sig": ["AAAA"]}]),
        wire(signatures=[{"keyid": 1, "sig": "AAAA"}]),
        wire(signatures=[{"keyid": "k" * 513, "sig": "AAAA"}]),
        wire(signatures=[{"sig": "A" * 30000}]),
        wire(signatures=[{"sig": "AAAA"}] * (MAX_SIGNATURES + 1)),
        b"[" * 100_000,
    ],
)
def test_what_is_no_envelope_is_refused(text: bytes) -> None:
    """Missing members, other types, empty or endless lists, deep nesting."""
    with pytest.raises(MalformedError):
        Envelope.parse(text)


@pytest.mark.parametrize(
    "text", ["A", "AA", "AAA", "AB==", "AAB=", "AA==\n", " AAAA", "AA==AA==", "+_==", "AA=A", "é==="]
)
def test_base64_has_one_form(text: str) -> None:
    """Missing padding, loose bits, white space, mixed alphabets: each would give one signature many spellings."""
    with pytest.raises(MalformedError, match="base64"):
        Envelope.parse(wire(payload=text))


@pytest.mark.parametrize("text", ["+/8=", "-_8="])
def test_both_alphabets_are_read(text: str) -> None:
    """Standard and URL-safe, as envelope.md demands of consumers."""
    assert Envelope.parse(wire(payload=text)).payload == b"\xfb\xff"


def test_unknown_members_are_ignored() -> None:
    """As envelope.md demands: producers may add some."""
    assert Envelope.parse(wire(extra=1, signatures=[{"sig": "AAAA", "extension": {}}])).payload == PAYLOAD


def test_the_size_is_bounded() -> None:
    """Two mebioctets unless the caller says otherwise, looked at before the text is."""
    with pytest.raises(MalformedError, match="larger"):
        Envelope.parse(b" " * (MAX_ENVELOPE_BYTES + 1))
    large = Envelope(IN_TOTO_PAYLOAD, bytes(MAX_ENVELOPE_BYTES), (Signature("", b"s"),)).to_json()
    assert Envelope.parse(large, max_bytes=len(large)).payload == bytes(MAX_ENVELOPE_BYTES)
    with pytest.raises(MalformedError, match="larger"):
        Envelope.parse(large, max_bytes=len(large) - 1)


def test_securesystemslib_accepts_our_envelopes() -> None:
    """With the classical key of a hybrid envelope; our octets are its octets; and it refuses another payload."""
    envelope = signed(CLASSICAL, QUANTUM_SAFE)
    key = SSlibKey.from_crypto(BOTH[0], key_id(BOTH[0]))
    foreign = ForeignEnvelope.from_dict(json.loads(envelope.to_json()))
    assert foreign.pae() == pae(IN_TOTO_PAYLOAD, PAYLOAD)
    assert list(foreign.verify([key], 1)) == [key_id(BOTH[0])]
    foreign.payload += b" "
    with pytest.raises(VerificationError):
        foreign.verify([key], 1)


def test_sigstore_reads_our_envelopes_of_one_signature() -> None:
    """It takes no more than one; what it reads is the signature that we made."""
    envelope = signed(CLASSICAL)
    assert SigstoreEnvelope._from_json(envelope.to_json()).signature == envelope.signatures[0].signature
