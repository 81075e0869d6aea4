"""How keys, algorithms and signatures are called in AWS KMS.

Source: API reference of AWS KMS, CreateKey, Sign, CreateAlias, Tag.
"""

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final, TypeAlias

from pkicore.algorithms import ALGORITHMS, Algorithm, Payload
from services.signer_hsm.backends import KeyLabel
from services.signer_hsm.errors import KeyNotFoundError, NotOfferedError
from services.signer_hsm.schemes import Scheme

MAX_RAW: Final = 4096
MAX_ARN: Final = 2048

SPECS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "ecdsa-p256": "ECC_NIST_P256",
        "ecdsa-p384": "ECC_NIST_P384",
        "ecdsa-p521": "ECC_NIST_P521",
        "rsa-2048": "RSA_2048",
        "rsa-3072": "RSA_3072",
        "rsa-4096": "RSA_4096",
        "ed25519": "ECC_NIST_EDWARDS25519",
        "ml-dsa-44": "ML_DSA_44",
        "ml-dsa-65": "ML_DSA_65",
        "ml-dsa-87": "ML_DSA_87",
    }
)
ALGORITHM_OF: Final[Mapping[str, Algorithm]] = MappingProxyType(
    {spec: ALGORITHMS[name] for name, spec in SPECS.items()}
)
KINDS: Final[Mapping[str, frozenset[Payload]]] = MappingProxyType(
    {
        "ecdsa": frozenset({"digest"}),
        "rsa": frozenset({"digest"}),
        "eddsa": frozenset({"message"}),
        "mldsa": frozenset({"mu", "message"}),
    }
)
MESSAGE_TYPES: Final[Mapping[Payload, str]] = MappingProxyType(
    {"digest": "DIGEST", "mu": "EXTERNAL_MU", "message": "RAW"}
)

Tag: TypeAlias = Mapping[str, str]


def signing_algorithm(scheme: Scheme) -> str:
    """The `SigningAlgorithm` of a scheme; never the Ed25519 variant that hashes once more."""
    if scheme.family == "mldsa":
        return "ML_DSA_SHAKE_256"
    if scheme.hash is None:
        return "ED25519_SHA_512"
    digits = scheme.hash.removeprefix("sha")
    if scheme.family == "ecdsa":
        return f"ECDSA_SHA_{digits}"
    return f"RSASSA_PSS_SHA_{digits}" if scheme.padding == "pss" else f"RSASSA_PKCS1_V1_5_SHA_{digits}"


def check_raw(payload: bytes) -> None:
    """Refuse a message that AWS KMS does not take.

    Raises:
        NotOfferedError: no octets, or too many.
    """
    if not 0 < len(payload) <= MAX_RAW:
        raise NotOfferedError(f"AWS KMS signs messages of 1 to {MAX_RAW} octets, not of {len(payload)}")


def alias_of(prefix: str, label: KeyLabel) -> str:
    """The alias of a key version."""
    return f"alias/{prefix}/{label.tenant}/{label.name}/v{label.version}"


def tags_of(prefix: str, label: KeyLabel) -> list[Tag]:
    """The tags of a key version: policies go by them, and it is found by them while it has no alias yet."""
    facts = {"managed-by": prefix, "tenant": label.tenant, "name": label.name, "version": str(label.version)}
    return [{"TagKey": key, "TagValue": value} for key, value in facts.items()]


def has_tags(tags: Sequence[Tag], wanted: Sequence[Tag]) -> bool:
    """Whether all the wanted tags are among them."""
    found = {tag.get("TagKey"): tag.get("TagValue") for tag in tags}
    return all(found.get(tag["TagKey"]) == tag["TagValue"] for tag in wanted)


def check_handle(handle: str, region: str) -> None:
    """Refuse what is not the ARN of a key in this region, before AWS is asked.

    Raises:
        KeyNotFoundError: it is not.
    """
    pattern = rf"arn:aws[a-z-]*:kms:{re.escape(region)}:[0-9]{{12}}:key/[0-9A-Za-z-]{{1,128}}"
    if len(handle) > MAX_ARN or not re.fullmatch(pattern, handle):
        raise KeyNotFoundError(f"the handle is not that of an AWS KMS key in {region}")


def key_arn_beside(alias_arn: str, key_id: str) -> str:
    """The ARN of the key that an alias points to: same partition, region and account."""
    return f"{alias_arn.partition(':alias/')[0]}:key/{key_id}"
