"""Every error of the service as a problem document: its word, title and status, and when to come back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from pkicore import errors as core
from services.chassis.problems import INTERNAL_PREFIX, Builder, Problem, ProblemTable, problem
from services.signing import errors, sbom
from services.signing.callers import ApiKeyRuleError, CertificateIdentityError, CredentialError
from services.signing.policy import DeniedError
from services.signing.provenance import SubjectMismatchError

_DEFAULT_RETRY: Final = 1.0


class Kind(NamedTuple):
    """A kind of problem; `retry` says that a repetition may succeed, `close` that the body was not read to its end."""

    word: str
    title: str
    status: int
    retry: bool = False
    close: bool = False


KINDS: Final[Mapping[type[Exception], Kind]] = {
    errors.UnknownKeyError: Kind("key-not-found", "No such profile or key", 404),
    errors.NotFoundError: Kind("not-found", "No such resource", 404),
    errors.NotOfferedError: Kind("not-offered", "Not offered", 422),
    errors.DigestMissingError: Kind("digest-missing", "A digest is missing", 422),
    errors.IdentityNeededError: Kind("identity-needed", "No OIDC identity", 403),
    errors.IdempotencyConflictError: Kind("idempotency-conflict", "Idempotency key in use", 409),
    errors.UploadError: Kind("bad-upload", "Upload refused", 400, close=True),
    errors.PartTooLargeError: Kind("body-too-large", "Part too large", 413, close=True),
    errors.QuotaError: Kind("rate-limited", "Too many requests", 429, retry=True),
    errors.VolumeError: Kind("volume-exceeded", "Too many octets today", 429, retry=True),
    errors.SignerDownError: Kind("signer-unavailable", "Signatures cannot be made now", 503, retry=True),
    errors.SignerRefusedError: Kind("key-unusable", "The key cannot be used", 409),
    errors.BadSignerAnswerError: Kind("signer-bad-answer", "The signer's answer was thrown away", 502),
    sbom.SbomTooCostlyError: Kind("sbom-too-costly", "SBOM too costly to check", 422),
    sbom.SbomBusyError: Kind("busy", "Too many SBOMs are being checked", 503, retry=True),
    SubjectMismatchError: Kind("subject-mismatch", "The provenance is about something else", 422),
    DeniedError: Kind("forbidden", "Forbidden", 403),
    ApiKeyRuleError: Kind("api-key-refused", "API key refused", 422),
    CertificateIdentityError: Kind("identity-unusable", "No certificate for this identity", 422),
    core.KeyAccessError: Kind("signer-unavailable", "Signatures cannot be made now", 503, retry=True),
    core.UnsupportedError: Kind("unsupported", "Not supported", 422),
}


def _builder(kind: Kind) -> Builder:
    def build(error: Exception) -> Problem:
        extra: dict[str, Any] = {}
        headers: tuple[tuple[bytes, bytes], ...] = ()
        if kind.retry:
            seconds = getattr(error, "retry_after", _DEFAULT_RETRY)
            extra["retry_after"] = round(seconds, 3)
            headers = ((b"retry-after", b"%d" % max(1, math.ceil(seconds))),)
        problem_type = INTERNAL_PREFIX + kind.word
        return Problem(problem_type, kind.title, kind.status, str(error), extra, headers, close=kind.close)

    return build


def _bad_sbom(error: sbom.BadSbomError) -> Problem:
    found = [{"path": one.path, "message": one.message} for one in error.problems]
    return Problem(f"{INTERNAL_PREFIX}bad-sbom", "SBOM refused", 422, str(error), {"problems": found})


def _unauthorized(error: CredentialError) -> Problem:
    """Nobody to talk to: the body was not read (RFC 9110 §15.5.2 asks for the challenge)."""
    headers = ((b"www-authenticate", b'Bearer realm="pqcpki signing"'),)
    return Problem(f"{INTERNAL_PREFIX}unauthorized", "Credential refused", 401, str(error), {}, headers, close=True)


_ROWS: Final[Mapping[type[Exception], Builder]] = {
    core.MalformedError: problem("malformed", "Malformed request", 400),
    sbom.BadSbomError: _bad_sbom,
    CredentialError: _unauthorized,
    **{cls: _builder(kind) for cls, kind in KINDS.items()},
}

PROBLEMS: Final = ProblemTable(_ROWS)
