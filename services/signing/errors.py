"""The errors of the signing service.

SigningError
├─ UnknownKeyError            no such profile or key; another tenant's looks the same
├─ NotFoundError              no such signature, artefact or API key; another tenant's looks the same
├─ NotOfferedError            a format that this profile or key cannot have
├─ DigestMissingError         a signature needs a digest or a mu that the request does not give
├─ IdentityNeededError        a short-lived certificate is for an OIDC identity alone
├─ IdempotencyConflictError   this idempotency key was used with another request
├─ UploadError                a multipart body that breaks a rule
│  └─ PartTooLargeError       a part is longer than it may be
├─ QuotaError                 more than the tenant may have; `.retry_after` seconds
│  ├─ RateLimitedError
│  ├─ BusyError               as many requests under way as may be
│  └─ VolumeError             as many octets in a day as may be
└─ SignerError                signer-hsm did not sign
   ├─ SignerDownError         it cannot be reached, or cannot sign now: `.retry_after` seconds
   ├─ SignerRefusedError      it says no, and will again
   └─ BadSignerAnswerError    what it answered was thrown away
"""

from __future__ import annotations


class SigningError(Exception):
    """The root of this package's errors; the text is one sentence without secrets, fit for the caller."""


class UnknownKeyError(SigningError):
    """There is no such profile or key for this caller."""


class NotFoundError(SigningError):
    """There is no such thing for this caller."""


class NotOfferedError(SigningError):
    """A format that this profile or key cannot have."""


class DigestMissingError(SigningError):
    """A signature needs a digest, or a mu, that the request does not give."""


class IdentityNeededError(SigningError):
    """A short-lived certificate is made for an identity that an OIDC issuer vouches for."""


class IdempotencyConflictError(SigningError):
    """This idempotency key was used with another request."""


class UploadError(SigningError):
    """A multipart body that breaks a rule."""


class PartTooLargeError(UploadError):
    """A part is longer than it may be."""


class QuotaError(SigningError):
    """More than the tenant may have.

    Attributes:
        retry_after: seconds after which a repetition makes sense.
    """

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class RateLimitedError(QuotaError):
    """More requests in a second than are granted."""


class BusyError(QuotaError):
    """As many requests are under way as may be."""


class VolumeError(QuotaError):
    """As many octets in a day as may be."""


class SignerError(SigningError):
    """signer-hsm did not sign; nothing of the request was kept."""


class SignerDownError(SignerError):
    """signer-hsm cannot be reached, or cannot sign now.

    Attributes:
        retry_after: seconds after which a repetition makes sense.
    """

    def __init__(self, message: str, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class SignerRefusedError(SignerError):
    """signer-hsm says no, and will again."""


class BadSignerAnswerError(SignerError):
    """What signer-hsm answered was thrown away: a signature that does not verify."""
