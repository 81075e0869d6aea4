"""What KMS calls the algorithms, and what a version of each takes.

KMS binds padding, hash and payload to the key version when it is made. So an RSA version signs with exactly one scheme,
and an ML-DSA version takes either mu or the message; new ones take mu, for the service must not need the message.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

from google.cloud.kms_v1 import CryptoKeyVersion

from pkicore.algorithms import ALGORITHMS, Algorithm, Payload
from services.signer_hsm.errors import NotOfferedError
from services.signer_hsm.schemes import SCHEMES

KmsName = CryptoKeyVersion.CryptoKeyVersionAlgorithm
Field = Literal["sha256", "sha384", "sha512", "external_mu", "data"]


@dataclass(frozen=True, slots=True)
class KmsAlgorithm:
    """One row of the table.

    Attributes:
        kms: KMS's name.
        algorithm: ours.
        scheme: the one scheme that a version signs with.
        kind: the one payload kind that a version takes.
        field: where the payload goes in an AsymmetricSignRequest.
    """

    kms: KmsName
    algorithm: Algorithm
    scheme: str
    kind: Payload
    field: Field


def _kms(name: str) -> KmsName:
    member: KmsName = KmsName.__members__[name]
    return member


def _digest(kms: str, algorithm: str, scheme: str) -> KmsAlgorithm:
    hash_name = SCHEMES[scheme].hash
    assert hash_name is not None  # noqa: S101 - a row of this very table with a scheme that has no digest
    return KmsAlgorithm(_kms(kms), ALGORITHMS[algorithm], scheme, "digest", hash_name)


def _mldsa(level: int) -> tuple[KmsAlgorithm, KmsAlgorithm]:
    name, row = f"ML-DSA-{level}", ALGORITHMS[f"ml-dsa-{level}"]
    kms = f"PQ_SIGN_ML_DSA_{level}"
    return (
        KmsAlgorithm(_kms(f"{kms}_EXTERNAL_MU"), row, name, "mu", "external_mu"),
        KmsAlgorithm(_kms(kms), row, name, "message", "data"),
    )


TABLE: Final[Mapping[KmsName, KmsAlgorithm]] = MappingProxyType(
    {
        row.kms: row
        for row in (
            _digest("EC_SIGN_P256_SHA256", "ecdsa-p256", "ES256"),
            _digest("EC_SIGN_P384_SHA384", "ecdsa-p384", "ES384"),
            *(_digest(f"RSA_SIGN_PKCS1_{bits}_SHA256", f"rsa-{bits}", "RS256") for bits in (2048, 3072, 4096)),
            *(_digest(f"RSA_SIGN_PSS_{bits}_SHA256", f"rsa-{bits}", "PS256") for bits in (2048, 3072, 4096)),
            _digest("RSA_SIGN_PKCS1_4096_SHA512", "rsa-4096", "RS512"),
            _digest("RSA_SIGN_PSS_4096_SHA512", "rsa-4096", "PS512"),
            KmsAlgorithm(_kms("EC_SIGN_ED25519"), ALGORITHMS["ed25519"], "EdDSA", "message", "data"),
            *_mldsa(44),
            *_mldsa(65),
            *_mldsa(87),
        )
    }
)


def new_key_rows(rsa_scheme: str) -> Mapping[str, KmsAlgorithm]:
    """What a new key of each of our algorithms is in KMS.

    Args:
        rsa_scheme: RS256 or PS256, for RSA keys.
    """
    return MappingProxyType(
        {
            row.algorithm.name: row
            for row in TABLE.values()
            if (row.scheme == rsa_scheme if row.algorithm.family == "rsa" else row.algorithm.payload == row.kind)
        }
    )


def row_of(kms: KmsName) -> KmsAlgorithm:
    """The table row of a version's algorithm.

    Raises:
        NotOfferedError: it is not in the table.
    """
    if kms not in TABLE:
        raise NotOfferedError("the key version has an algorithm that this service does not sign with")
    return TABLE[kms]
