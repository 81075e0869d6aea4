"""What a CI job says of itself: whose job it is, the token it can show, and the provenance it can make of all that.

Nothing of this is verified here: whoever runs a program sets its environment. The service believes the token, after
verification, and treats the provenance as made by the tenant.
"""

from services.signing.ci.environment import CiError, CiProvider, provider_of
from services.signing.ci.provenance import ci_provenance
from services.signing.ci.tokens import CiToken, ci_token

__all__ = ["CiError", "CiProvider", "CiToken", "ci_provenance", "ci_token", "provider_of"]
