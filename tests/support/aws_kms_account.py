"""The keys, aliases and tags of a simulated AWS KMS account: the rules of the service, without HTTP.

Written from the API reference and the developer guide's table of key states. Not faithful: key policies, grants,
quotas, the wording of messages; which code answers EXTERNAL_MU on a key that is not ML-DSA, and DIGEST on one that is,
is an assumption (ValidationException).
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, TypeAlias

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pkicore.algorithms import ALGORITHMS, PrivateKey, generate_private_key
from tests.support.aws_sigv4 import AwsError

Fields: TypeAlias = dict[str, Any]

ALGORITHM_NAMES: Final = {
    "ECC_NIST_P256": "ecdsa-p256",
    "ECC_NIST_P384": "ecdsa-p384",
    "ECC_NIST_P521": "ecdsa-p521",
    "RSA_2048": "rsa-2048",
    "RSA_3072": "rsa-3072",
    "RSA_4096": "rsa-4096",
    "ECC_NIST_EDWARDS25519": "ed25519",
    "ML_DSA_44": "ml-dsa-44",
    "ML_DSA_65": "ml-dsa-65",
    "ML_DSA_87": "ml-dsa-87",
}
_RSA: Final = [f"RSASSA_{padding_}_SHA_{bits}" for padding_ in ("PKCS1_V1_5", "PSS") for bits in (256, 384, 512)]
SIGNING_ALGORITHMS: Final = {
    "ECC_NIST_P256": ["ECDSA_SHA_256"],
    "ECC_NIST_P384": ["ECDSA_SHA_384"],
    "ECC_NIST_P521": ["ECDSA_SHA_512"],
    "RSA_2048": _RSA,
    "RSA_3072": _RSA,
    "RSA_4096": _RSA,
    "ECC_NIST_EDWARDS25519": ["ED25519_SHA_512", "ED25519_PH_SHA_512"],
    "ML_DSA_44": ["ML_DSA_SHAKE_256"],
    "ML_DSA_65": ["ML_DSA_SHAKE_256"],
    "ML_DSA_87": ["ML_DSA_SHAKE_256"],
}
HASHES: Final[dict[str, hashes.HashAlgorithm]] = {
    "256": hashes.SHA256(),
    "384": hashes.SHA384(),
    "512": hashes.SHA512(),
}
ACCOUNT: Final = "111122223333"
MU_OCTETS: Final = 64
MAX_TAGS: Final = 50
LIMITS: Final = {"Aliases": 100, "Keys": 1000, "Tags": 50}
MAX_ALIASES_OF_KEY: Final = 50
WINDOW_DAYS: Final = range(7, 31)


@dataclass
class SimulatedKey:
    """One KMS key."""

    key_id: str
    arn: str
    spec: str
    private_key: PrivateKey
    created: datetime
    tags: dict[str, str]
    state: str = "Enabled"
    usage: str = "SIGN_VERIFY"
    origin: str = "AWS_KMS"
    deletion_date: datetime | None = None
    hidden_for: int = 0
    signatures: int = 0

    def metadata(self) -> Fields:
        """KeyMetadata of DescribeKey."""
        found: Fields = {
            "AWSAccountId": ACCOUNT,
            "KeyId": self.key_id,
            "Arn": self.arn,
            "CreationDate": self.created,
            "Enabled": self.state == "Enabled",
            "Description": "",
            "KeyUsage": self.usage,
            "KeyState": self.state,
            "Origin": self.origin,
            "KeyManager": "CUSTOMER",
            "KeySpec": self.spec,
            "SigningAlgorithms": SIGNING_ALGORITHMS[self.spec],
            "MultiRegion": False,
        }
        return found | ({"DeletionDate": self.deletion_date} if self.deletion_date else {})


@dataclass
class KmsAccount:
    """One account in one region.

    Attributes:
        region: of the ARNs.
        now: where the account's time comes from.
        keys: by key id.
        aliases: name to key id.
        lag: how many calls a new key stays unknown for (eventual consistency).
        page: rows of a listing at most, whatever Limit says.
    """

    region: str
    now: Callable[[], datetime]
    keys: dict[str, SimulatedKey] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    lag: int = 0
    page: int = 1000

    # keys

    def create_key(self, asked: Fields) -> Fields:
        """CreateKey."""
        spec, usage = asked.get("KeySpec", "SYMMETRIC_DEFAULT"), asked.get("KeyUsage", "ENCRYPT_DECRYPT")
        if spec not in ALGORITHM_NAMES or asked.get("Origin", "AWS_KMS") != "AWS_KMS":
            raise AwsError("UnsupportedOperationException", "not simulated")
        if usage != "SIGN_VERIFY":
            raise AwsError("ValidationException", f"KeyUsage {usage} is not compatible with KeySpec {spec}")
        private_key = generate_private_key(ALGORITHMS[ALGORITHM_NAMES[spec]])
        key_id = "-".join(secrets.token_hex(size) for size in (4, 2, 2, 2, 6))
        arn = f"arn:aws:kms:{self.region}:{ACCOUNT}:key/{key_id}"
        key = SimulatedKey(
            key_id, arn, spec, private_key, self.now(), _tags(asked.get("Tags", [])), hidden_for=self.lag
        )
        self.keys[key_id] = key
        return {"KeyMetadata": key.metadata()}

    def describe_key(self, asked: Fields) -> Fields:
        """DescribeKey."""
        return {"KeyMetadata": self.key(asked["KeyId"]).metadata()}

    def get_public_key(self, asked: Fields) -> Fields:
        """GetPublicKey."""
        key = self._usable(asked["KeyId"])
        public = key.private_key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return {
            "KeyId": key.arn,
            "PublicKey": public,
            "KeySpec": key.spec,
            "KeyUsage": key.usage,
            "SigningAlgorithms": SIGNING_ALGORITHMS[key.spec],
        }

    def sign(self, asked: Fields) -> Fields:
        """Sign."""
        key = self._usable(asked["KeyId"])
        algorithm, message_type = asked["SigningAlgorithm"], asked.get("MessageType", "RAW")
        if key.usage != "SIGN_VERIFY" or algorithm not in SIGNING_ALGORITHMS[key.spec]:
            raise AwsError("InvalidKeyUsageException", f"{algorithm} is not for {key.spec}")
        make = _signer(key.private_key, algorithm, message_type, asked["Message"])
        if asked.get("DryRun"):
            raise AwsError(
                "DryRunOperationException", "The request would have succeeded, but the DryRun option is set."
            )
        key.signatures += 1
        return {"KeyId": key.arn, "Signature": make(), "SigningAlgorithm": algorithm}

    def enable_key(self, asked: Fields) -> Fields:
        """EnableKey."""
        self._switchable(asked["KeyId"]).state = "Enabled"
        return {}

    def disable_key(self, asked: Fields) -> Fields:
        """DisableKey."""
        self._switchable(asked["KeyId"]).state = "Disabled"
        return {}

    def schedule_key_deletion(self, asked: Fields) -> Fields:
        """ScheduleKeyDeletion."""
        key, days = self.key(asked["KeyId"]), asked.get("PendingWindowInDays", 30)
        if days not in WINDOW_DAYS:
            raise AwsError("ValidationException", "PendingWindowInDays must be between 7 and 30")
        if key.state == "PendingDeletion":
            raise _invalid_state(key)
        key.state, key.deletion_date = "PendingDeletion", self.now() + timedelta(days=days)
        return {
            "KeyId": key.arn,
            "DeletionDate": key.deletion_date,
            "KeyState": key.state,
            "PendingWindowInDays": days,
        }

    def cancel_key_deletion(self, asked: Fields) -> Fields:
        """CancelKeyDeletion: the key is disabled afterwards."""
        key = self.key(asked["KeyId"])
        if key.state != "PendingDeletion":
            raise _invalid_state(key)
        key.state, key.deletion_date = "Disabled", None
        return {"KeyId": key.arn}

    # aliases, tags, listings

    def create_alias(self, asked: Fields) -> Fields:
        """CreateAlias."""
        name = asked["AliasName"]
        if not name.startswith("alias/") or name == "alias/" or ":" in name:
            raise AwsError("InvalidAliasNameException", "must start with alias/")
        if name.startswith("alias/aws/"):
            raise AwsError("NotAuthorizedException", "alias/aws/ is reserved")
        if asked["TargetKeyId"].startswith("alias/"):
            raise AwsError("ValidationException", "Aliases must refer to keys. Not aliases")
        key = self.key(asked["TargetKeyId"])
        if key.state == "PendingDeletion":
            raise _invalid_state(key)
        if name in self.aliases:
            raise AwsError("AlreadyExistsException", "An alias with that name already exists")
        if list(self.aliases.values()).count(key.key_id) >= MAX_ALIASES_OF_KEY:
            raise AwsError("LimitExceededException", "too many aliases")
        self.aliases[name] = key.key_id
        return {}

    def list_aliases(self, asked: Fields) -> Fields:
        """ListAliases; one that AWS has by itself points to no key."""
        base = f"arn:aws:kms:{self.region}:{ACCOUNT}:"
        rows: list[Fields] = [{"AliasName": "alias/aws/s3", "AliasArn": f"{base}alias/aws/s3"}]
        rows += [
            {"AliasName": name, "AliasArn": f"{base}{name}", "TargetKeyId": key_id}
            for name, key_id in sorted(self.aliases.items())
        ]
        return self._page("Aliases", rows, asked)

    def list_keys(self, asked: Fields) -> Fields:
        """ListKeys."""
        rows = [{"KeyId": key.key_id, "KeyArn": key.arn} for key in self.keys.values() if not key.hidden_for]
        return self._page("Keys", rows, asked)

    def list_resource_tags(self, asked: Fields) -> Fields:
        """ListResourceTags."""
        tags = self.key(asked["KeyId"]).tags
        return self._page("Tags", [{"TagKey": name, "TagValue": value} for name, value in tags.items()], asked)

    def key(self, key_id: str) -> SimulatedKey:
        """By id, ARN, alias or alias ARN.

        Raises:
            AwsError: there is none, or not yet everywhere.
        """
        prefix = f"arn:aws:kms:{self.region}:{ACCOUNT}:"
        if key_id.startswith("arn:") and not key_id.startswith(prefix):
            raise AwsError("NotFoundException", "Invalid arn")
        name = key_id.removeprefix(prefix)
        found = self.keys.get(self.aliases.get(name, name.removeprefix("key/")))
        if found is None:
            raise AwsError("NotFoundException", "Invalid keyId")
        if found.deletion_date is not None and found.deletion_date <= self.now():
            self._forget(found)
            raise AwsError("NotFoundException", "Invalid keyId")
        if found.hidden_for:
            found.hidden_for -= 1
            raise AwsError("NotFoundException", "not yet here")
        return found

    def _forget(self, key: SimulatedKey) -> None:
        del self.keys[key.key_id]
        self.aliases = {name: target for name, target in self.aliases.items() if target != key.key_id}

    def _usable(self, key_id: str) -> SimulatedKey:
        key = self.key(key_id)
        if key.state == "Disabled":
            raise AwsError("DisabledException", f"{key.arn} is disabled.")
        if key.state == "Unavailable":
            raise AwsError("KeyUnavailableException", "the key store is not connected", 500)
        if key.state != "Enabled":
            raise _invalid_state(key)
        return key

    def _switchable(self, key_id: str) -> SimulatedKey:
        key = self.key(key_id)
        if key.state not in {"Enabled", "Disabled"}:
            raise _invalid_state(key)
        return key

    def _page(self, member: str, rows: list[Fields], asked: Fields) -> Fields:
        marker = asked.get("Marker", "0")
        if not marker.isdecimal() or int(marker) > len(rows):
            raise AwsError("InvalidMarkerException", "no such marker")
        if asked.get("Limit", 1) > LIMITS[member]:
            raise AwsError("ValidationException", f"Limit is at most {LIMITS[member]}")
        start, end = int(marker), int(marker) + min(asked.get("Limit", 50), self.page)
        answer: Fields = {member: rows[start:end], "Truncated": end < len(rows)}
        return answer | ({"NextMarker": str(end)} if end < len(rows) else {})


def _invalid_state(key: SimulatedKey) -> AwsError:
    return AwsError("KMSInvalidStateException", f"{key.arn} is {key.state}.")


def _tags(rows: list[Fields]) -> dict[str, str]:
    tags = {row["TagKey"]: row["TagValue"] for row in rows}
    if len(tags) != len(rows) or len(rows) > MAX_TAGS or any(name.startswith("aws:") for name in tags):
        raise AwsError("TagException", "duplicate, reserved or too many tags")
    return tags


def _signer(key: PrivateKey, algorithm: str, message_type: str, message: bytes) -> Callable[[], bytes]:
    """How to sign; everything is checked before the first octet is signed, as DryRun wants it."""
    if isinstance(key, mldsa.MLDSA44PrivateKey | mldsa.MLDSA65PrivateKey | mldsa.MLDSA87PrivateKey):
        return _mldsa_signer(key, message_type, message)
    if message_type == "EXTERNAL_MU":
        raise AwsError("ValidationException", "EXTERNAL_MU is for ML-DSA keys")
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return _ed25519_signer(key, algorithm, message_type, message)
    digest_hash = HASHES[algorithm[-3:]]
    digest = message if message_type == "DIGEST" else hashlib.new(digest_hash.name, message).digest()
    if len(digest) != digest_hash.digest_size:
        raise AwsError("ValidationException", f"Digest is invalid length for algorithm {algorithm}.")
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return lambda: key.sign(digest, ec.ECDSA(Prehashed(digest_hash)))
    scheme: padding.AsymmetricPadding = padding.PKCS1v15()
    if algorithm.startswith("RSASSA_PSS"):
        scheme = padding.PSS(padding.MGF1(digest_hash), padding.PSS.DIGEST_LENGTH)
    return lambda: _rsa(key).sign(digest, scheme, Prehashed(digest_hash))


def _rsa(key: PrivateKey) -> rsa.RSAPrivateKey:
    assert isinstance(key, rsa.RSAPrivateKey)
    return key


def _mldsa_signer(
    key: mldsa.MLDSA44PrivateKey | mldsa.MLDSA65PrivateKey | mldsa.MLDSA87PrivateKey, message_type: str, message: bytes
) -> Callable[[], bytes]:
    if message_type == "DIGEST":
        raise AwsError("ValidationException", "DIGEST is not for ML-DSA keys")
    if message_type == "RAW":
        return lambda: key.sign(message)
    if len(message) != MU_OCTETS:
        raise AwsError("ValidationException", "EXTERNAL_MU has 64 bytes")
    return lambda: key.sign_mu(message)


def _ed25519_signer(
    key: ed25519.Ed25519PrivateKey, algorithm: str, message_type: str, message: bytes
) -> Callable[[], bytes]:
    if algorithm != "ED25519_SHA_512":
        raise AwsError("UnsupportedOperationException", "Ed25519ph is not simulated")
    if message_type != "RAW":
        raise AwsError("ValidationException", "ED25519_SHA_512 takes RAW messages")
    return lambda: key.sign(message)
