"""The errors of signer-hsm.

SignerError
├─ BackendError               what a back end did not do; the caller learns the class, the log the cause
│  ├─ UnavailableError        not reached, sealed, standby, token removed, broken off: try later
│  ├─ DeadlineError           no answer in time: it may have been done
│  ├─ ThrottledError          the back end asks for patience
│  ├─ BusyError               our own share of the back end is full
│  ├─ DeniedError             the back end refuses the service's own credentials
│  ├─ KeyNotFoundError        no such key, or none that this caller may know of
│  ├─ NotOfferedError         an algorithm, payload kind or act that the back end does not have
│  ├─ WrongStateError         disabled, destroyed, waiting for destruction
│  ├─ MisconfiguredError      a missing module, or
│  │  └─ SecretRefusedError   a wrong PIN: repeating it makes it worse
│  └─ BadAnswerError          garbage, a wrong checksum, another key's name, a signature that does not verify
├─ BadPayloadError            a kind, length or scheme that does not fit the key
├─ DecisionError
│  ├─ DeniedByPolicyError     default deny
│  ├─ ApprovalsMissingError   a life-cycle act that more people must agree to
│  └─ RateLimitedError        more than the policy grants
├─ KeyPolicyError             a key policy that makes no sense; the service keeps the one it has
├─ AttestationError           a statement about a key that does not verify
├─ IdempotencyConflictError   this idempotency key was used with another request
└─ OutcomeUnknownError        a signature under this idempotency key may have been made: use another key
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import ClassVar


class SignerError(Exception):
    """The root of this package's errors; the text is one sentence without secrets and without an SDK's words."""


class BackendError(SignerError):
    """A back end did not do what was asked.

    Attributes:
        retry_after: seconds after which a repetition makes sense; None: it makes none.
        uncertain: what was asked may have been done all the same; False: it surely was not.
        cause: the class as metric labels have it.
    """

    cause: ClassVar[str] = "other"
    uncertain: bool = False

    def __init__(self, message: str, *, retry_after: float | None = None, uncertain: bool | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        if uncertain is not None:
            self.uncertain = uncertain


class UnavailableError(BackendError):
    """The back end is not reached, sealed, standby, without its token, or went away in mid-call (`uncertain`)."""

    cause = "unavailable"


class DeadlineError(BackendError):
    """No answer within the deadline; what was asked may have been done."""

    cause = "deadline"
    uncertain = True


class ThrottledError(BackendError):
    """The back end wants fewer requests; nothing was done."""

    cause = "throttled"


class BusyError(BackendError):
    """The share of the back end that is ours, or the tenant's, is full; nothing was done."""

    cause = "busy"


class DeniedError(BackendError):
    """The back end refuses this service's credentials; nothing was done."""

    cause = "denied"


class KeyNotFoundError(BackendError):
    """There is no such key."""

    cause = "not-found"


class NotOfferedError(BackendError):
    """The back end does not have this algorithm, payload kind or act."""

    cause = "not-offered"


class WrongStateError(BackendError):
    """The key is disabled, destroyed or waiting for its destruction."""

    cause = "wrong-state"


class MisconfiguredError(BackendError):
    """The settings of the back end are wrong; it is not tried again before they change."""

    cause = "misconfigured"


class SecretRefusedError(MisconfiguredError):
    """A PIN or passphrase that does not fit, or is missing; the back end tries none twice, and takes up the next."""


class BadAnswerError(BackendError):
    """The back end answered what cannot be right; the answer is thrown away."""

    cause = "bad-answer"
    uncertain = True


@contextmanager
def nothing_done() -> Iterator[None]:
    """What fails in here comes before the act itself: that was surely not done."""
    try:
        yield
    except BackendError as error:
        error.uncertain = False
        raise


def gravest(errors: Sequence[BackendError]) -> BackendError:
    """The one that stands for all: the first after which something may have been done, else the first."""
    return next((error for error in errors if error.uncertain), errors[0])


class BadPayloadError(SignerError):
    """A payload whose kind, length or scheme does not fit the key."""


class DecisionError(SignerError):
    """The key policy does not let this caller do that now."""


class DeniedByPolicyError(DecisionError):
    """No rule allows it."""


class ApprovalsMissingError(DecisionError):
    """More people must approve first.

    Attributes:
        missing: how many.
    """

    def __init__(self, message: str, missing: int) -> None:
        super().__init__(message)
        self.missing = missing


class RateLimitedError(DecisionError):
    """More than the policy grants.

    Attributes:
        retry_after: seconds until the next one is granted.
    """

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class KeyPolicyError(SignerError):
    """A key policy that makes no sense; the sentence names the place."""


class AttestationError(SignerError):
    """A statement about a key that does not verify."""


class IdempotencyConflictError(SignerError):
    """This idempotency key was used with another request."""


class OutcomeUnknownError(SignerError):
    """A signature under this idempotency key may have been made, and its bytes are lost."""
