"""What a token can do, by its list of mechanisms, and how each scheme asks for a signature.

Sources: PKCS#11 v3.2 §6.1 (RSA), §6.3 (ECDSA, EdDSA), §6.67 (ML-DSA); RFC 8017 §9.2 (DigestInfo).
CKM_ML_DSA_EXTERNAL_MU is proposed in the OASIS working draft of 3.3 and used only where a module lists it.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, TypeAlias

from pkcs11 import MGF, Mechanism, Slot
from pkcs11.exceptions import PKCS11Error

from pkicore.algorithms import Payload
from services.signer_hsm.schemes import HASH_BYTES, SCHEMES, Scheme

ML_DSA_EXTERNAL_MU: Final = 0x403C

Offers: TypeAlias = Mapping[str, frozenset[Payload]]
PssParameters: TypeAlias = tuple[Mechanism, MGF, int]

_DIGEST: Final[frozenset[Payload]] = frozenset({"digest"})
_MESSAGE: Final[frozenset[Payload]] = frozenset({"message"})
_DIGEST_INFO: Final = {
    "sha256": bytes.fromhex("3031300d060960864801650304020105000420"),
    "sha384": bytes.fromhex("3041300d060960864801650304020205000430"),
    "sha512": bytes.fromhex("3051300d060960864801650304020305000440"),
}
_PSS_HASHES: Final = {
    "sha256": (Mechanism.SHA256, MGF.SHA256),
    "sha384": (Mechanism.SHA384, MGF.SHA384),
    "sha512": (Mechanism.SHA512, MGF.SHA512),
}
_CURVE_BITS: Final = {"ecdsa-p256": 256, "ecdsa-p384": 384, "ecdsa-p521": 521}
_RSA_BITS: Final = {"rsa-2048": 2048, "rsa-3072": 3072, "rsa-4096": 4096}
_NEEDS: Final[Mapping[str, frozenset[Mechanism]]] = MappingProxyType(
    dict.fromkeys(_CURVE_BITS, frozenset({Mechanism.EC_KEY_PAIR_GEN, Mechanism.ECDSA}))
    | dict.fromkeys(_RSA_BITS, frozenset({Mechanism.RSA_PKCS_KEY_PAIR_GEN, Mechanism.RSA_PKCS, Mechanism.RSA_PKCS_PSS}))
    | {"ed25519": frozenset({Mechanism.EC_EDWARDS_KEY_PAIR_GEN, Mechanism.EDDSA})}
    | dict.fromkeys(
        ("ml-dsa-44", "ml-dsa-65", "ml-dsa-87"), frozenset({Mechanism.ML_DSA_KEY_PAIR_GEN, Mechanism.ML_DSA})
    )
)


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a signature is asked for.

    Attributes:
        mechanism: of C_SignInit.
        parameter: its parameter.
        prefix: what stands before the payload.
        pair: the module answers r and s side by side; X.509 wants them as DER.
    """

    mechanism: Mechanism
    parameter: PssParameters | None = None
    prefix: bytes = b""
    pair: bool = False


def _unnamed(number: int) -> Mechanism:
    """A mechanism that python-pkcs11 has no name for; it takes any member of its enumeration."""
    member = int.__new__(Mechanism, number)
    member._name_ = f"0x{number:x}"
    member._value_ = number
    return member


def _recipe(scheme: Scheme) -> Recipe:
    if scheme.family == "ecdsa":
        return Recipe(Mechanism.ECDSA, pair=True)
    if scheme.hash is None:
        return Recipe(Mechanism.EDDSA if scheme.family == "eddsa" else Mechanism.ML_DSA)
    if scheme.padding == "pss":
        return Recipe(Mechanism.RSA_PKCS_PSS, (*_PSS_HASHES[scheme.hash], HASH_BYTES[scheme.hash]))
    return Recipe(Mechanism.RSA_PKCS, prefix=_DIGEST_INFO[scheme.hash])


RECIPES: Final[Mapping[tuple[str, Payload], Recipe]] = MappingProxyType(
    {(scheme.name, "message" if scheme.hash is None else "digest"): _recipe(scheme) for scheme in SCHEMES.values()}
    | {(f"ML-DSA-{level}", "mu"): Recipe(_unnamed(ML_DSA_EXTERNAL_MU)) for level in (44, 65, 87)}
)
"""By scheme and payload kind."""


def offers_of(mechanisms: Collection[int], largest: Mapping[Mechanism, int] = MappingProxyType({})) -> Offers:
    """The algorithms that these mechanisms suffice for, each with its payload kinds.

    Args:
        mechanisms: as the token lists them, unknown ones as plain numbers.
        largest: bits of the largest key, of those generating mechanisms that say so.
    """
    listed = set(mechanisms)
    mldsa: frozenset[Payload] = _MESSAGE | {"mu"} if ML_DSA_EXTERNAL_MU in listed else _MESSAGE
    kinds = {"ed25519": _MESSAGE, "ml-dsa-44": mldsa, "ml-dsa-65": mldsa, "ml-dsa-87": mldsa}
    offers: dict[str, frozenset[Payload]] = {}
    for name, needed in _NEEDS.items():
        bits = _CURVE_BITS.get(name, _RSA_BITS.get(name, 0))
        limit = min((largest[mechanism] for mechanism in needed if mechanism in largest), default=bits)
        if needed <= listed and bits <= limit:
            offers[name] = kinds.get(name, _DIGEST)
    return MappingProxyType(offers)


def probe(slot: Slot) -> Offers:
    """What the token in this slot offers.

    Raises:
        PKCS11Error: it does not say.
    """
    mechanisms = slot.get_mechanisms()
    largest = {}
    for mechanism in {Mechanism.EC_KEY_PAIR_GEN, Mechanism.RSA_PKCS_KEY_PAIR_GEN} & mechanisms:
        if bits := _largest_key(slot, mechanism):
            largest[mechanism] = bits
    return offers_of(mechanisms, largest)


def _largest_key(slot: Slot, mechanism: Mechanism) -> int | None:
    try:
        return slot.get_mechanism_info(mechanism).max_key_length
    except PKCS11Error:  # some modules list what they do not describe
        return None
