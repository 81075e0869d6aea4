from __future__ import annotations

from typing import Any

import google_crc32c
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from google.cloud import kms_v1

from services.signer_hsm.backends.gcp_kms.algorithms import TABLE, KmsName
from services.signer_hsm.backends.gcp_kms.answers import (
    KnownVersion,
    checked_public_key,
    checked_signature,
    known_version,
    public_key_request,
    sign_request,
)
from services.signer_hsm.errors import BadAnswerError, NotOfferedError

NAME = "projects/p/locations/l/keyRings/r/cryptoKeys/k/cryptoKeyVersions/1"
Level = kms_v1.ProtectionLevel
RAW = (mldsa.MLDSA44PublicKey, mldsa.MLDSA65PublicKey)


def known(kms: int = KmsName.EC_SIGN_P256_SHA256) -> KnownVersion:
    """A version in an HSM."""
    return KnownVersion(NAME, TABLE[KmsName(kms)], Level(Level.HSM))


def signed(**changes: Any) -> kms_v1.AsymmetricSignResponse:  # noqa: ANN401 - fields of any type
    """An answer that passes but for the changes."""
    given = {
        "name": NAME,
        "signature": b"signature",
        "signature_crc32c": google_crc32c.value(b"signature"),
        "verified_digest_crc32c": True,
        "protection_level": Level.HSM,
    }
    return kms_v1.AsymmetricSignResponse(given | changes)


@pytest.mark.parametrize("row", TABLE.values(), ids=lambda row: row.kms.name)
def test_a_payload_goes_into_the_field_of_its_algorithm_with_its_checksum(row: Any) -> None:  # noqa: ANN401 - a row
    """Exactly one field is set, and exactly the checksum that belongs to it."""
    payload = bytes(64)
    request = sign_request(KnownVersion(NAME, row, Level(Level.HSM)), payload)
    checksum = google_crc32c.value(payload)
    digest = kms_v1.Digest.pb(request.digest).WhichOneof("digest")
    assert request.name == NAME
    if row.kind == "message":
        assert (digest, request.data, request.data_crc32c, request.digest_crc32c) == (None, payload, checksum, None)
    else:
        assert (digest, request.data, request.data_crc32c, request.digest_crc32c) == (row.field, b"", None, checksum)
        assert getattr(request.digest, row.field) == payload


def test_a_good_signature_is_handed_on() -> None:
    """All four checks pass."""
    assert checked_signature(known(), signed()) == b"signature"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": NAME + "0"}, "another key version"),
        ({"name": ""}, "another key version"),
        ({"verified_digest_crc32c": False}, "did not compare"),
        ({"verified_digest_crc32c": False, "verified_data_crc32c": True}, "did not compare"),
        ({"protection_level": Level.SOFTWARE}, "protection level"),
        ({"protection_level": 0}, "protection level"),
        ({"signature_crc32c": 1}, "checksum of the signature"),
        ({"signature_crc32c": None}, "checksum of the signature"),
        ({"signature_crc32c": google_crc32c.value(b"signature") - 2**32}, "checksum of the signature"),
        ({"signature": b"Signature"}, "checksum of the signature"),
    ],
)
def test_each_check_of_a_signature_refuses(changes: dict[str, Any], words: str) -> None:
    """The sentence says which check did not pass."""
    with pytest.raises(BadAnswerError, match=words):
        checked_signature(known(), signed(**changes))


def test_for_data_the_flag_of_data_counts() -> None:
    """An Ed25519 signature needs verified_data_crc32c, and the digest's flag is not as good."""
    version = known(KmsName.EC_SIGN_ED25519)
    assert checked_signature(version, signed(verified_digest_crc32c=False, verified_data_crc32c=True)) == b"signature"
    with pytest.raises(BadAnswerError, match="did not compare"):
        checked_signature(version, signed())


def public(kms: int, key: Any, **changes: Any) -> kms_v1.PublicKey:  # noqa: ANN401 - keys and fields of any type
    """An answer with this key as the service gives it for the algorithm, but for the changes."""
    given: dict[str, Any] = {"name": NAME, "algorithm": kms, "protection_level": Level.HSM}
    if isinstance(key, RAW):
        raw = key.public_bytes(Encoding.Raw, PublicFormat.Raw)
        given["public_key"] = {"data": raw, "crc32c_checksum": google_crc32c.value(raw)}
    else:
        pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        given |= {"pem": pem.decode(), "pem_crc32c": google_crc32c.value(pem)}
    return kms_v1.PublicKey(given | changes)


P256 = ec.generate_private_key(ec.SECP256R1()).public_key()
P384 = ec.generate_private_key(ec.SECP384R1()).public_key()
ML_DSA = mldsa.MLDSA65PrivateKey.generate().public_key()
MU_65 = KmsName.PQ_SIGN_ML_DSA_65_EXTERNAL_MU


@pytest.mark.parametrize(
    ("kms", "key"),
    [
        (KmsName.EC_SIGN_P256_SHA256, P256),
        (KmsName.EC_SIGN_P384_SHA384, P384),
        (KmsName.EC_SIGN_ED25519, ed25519.Ed25519PrivateKey.generate().public_key()),
        (KmsName.RSA_SIGN_PKCS1_2048_SHA256, rsa.generate_private_key(65537, 2048).public_key()),
        (MU_65, ML_DSA),
    ],
)
def test_public_keys_are_read_in_the_form_they_come_in(kms: int, key: Any) -> None:  # noqa: ANN401 - keys of any type
    """PQC keys are asked for raw, the others come as PEM."""
    version = known(kms)
    wanted = public_key_request(version).public_key_format
    assert wanted == (kms_v1.PublicKey.PublicKeyFormat.NIST_PQC if kms == MU_65 else 0)
    assert checked_public_key(version, public(kms, key)) == key


@pytest.mark.parametrize(
    ("kms", "key", "changes"),
    [
        (12, P256, {"name": NAME + "0"}),
        (12, P256, {"algorithm": 13}),
        (12, P256, {"protection_level": Level.SOFTWARE}),
        (12, P256, {"pem_crc32c": 1}),
        (12, P256, {"pem_crc32c": None}),
        (12, P256, {"pem": "", "pem_crc32c": 0}),
        (12, P256, {"pem": "garbage", "pem_crc32c": google_crc32c.value(b"garbage")}),
        (12, P384, {}),
        (5, rsa.generate_private_key(65537, 3072).public_key(), {}),
        (12, ec.generate_private_key(ec.SECP256K1()).public_key(), {}),
        (MU_65, ML_DSA, {"public_key": {"data": b"x", "crc32c_checksum": google_crc32c.value(b"x")}}),
        (MU_65, ML_DSA, {"public_key": {"data": bytes(1952), "crc32c_checksum": 1}}),
        (MU_65, mldsa.MLDSA44PrivateKey.generate().public_key(), {}),
        (MU_65, P256, {}),
        (12, ML_DSA, {}),
    ],
)
def test_each_check_of_a_public_key_refuses(kms: int, key: Any, changes: dict[str, Any]) -> None:  # noqa: ANN401 - keys of any type
    """Name, algorithm, level, checksum, form, and the key's own algorithm."""
    with pytest.raises(BadAnswerError):
        checked_public_key(known(kms), public(kms, key, **changes))


def test_a_version_is_known_by_its_name_and_algorithm() -> None:
    """An answer about another version, or one of an algorithm we do not sign with, is refused."""
    message = kms_v1.CryptoKeyVersion(name=NAME, algorithm=12, protection_level=Level.HSM)
    assert known_version(message, NAME) == known()
    with pytest.raises(BadAnswerError):
        known_version(message, NAME + "0")
    with pytest.raises(NotOfferedError):
        known_version(kms_v1.CryptoKeyVersion(name=NAME, algorithm=1), NAME)
