"""Certificate revocation lists (RFC 5280 §5): entries encoded once, lists assembled from them, lists believed or not.

An entry is encoded when its certificate is revoked and kept as bytes; publishing splices the entries into a
TBSCertList, signs and writes. cryptography's builder would encode every entry again for each publication.
"""

from pkicore.crl.build import Scope, build_crl, entries_start, stated_size
from pkicore.crl.entries import REASONS, Revocation, encode_entry
from pkicore.crl.verify import CLOCK_SKEW, MAX_CRL_BYTES, VerifiedCrl

__all__ = [
    "CLOCK_SKEW",
    "MAX_CRL_BYTES",
    "REASONS",
    "Revocation",
    "Scope",
    "VerifiedCrl",
    "build_crl",
    "encode_entry",
    "entries_start",
    "stated_size",
]
