"""What AWS and its SDK say went wrong, as the errors of signer-hsm.

Codes are compared as text: the throttling and access errors of AWS have no classes in the SDK. The SDK's sentences name
accounts, principals and endpoints, so none of them is passed on; they stay in the exception's cause, for the log.
Source: API reference of AWS KMS, "Common errors" and the errors of each operation.
"""

from collections.abc import Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime
from types import MappingProxyType
from typing import Final

from botocore import exceptions as sdk

from services.signer_hsm.errors import (
    BackendError,
    BadAnswerError,
    DeadlineError,
    DeniedError,
    KeyNotFoundError,
    MisconfiguredError,
    NotOfferedError,
    ThrottledError,
    UnavailableError,
    WrongStateError,
)

PATIENCE_SECONDS: Final = 1.0
MAX_PATIENCE_SECONDS: Final = 60.0
ALLOWED_SKEW_SECONDS: Final = 300
TOO_MANY_REQUESTS: Final = 429
FORBIDDEN: Final = 403
SERVER_ERROR: Final = 500

_BY_CLASS: Final[Mapping[type[BackendError], str]] = {
    KeyNotFoundError: "NotFoundException InvalidArnException",
    WrongStateError: "DisabledException KMSInvalidStateException AlreadyExistsException",
    NotOfferedError: (
        "UnsupportedOperationException ValidationException InvalidKeyUsageException InvalidAliasNameException"
        " TagException MalformedPolicyDocumentException"
    ),
    DeniedError: (
        "AccessDeniedException AccessDenied NotAuthorized NotAuthorizedException UnrecognizedClientException "
        "InvalidClientTokenId InvalidSignatureException SignatureDoesNotMatch ExpiredTokenException ExpiredToken "
        "RequestExpired IncompleteSignature IncompleteSignatureException MissingAuthenticationToken "
        "MissingAuthenticationTokenException InvalidGrantTokenException OptInRequired"
    ),
    ThrottledError: (
        "ThrottlingException Throttling ThrottledException RequestThrottled RequestThrottledException "
        "TooManyRequestsException LimitExceededException RequestLimitExceeded BandwidthLimitExceeded SlowDown "
        "PriorRequestNotComplete"
    ),
    UnavailableError: (
        "KMSInternalException KeyUnavailableException DependencyTimeoutException InternalFailure InternalError "
        "ServiceUnavailable ServiceUnavailableException RequestTimeout RequestTimeoutException"
    ),
}
CODES: Final[Mapping[str, type[BackendError]]] = MappingProxyType(
    {code: kind for kind, codes in _BY_CLASS.items() for code in codes.split()}
)

REJECTED: Final = frozenset({"KeyUnavailableException"})
"""Server errors that say of themselves that the request was rejected; after the others it may have been done."""

NO_CREDENTIALS: Final = (
    sdk.NoCredentialsError,
    sdk.PartialCredentialsError,
    sdk.CredentialRetrievalError,
    sdk.TokenRetrievalError,
    sdk.SSOError,
    sdk.RefreshWithMFAUnsupportedError,
    sdk.ProfileNotFound,
)
STALE_CREDENTIALS: Final = frozenset(
    {
        "ExpiredToken",
        "ExpiredTokenException",
        "InvalidClientTokenId",
        "InvalidSignatureException",
        "UnrecognizedClientException",
    }
)

# The first class that fits counts. Nothing here is a MisconfiguredError, for that would keep the back end from being
# asked again until the settings change, and each of these can mend by itself.
_SDK: Final[tuple[tuple[type[Exception] | tuple[type[Exception], ...], type[BackendError]], ...]] = (
    (sdk.ReadTimeoutError, DeadlineError),
    (NO_CREDENTIALS, DeniedError),
    (sdk.ParamValidationError, NotOfferedError),
    (sdk.BotoCoreError, UnavailableError),
)

_SENTENCES: Final[Mapping[type[BackendError], str]] = {
    KeyNotFoundError: "AWS KMS does not know the key",
    WrongStateError: "the key's state in AWS KMS does not allow it",
    NotOfferedError: "AWS KMS does not offer that for this key",
    DeniedError: "AWS refuses the credentials of this service, or its policy does not allow the act",
    ThrottledError: "AWS KMS wants fewer requests",
    UnavailableError: "AWS KMS is not reached, or cannot serve now",
    DeadlineError: "AWS KMS did not answer in time",
    BadAnswerError: "AWS KMS answered what cannot be right",
}


def failure_of(error: Exception, operation: str, now: datetime) -> BackendError:
    """The error that stands for what the SDK raised; the caller chains the original.

    Args:
        error: any exception out of a call of the SDK.
        operation: as the API names it, for the sentence.
        now: the present, to tell a clock that is off from a wrong secret.
    """
    if isinstance(error, sdk.ClientError):
        return _of_answer(error, operation, now)
    kind = next((ours for theirs, ours in _SDK if isinstance(error, theirs)), BadAnswerError)
    retry_after = PATIENCE_SECONDS if kind is UnavailableError else None
    uncertain = not (is_never_sent(error) or kind in {DeniedError, NotOfferedError})
    return kind(
        f"{_SENTENCES[kind]} ({operation}: {type(error).__name__})", retry_after=retry_after, uncertain=uncertain
    )


def is_never_sent(error: Exception) -> bool:
    """Whether no connection came about. A TLS failure can also come later; a certificate is looked at before."""
    if isinstance(error, sdk.SSLError):
        return "CERTIFICATE_VERIFY_FAILED" in str(error)
    return isinstance(error, sdk.ConnectionError)


def opening_failure_of(error: Exception) -> BackendError:
    """The error that stands for what the SDK raised when its client was made from the settings."""
    return MisconfiguredError(
        "the AWS SDK makes no client of these settings: look at region, endpoint_url, ca_file and the SDK's profile"
        f" ({type(error).__name__})"
    )


def are_credentials_stale(error: Exception) -> bool:
    """Whether credentials that are read anew might do better."""
    if isinstance(error, sdk.ClientError):
        return error.response.get("Error", {}).get("Code") in STALE_CREDENTIALS
    return isinstance(error, NO_CREDENTIALS)


def code_of(error: BackendError) -> str:
    """The code that AWS gave for this error; empty if the error has another origin."""
    cause = error.__cause__
    return str(cause.response.get("Error", {}).get("Code", "")) if isinstance(cause, sdk.ClientError) else ""


def _of_answer(error: sdk.ClientError, operation: str, now: datetime) -> BackendError:
    code = str(error.response.get("Error", {}).get("Code", ""))
    metadata = error.response.get("ResponseMetadata", {})
    kind = CODES.get(code) or _by_status(metadata.get("HTTPStatusCode", 0))
    sentence = _SENTENCES[kind]
    headers = metadata.get("HTTPHeaders", {})
    if kind is DeniedError:
        sentence += _skew(headers.get("date", ""), now)
    known = f": {code}" if code in CODES else ""
    return kind(
        f"{sentence} ({operation}{known})",
        retry_after=_patience(kind, headers),
        uncertain=kind is BadAnswerError or (kind is UnavailableError and code not in REJECTED),
    )


def _by_status(status: int) -> type[BackendError]:
    if status == TOO_MANY_REQUESTS:
        return ThrottledError
    if status >= SERVER_ERROR:
        return UnavailableError
    return DeniedError if status == FORBIDDEN else BadAnswerError


def _patience(kind: type[BackendError], headers: Mapping[str, str]) -> float | None:
    if kind not in {ThrottledError, UnavailableError}:
        return None
    seconds = headers.get("retry-after", "")
    return min(float(seconds), MAX_PATIENCE_SECONDS) if seconds.isdecimal() else PATIENCE_SECONDS


def _skew(date: str, now: datetime) -> str:
    """Signatures are refused when the clocks differ by more than five minutes; only the answer's Date says that."""
    try:
        seconds = round((now - parsedate_to_datetime(date)).total_seconds())
    except (ValueError, TypeError):
        return ""
    if abs(seconds) <= ALLOWED_SKEW_SECONDS:
        return ""
    return f"; the clock of this machine is {abs(seconds)} s {'ahead of' if seconds > 0 else 'behind'} AWS's"
