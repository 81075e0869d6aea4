"""Each error of hvac and requests has its class here, and none of its words."""

import inspect
from typing import Any

import pytest
import requests
from hvac import exceptions as hvac
from urllib3.exceptions import MaxRetryError, NewConnectionError, ProtocolError

from services.signer_hsm.backends.vault.errors import translate
from services.signer_hsm.errors import (
    BackendError,
    BadAnswerError,
    DeadlineError,
    DeniedError,
    KeyNotFoundError,
    ThrottledError,
    UnavailableError,
)

SECRET = "s.secret"
BROKEN = requests.ConnectionError(ProtocolError("Connection aborted.", ConnectionResetError()))
NOT_MADE = NewConnectionError(None, "refused")  # type: ignore[arg-type] # no connection is needed
REFUSED = requests.ConnectionError(MaxRetryError(None, "/", NOT_MADE))  # type: ignore[arg-type] # no pool is needed
SEALED = hvac.VaultDown("", errors=["Vault is sealed"])
UNTRUSTED = requests.exceptions.SSLError("[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (hvac.Forbidden(SECRET), DeniedError),
        (hvac.Unauthorized(SECRET), DeniedError),
        (hvac.InvalidPath(SECRET, errors=[]), KeyNotFoundError),
        (hvac.InvalidPath(SECRET, errors=[SECRET]), UnavailableError),
        (hvac.InvalidPath(SECRET), UnavailableError),
        (hvac.RateLimitExceeded(SECRET), ThrottledError),
        (hvac.VaultDown(SECRET), UnavailableError),
        (hvac.VaultNotInitialized(SECRET), UnavailableError),
        (hvac.InternalServerError(SECRET), UnavailableError),
        (hvac.BadGateway(SECRET), UnavailableError),
        (hvac.InvalidRequest(SECRET), BadAnswerError),
        (hvac.UnexpectedError(SECRET), BadAnswerError),
        (requests.ConnectTimeout(SECRET), UnavailableError),
        (requests.ReadTimeout(SECRET), DeadlineError),
        (requests.exceptions.SSLError(SECRET), UnavailableError),
        (requests.exceptions.ChunkedEncodingError(SECRET), UnavailableError),
        (BROKEN, UnavailableError),
        (REFUSED, UnavailableError),
    ],
)
def test_by_class(error: Exception, expected: type[BackendError]) -> None:
    """The sentence is ours alone."""
    ours = translate(error, "signing")
    assert type(ours) is expected
    assert SECRET not in str(ours)
    assert "signing" in str(ours)


def test_every_error_of_hvac_is_translated() -> None:
    """Also those that a later version adds."""
    classes: list[Any] = [each for _, each in inspect.getmembers(hvac, inspect.isclass)]
    assert len(classes) > 10
    for error in classes:
        assert isinstance(translate(error(SECRET), "signing"), BackendError), error


@pytest.mark.parametrize(
    "error",
    [
        BROKEN,
        hvac.InternalServerError("", errors=["internal error"]),
        hvac.BadGateway(""),
        hvac.VaultDown(""),  # no sentence of Vault's: a gateway
        requests.ReadTimeout(),
        requests.exceptions.SSLError("[SSL: UNEXPECTED_EOF_WHILE_READING]"),
        requests.exceptions.ChunkedEncodingError(),
    ],
)
def test_what_may_have_been_done_is_not_called_undone(error: Exception) -> None:
    """A connection that broke off, or a server's failure, may have made a key or a signature."""
    assert type(translate(error, "creating", mutates=True)) is DeadlineError
    assert translate(error, "signing").uncertain


@pytest.mark.parametrize("error", [REFUSED, SEALED, requests.ConnectTimeout(), UNTRUSTED])
def test_what_cannot_have_been_done_is_called_so(error: Exception) -> None:
    """The request never got there, or a sealed server refused it."""
    assert type(translate(error, "creating", mutates=True)) is UnavailableError
    assert not translate(error, "signing").uncertain


@pytest.mark.parametrize(
    "error", [hvac.Forbidden(), hvac.InvalidRequest(), hvac.RateLimitExceeded(), hvac.InvalidPath()]
)
def test_a_refusal_is_certain(error: Exception) -> None:
    """What Vault refuses, it has not done."""
    assert not translate(error, "signing").uncertain


def test_only_what_passes_says_when_to_try_again() -> None:
    """A connection soon, a sealed server a little later, a refusal never."""
    waits = [translate(error, "x").retry_after for error in (BROKEN, hvac.VaultDown(), hvac.Forbidden())]
    assert waits == [0.1, 1.0, None]


def test_an_error_of_our_own_is_not_swallowed() -> None:
    """A mistake in the program is no trouble of the server's."""
    with pytest.raises(TypeError):
        translate(TypeError("mistake"), "signing")
