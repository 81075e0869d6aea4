"""A simulator's half of AWS Signature Version 4, written from the specification and not with the SDK's own signer.

Source: "Signature Version 4 for API requests", IAM User Guide.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

ALLOWED_SKEW = timedelta(minutes=5)
MUST_BE_SIGNED = frozenset({"host", "x-amz-date", "x-amz-target", "x-amz-security-token"})
_AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 Credential=(?P<id>[^/,]+)/(?P<date>\d{8})/(?P<region>[^/,]+)/(?P<service>[^/,]+)/aws4_request, ?"
    r"SignedHeaders=(?P<headers>[a-z0-9;-]+), ?Signature=(?P<signature>[0-9a-f]{64})"
)


class AwsError(Exception):
    """An error as the service answers it."""

    def __init__(self, code: str, message: str = "", status: int = 400) -> None:
        super().__init__(code, message)
        self.code, self.message, self.status = code, message, status


@dataclass(frozen=True)
class Credentials:
    """What a principal signs with."""

    key_id: str
    secret: str
    token: str = ""
    expired: bool = False


@dataclass(frozen=True)
class SignedRequest:
    """The parts of a request that a signature covers; header names in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


def check_signature(request: SignedRequest, known: Mapping[str, Credentials], region: str, now: datetime) -> str:
    """The access key id of whoever signed this request.

    Raises:
        AwsError: it is not signed, not by a known principal, not for here, not now, or not rightly.
    """
    if "authorization" not in request.headers:
        raise AwsError("MissingAuthenticationTokenException", "Missing Authentication Token")
    found = _AUTHORIZATION.fullmatch(request.headers["authorization"])
    if not found or "x-amz-date" not in request.headers:
        raise AwsError("IncompleteSignatureException", "Authorization header is malformed")
    credentials = known.get(found["id"])
    if credentials is None or not hmac.compare_digest(
        credentials.token.encode(), request.headers.get("x-amz-security-token", "").encode()
    ):
        raise AwsError("UnrecognizedClientException", "The security token included in the request is invalid.")
    if credentials.expired:
        raise AwsError("ExpiredTokenException", "The security token included in the request is expired")
    signed = found["headers"].split(";")
    missing = (MUST_BE_SIGNED & request.headers.keys()) | {"host"}
    if signed != sorted(signed) or not missing <= set(signed):
        raise AwsError("InvalidSignatureException", "headers that matter are not signed")
    _check_scope(found, request.headers["x-amz-date"], region, now)
    if not hmac.compare_digest(_signature(request, credentials.secret, found, signed), found["signature"]):
        raise AwsError("InvalidSignatureException", "The request signature we calculated does not match the signature")
    return credentials.key_id


def _check_scope(found: re.Match[str], stamp: str, region: str, now: datetime) -> None:
    if (found["region"], found["service"]) != (region, "kms"):
        raise AwsError("InvalidSignatureException", f"Credential should be scoped to a valid region: {region}/kms")
    try:
        at = datetime.strptime(stamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        raise AwsError("IncompleteSignatureException", "the date is malformed") from None
    if found["date"] != stamp[:8]:
        raise AwsError("InvalidSignatureException", "Date in Credential scope does not match")
    if at < now - ALLOWED_SKEW:
        raise AwsError("InvalidSignatureException", f"Signature expired: {stamp} is now earlier than the present")
    if at > now + ALLOWED_SKEW:
        raise AwsError(
            "InvalidSignatureException", f"Signature not yet current: {stamp} is still later than the present"
        )


def _signature(request: SignedRequest, secret: str, found: re.Match[str], signed: list[str]) -> str:
    canonical_headers = "".join(f"{name}:{' '.join(request.headers.get(name, '').split())}\n" for name in signed)
    canonical = "\n".join(
        (
            request.method,
            request.path,
            "",
            canonical_headers,
            ";".join(signed),
            hashlib.sha256(request.body).hexdigest(),
        )
    )
    scope = f"{found['date']}/{found['region']}/{found['service']}/aws4_request"
    to_sign = "\n".join(
        ("AWS4-HMAC-SHA256", request.headers["x-amz-date"], scope, hashlib.sha256(canonical.encode()).hexdigest())
    )
    key = f"AWS4{secret}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    return hmac.digest(key, to_sign.encode(), "sha256").hex()
