from __future__ import annotations

import inspect
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import botocore.session
import pytest
from botocore import exceptions as sdk
from botocore.parsers import ResponseParserError
from botocore.retries.standard import ThrottledRetryableChecker

from services.signer_hsm.backends.aws_kms.client import METHODS
from services.signer_hsm.backends.aws_kms.failures import (
    CODES,
    are_credentials_stale,
    code_of,
    failure_of,
    opening_failure_of,
)
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

NOW = datetime(2030, 1, 1, tzinfo=UTC)
SECRET = "User: arn:aws:iam::111122223333:user/someone is not authorized"


def answer(code: str, status: int = 400, headers: dict[str, str] | None = None) -> sdk.ClientError:
    """An error answer of AWS, as the SDK raises it."""
    response = {
        "Error": {"Code": code, "Message": SECRET},
        "ResponseMetadata": {"HTTPStatusCode": status, "HTTPHeaders": headers or {}},
    }
    return sdk.ClientError(response, "Sign")


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("NotFoundException", KeyNotFoundError),
        ("DisabledException", WrongStateError),
        ("KMSInvalidStateException", WrongStateError),
        ("UnsupportedOperationException", NotOfferedError),
        ("ValidationException", NotOfferedError),
        ("AccessDeniedException", DeniedError),
        ("ExpiredTokenException", DeniedError),
        ("UnrecognizedClientException", DeniedError),
        ("ThrottlingException", ThrottledError),
        ("LimitExceededException", ThrottledError),
        ("KeyUnavailableException", UnavailableError),
        ("DependencyTimeoutException", UnavailableError),
    ],
)
def test_codes_have_classes(code: str, kind: type[BackendError]) -> None:
    """The code alone decides, whatever the status."""
    for status in (400, 500):
        assert type(failure_of(answer(code, status), "Sign", NOW)) is kind


def test_every_error_that_the_service_model_lists_is_known() -> None:
    """A new version of the model with a new error shows here; what only other operations raise is left out."""
    model = botocore.session.get_session().get_service_model("kms")
    listed = {shape.name for operation in METHODS for shape in model.operation_model(operation).error_shapes}
    elsewhere = {name for name in listed if name.startswith(("Xks", "CustomKeyStore", "CloudHsm"))}
    handled_by_name = {"DryRunOperationException", "InvalidMarkerException"}
    assert listed - elsewhere - handled_by_name <= set(CODES)


def test_every_code_that_the_sdk_takes_for_throttling_is_throttling() -> None:
    """The SDK's list, but for codes of other services."""
    others = {"ProvisionedThroughputExceededException", "TransactionInProgressException", "EC2ThrottledException"}
    for code in set(ThrottledRetryableChecker._THROTTLED_ERROR_CODES) - others:
        assert CODES[code] is ThrottledError


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (429, ThrottledError),
        (500, UnavailableError),
        (503, UnavailableError),
        (403, DeniedError),
        (400, BadAnswerError),
    ],
)
def test_unknown_codes_go_by_status(status: int, kind: type[BackendError]) -> None:
    """And are not repeated in the sentence, for they are AWS's words."""
    failure = failure_of(answer("SomethingNew<script>", status), "Sign", NOW)
    assert type(failure) is kind
    assert "SomethingNew" not in str(failure)


def test_nothing_that_aws_says_is_passed_on() -> None:
    """Its sentences name accounts and principals."""
    for code in [*CODES, "Unknown"]:
        assert "111122223333" not in str(failure_of(answer(code), "Sign", NOW))


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (sdk.ReadTimeoutError(endpoint_url="x"), DeadlineError),
        (sdk.ConnectTimeoutError(endpoint_url="x"), UnavailableError),
        (sdk.EndpointConnectionError(endpoint_url="x"), UnavailableError),
        (sdk.ConnectionClosedError(endpoint_url="x"), UnavailableError),
        (sdk.SSLError(endpoint_url="x", error="y"), UnavailableError),
        (sdk.ProxyConnectionError(proxy_url="x"), UnavailableError),
        (sdk.NoCredentialsError(), DeniedError),
        (sdk.PartialCredentialsError(provider="x", cred_var="y"), DeniedError),
        (sdk.CredentialRetrievalError(provider="x", error_msg="y"), DeniedError),
        (sdk.TokenRetrievalError(provider="x", error_msg="y"), DeniedError),
        (sdk.ParamValidationError(report="x"), NotOfferedError),
        (ResponseParserError("x"), BadAnswerError),
        (ValueError("x"), BadAnswerError),
        (AttributeError("x"), BadAnswerError),
    ],
)
def test_exceptions_of_the_sdk_have_classes(error: Exception, kind: type[BackendError]) -> None:
    """What was not answered at all, and what cannot be read."""
    failure = failure_of(error, "Sign", NOW)
    assert type(failure) is kind
    assert "endpoint" not in str(failure).lower() or "EndpointConnectionError" in str(failure)


def test_no_failure_of_a_call_keeps_the_back_end_away_for_good() -> None:
    """MisconfiguredError does, and all of these can mend by themselves."""
    classes = [found for _, found in inspect.getmembers(sdk, inspect.isclass) if issubclass(found, sdk.BotoCoreError)]
    assert len(classes) > 50
    for found in classes:
        raised = found.__new__(found)
        assert isinstance(raised, Exception)
        assert not isinstance(failure_of(raised, "Sign", NOW), MisconfiguredError)
    for code in CODES:
        assert not isinstance(failure_of(answer(code), "Sign", NOW), MisconfiguredError)
    assert isinstance(opening_failure_of(ValueError(SECRET)), MisconfiguredError)
    assert SECRET not in str(opening_failure_of(ValueError(SECRET)))


@pytest.mark.parametrize(
    ("header", "seconds"), [("7", 7), ("100000", 60), ("-1", 1), ("soon", 1), ("", 1), ("1e9", 1), ("٣", 3)]
)
def test_patience_is_bounded_and_never_garbage(header: str, seconds: float) -> None:
    """What cannot be a number of seconds is one second, and nobody makes us wait for more than a minute."""
    error = answer("ThrottlingException", headers={"retry-after": header})
    assert failure_of(error, "Sign", NOW).retry_after == seconds


def test_only_what_may_pass_has_a_time_to_come_back() -> None:
    """A denial does not pass by waiting."""
    for code, kind in CODES.items():
        patience = failure_of(answer(code), "Sign", NOW).retry_after
        assert (patience is not None) == (kind in {ThrottledError, UnavailableError})


@pytest.mark.parametrize(
    ("minutes", "words"), [(6, "360 s behind"), (-6, "360 s ahead of"), (4, ""), (-4, ""), (0, "")]
)
def test_a_clock_that_is_off_is_named(minutes: int, words: str) -> None:
    """The Date of the answer is AWS's clock."""
    date = format_datetime(NOW + timedelta(minutes=minutes), usegmt=True)
    sentence = str(failure_of(answer("InvalidSignatureException", headers={"date": date}), "Sign", NOW))
    assert (words in sentence) if words else ("clock" not in sentence)


@pytest.mark.parametrize("date", ["", "yesterday", "Tue, 99 Foo 2030 00:00:00 GMT", "Tue, 01 Jan 2030 00:00:00 -0000"])
def test_a_date_that_is_none_is_left_out(date: str) -> None:
    """It is the answer of whoever answered."""
    assert "clock" not in str(failure_of(answer("AccessDeniedException", headers={"date": date}), "Sign", NOW))


def test_the_code_is_found_again_through_the_cause() -> None:
    """For the few places that go by one code."""
    failure = failure_of(answer("AlreadyExistsException"), "CreateAlias", NOW)
    assert code_of(failure) == ""
    failure.__cause__ = answer("AlreadyExistsException")
    assert code_of(failure) == "AlreadyExistsException"


def test_credentials_are_read_anew_only_when_that_may_help() -> None:
    """A policy that denies is no matter of credentials."""
    assert are_credentials_stale(answer("ExpiredTokenException"))
    assert are_credentials_stale(sdk.NoCredentialsError())
    assert not are_credentials_stale(answer("AccessDeniedException"))
    assert not are_credentials_stale(sdk.ReadTimeoutError(endpoint_url="x"))
