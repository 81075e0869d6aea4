import inspect

import pytest
from pkcs11 import exceptions
from pkcs11.exceptions import PKCS11Error

from services.signer_hsm.backends.pkcs11.errors import STALE, TABLE, translate
from services.signer_hsm.errors import (
    BackendError,
    BadAnswerError,
    KeyNotFoundError,
    MisconfiguredError,
    NotOfferedError,
    ThrottledError,
    UnavailableError,
)

ALL = [kind for _, kind in inspect.getmembers(exceptions, inspect.isclass) if issubclass(kind, PKCS11Error)]
# What can only be an answer to a question that this back end never asks.
SENSELESS = {
    "EncryptedDataLenRange",
    "ExceededMaxIterations",
    "KeyNotWrappable",
    "KeyUnextractable",
    "MultipleObjectsReturned",
    "NoEvent",
    "PublicKeyInvalid",
    "SignatureInvalid",
    "SignatureLenRange",
    "UnwrappingKeyHandleInvalid",
    "UnwrappingKeySizeRange",
    "UnwrappingKeyTypeInconsistent",
    "WrappedKeyInvalid",
    "WrappedKeyLenRange",
    "WrappingKeyHandleInvalid",
    "WrappingKeySizeRange",
    "WrappingKeyTypeInconsistent",
}


def test_every_exception_has_been_thought_of() -> None:
    """Each class of the library is in the table or among those that make no sense here; a new one fails this test."""
    assert {kind.__name__ for kind in ALL} == {kind.__name__ for kind in TABLE} | SENSELESS
    assert {kind.__name__ for kind in TABLE}.isdisjoint(SENSELESS)


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_no_word_of_the_module_reaches_the_caller(kind: type[PKCS11Error]) -> None:
    """The error is one of the tree, its sentence ours alone."""
    error = translate(kind("pin 1234 at 0xdeadbeef"))
    assert isinstance(error, BackendError)
    assert "1234" not in str(error)
    assert str(error)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (PKCS11Error, UnavailableError),
        (exceptions.GeneralError, UnavailableError),
        (exceptions.DeviceRemoved, UnavailableError),
        (exceptions.SessionHandleInvalid, UnavailableError),
        (exceptions.SessionCount, ThrottledError),
        (exceptions.NoSuchKey, KeyNotFoundError),
        (exceptions.PinIncorrect, MisconfiguredError),
        (exceptions.PinLocked, MisconfiguredError),
        (exceptions.MechanismInvalid, NotOfferedError),
        (exceptions.DeviceMemory, NotOfferedError),
        (exceptions.MultipleObjectsReturned, BadAnswerError),
    ],
)
def test_what_a_class_means(kind: type[PKCS11Error], expected: type[BackendError]) -> None:
    """The ones that matter most."""
    assert type(translate(kind())) is expected


def test_only_what_may_pass_is_to_be_repeated() -> None:
    """An unavailable or busy token may be asked again; a PIN, a mechanism or a missing key may not."""
    for kind in TABLE:
        again = translate(kind()).retry_after
        assert (again is not None) == (TABLE[kind] in {UnavailableError, ThrottledError}), kind


def test_no_pin_error_leads_to_another_attempt() -> None:
    """What a PIN was refused with never counts as a handle gone stale."""
    assert not any(kind.__name__.startswith(("Pin", "UserPin")) for kind in STALE)


def test_a_subclass_is_not_taken_for_its_parent() -> None:
    """An unknown exception of a newer library is an answer that makes no sense, not a token that is away."""

    class Unheard(exceptions.GeneralError):
        pass

    assert type(translate(Unheard())) is BadAnswerError


@pytest.mark.parametrize(
    "error", [exceptions.DeviceError, exceptions.GeneralError, exceptions.SessionClosed, PKCS11Error]
)
def test_a_call_that_broke_off_may_have_been_carried_out(error: type[PKCS11Error]) -> None:
    """The module does not say whether the device has signed."""
    assert translate(error()).uncertain


@pytest.mark.parametrize(
    "error",
    [exceptions.SessionHandleInvalid, exceptions.TokenNotPresent, exceptions.UserNotLoggedIn, exceptions.SessionCount],
)
def test_what_was_missing_before_the_call_has_done_nothing(error: type[PKCS11Error]) -> None:
    """A handle, the token or the login was gone when the call came."""
    assert not translate(error()).uncertain
