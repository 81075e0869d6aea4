"""Timestamps of a log as a relying party meets them (RFC 6962 §3.2, §5.2)."""

from __future__ import annotations

import hmac
from datetime import datetime

from cryptography import x509

from pkicore.algorithms import PublicKey, verify_signature
from pkicore.ct.precertificate import PrecertificateEntry, sct_list_of
from pkicore.ct.sct import SignedCertificateTimestamp, decode_sct_list, log_id, signature_algorithm
from pkicore.errors import BadSignatureError, ProofError


def verify_sct(sct: SignedCertificateTimestamp, entry: PrecertificateEntry, log_key: PublicKey) -> None:
    """Believe that the log of this key has promised to remember this entry.

    Raises:
        BadSignatureError: it has not.
        UnsupportedError: no log of version 1 has such a key.
    """
    if not hmac.compare_digest(sct.log_id, log_id(log_key)):
        raise BadSignatureError("the timestamp is another log's")
    if sct.algorithm != signature_algorithm(log_key):
        raise BadSignatureError("the timestamp is signed with another algorithm than its log's")
    verify_signature(log_key, sct.signature, entry.message(sct.timestamp, sct.extensions))


def verify_embedded_sct(
    certificate: x509.Certificate, issuer_certificate: x509.Certificate, log_key: PublicKey, at: datetime
) -> SignedCertificateTimestamp:
    """Believe that the log of this key has seen the certificate before it was issued, or raise.

    1 the certificate has a list of timestamps, and it parses · 2 exactly one is of this log · 3 it is not from the
    future · 4 the log has signed it, over this certificate without the list, and this issuer's key.

    The caller verifies the chain first; that the log does remember is shown by an inclusion proof alone.

    Args:
        certificate: with the timestamp in it.
        issuer_certificate: of whoever signed the certificate.
        log_key: of the log that is trusted.
        at: the present; a second begun counts whole.

    Raises:
        MalformedError: the list, or the certificate, does not parse.
        UnsupportedError: a timestamp of another version; a log key of a kind that RFC 6962 has not.
        ProofError: there is no timestamp of this log, or more than one, or it is from the future.
        BadSignatureError: the log did not sign it.
    """
    value = sct_list_of(certificate.tbs_certificate_bytes)
    scts = () if value is None else decode_sct_list(value)
    own = [sct for sct in scts if hmac.compare_digest(sct.log_id, log_id(log_key))]
    if len(own) != 1:
        raise ProofError(f"the certificate has {len(own)} timestamps of this log, not one")
    if own[0].timestamp // 1000 > at.timestamp():
        raise ProofError("the timestamp in the certificate is from the future")
    verify_sct(own[0], PrecertificateEntry.of(certificate.tbs_certificate_bytes, issuer_certificate), log_key)
    return own[0]
