"""Certificate Transparency, version 1 (RFC 6962): timestamps of a log inside the certificates it has seen.

Pure. How a CA embeds one at issuance, with bytes of its own builder that were never signed without it:

1. `entry = PrecertificateEntry.of(tbs, issuer_certificate)`, from to-be-signed bytes that are linted already;
2. the log appends `entry.leaf(timestamp, extensions)` and signs `entry.message(timestamp, extensions)`;
3. `sct = SignedCertificateTimestamp.assemble(log_key, timestamp, extensions, signature)`;
4. `verify_sct(sct, entry, log_key)`, since the log is far away;
5. `embed(tbs, [sct])` is signed in place of `tbs`: it differs in that extension alone.

Whoever gets the certificate calls `verify_embedded_sct`.
"""

from pkicore.ct.precertificate import PrecertificateEntry, embed, precertificate_tbs
from pkicore.ct.sct import (
    SignedCertificateTimestamp,
    decode_sct_list,
    encode_leaf_index,
    encode_sct_list,
    log_id,
)
from pkicore.ct.verify import verify_embedded_sct, verify_sct

__all__ = [
    "PrecertificateEntry",
    "SignedCertificateTimestamp",
    "decode_sct_list",
    "embed",
    "encode_leaf_index",
    "encode_sct_list",
    "log_id",
    "precertificate_tbs",
    "verify_embedded_sct",
    "verify_sct",
]
