"""How a call can end that did not do what was asked.

SigningClientError
├─ SigningRefusedError           the service answered with a problem document
├─ SigningUnavailableError       away or busy: try again later, with the same idempotency key
└─ UntrustedServiceError         whoever answers there is not whom its roots vouch for
An answer that makes no sense is `pkicore.errors.MalformedError`.
"""

from __future__ import annotations


class SigningClientError(Exception):
    """The service did not do what was asked; one sentence."""


class SigningRefusedError(SigningClientError):
    """A problem document: `kind` is its type without the urn prefix, `status` the HTTP status."""

    def __init__(self, sentence: str, kind: str, status: int) -> None:
        super().__init__(sentence)
        self.kind = kind
        self.status = status


class SigningUnavailableError(SigningClientError):
    """No usable answer now; nothing is known of what the service did.

    Attributes:
        retry_after: seconds, where the service says them.
    """

    def __init__(self, sentence: str, retry_after: float | None = None) -> None:
        super().__init__(sentence)
        self.retry_after = retry_after


class UntrustedServiceError(SigningClientError):
    """The TLS connection proved nobody whom the roots vouch for."""
