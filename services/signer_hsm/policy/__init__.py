"""The key policy: which caller may do what with which tenant's key, when, how often, and who must have agreed."""

from services.signer_hsm.policy.approvals import Approval, BoundAct
from services.signer_hsm.policy.decision import Caller, Decision, OidcSubject
from services.signer_hsm.policy.document import LIFE_CYCLE, Act, Tenant
from services.signer_hsm.policy.limits import Place, RateLimits
from services.signer_hsm.policy.oidc import OidcVerifier
from services.signer_hsm.policy.policy import Policy

__all__ = [
    "LIFE_CYCLE",
    "Act",
    "Approval",
    "BoundAct",
    "Caller",
    "Decision",
    "OidcSubject",
    "OidcVerifier",
    "Place",
    "Policy",
    "RateLimits",
    "Tenant",
]
