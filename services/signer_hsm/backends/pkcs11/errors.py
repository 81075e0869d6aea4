"""What python-pkcs11's exceptions mean to a caller of the service.

Their messages are mostly empty: the class is the message, and goes to the log as `__cause__`.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from pkcs11 import exceptions as cryptoki
from pkcs11.exceptions import PKCS11Error

from services.signer_hsm.errors import (
    BackendError,
    BadAnswerError,
    DeniedError,
    KeyNotFoundError,
    MisconfiguredError,
    NotOfferedError,
    ThrottledError,
    UnavailableError,
)

RETRY_SECONDS: Final = 1.0

# In these states a session, a handle, a login or the token itself may have gone: looking again can help.
STALE: Final = frozenset(
    {
        PKCS11Error,  # "not initialised" has no class of its own
        cryptoki.DeviceError,
        cryptoki.DeviceRemoved,
        cryptoki.EncryptedDataInvalid,  # what yubihsm_pkcs11 makes of a broken channel to the device
        cryptoki.FunctionFailed,
        cryptoki.GeneralError,
        cryptoki.KeyHandleInvalid,
        cryptoki.NoSuchKey,
        cryptoki.NoSuchToken,
        cryptoki.ObjectHandleInvalid,
        cryptoki.OperationActive,
        cryptoki.OperationNotInitialized,
        cryptoki.SessionClosed,
        cryptoki.SessionHandleInvalid,
        cryptoki.SlotIDInvalid,
        cryptoki.TokenNotPresent,
        cryptoki.TokenNotRecognised,
        cryptoki.UserNotLoggedIn,
    }
)

# After these nobody knows whether what was begun was done: the module broke off, or says nothing more precise.
MAY_BE_DONE: Final = frozenset(
    {
        PKCS11Error,
        cryptoki.DeviceError,
        cryptoki.DeviceRemoved,  # during the call; before it: TokenNotPresent
        cryptoki.EncryptedDataInvalid,
        cryptoki.FunctionCancelled,
        cryptoki.FunctionFailed,
        cryptoki.GeneralError,
        cryptoki.HostMemory,
        cryptoki.SessionClosed,  # likewise; before it: SessionHandleInvalid
    }
)


class BrokenOffError(Exception):
    """A signature that must not be made twice broke off; its `__cause__` is the module's error."""

    def __init__(self, error: PKCS11Error) -> None:
        super().__init__(type(error).__name__)
        self.error = error


_UNAVAILABLE = (
    *STALE - {cryptoki.NoSuchKey},
    cryptoki.FunctionCancelled,
    cryptoki.HostMemory,
    cryptoki.RandomNoRNG,
)
_THROTTLED = (cryptoki.SessionCount,)
_DENIED = (cryptoki.FunctionRejected,)
_NOT_FOUND = (cryptoki.NoSuchKey,)
_MISCONFIGURED = (
    cryptoki.AnotherUserAlreadyLoggedIn,
    cryptoki.MultipleTokensReturned,
    cryptoki.PinExpired,
    cryptoki.PinIncorrect,
    cryptoki.PinInvalid,
    cryptoki.PinLenRange,
    cryptoki.PinLocked,
    cryptoki.PinTooWeak,
    cryptoki.SessionExists,
    cryptoki.SessionReadOnly,
    cryptoki.SessionReadOnlyExists,
    cryptoki.SessionReadWriteSOExists,
    cryptoki.TokenWriteProtected,
    cryptoki.UserAlreadyLoggedIn,
    cryptoki.UserPinNotInitialized,
    cryptoki.UserTooManyTypes,
)
# The device refuses what was asked of it, and will again; a token without room for a key still signs.
_NOT_OFFERED = (
    cryptoki.ArgumentsBad,
    cryptoki.AttributeReadOnly,
    cryptoki.AttributeSensitive,
    cryptoki.AttributeTypeInvalid,
    cryptoki.AttributeValueInvalid,
    cryptoki.DataInvalid,
    cryptoki.DataLenRange,
    cryptoki.DeviceMemory,
    cryptoki.DomainParamsInvalid,
    cryptoki.FunctionNotSupported,
    cryptoki.KeyIndigestible,
    cryptoki.KeyNeeded,
    cryptoki.KeyNotNeeded,
    cryptoki.KeySizeRange,
    cryptoki.KeyTypeInconsistent,
    cryptoki.MechanismInvalid,
    cryptoki.MechanismParamInvalid,
    cryptoki.RandomSeedNotSupported,
    cryptoki.TemplateIncomplete,
    cryptoki.TemplateInconsistent,
)

_SENTENCES: Final[Mapping[type[BackendError], str]] = MappingProxyType(
    {
        UnavailableError: "the token does not answer as it should",
        ThrottledError: "all sessions of the token are in use",
        DeniedError: "the token refuses this service",
        KeyNotFoundError: "there is no such key in the token",
        MisconfiguredError: "the token does not let this service in as it is configured",
        NotOfferedError: "the token does not do this",
        BadAnswerError: "the token's answer makes no sense",
    }
)
_PRECISE: Final[Mapping[type[PKCS11Error], str]] = MappingProxyType(
    {
        cryptoki.DeviceMemory: "the token has no room for another key",
        cryptoki.DeviceRemoved: "the token has been removed",
        cryptoki.MultipleTokensReturned: "more than one token fits the settings",
        cryptoki.NoSuchToken: "no slot holds the token of the settings",
        cryptoki.TokenNotPresent: "the token has been removed",
    }
)
TABLE: Final[Mapping[type[PKCS11Error], type[BackendError]]] = MappingProxyType(
    dict.fromkeys(_UNAVAILABLE, UnavailableError)
    | dict.fromkeys(_THROTTLED, ThrottledError)
    | dict.fromkeys(_DENIED, DeniedError)
    | dict.fromkeys(_NOT_FOUND, KeyNotFoundError)
    | dict.fromkeys(_MISCONFIGURED, MisconfiguredError)
    | dict.fromkeys(_NOT_OFFERED, NotOfferedError)
)
"""Any other class (of wrapping, encryption, verification, duplicate objects) is an answer that makes no sense here."""


def translate(error: PKCS11Error) -> BackendError:
    """The error of the tree that a PKCS#11 error stands for; raise it `from` that."""
    kind = TABLE.get(type(error), BadAnswerError)
    again = RETRY_SECONDS if kind in {UnavailableError, ThrottledError} else None
    uncertain = kind is BadAnswerError or type(error) in MAY_BE_DONE
    return kind(_PRECISE.get(type(error), _SENTENCES[kind]), retry_after=again, uncertain=uncertain)
