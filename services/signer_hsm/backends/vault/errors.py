"""hvac's and requests' errors by their class, as errors of a back end.

The server's text never gets into ours: it differs between Vault and OpenBao, and may repeat what was sent. None of
them is a `MisconfiguredError`: that one is final, and a mount or a policy may be put right on the server at any time.
"""

from __future__ import annotations

from typing import Final

import requests
from hvac import exceptions as hvac
from urllib3.exceptions import ProtocolError

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
    (hvac.VaultDown, UnavailableError, "the server is sealed or has no active node"),
    (hvac.BadGateway, UnavailableError, "a gateway does not reach the server"),
    (hvac.InternalServerError, UnavailableError, "the server reports an error of its own"),
    (hvac.VaultError, BadAnswerError, "the server refuses a request that should fit"),
)
_UNSAFE: Final = (hvac.InternalServerError, hvac.BadGateway)


def translate(error: Exception, act: str, *, mutates: bool = False) -> BackendError:
    """The same failure as one of ours; the caller raises it from the cause.

    Args:
        error: of hvac or requests.
        act: what was tried, for the sentence.
        mutates: whether half-done matters: then a connection that broke off, or an error of the server's own, is an
            unknown outcome.
    """
    if mutates and (isinstance(error, _UNSAFE) or _broke_off(error)):
        return DeadlineError(f"Vault, {act}: the connection or the server failed in mid-call")
    if isinstance(error, hvac.InvalidPath) and error.errors == []:  # a missing entry; a missing mount says more
        return KeyNotFoundError(f"Vault, {act}: there is no such key")
    for cause, ours, sentence in _TABLE:
        if isinstance(error, cause):
            after = RETRY_AFTER if ours in {UnavailableError, ThrottledError} else None
            if after and isinstance(error, requests.RequestException):
                after = _SOON
            return ours(f"Vault, {act}: {sentence}", retry_after=after)
    raise error


def _broke_off(error: Exception) -> bool:
    """Whether the connection stood before it failed; one that was never made has sent nothing."""
    if isinstance(error, requests.exceptions.SSLError) or not isinstance(error, requests.ConnectionError):
        return False
    return bool(error.args) and isinstance(error.args[0], ProtocolError)
