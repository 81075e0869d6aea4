"""What KMS answers is believed only after these checks.

A signature is handed on when
1. the answer names the key version that was asked,
2. KMS says that it compared the checksum of the payload,
3. the checksum of the signature is right,
4. the protection level is the key version's.
A public key likewise: name, algorithm, protection level, checksum, and a key of that very algorithm.
Source: the integrity guidelines in the service's message descriptions (google.cloud.kms.v1).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import google_crc32c
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import mldsa
from google.cloud import kms_v1

from pkicore.algorithms import PublicKey, algorithm_of, known_public_key
from pkicore.errors import BadKeyError, UnsupportedError
from services.signer_hsm.backends.gcp_kms.algorithms import KmsAlgorithm, row_of
from services.signer_hsm.errors import BadAnswerError

_RAW_KEYS: Final[Mapping[str, type[mldsa.MLDSA44PublicKey | mldsa.MLDSA65PublicKey | mldsa.MLDSA87PublicKey]]] = (
    MappingProxyType(
        {
            "ml-dsa-44": mldsa.MLDSA44PublicKey,
            "ml-dsa-65": mldsa.MLDSA65PublicKey,
            "ml-dsa-87": mldsa.MLDSA87PublicKey,
        }
    )
)


@dataclass(frozen=True, slots=True)
class KnownVersion:
    """What never changes about a key version."""

    name: str
    row: KmsAlgorithm
    protection_level: kms_v1.ProtectionLevel


def known_version(version: kms_v1.CryptoKeyVersion, name: str) -> KnownVersion:
    """The unchanging part of an answer about a version.

    Raises:
        BadAnswerError: the answer is about another version.
        NotOfferedError: its algorithm is not in the table.
    """
    if version.name != name:
        raise BadAnswerError("KMS answered about another key version")
    return KnownVersion(name, row_of(version.algorithm), version.protection_level)


def sign_request(known: KnownVersion, payload: bytes) -> kms_v1.AsymmetricSignRequest:
    """The request with the payload where its algorithm wants it, and its checksum."""
    checksum = google_crc32c.value(payload)
    if known.row.field == "data":
        return kms_v1.AsymmetricSignRequest(name=known.name, data=payload, data_crc32c=checksum)
    digest = kms_v1.Digest({known.row.field: payload})
    return kms_v1.AsymmetricSignRequest(name=known.name, digest=digest, digest_crc32c=checksum)


def checked_signature(known: KnownVersion, answer: kms_v1.AsymmetricSignResponse) -> bytes:
    """The signature in an answer that passes the four checks.

    Raises:
        BadAnswerError: the sentence says which it does not pass.
    """
    if answer.name != known.name:
        raise BadAnswerError("KMS signed with another key version than it was asked to")
    verified = answer.verified_data_crc32c if known.row.field == "data" else answer.verified_digest_crc32c
    if not verified:
        raise BadAnswerError("KMS did not compare the checksum of what it signed")
    if answer.protection_level != known.protection_level:
        raise BadAnswerError("KMS signed at another protection level than the key version's")
    return _checked(answer.signature, answer.signature_crc32c, "signature")


def public_key_request(known: KnownVersion) -> kms_v1.GetPublicKeyRequest:
    """PQC keys are given out only in a format that is asked for; the others as PEM."""
    if known.row.algorithm.name in _RAW_KEYS:
        return kms_v1.GetPublicKeyRequest(name=known.name, public_key_format=kms_v1.PublicKey.PublicKeyFormat.NIST_PQC)
    return kms_v1.GetPublicKeyRequest(name=known.name)


def checked_public_key(known: KnownVersion, answer: kms_v1.PublicKey) -> PublicKey:
    """The key in an answer that passes the checks.

    Raises:
        BadAnswerError: it does not pass.
    """
    if (answer.name, answer.algorithm, answer.protection_level) != (known.name, known.row.kms, known.protection_level):
        raise BadAnswerError("KMS answered with the public key of another key version")
    try:
        key = _loaded(known, answer)
        algorithm = algorithm_of(key)
    except (ValueError, UnsupportedAlgorithm, UnsupportedError, BadKeyError) as error:
        raise BadAnswerError("KMS answered with what is no public key") from error
    if algorithm != known.row.algorithm:
        raise BadAnswerError("KMS answered with a public key of another algorithm")
    return key


def _loaded(known: KnownVersion, answer: kms_v1.PublicKey) -> PublicKey:
    raw = _RAW_KEYS.get(known.row.algorithm.name)
    if raw is not None:
        held = answer.public_key
        return raw.from_public_bytes(_checked(held.data, held.crc32c_checksum, "public key"))
    pem = _checked(answer.pem.encode(), answer.pem_crc32c, "public key")
    return known_public_key(serialization.load_pem_public_key(pem))


def _checked(octets: bytes, checksum: int | None, what: str) -> bytes:
    if checksum != google_crc32c.value(octets):
        raise BadAnswerError(f"the checksum of the {what} from KMS is wrong")
    return octets
