"""What travels between signer-hsm and its callers: frozen messages, each with its strict JSON form.

Binary fields are standard base64 (RFC 4648 §4), public keys are SubjectPublicKeyInfo in DER, times are Unix seconds.
Reading raises MalformedError with the name of the field; writing never fails.
"""

from services.signer_hsm.wire.approvals import ApprovalAnswer, ApprovalList, ApprovalRequest
from services.signer_hsm.wire.attestation import AttestationAnswer, AttestationUpload
from services.signer_hsm.wire.health import HealthAnswer, PolicyAnswer
from services.signer_hsm.wire.keys import (
    MAX_KEYS,
    DestructionRecord,
    KeyDescription,
    KeyPage,
    LifeCycleRequest,
    NewKeyRequest,
    PublicKeyAnswer,
    VersionDescription,
)
from services.signer_hsm.wire.members import checked_name, checked_tenant, checked_version, split_key_id
from services.signer_hsm.wire.signing import MAX_PAYLOADS, MAX_SIGN_BODY, SignAnswer, SignatureProblem, SignRequest

__all__ = [
    "MAX_KEYS",
    "MAX_PAYLOADS",
    "MAX_SIGN_BODY",
    "ApprovalAnswer",
    "ApprovalList",
    "ApprovalRequest",
    "AttestationAnswer",
    "AttestationUpload",
    "DestructionRecord",
    "HealthAnswer",
    "KeyDescription",
    "KeyPage",
    "LifeCycleRequest",
    "NewKeyRequest",
    "PolicyAnswer",
    "PublicKeyAnswer",
    "SignAnswer",
    "SignRequest",
    "SignatureProblem",
    "VersionDescription",
    "checked_name",
    "checked_tenant",
    "checked_version",
    "split_key_id",
]
