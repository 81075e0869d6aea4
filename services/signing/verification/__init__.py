"""Believe a signature that this service made, offline, or raise: for `pqcsign verify`, and for the tests.

Certificate mode, in this order:

1. a trusted time-stamping authority says when the signature existed (RFC 3161, over the signature's octets);
2. at that time the leaf led to a trusted CA, was for code signing, and a trusted log had promised to remember it (SCT);
3. its one name and the OIDC issuer are those expected;
4. a trusted log holds the entry about exactly this signature, digest and leaf, under a checkpoint that it signed;
5. the leaf's key made the signature, over this artefact, or over a Statement that names it.

Key mode is 5 with a key known beforehand, and 1 and 4 where a trusted root is given. A hybrid is an envelope that every
key of the policy has signed; a composite is one signature by two keys. Signatures in files of their own are believed by
the module `detached`. What is not in the trusted root counts for nothing; revocation is not asked about, since
short-lived certificates have none.

VerificationError
├─ NoTimestampError       no time-stamp by a trusted authority
├─ WrongIdentityError     signed by somebody else than expected
├─ NoLogEntryError        no entry of a trusted log about this signature
└─ WrongArtefactError     about another artefact
and those of `pkicore.errors`: MalformedError, UnsupportedError, BadSignatureError, BadCertificateError, ProofError.
"""

from services.signing.verification.bundles import Verified, verify_with_certificate, verify_with_key
from services.signing.verification.certificates import ISSUER_OID, Identity, check_identity, verify_leaf
from services.signing.verification.envelopes import verify_composite, verify_hybrid
from services.signing.verification.errors import (
    NoLogEntryError,
    NoTimestampError,
    VerificationError,
    WrongArtefactError,
    WrongIdentityError,
)
from services.signing.verification.statements import check_statement
from services.signing.verification.witnesses import verified_index, verified_time

__all__ = [
    "ISSUER_OID",
    "Identity",
    "NoLogEntryError",
    "NoTimestampError",
    "VerificationError",
    "Verified",
    "WrongArtefactError",
    "WrongIdentityError",
    "check_identity",
    "check_statement",
    "verified_index",
    "verified_time",
    "verify_composite",
    "verify_hybrid",
    "verify_leaf",
    "verify_with_certificate",
    "verify_with_key",
]
