"""Every error of the service as a problem document: its word, title and status, and when to come back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from pkicore import errors as core
from services.chassis.problems import INTERNAL_PREFIX, Builder, Problem, ProblemTable, problem
from services.signer_hsm import errors

_DEFAULT_RETRY: Final = 1.0


class Kind(NamedTuple):
    """A kind of problem; `retry` says that a repetition may succeed."""

    word: str
    title: str
    status: int
    retry: bool = False


KINDS: Final[Mapping[type[errors.SignerError], Kind]] = {
    errors.UnavailableError: Kind("backend-unavailable", "Back end not available", 503, retry=True),
    errors.DeadlineError: Kind("backend-timeout", "No answer from the back end in time", 504),
    errors.ThrottledError: Kind("backend-throttled", "The back end asks for patience", 503, retry=True),
    errors.BusyError: Kind("busy", "No place free", 503, retry=True),
    errors.DeniedError: Kind("backend-denied", "The back end refuses the service", 503),
    errors.KeyNotFoundError: Kind("key-not-found", "No such key", 404),
    errors.NotOfferedError: Kind("not-offered", "Not offered", 501),
    errors.WrongStateError: Kind("wrong-state", "Not in this state of the key", 409),
    errors.MisconfiguredError: Kind("backend-misconfigured", "The back end's settings are wrong", 503),
    errors.BadAnswerError: Kind("backend-bad-answer", "The back end's answer was thrown away", 502),
    errors.BadPayloadError: Kind("bad-payload", "Payload refused", 422),
    errors.DeniedByPolicyError: Kind("forbidden", "Forbidden", 403),
    errors.ApprovalsMissingError: Kind("approvals-missing", "Approvals missing", 403),
    errors.RateLimitedError: Kind("rate-limited", "Too many requests", 429, retry=True),
    errors.AttestationError: Kind("bad-attestation", "Attestation refused", 422),
    errors.IdempotencyConflictError: Kind("idempotency-conflict", "Idempotency key in use", 409),
    errors.OutcomeUnknownError: Kind("outcome-unknown", "Outcome unknown", 409),
    errors.BackendError: Kind("backend-unavailable", "Back end not available", 503, retry=True),
}


def kind_of(error: errors.SignerError) -> str:
    """The word of an error's problem."""
    return next(KINDS[cls].word for cls in type(error).__mro__ if cls in KINDS)


def _builder(kind: Kind) -> Builder:
    def build(error: errors.SignerError) -> Problem:
        extra: dict[str, Any] = {}
        headers: tuple[tuple[bytes, bytes], ...] = ()
        wait = getattr(error, "retry_after", None)
        if kind.retry or wait is not None:
            seconds = _DEFAULT_RETRY if wait is None else wait
            extra["retry_after"] = round(seconds, 3)
            headers = ((b"retry-after", b"%d" % max(1, math.ceil(seconds))),)
        missing = getattr(error, "missing", None)
        if missing is not None:
            extra["missing"] = missing
        return Problem(INTERNAL_PREFIX + kind.word, kind.title, kind.status, str(error), extra, headers)

    return build


_ROWS: Final[Mapping[type[Exception], Builder]] = {
    core.MalformedError: problem("malformed", "Malformed request", 400),
    **{cls: _builder(kind) for cls, kind in KINDS.items()},
}

PROBLEMS: Final = ProblemTable(_ROWS)
