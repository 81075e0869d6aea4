import base64
import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import load_der_public_key
from hypothesis import given
from hypothesis import strategies as st

from pkicore.errors import BadSignatureError, MalformedError, ProofError
from pkicore.tlog.keys import NoteKey
from pkicore.tlog.note import MAX_NOTE, MAX_SIGNATURES, Note, NoteSignature, verify_note

VKEY = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
NOTE = (
    "This is an example message.\n"
    "\n"
    "— example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n"
).encode()
"""The verifier key and the note of C2SP signed-note."""
POEM = """Ognuno sta solo sul cuor della terra
trafitto da un raggio di sole:

ed è subito sera.

— quasimodo.example/salvatore NnugSzTjtVAewIS+Z/iJhUPeFDkO/5QQ2i5ddnGITLlC\
+EhfLW9oJKONrMouFSQU0xMcXxj99ihAQwaqP3ZekRwNtIc=
""".encode()
VECTORS = json.loads((Path(__file__).parents[3] / "vectors/transparency.json").read_text())
SIGNER = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
KEY = NoteKey("log.example/one", SIGNER.public_key())


def signed(text: str, key: NoteKey = KEY, signer: ed25519.Ed25519PrivateKey = SIGNER) -> bytes:
    """A note by one key."""
    return Note(text, (key.assemble(signer.sign(text.encode())),)).to_bytes()


def test_the_example_of_the_specification_verifies() -> None:
    """Its verifier key verifies its note."""
    key = NoteKey.from_vkey(VKEY)
    assert key.vkey == VKEY
    assert verify_note(NOTE, [key]) == "This is an example message.\n"
    assert Note.parse(NOTE).to_bytes() == NOTE


def test_the_text_ends_at_the_last_empty_line() -> None:
    """A text may have empty lines of its own."""
    note = Note.parse(POEM)
    assert note.text.endswith("sole:\n\ned è subito sera.\n")
    assert [item.name for item in note.signatures] == ["quasimodo.example/salvatore"]
    assert note.to_bytes() == POEM


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa"])
def test_notes_of_public_logs_verify(kind: str) -> None:
    """Sigstore's: Rekor 1 signed with ECDSA, Rekor 2 with Ed25519; the log IDs are those of their bundles."""
    vector = VECTORS[kind]
    public_key = load_der_public_key(base64.b64decode(vector["public_key"]))
    assert isinstance(public_key, ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey)
    key = NoteKey(vector["name"], public_key)
    assert base64.b64encode(key.log_id).decode() == vector["log_id"]
    assert vector["checkpoint"].startswith(verify_note(vector["checkpoint"].encode(), [key]))


def test_every_key_must_have_signed() -> None:
    """One good signature does not stand in for another that is missing, and no keys at all verify nothing."""
    other = NoteKey("witness.example", ed25519.Ed25519PrivateKey.generate().public_key())
    with pytest.raises(ProofError, match=r"0 signatures of witness\.example"):
        verify_note(signed("text\n"), [KEY, other])
    with pytest.raises(ProofError, match="none is given"):
        verify_note(signed("text\n"), [])


def test_a_known_key_that_does_not_verify_spoils_the_note() -> None:
    """Name and key ID of a known key under garbage: the note is refused, whoever else signed it."""
    forged = NoteSignature("witness.example", bytes(4), b"x")
    data = signed("text\n") + forged.line.encode()
    assert verify_note(data, [KEY]) == "text\n"
    forged = NoteSignature(KEY.name, KEY.key_id, bytes(64))
    with pytest.raises(BadSignatureError):
        verify_note(Note("text\n", (forged,)).to_bytes(), [KEY])
    with pytest.raises(ProofError, match="2 signatures"):
        verify_note(signed("text\n") + forged.line.encode(), [KEY])


def test_signatures_of_strangers_are_passed_over() -> None:
    """Also those that share a known key's name, or its ID, but not both."""
    strangers = (NoteSignature(KEY.name, bytes(4), b"x"), NoteSignature("other.example", KEY.key_id, b"y"))
    data = Note("text\n", (*strangers, KEY.assemble(SIGNER.sign(b"text\n")))).to_bytes()
    assert verify_note(data, [KEY]) == "text\n"


def test_a_signature_under_another_name_does_not_count() -> None:
    """The same key known by another name has another ID."""
    renamed = NoteKey("log.example/two", SIGNER.public_key())
    assert renamed.key_id != KEY.key_id
    with pytest.raises(ProofError, match="0 signatures"):
        verify_note(signed("text\n"), [renamed])


LINE = KEY.assemble(bytes(64)).line


@pytest.mark.parametrize(
    "note",
    [
        "",
        "\n",
        "text\n",
        "text\n\n",
        f"text\n{LINE}",
        f"text{LINE}",
        f"\n{LINE}",
        f"text\n\n{LINE[:-1]}",
        f"text\n\n{LINE}\n",
        f"text\n\n{LINE}more",
        f"text\n\n{LINE}more\n",
        f"text\r\n\r\n{LINE}",
        f"te\txt\n\n{LINE}",
        f"te\x00xt\n\n{LINE}",
        f"text\n\n {LINE}",
        f"text\n\n{LINE.replace('—', '-')}",
        f"text\n\n{LINE.replace('— ', '—')}",
        f"text\n\n{LINE.replace('log.example/one', '')}",
        f"text\n\n{LINE.replace('log.example', 'log+example')}",
        f"text\n\n{LINE.replace('log.example', 'log example')}",
        "text\n\n" + LINE.replace("log.example", "log\u00a0example"),
        "text\n\n" + LINE.replace("log.example", "log\u2028example"),
        "text\n\n" + LINE.replace("log.example", "log\u0085example"),
        f"text\n\n{LINE.replace('=', '')}",
        f"text\n\n{LINE.replace('A=', 'B=')}",
        f"text\n\n{LINE.replace('A', '-', 1)}",
        "text\n\n— log.example AAAA\n",
        "text\n\n— log.example AAAAAA==\n",
        "text\n\n— log.example \n",
        "text\n\n— log.example\n",
        "text\n\n" + LINE * (MAX_SIGNATURES + 1),
        "x" * MAX_NOTE + "\n\n" + LINE,
    ],
)
def test_a_note_in_another_form_is_refused(note: str) -> None:
    """Whatever a lenient reader might make of it."""
    with pytest.raises(MalformedError):
        Note.parse(note.encode())


def test_a_note_is_utf_8() -> None:
    """Bytes that are no text are refused."""
    with pytest.raises(MalformedError, match="UTF-8"):
        Note.parse(b"te\xffxt\n\n" + LINE.encode())


def test_a_note_may_have_sixteen_large_signatures() -> None:
    """C2SP asks verifiers to take as many; here of ML-DSA-87's size."""
    lines = tuple(NoteSignature(f"witness.example/{n}", bytes(4), bytes(4627)) for n in range(16))
    assert Note.parse(Note("text\n", lines).to_bytes()).signatures == lines


@given(st.text(max_size=60), st.text(min_size=1, max_size=20), st.binary(min_size=4, max_size=4), st.binary(max_size=9))
def test_a_note_that_is_made_can_be_read(text: str, name: str, key_id: bytes, signature: bytes) -> None:
    """Whatever goes in comes out, or is refused before it is published."""
    note = Note(text + "\n", (NoteSignature(name, key_id, signature),))
    try:
        data = note.to_bytes()
    except MalformedError:
        return
    assert Note.parse(data) == note


@given(st.binary(max_size=200) | st.text("— ab=\n+A/", max_size=80).map(str.encode))
def test_whatever_is_received_is_a_note_or_malformed(data: bytes) -> None:
    """And a note that is taken has no other form."""
    try:
        note = Note.parse(data)
    except MalformedError:
        return
    assert note.to_bytes() == data
