"""Bearer tokens of OIDC issuers that a service is configured to trust: keys found and kept, tokens verified."""

from services.chassis.oidc.issuers import OidcIssuerSettings
from services.chassis.oidc.verifier import TokenVerifier, bearer_token

__all__ = ["OidcIssuerSettings", "TokenVerifier", "bearer_token"]
