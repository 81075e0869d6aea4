from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from pkcs11 import Attribute, KeyType, Mechanism
from pkcs11.exceptions import AttributeSensitive, AttributeTypeInvalid, GeneralError, PKCS11Error

from services.signer_hsm.backends import Facts
from services.signer_hsm.backends.pkcs11.evidence import facts_of, require_locked_up
from services.signer_hsm.errors import BadAnswerError

HELD: dict[Attribute, Any] = {
    Attribute.KEY_TYPE: KeyType.EC,
    Attribute.TOKEN: True,
    Attribute.PRIVATE: True,
    Attribute.SENSITIVE: True,
    Attribute.EXTRACTABLE: False,
    Attribute.MODIFIABLE: False,
    Attribute.LOCAL: True,
    Attribute.ALWAYS_SENSITIVE: True,
    Attribute.NEVER_EXTRACTABLE: True,
    Attribute.KEY_GEN_MECHANISM: Mechanism.EC_KEY_PAIR_GEN,
    Attribute.VALUE: AttributeSensitive,
}


class Object:
    """What a module would answer for each attribute; an exception class is raised."""

    def __init__(self, answers: dict[Attribute, Any]) -> None:
        """Takes the answers."""
        self._answers = answers
        self.session = SimpleNamespace(token=SimpleNamespace(serial=b"0123456789abcdef"))

    def __getitem__(self, attribute: Attribute) -> object:
        answer = self._answers.get(attribute, AttributeTypeInvalid)
        if isinstance(answer, type) and issubclass(answer, Exception):
            raise answer
        return answer


def facts(**changes: object) -> Facts:
    """The facts of a key that answers as told."""
    answers = HELD | {Attribute[name.upper()]: answer for name, answer in changes.items()}
    return facts_of(Object(answers))  # type: ignore[arg-type]  # it answers like one


def test_a_key_that_is_held_well() -> None:
    """All that the module tells is written down, and that the value was asked for in vain."""
    found = facts()
    require_locked_up(found)
    assert found == {
        "token": True,
        "private": True,
        "sensitive": True,
        "extractable": False,
        "modifiable": False,
        "local": True,
        "always_sensitive": True,
        "never_extractable": True,
        "key_gen_mechanism": "EC_KEY_PAIR_GEN",
        "token_serial": "0123456789abcdef",
        "value_refused": True,
    }


@pytest.mark.parametrize("silence", [AttributeTypeInvalid, ValueError])
def test_what_a_module_does_not_tell_is_left_out(silence: type[Exception]) -> None:
    """NSS has no KEY_GEN_MECHANISM; others have a number without a name. Neither is an error, nor made up."""
    found = facts(key_gen_mechanism=silence)
    assert "key_gen_mechanism" not in found
    require_locked_up(found)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"extractable": True}, "extractable is True"),
        ({"sensitive": False}, "sensitive is False"),
        ({"private": False}, "private is False"),
        ({"token": False}, "token is False"),
        ({"extractable": AttributeTypeInvalid}, "extractable is None"),
        ({"value": b"\1" * 32}, "value_refused is False"),
    ],
)
def test_a_key_that_could_leave_is_refused(change: dict[str, object], named: str) -> None:
    """Whatever loosens a key is named, also when the module keeps silent; the value itself is in no fact."""
    found = facts(**change)
    with pytest.raises(BadAnswerError, match=named):
        require_locked_up(found)
    assert repr(b"\1" * 32) not in repr(found)


@pytest.mark.parametrize(
    ("kind", "secret"),
    [
        (KeyType.RSA, Attribute.PRIVATE_EXPONENT),
        (KeyType.RSA, Attribute.PRIME_1),
        (KeyType.EC_EDWARDS, Attribute.VALUE),
        (KeyType.ML_DSA, Attribute.VALUE),
        (KeyType.ML_DSA, Attribute.SEED),
    ],
)
def test_each_secret_is_asked_for(kind: KeyType, secret: Attribute) -> None:
    """One secret attribute that comes out is enough to refuse a key of any type."""
    safe = HELD | {Attribute.KEY_TYPE: kind, Attribute.VALUE: AttributeSensitive}
    assert facts_of(Object(safe))["value_refused"] is True  # type: ignore[arg-type]  # it answers like one
    leaking = safe | {secret: b"\1" * 32}
    assert facts_of(Object(leaking))["value_refused"] is False  # type: ignore[arg-type]  # likewise, one


@pytest.mark.parametrize("attribute", [Attribute.SENSITIVE, Attribute.VALUE])
def test_a_token_that_has_gone_is_no_evidence(attribute: Attribute) -> None:
    """A failure of the token is not read as a refusal to give the key out."""
    ask: Callable[[], Facts] = lambda: facts(**{attribute.name.lower(): GeneralError})  # noqa: E731 -- a typed one
    with pytest.raises(PKCS11Error):
        ask()
