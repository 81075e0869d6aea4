"""A signature that must not be made twice, when the module breaks off."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest
from pkcs11 import exceptions
from pkcs11.exceptions import PKCS11Error

from services.signer_hsm.backends.pkcs11.operations import TokenKeys
from services.signer_hsm.backends.pkcs11.token import Connection, FoundKey, ThreadSession, TokenSessions
from services.signer_hsm.backends.settings import Pkcs11Settings
from services.signer_hsm.errors import UnavailableError
from services.signer_hsm.schemes import SCHEMES

SETTINGS = Pkcs11Settings.model_validate(
    {"type": "pkcs11", "name": "token", "module": "/m.so", "token_label": "t", "pin_variable": "PIN"}
)
ANYTHING = cast("Any", None)
ES256 = SCHEMES["ES256"]


class BreakingKey:
    """A private key that signs, and whose first answer is lost."""

    def __init__(self, error: PKCS11Error) -> None:
        self.error: PKCS11Error | None = error
        self.signed = 0

    def sign(self, *_: object, **__: object) -> bytes:
        """Sign."""
        self.signed += 1
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        return bytes([1]) * 64


class OneKey(TokenSessions):
    """Sessions with one key and no module below them."""

    def __init__(self, key: BreakingKey) -> None:
        super().__init__(ANYTHING, SETTINGS)
        self.own = ThreadSession(ANYTHING, ANYTHING, ANYTHING, {"id": FoundKey(cast("Any", key), frozenset({"ES256"}))})

    def connect(self) -> Connection:
        """None is needed."""
        return cast("Connection", None)

    def _attempt(self, _connection: Connection, act: Callable[..., Any], arguments: tuple[object, ...]) -> Any:  # noqa: ANN401 - of any act
        return act(self.own, *arguments)

    def _let_go_of_the_stale(self, seen: Connection) -> None:
        """Nothing is stale."""


@pytest.mark.parametrize("error", [exceptions.DeviceError(), exceptions.GeneralError(), exceptions.FunctionFailed()])
def test_it_is_not_made_again(error: PKCS11Error) -> None:
    """With `once` the device signs once and the error says that it may have; else it signs again."""
    key = BreakingKey(error)
    with pytest.raises(UnavailableError) as caught:
        TokenKeys(OneKey(key)).sign("id", ES256, "digest", [bytes(32)], True)
    assert (key.signed, caught.value.uncertain, caught.value.__cause__) == (1, True, error)
    key = BreakingKey(error)
    assert len(TokenKeys(OneKey(key)).sign("id", ES256, "digest", [bytes(32)])) == 1
    assert key.signed == 2


def test_a_stale_handle_is_looked_up_again() -> None:
    """A session that was gone before the call has signed nothing, so the call is made again in any case."""
    key = BreakingKey(exceptions.SessionHandleInvalid())
    assert len(TokenKeys(OneKey(key)).sign("id", ES256, "digest", [bytes(32)], True)) == 1
