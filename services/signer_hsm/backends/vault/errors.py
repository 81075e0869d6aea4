"""hvac's and requests' errors by their class, as errors of a back end.

The server's text never gets into ours: it differs between Vault and OpenBao, and may repeat what was sent. None of
them is a `MisconfiguredError`: that one is final, and a mount or a policy may be put right on the server at any time.
"""

from __future__ import annotations

from typing import Final

import requests
from hvac import exceptions as hvac
from urllib3.exceptions import ConnectTimeoutError, MaxRetryError, NewConnectionError

from services.signer_hsm.errors import (
    BackendError,
    BadAnswerError,
    DeadlineError,
    DeniedError,
    KeyNotFoundError,
    ThrottledError,
    UnavailableError,
)

RETRY_AFTER: Final = 1.0
_SOON: Final = 0.1
"""After a connection that failed: the next one may meet a server that has just come back."""

# The first class that fits counts, so subclasses come before their bases.
_TABLE: Final[tuple[tuple[type[Exception], type[BackendError], str], ...]] = (
    (requests.exceptions.SSLError, UnavailableError, "the TLS handshake fails: check ca_file and the server's name"),
    (requests.ConnectTimeout, UnavailableError, "the server is not reached in time"),
    (requests.Timeout, DeadlineError, "no answer in time"),
    (requests.RequestException, UnavailableError, "the server is not reached"),
    (hvac.Forbidden, DeniedError, "the token is refused"),
    (hvac.Unauthorized, DeniedError, "the token is refused"),
    (hvac.InvalidPath, UnavailableError, "nothing is mounted at this path: check mount, approle_mount and namespace"),
    (hvac.RateLimitExceeded, ThrottledError, "a rate limit is exceeded"),
    (hvac.VaultNotInitialized, UnavailableError, "the server is not initialised"),
    (hvac.VaultDown, UnavailableError, "the server is sealed or has no active node, or a gateway has no server"),
    (hvac.BadGateway, UnavailableError, "a gateway does not reach the server"),
    (hvac.InternalServerError, UnavailableError, "the server reports an error of its own"),
    (hvac.VaultError, BadAnswerError, "the server refuses a request that should fit"),
)
_REFUSALS: Final = (
    hvac.Forbidden,
    hvac.Unauthorized,
    hvac.InvalidPath,
    hvac.InvalidRequest,
    hvac.RateLimitExceeded,
    hvac.VaultNotInitialized,
)


def translate(error: Exception, act: str, *, mutates: bool = False) -> BackendError:
    """The same failure as one of ours; the caller raises it from the cause.

    Args:
        error: of hvac or requests.
        act: what was tried, for the sentence.
        mutates: whether half-done matters: then a connection that broke off, or an error of the server's own, is a
            `DeadlineError`.
    """
    if isinstance(error, hvac.InvalidPath) and error.errors == []:  # a missing entry; a missing mount says more
        return KeyNotFoundError(f"Vault, {act}: there is no such key")
    uncertain = _may_be_done(error)
    for cause, ours, sentence in _TABLE:
        if isinstance(error, cause):
            if mutates and uncertain and ours is UnavailableError:
                return DeadlineError(f"Vault, {act}: the connection or the server failed in mid-call")
            after = RETRY_AFTER if ours in {UnavailableError, ThrottledError} else None
            if after and isinstance(error, requests.RequestException):
                after = _SOON
            return ours(f"Vault, {act}: {sentence}", retry_after=after, uncertain=uncertain)
    raise error


def _may_be_done(error: Exception) -> bool:
    """Whether the act may have been done all the same: all but what the server refused or never saw."""
    if isinstance(error, requests.RequestException):
        return not _never_sent(error)
    if isinstance(error, hvac.VaultDown):  # in Vault's own form it says that it is sealed; a gateway says anything
        return error.errors is None
    return not isinstance(error, _REFUSALS)


def _never_sent(error: requests.RequestException) -> bool:
    """Whether no connection came about. A TLS failure can also come later; a certificate is looked at before."""
    if isinstance(error, requests.exceptions.SSLError):
        return "CERTIFICATE_VERIFY_FAILED" in str(error)
    reason = error.args[0].reason if error.args and isinstance(error.args[0], MaxRetryError) else None
    return isinstance(error, requests.ConnectTimeout) or isinstance(reason, NewConnectionError | ConnectTimeoutError)
