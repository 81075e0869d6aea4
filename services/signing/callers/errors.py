"""What is wrong with a caller's credential.

CallerError
├─ CredentialError            none, several, or one that is not good; `.reason` is one word
├─ ApiKeyRuleError            an API key that must not be made as asked
└─ CertificateIdentityError   a caller for whose identity no certificate can be made
"""


class CallerError(Exception):
    """The root of this package's errors; the text is one sentence without secrets, fit for the caller."""


class CredentialError(CallerError):
    """There is not exactly one credential, or it is not good.

    Attributes:
        reason: one word, fit for a log line or a metric label.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class ApiKeyRuleError(CallerError):
    """An API key that must not be made as asked: it lives too long, or could do more than its maker."""


class CertificateIdentityError(CallerError):
    """A caller for whose identity no certificate can be made."""
