"""OCSP (RFC 6960, in the lightweight profile of RFC 5019, nonces after RFC 9654): ask, answer, believe."""

from pkicore.ocsp.request import (
    MAX_CERT_IDS,
    MAX_REQUEST_BYTES,
    CertId,
    HashName,
    OcspRequest,
    build_request,
    issuer_hashes,
    request_for,
)
from pkicore.ocsp.response import CertStatus, Responder, build_response, error_response
from pkicore.ocsp.template import ResponseTemplate
from pkicore.ocsp.usual import split_usual
from pkicore.ocsp.verify import MAX_RESPONSE_BYTES, VerifiedStatus, verify_response

__all__ = [
    "MAX_CERT_IDS",
    "MAX_REQUEST_BYTES",
    "MAX_RESPONSE_BYTES",
    "CertId",
    "CertStatus",
    "HashName",
    "OcspRequest",
    "Responder",
    "ResponseTemplate",
    "VerifiedStatus",
    "build_request",
    "build_response",
    "error_response",
    "issuer_hashes",
    "request_for",
    "split_usual",
    "verify_response",
]
