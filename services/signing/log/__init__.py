"""The service's transparency log: who signed what, entered before the answer, for everybody to read.

Entries are Sigstore's (hashedrekord 0.0.2, `services.signing.formats.log_entry`), so that foreign verifiers take them.
"""

from services.signing.log.read import signing_log_routes
from services.signing.log.writer import SigningLog

__all__ = ["SigningLog", "signing_log_routes"]
