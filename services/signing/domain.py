"""Names that the parts of the signing service share."""

from typing import Final

SERVICE: Final = "signing"
OWN_TENANT: Final = "signing"
"""Tenant of the service's own keys at signer-hsm (log, time-stamps); no caller ever belongs to it."""
