"""CMS SignedData (RFC 5652, ML-DSA after RFC 9882): by keys that are elsewhere, about content that is elsewhere."""

from pkicore.cms.digests import HASHES, all_digests, digest_name
from pkicore.cms.signed_data import MAX_CMS_BYTES, MAX_SIGNERS, UnverifiedSignedData
from pkicore.cms.signing import ID_DATA, SignedAttributes, SignerInfo, assemble, signed_attributes
from pkicore.cms.verify import VerifiedSigner, verify_detached, verify_signed_data

__all__ = [
    "HASHES",
    "ID_DATA",
    "MAX_CMS_BYTES",
    "MAX_SIGNERS",
    "SignedAttributes",
    "SignerInfo",
    "UnverifiedSignedData",
    "VerifiedSigner",
    "all_digests",
    "assemble",
    "digest_name",
    "signed_attributes",
    "verify_detached",
    "verify_signed_data",
]
