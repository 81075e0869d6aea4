from collections.abc import Mapping
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, rsa
from pkcs11 import Attribute, KeyType

from pkicore.algorithms import ALGORITHMS, PublicKey, generate_private_key
from services.signer_hsm.backends import KeyLabel
from services.signer_hsm.backends.pkcs11.keys import handle_of, is_handle, public_key_of, schemes_of_object
from services.signer_hsm.errors import BadAnswerError

P256 = bytes.fromhex("06082a8648ce3d030107")
SECP256K1 = bytes.fromhex("06052b8104000a")
KEYS = {name: generate_private_key(ALGORITHMS[name]).public_key() for name in ALGORITHMS if not name.startswith("rsa")}


def attributes_of(key: PublicKey, *, wrapped: bool = True) -> dict[Attribute, Any]:
    """A public-key object's attributes, written down by hand."""
    if isinstance(key, ec.EllipticCurvePublicKey):
        size = (key.curve.key_size + 7) // 8
        numbers = key.public_numbers()
        point = b"\x04" + numbers.x.to_bytes(size, "big") + numbers.y.to_bytes(size, "big")
        oid = {"secp256r1": P256.hex(), "secp384r1": "06052b81040022", "secp521r1": "06052b81040023"}[key.curve.name]
        header = bytes([4, len(point)]) if len(point) < 128 else bytes([4, 0x81, len(point)])
        return {
            Attribute.KEY_TYPE: KeyType.EC,
            Attribute.EC_PARAMS: bytes.fromhex(oid),
            Attribute.EC_POINT: header + point if wrapped else point,
        }
    if isinstance(key, ed25519.Ed25519PublicKey):
        raw = key.public_bytes_raw()
        return {Attribute.KEY_TYPE: KeyType.EC_EDWARDS, Attribute.EC_POINT: b"\x04\x20" + raw if wrapped else raw}
    assert isinstance(key, (mldsa.MLDSA44PublicKey, mldsa.MLDSA65PublicKey, mldsa.MLDSA87PublicKey))
    parameters = {1312: 1, 1952: 2, 2592: 3}[len(key.public_bytes_raw())]  # CKP_ML_DSA_44, _65, _87
    return {
        Attribute.KEY_TYPE: KeyType.ML_DSA,
        Attribute.PARAMETER_SET: parameters,
        Attribute.VALUE: key.public_bytes_raw(),
    }


def read(attributes: Mapping[Attribute, Any]) -> PublicKey:
    """What is read back; the function asks an object for its attributes and nothing else."""
    return public_key_of(attributes)  # type: ignore[arg-type]  # a mapping answers like an object


def schemes(attributes: Mapping[Attribute, Any]) -> frozenset[str]:
    """Likewise for a private-key object."""
    return schemes_of_object(attributes)  # type: ignore[arg-type]  # a mapping answers like an object


@pytest.mark.parametrize("name", KEYS)
@pytest.mark.parametrize("wrapped", [True, False], ids=["octet string", "bare"])
def test_public_keys_are_read_back(name: str, *, wrapped: bool) -> None:
    """Points come inside an OCTET STRING, or bare from older modules; both are the same key."""
    assert read(attributes_of(KEYS[name], wrapped=wrapped)) == KEYS[name]


def test_rsa_is_read_back() -> None:
    """Modulus and exponent are big-endian, with or without a leading zero."""
    numbers = rsa.generate_private_key(65537, 2048).public_key().public_numbers()
    for octets in (256, 257):
        modulus = numbers.n.to_bytes(octets, "big")
        attributes = {
            Attribute.KEY_TYPE: KeyType.RSA,
            Attribute.MODULUS: modulus,
            Attribute.PUBLIC_EXPONENT: b"\1\0\1",
        }
        assert read(attributes) == numbers.public_key()


@pytest.mark.parametrize(
    "wrong",
    [
        {Attribute.EC_PARAMS: SECP256K1},
        {Attribute.EC_POINT: b"\x04\x03\x04\x01\x02"},
        {Attribute.EC_POINT: b""},
        {Attribute.EC_POINT: b"\x04" + b"\1" * 64},
        {Attribute.KEY_TYPE: KeyType.AES},
        {Attribute.KEY_TYPE: KeyType.ML_DSA, Attribute.PARAMETER_SET: 9, Attribute.VALUE: b""},
        {Attribute.KEY_TYPE: KeyType.ML_DSA, Attribute.PARAMETER_SET: 2, Attribute.VALUE: b"short"},
        {Attribute.KEY_TYPE: KeyType.RSA, Attribute.MODULUS: b"\5", Attribute.PUBLIC_EXPONENT: b"\4"},
    ],
)
def test_garbage_is_a_bad_answer(wrong: dict[Attribute, Any]) -> None:
    """A token that answers nonsense is named as such, whatever `cryptography` thinks of the bytes."""
    with pytest.raises(BadAnswerError, match="cannot be read"):
        read(attributes_of(KEYS["ecdsa-p256"]) | wrong)


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({Attribute.KEY_TYPE: KeyType.EC, Attribute.EC_PARAMS: P256}, {"ES256"}),
        ({Attribute.KEY_TYPE: KeyType.EC_EDWARDS}, {"EdDSA"}),
        ({Attribute.KEY_TYPE: KeyType.ML_DSA, Attribute.PARAMETER_SET: 3}, {"ML-DSA-87"}),
        ({Attribute.KEY_TYPE: KeyType.RSA}, {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}),
    ],
)
def test_schemes_of_a_private_key(attributes: dict[Attribute, Any], expected: set[str]) -> None:
    """A key signs with its own schemes only, whatever the module would let it do."""
    assert schemes(attributes) == expected


@pytest.mark.parametrize(
    "attributes",
    [
        {Attribute.KEY_TYPE: KeyType.EC, Attribute.EC_PARAMS: SECP256K1},
        {Attribute.KEY_TYPE: KeyType.ML_DSA, Attribute.PARAMETER_SET: 7},
        {Attribute.KEY_TYPE: KeyType.DSA},
    ],
)
def test_a_foreign_private_key_signs_nothing(attributes: dict[Attribute, Any]) -> None:
    """A key of a kind that is not offered is refused when it is found."""
    with pytest.raises(BadAnswerError, match="not offered"):
        schemes(attributes)


def test_handles_are_the_labels_hash() -> None:
    """The CKA_ID follows from the label alone, so that a key is found again after a lost answer."""
    handle = handle_of(KeyLabel("bank", "issuing", 1))
    assert handle == "e0b3f72df0481962b42ea16948fa690a49c070c4"
    assert is_handle(handle)
    others = [KeyLabel("bank", "issuing", 2), KeyLabel("bank", "issuing-v1", 1), KeyLabel("other", "issuing", 1)]
    assert len({handle, *map(handle_of, others)}) == 4


@pytest.mark.parametrize("text", ["", "e0b3", "E0" * 20, "g0" * 20, "\u0660" * 40, "e0 " * 13 + "e"])
def test_what_is_no_handle(text: str) -> None:
    """Forty lower-case hexadecimal digits, nothing else."""
    assert not is_handle(text)
