import base64
import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pkicore.algorithms import ALGORITHMS, generate_private_key, sign_with
from pkicore.errors import BadSignatureError, MalformedError, UnsupportedError
from pkicore.tlog.keys import NoteKey
from pkicore.tlog.note import Note, verify_note

VKEY = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
"""The verifier key of C2SP signed-note."""
SIGNER = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
KEY = NoteKey("log.example/one", SIGNER.public_key())


@pytest.mark.parametrize("algorithm", ["ed25519", "ecdsa-p256", "ecdsa-p384"])
def test_each_kind_of_key_signs_and_verifies(algorithm: str) -> None:
    """What is signed verifies with the key and with no other, and not when the text differs."""
    private_key = generate_private_key(ALGORITHMS[algorithm])
    public_key = private_key.public_key()
    assert isinstance(public_key, ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey)
    key, text = NoteKey("log.example", public_key), "one\ntwo\n"
    data = Note(text, (key.assemble(sign_with(private_key, text.encode())),)).to_bytes()
    assert verify_note(data, [key]) == text
    with pytest.raises(BadSignatureError, match=r"log\.example does not verify"):
        verify_note(data.replace(b"two", b"too"), [key])


def test_key_ids_are_those_of_the_specification() -> None:
    """Ed25519: of name, line end, 0x01 and key; ECDSA: of the SubjectPublicKeyInfo alone."""
    raw = SIGNER.public_key().public_bytes_raw()
    assert KEY.key_id == hashlib.sha256(b"log.example/one\n\x01" + raw).digest()[:4]
    public_key = ec.generate_private_key(ec.SECP256R1()).public_key()
    spki = public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert NoteKey("any", public_key).key_id == hashlib.sha256(spki).digest()[:4]


@pytest.mark.parametrize("algorithm", ["ecdsa-p521", "rsa-2048", "ml-dsa-65"])
def test_other_keys_sign_no_notes(algorithm: str) -> None:
    """P-521, RSA and ML-DSA are refused as note keys."""
    public_key = generate_private_key(ALGORITHMS[algorithm]).public_key()
    with pytest.raises(UnsupportedError, match="Ed25519, or with ECDSA"):
        NoteKey("log.example", public_key)  # type: ignore[arg-type]  # that is the point


@pytest.mark.parametrize(
    "vkey",
    [
        "",
        "example.com/foo",
        "example.com/foo+530d903a",
        VKEY.replace("530d903a", "530D903A"),
        VKEY.replace("530d903a", "530d903b"),
        VKEY.replace("530d903a", "530d903"),
        VKEY.replace("example", "EXAMPLE"),
        VKEY.replace("foo", "fo o"),
        VKEY[len("example.com/foo") :],
        VKEY + "=",
        VKEY[:-4],
        VKEY + "\n",
        VKEY.replace("530d903a", "530d903\udc80"),
        VKEY + "A" * 5000,
        NoteKey("x" * 5000, SIGNER.public_key()).vkey,
    ],
)
def test_a_verifier_key_in_another_form_is_refused(vkey: str) -> None:
    """Its ID must be that of its name and key, in lower case."""
    with pytest.raises(MalformedError):
        NoteKey.from_vkey(vkey)


def test_a_verifier_key_of_another_type_is_refused() -> None:
    """An Ed25519 key is not taken for a cosigner's (0x04), and ECDSA has no verifier keys here."""
    raw = b"\x04" + SIGNER.public_key().public_bytes_raw()
    key_id = hashlib.sha256(b"log.example\n" + raw).digest()[:4].hex()
    with pytest.raises(UnsupportedError, match="0x01 is wanted"):
        NoteKey.from_vkey(f"log.example+{key_id}+{base64.b64encode(raw).decode()}")
    with pytest.raises(UnsupportedError, match="for Ed25519"):
        _ = NoteKey("log.example", ec.generate_private_key(ec.SECP256R1()).public_key()).vkey


def test_a_verifier_key_with_a_short_key_is_refused() -> None:
    """Its ID is right, and yet 31 octets are no Ed25519 key."""
    raw = b"\x01" + bytes(31)
    key_id = hashlib.sha256(b"log.example\n" + raw).digest()[:4].hex()
    with pytest.raises(MalformedError, match="holds no Ed25519 key"):
        NoteKey.from_vkey(f"log.example+{key_id}+{base64.b64encode(raw).decode()}")


@pytest.mark.parametrize("name", ["", "a b", "a+b", "a\nb", "a\tb", "a\u3000b", "a\udc80b"])
def test_a_key_has_a_name_that_a_note_can_hold(name: str) -> None:
    """Or it is not made."""
    with pytest.raises(MalformedError, match="name of a note's key"):
        NoteKey(name, SIGNER.public_key())
