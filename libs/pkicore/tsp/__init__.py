"""Time-stamps (RFC 3161 with the certificate binding of RFC 5816): read what is asked, answer, believe."""

from pkicore.tsp.request import MAX_REQUEST_BYTES, MessageImprint, TimeStampRequest
from pkicore.tsp.response import FAILURES, MAX_RESPONSE_BYTES, granted, rejection, token_of
from pkicore.tsp.token import PreparedToken, TstInfo, check_authority, prepare_token
from pkicore.tsp.verify import VerifiedTimestamp, verify_response, verify_token

__all__ = [
    "FAILURES",
    "MAX_REQUEST_BYTES",
    "MAX_RESPONSE_BYTES",
    "MessageImprint",
    "PreparedToken",
    "TimeStampRequest",
    "TstInfo",
    "VerifiedTimestamp",
    "check_authority",
    "granted",
    "prepare_token",
    "rejection",
    "token_of",
    "verify_response",
    "verify_token",
]
