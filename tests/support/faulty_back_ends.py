"""What a back end may fail with, and what the caller is told: the kind of problem and its status."""

from __future__ import annotations

from typing import Final

from services.signer_hsm import errors

FAULTS: Final[dict[str, tuple[errors.BackendError, str, int]]] = {
    "unavailable": (errors.UnavailableError("sealed", retry_after=7.0), "backend-unavailable", 503),
    "throttled": (errors.ThrottledError("slow down", retry_after=3.0), "backend-throttled", 503),
    "busy": (errors.BusyError("full", retry_after=1.0), "busy", 503),
    "denied": (errors.DeniedError("no"), "backend-denied", 503),
    "misconfigured": (errors.MisconfiguredError("PIN"), "backend-misconfigured", 503),
    "not found": (errors.KeyNotFoundError("gone"), "key-not-found", 404),
    "wrong state": (errors.WrongStateError("disabled"), "wrong-state", 409),
    "not offered": (errors.NotOfferedError("PSS"), "not-offered", 501),
    "deadline": (errors.DeadlineError("late"), "backend-timeout", 504),
    "bad answer": (errors.BadAnswerError("garbage"), "backend-bad-answer", 502),
    "broken off": (errors.UnavailableError("cut", retry_after=0.1, uncertain=True), "backend-unavailable", 503),
}
CERTAIN: Final = [name for name, (error, _, _) in FAULTS.items() if not error.uncertain]
"""Those after which nothing was done, surely."""
