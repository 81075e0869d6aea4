"""What the module says of how a key is held, and whether it lives up to it.

CKA_ values are the module's word, no proof to a third party: SoftHSM2 gives the same ones as a device. What a module
does not tell is left out (NSS knows no CKA_KEY_GEN_MECHANISM); only an attestation proves more.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from pkcs11 import Attribute, KeyType
from pkcs11.exceptions import AttributeSensitive, AttributeTypeInvalid, FunctionFailed
from pkcs11.types import Object

from services.signer_hsm.backends import Fact, Facts
from services.signer_hsm.errors import BadAnswerError

_ATTRIBUTES: Final = (
    Attribute.TOKEN,
    Attribute.PRIVATE,
    Attribute.SENSITIVE,
    Attribute.EXTRACTABLE,
    Attribute.MODIFIABLE,
    Attribute.LOCAL,
    Attribute.ALWAYS_SENSITIVE,
    Attribute.NEVER_EXTRACTABLE,
    Attribute.KEY_GEN_MECHANISM,
)
_SECRETS: Final[Mapping[KeyType, tuple[Attribute, ...]]] = MappingProxyType(
    {
        KeyType.RSA: (Attribute.PRIVATE_EXPONENT, Attribute.PRIME_1),
        KeyType.EC: (Attribute.VALUE,),
        KeyType.EC_EDWARDS: (Attribute.VALUE,),
        KeyType.ML_DSA: (Attribute.VALUE, Attribute.SEED),
    }
)
_REQUIRED: Final[Mapping[str, bool]] = MappingProxyType(
    {"token": True, "private": True, "sensitive": True, "extractable": False, "value_refused": True}
)


def facts_of(key: Object) -> Facts:
    """The key's attributes in lower case, the token's serial number, and `value_refused`.

    That is: the secret value was asked for and not given.

    Raises:
        PKCS11Error: the key cannot be asked.
    """
    facts = {attribute.name.lower(): _read(key, attribute) for attribute in _ATTRIBUTES}
    told = {name: fact for name, fact in facts.items() if fact is not None}
    refused = all(_refused(key, secret) for secret in _SECRETS[key[Attribute.KEY_TYPE]])
    return told | {"token_serial": key.session.token.serial.decode(errors="replace"), "value_refused": refused}


def _read(key: Object, attribute: Attribute) -> Fact:
    try:
        value = key[attribute]
    except (AttributeTypeInvalid, AttributeSensitive, FunctionFailed, ValueError):  # ValueError: a number without name
        return None
    return value if isinstance(value, bool) else str(getattr(value, "name", value))


def _refused(key: Object, secret: Attribute) -> bool:
    try:
        return not key[secret]
    except (AttributeSensitive, AttributeTypeInvalid, FunctionFailed):
        return True


def require_locked_up(facts: Facts) -> None:
    """Refuse a key that the module does not hold as it was told to.

    Raises:
        BadAnswerError: the key could leave, or its value can be read.
    """
    for name, wanted in _REQUIRED.items():
        if facts.get(name) is not wanted:
            raise BadAnswerError(f"the token does not hold the key as it was told to: {name} is {facts.get(name)}")
