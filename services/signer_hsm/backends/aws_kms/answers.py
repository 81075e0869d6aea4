"""Reading answers of AWS KMS: the SDK leaves out what it did not find, so every field is looked at before use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from pkicore.algorithms import Algorithm, PublicKey, algorithm_of, known_public_key
from pkicore.clock import unix
from pkicore.errors import PkiError
from services.signer_hsm.backends import Fact, Facts
from services.signer_hsm.backends.aws_kms.client import Answer
from services.signer_hsm.backends.aws_kms.names import ALGORITHM_OF, signing_algorithm
from services.signer_hsm.errors import BadAnswerError, NotOfferedError
from services.signer_hsm.schemes import schemes_of

EVIDENCE: Final = ("Origin", "KeyManager", "CustomKeyStoreId", "CloudHsmClusterId", "MultiRegion", "KeySpec")
USAGE: Final = "SIGN_VERIFY"
ENABLED: Final = "Enabled"
PENDING_DELETION: Final = "PendingDeletion"
MAX_SIGNATURE: Final = 8192


@dataclass(frozen=True, slots=True)
class KeyDescription:
    """What DescribeKey says of a key that signs.

    Attributes:
        arn: its ARN.
        algorithm: the row of the table that its spec stands for.
        state: the key state.
        deletion_date: when it will be gone, if it is waiting for that.
        evidence: how it is held, as AWS tells it.
    """

    arn: str
    algorithm: Algorithm
    state: str
    deletion_date: datetime | None
    evidence: Facts

    @classmethod
    def of(cls, answer: Answer, arn: str | None) -> KeyDescription:
        """Read an answer of DescribeKey, or, with no ARN to compare, of CreateKey.

        Raises:
            BadAnswerError: it is of another key, or a field is missing.
            NotOfferedError: a key that is not for signatures of ours.
        """
        metadata = answer.get("KeyMetadata")
        if not isinstance(metadata, Mapping):
            raise BadAnswerError("AWS KMS described no key")
        found = text(metadata, "Arn")
        check_same_key(found, arn or found)
        if text(metadata, "KeyUsage") != USAGE:
            raise NotOfferedError("the key is not for signatures")
        date = metadata.get("DeletionDate")
        return cls(
            arn=found,
            algorithm=_algorithm(text(metadata, "KeySpec")),
            state=text(metadata, "KeyState"),
            deletion_date=whole_seconds(date) if date is not None else None,
            evidence=_evidence(metadata),
        )


def _evidence(metadata: Mapping[str, object]) -> Facts:
    facts: dict[str, Fact] = {}
    for name in EVIDENCE:
        value = metadata.get(name)
        facts[name] = value if isinstance(value, str | bool) else None
    facts["CreationDate"] = unix(whole_seconds(metadata.get("CreationDate")))
    return facts


def _algorithm(spec: str) -> Algorithm:
    if spec not in ALGORITHM_OF:
        raise NotOfferedError("the key's spec in AWS KMS is not one that signer-hsm uses")
    return ALGORITHM_OF[spec]


def public_key_of(answer: Answer, description: KeyDescription) -> PublicKey:
    """Read an answer of GetPublicKey.

    Raises:
        BadAnswerError: it is not the public half of a key as described.
    """
    check_same_key(text(answer, "KeyId"), description.arn)
    algorithm = _algorithm(text(answer, "KeySpec"))
    if algorithm != description.algorithm or text(answer, "KeyUsage") != USAGE:
        raise BadAnswerError("AWS KMS gave the public key of another kind of key")
    offered = answer.get("SigningAlgorithms")
    wanted = {signing_algorithm(scheme) for scheme in schemes_of(algorithm)}
    if not isinstance(offered, Sequence) or not wanted.issubset(offered):
        raise BadAnswerError("AWS KMS does not list the signing algorithms of this kind of key")
    try:
        key = known_public_key(load_der_public_key(octets(answer, "PublicKey")))
        found = algorithm_of(key)
    except (ValueError, UnsupportedAlgorithm, PkiError) as error:
        raise BadAnswerError("AWS KMS gave a public key that cannot be read") from error
    if found != algorithm:
        raise BadAnswerError("AWS KMS gave a public key that does not go with the key's spec")
    return key


def spki(key: PublicKey) -> bytes:
    """The public key as SubjectPublicKeyInfo, DER."""
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def signature_of(answer: Answer, arn: str, algorithm: str) -> bytes:
    """Read an answer of Sign.

    Raises:
        BadAnswerError: another key's, another algorithm's, or no signature.
    """
    check_same_key(text(answer, "KeyId"), arn)
    if text(answer, "SigningAlgorithm") != algorithm:
        raise BadAnswerError("AWS KMS signed with another algorithm than was asked for")
    signature = octets(answer, "Signature")
    if len(signature) > MAX_SIGNATURE:
        raise BadAnswerError("AWS KMS gave a signature that is too long to be one")
    return signature


def check_same_key(found: str, asked: str) -> None:
    """Refuse an answer about another key.

    Raises:
        BadAnswerError: it is one.
    """
    if found != asked:
        raise BadAnswerError("AWS KMS answered for another key than was asked")


def text(answer: Mapping[str, object], field: str) -> str:
    """A text that must be there.

    Raises:
        BadAnswerError: it is not.
    """
    value = answer.get(field)
    if not isinstance(value, str) or not value:
        raise BadAnswerError(f"the answer of AWS KMS has no {field}")
    return value


def octets(answer: Mapping[str, object], field: str) -> bytes:
    """Octets that must be there.

    Raises:
        BadAnswerError: they are not.
    """
    value = answer.get(field)
    if not isinstance(value, bytes) or not value:
        raise BadAnswerError(f"the answer of AWS KMS has no {field}")
    return value


def rows(answer: Mapping[str, object], field: str) -> list[Mapping[str, object]]:
    """A list of objects that must be there; it may be empty.

    Raises:
        BadAnswerError: it is not.
    """
    value = answer.get(field)
    if not isinstance(value, list) or not all(isinstance(row, Mapping) for row in value):
        raise BadAnswerError(f"the answer of AWS KMS has no {field}")
    return value


def whole_seconds(moment: object) -> datetime:
    """A time of AWS as ours: UTC, whole seconds.

    Raises:
        BadAnswerError: it is none.
    """
    if not isinstance(moment, datetime) or moment.tzinfo is None:
        raise BadAnswerError("a time is missing in the answer of AWS KMS")
    return moment.astimezone(UTC).replace(microsecond=0)
