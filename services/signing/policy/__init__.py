"""Who may have what signed: Cedar policies, validated, hashed and followed, and the decisions they lead to."""

from services.signing.policy.cases import CaseResult, PolicyCase, read_cases, run_cases
from services.signing.policy.decision import Decision
from services.signing.policy.directory import PolicyArchive, PolicyDirectory, checked_policies, run_directory_cases
from services.signing.policy.document import PolicySet
from services.signing.policy.errors import DeniedError, Fault, PolicyCaseError, PolicySetError, SigningPolicyError
from services.signing.policy.request import AccessRequest
from services.signing.policy.schema import PolicySchema

__all__ = [
    "AccessRequest",
    "CaseResult",
    "Decision",
    "DeniedError",
    "Fault",
    "PolicyArchive",
    "PolicyCase",
    "PolicyCaseError",
    "PolicyDirectory",
    "PolicySchema",
    "PolicySet",
    "PolicySetError",
    "SigningPolicyError",
    "checked_policies",
    "read_cases",
    "run_cases",
    "run_directory_cases",
]
