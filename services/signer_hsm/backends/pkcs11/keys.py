"""Key objects: templates that let no private key out, and public keys read back.

A key is found by CKA_ID, 20 octets of the hash of its label: deterministic, so that a key whose creation was never
answered is found again. CKA_LABEL is the label itself, for people. Sources: PKCS#11 v3.2 §4.9, §6.1.3, §6.3.3-6.3.8,
§6.67.2 (templates); RFC 5480, RFC 8410 (curve OIDs).
"""

import hashlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, TypeAlias

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, rsa
from pkcs11 import Attribute, KeyType, Mechanism, MechanismFlag, ObjectClass, Session
from pkcs11.exceptions import PKCS11Error
from pkcs11.mechanisms import MLDSAParameterSet
from pkcs11.types import Object, SignMixin

from pkicore.algorithms import ALGORITHMS, Algorithm, PrivateKey, PublicKey
from pkicore.encoding import object_identifier, octet_string
from services.signer_hsm.backends import KeyLabel
from services.signer_hsm.backends.pkcs11.errors import TABLE
from services.signer_hsm.errors import BadAnswerError, NotOfferedError
from services.signer_hsm.schemes import schemes_of

Template: TypeAlias = dict[Attribute, Any]

_CURVES: Final[Mapping[bytes, ec.EllipticCurve]] = MappingProxyType(
    {
        object_identifier("1.2.840.10045.3.1.7"): ec.SECP256R1(),
        object_identifier("1.3.132.0.34"): ec.SECP384R1(),
        object_identifier("1.3.132.0.35"): ec.SECP521R1(),
    }
)
_CURVE_OIDS: Final = {curve.name: oid for oid, curve in _CURVES.items()}
_CURVE_OF: Final = {"ecdsa-p256": "secp256r1", "ecdsa-p384": "secp384r1", "ecdsa-p521": "secp521r1"}
_ED25519: Final = object_identifier("1.3.101.112")
_ED25519_BYTES: Final = 32
_PARAMETER_SETS: Final = {
    "ml-dsa-44": MLDSAParameterSet.ML_DSA_44,
    "ml-dsa-65": MLDSAParameterSet.ML_DSA_65,
    "ml-dsa-87": MLDSAParameterSet.ML_DSA_87,
}
_MLDSA_KEYS: Final[Mapping[int, type[mldsa.MLDSA44PublicKey | mldsa.MLDSA65PublicKey | mldsa.MLDSA87PublicKey]]] = {
    int(MLDSAParameterSet.ML_DSA_44): mldsa.MLDSA44PublicKey,
    int(MLDSAParameterSet.ML_DSA_65): mldsa.MLDSA65PublicKey,
    int(MLDSAParameterSet.ML_DSA_87): mldsa.MLDSA87PublicKey,
}
_KEY_ID_BYTES: Final = 20
_LOCKED_UP: Final[Template] = {
    Attribute.PRIVATE: True,
    Attribute.SENSITIVE: True,
    Attribute.EXTRACTABLE: False,
    Attribute.MODIFIABLE: False,
}
# Said in full: what an imported key may do is up to the module where the template does not say it.
_SIGNS_ONLY: Final[Template] = {
    Attribute.SIGN: True,
    Attribute.DECRYPT: False,
    Attribute.UNWRAP: False,
    Attribute.DERIVE: False,
}
_VERIFIES_ONLY: Final[Template] = {Attribute.VERIFY: True, Attribute.ENCRYPT: False, Attribute.WRAP: False}


def handle_of(label: KeyLabel) -> str:
    """The CKA_ID of a key version, in hexadecimal."""
    return hashlib.sha256(str(label).encode()).digest()[:_KEY_ID_BYTES].hex()


def is_handle(text: str) -> bool:
    """Whether this can be one of our handles."""
    return len(text) == 2 * _KEY_ID_BYTES and set(text) <= set("0123456789abcdef")


def generate(session: Session, label: KeyLabel, algorithm: Algorithm) -> tuple[Object, Object]:
    """A key pair that stays in the token: the public and the private object.

    Raises:
        PKCS11Error: the module does not make one.
    """
    common: dict[str, Any] = {
        "id": bytes.fromhex(handle_of(label)),
        "label": str(label),
        "store": True,
        "capabilities": MechanismFlag.SIGN | MechanismFlag.VERIFY,
        "private_template": dict(_LOCKED_UP),
    }
    if algorithm.family == "rsa":
        return session.generate_keypair(KeyType.RSA, int(algorithm.name.removeprefix("rsa-")), **common)
    if algorithm.family == "mldsa":
        template = {Attribute.PARAMETER_SET: _PARAMETER_SETS[algorithm.name]}
        return session.generate_keypair(KeyType.ML_DSA, public_template=template, **common)
    kind = KeyType.EC if algorithm.family == "ecdsa" else KeyType.EC_EDWARDS
    oid = _CURVE_OIDS[_CURVE_OF[algorithm.name]] if algorithm.family == "ecdsa" else _ED25519
    return session.create_domain_parameters(kind, {Attribute.EC_PARAMS: oid}, local=True).generate_keypair(**common)


def ed25519_works(session: Session) -> bool:
    """Try Ed25519 with a key that is not kept: NSS 3.131 lists it, then refuses a buffer of the size it asked for."""
    parameters = session.create_domain_parameters(KeyType.EC_EDWARDS, {Attribute.EC_PARAMS: _ED25519}, local=True)
    try:
        public, private = parameters.generate_keypair(capabilities=MechanismFlag.SIGN | MechanismFlag.VERIFY)
    except PKCS11Error:
        return True  # some devices have no session keys: the first real key will tell
    try:
        return isinstance(private, SignMixin) and bool(private.sign(b"trial", mechanism=Mechanism.EDDSA))
    except PKCS11Error as error:
        return TABLE.get(type(error)) is not NotOfferedError
    finally:
        for key in (public, private):
            key.destroy()


def bring_in(session: Session, label: KeyLabel, key: PrivateKey) -> tuple[Object, Object]:
    """Create both objects of an existing key, locked up from then on.

    Raises:
        PKCS11Error: the module does not take such a key; one half may have been created.
    """
    private, public = _templates(key)
    common = {
        Attribute.TOKEN: True,
        Attribute.ID: bytes.fromhex(handle_of(label)),
        Attribute.LABEL: str(label),
    }
    private |= common | _LOCKED_UP | _SIGNS_ONLY | {Attribute.CLASS: ObjectClass.PRIVATE_KEY}
    public |= common | _VERIFIES_ONLY | {Attribute.CLASS: ObjectClass.PUBLIC_KEY}
    return session.create_object(public), session.create_object(private)


def _templates(key: PrivateKey) -> tuple[Template, Template]:
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return _ec_templates(key)
    if isinstance(key, rsa.RSAPrivateKey):
        return _rsa_templates(key)
    if isinstance(key, ed25519.Ed25519PrivateKey):
        common = {Attribute.KEY_TYPE: KeyType.EC_EDWARDS, Attribute.EC_PARAMS: _ED25519}
        point = octet_string(key.public_key().public_bytes_raw())
        return common | {Attribute.VALUE: key.private_bytes_raw()}, common | {Attribute.EC_POINT: point}
    public = key.public_key()
    parameters = next(number for number, kind in _MLDSA_KEYS.items() if isinstance(public, kind))
    common = {Attribute.KEY_TYPE: KeyType.ML_DSA, Attribute.PARAMETER_SET: parameters}
    return common | {Attribute.SEED: key.private_bytes_raw()}, common | {Attribute.VALUE: public.public_bytes_raw()}


def _ec_templates(key: ec.EllipticCurvePrivateKey) -> tuple[Template, Template]:
    numbers = key.private_numbers()
    size = (key.curve.key_size + 7) // 8
    x, y = (number.to_bytes(size, "big") for number in (numbers.public_numbers.x, numbers.public_numbers.y))
    common = {Attribute.KEY_TYPE: KeyType.EC, Attribute.EC_PARAMS: _CURVE_OIDS[key.curve.name]}
    return (
        common | {Attribute.VALUE: numbers.private_value.to_bytes(size, "big")},
        common | {Attribute.EC_POINT: octet_string(b"\x04" + x + y)},
    )


def _rsa_templates(key: rsa.RSAPrivateKey) -> tuple[Template, Template]:
    numbers = key.private_numbers()
    public: Template = {
        Attribute.KEY_TYPE: KeyType.RSA,
        Attribute.MODULUS: _big(numbers.public_numbers.n),
        Attribute.PUBLIC_EXPONENT: _big(numbers.public_numbers.e),
    }
    private = public | {
        Attribute.PRIVATE_EXPONENT: _big(numbers.d),
        Attribute.PRIME_1: _big(numbers.p),
        Attribute.PRIME_2: _big(numbers.q),
        Attribute.EXPONENT_1: _big(numbers.dmp1),
        Attribute.EXPONENT_2: _big(numbers.dmq1),
        Attribute.COEFFICIENT: _big(numbers.iqmp),
    }
    return private, public


def _big(number: int) -> bytes:
    return number.to_bytes((number.bit_length() + 7) // 8, "big")


def schemes_of_object(private: Object) -> frozenset[str]:
    """The names of the schemes that a private-key object signs with.

    Raises:
        BadAnswerError: its type, curve or parameters are none of the table.
        PKCS11Error: it cannot be read.
    """
    kind = private[Attribute.KEY_TYPE]
    name: str | None = None
    if kind == KeyType.EC:
        curve = _CURVES.get(private[Attribute.EC_PARAMS])
        name = next((name for name, known in _CURVE_OF.items() if curve and known == curve.name), None)
    elif kind == KeyType.ML_DSA:
        name = next(
            (name for name, known in _PARAMETER_SETS.items() if known == private[Attribute.PARAMETER_SET]), None
        )
    elif kind in {KeyType.RSA, KeyType.EC_EDWARDS}:
        name = "rsa-2048" if kind == KeyType.RSA else "ed25519"  # the size of an RSA key does not matter here
    if name is None:
        raise BadAnswerError("the token holds a private key of a kind that is not offered")
    return frozenset(scheme.name for scheme in schemes_of(ALGORITHMS[name]))


def public_key_of(public: Object) -> PublicKey:
    """The public key that a public-key object holds.

    Raises:
        BadAnswerError: the object's attributes are no key of the table.
        PKCS11Error: it cannot be read.
    """
    try:
        return _public_key(public)
    except (KeyError, ValueError) as error:
        raise BadAnswerError("the token holds a public key that cannot be read") from error


def _public_key(public: Object) -> PublicKey:
    kind = public[Attribute.KEY_TYPE]
    if kind == KeyType.RSA:
        modulus, exponent = (int.from_bytes(public[a], "big") for a in (Attribute.MODULUS, Attribute.PUBLIC_EXPONENT))
        return rsa.RSAPublicNumbers(exponent, modulus).public_key()
    if kind == KeyType.ML_DSA:
        return _MLDSA_KEYS[public[Attribute.PARAMETER_SET]].from_public_bytes(public[Attribute.VALUE])
    point: bytes = public[Attribute.EC_POINT]  # an OCTET STRING of the point, or (older modules, NSS) the point alone
    if kind == KeyType.EC_EDWARDS:
        return ed25519.Ed25519PublicKey.from_public_bytes(point[-_ED25519_BYTES:])
    if kind != KeyType.EC:
        raise ValueError(f"key type {kind}")
    curve = _CURVES[public[Attribute.EC_PARAMS]]
    octets = 1 + 2 * ((curve.key_size + 7) // 8)
    return ec.EllipticCurvePublicKey.from_encoded_point(curve, point[-octets:])
