from __future__ import annotations

import base64
import json
from contextlib import suppress
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, mldsa, rsa, x25519
from hypothesis import given
from hypothesis import strategies as st
from jwcrypto import jwk as oracle_jwk  # type: ignore[import-untyped] # the oracle has no types

from pkicore.algorithms import ALGORITHMS
from pkicore.errors import BadKeyError, MalformedError, PkiError, UnsupportedError
from pkicore.jose.jwk import PRIVATE_MEMBERS, jwk_of, public_key_from_jwk, thumbprint
from tests.support.key_pairs import KEYS

NAMES = [name for name in ALGORITHMS if name != "rsa-4096"]
EC_JWK = jwk_of(KEYS["ecdsa-p256"].public_key())
RSA_JWK = jwk_of(KEYS["rsa-2048"].public_key())
OKP_JWK = jwk_of(KEYS["ed25519"].public_key())
AKP_JWK = jwk_of(KEYS["ml-dsa-44"].public_key())


def b64(data: bytes) -> str:
    """base64url without padding, made without our own code."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@pytest.mark.parametrize("name", NAMES)
def test_keys_survive_the_round_trip(name: str) -> None:
    """A key becomes a JWK with the members of its thumbprint only, and the same key again."""
    jwk = jwk_of(KEYS[name].public_key())
    assert public_key_from_jwk(jwk) == KEYS[name].public_key()
    assert not PRIVATE_MEMBERS & jwk.keys()


@pytest.mark.parametrize("name", NAMES)
def test_an_independent_library_agrees(name: str) -> None:
    """Jwcrypto reads our JWKs, exports them alike and computes the same thumbprint."""
    oracle = oracle_jwk.JWK(**jwk_of(KEYS[name].public_key()))
    assert oracle.thumbprint() == thumbprint(KEYS[name].public_key())
    assert public_key_from_jwk(json.loads(oracle.export_public())) == KEYS[name].public_key()


def test_thumbprint_of_rfc_7638() -> None:
    """The example of RFC 7638 §3.1 gives the RFC's value."""
    modulus = (
        "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3"
        "oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdA"
        "ZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-"
        "kEgU8awapJzKnqDKgw"
    )
    jwk = {"kty": "RSA", "n": modulus, "e": "AQAB", "alg": "RS256", "kid": "2011-04-29"}
    assert thumbprint(public_key_from_jwk(jwk)) == "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"


@pytest.mark.parametrize(
    ("key_type", "expected"),
    [
        (mldsa.MLDSA44PrivateKey, "T4xl70S7MT6Zeq6r9V9fPJGVn76wfnXJ21-gyo0Gu6o"),
        (mldsa.MLDSA65PrivateKey, "Suiu29qbfuaBaR4Ats-c6XQBePB_OpAxAwcTR_0KXVM"),
        (mldsa.MLDSA87PrivateKey, "tRn1JNIkgMsABVQBlXeDHxAIcclh-2IX0UdDEzPt5XU"),
    ],
)
def test_thumbprints_of_rfc_9964(key_type: type[mldsa.MLDSA44PrivateKey], expected: str) -> None:
    """The keys of the all-zero seed have the kids of RFC 9964 appendix A.1: the thumbprint includes alg."""
    assert thumbprint(key_type.from_seed_bytes(bytes(32)).public_key()) == expected


def test_example_key_of_rfc_8037() -> None:
    """The Ed25519 key of RFC 8037 appendix A.2 has the thumbprint of appendix A.3."""
    jwk = {"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}
    assert thumbprint(public_key_from_jwk(jwk)) == "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"


@pytest.mark.parametrize("member", sorted(PRIVATE_MEMBERS))
@pytest.mark.parametrize("jwk", [EC_JWK, RSA_JWK, OKP_JWK, AKP_JWK], ids=["EC", "RSA", "OKP", "AKP"])
def test_private_keys_are_refused(jwk: dict[str, str], member: str) -> None:
    """A JWK with any private member is refused, whatever its type."""
    with pytest.raises(MalformedError, match="private"):
        public_key_from_jwk({**jwk, member: "AAAA"})


@pytest.mark.parametrize("kty", ["oct", "ec", "EC2", "", None, 1, [], "DH"])
def test_key_types_that_are_not_offered(kty: object) -> None:
    """Symmetric keys and unknown types are refused."""
    with pytest.raises(UnsupportedError):
        public_key_from_jwk({**EC_JWK, "kty": kty})


@pytest.mark.parametrize("jwk", [EC_JWK, RSA_JWK, OKP_JWK, AKP_JWK], ids=["EC", "RSA", "OKP", "AKP"])
def test_every_member_is_needed_and_exact(jwk: dict[str, str]) -> None:
    """A member that is missing, empty, of another type, overlong, padded or not base64url is refused."""
    for member in jwk.keys() - {"kty"}:
        wrong: list[object] = [None, "", 5, [], "A" * 5000, jwk[member] + "=", jwk[member] + " ", "\ud800", "ä"]
        for value in wrong:
            with pytest.raises(PkiError):
                public_key_from_jwk({**jwk, member: value})
        without = {name: value for name, value in jwk.items() if name != member}
        with pytest.raises(PkiError):
            public_key_from_jwk(without)


def test_a_foreign_alg_or_use_is_refused() -> None:
    """Alg and use may stand in a JWK, if they say what the key is."""
    assert public_key_from_jwk({**EC_JWK, "alg": "ES256", "use": "sig", "kid": "x"}) == KEYS["ecdsa-p256"].public_key()
    for extra in ({"alg": "ES384"}, {"alg": "HS256"}, {"alg": None}, {"use": "enc"}):
        with pytest.raises(BadKeyError):
            public_key_from_jwk({**EC_JWK, **extra})


def test_akp_alg_decides_the_length() -> None:
    """The key octets of one parameter set are refused under the name of another."""
    for alg in ("ML-DSA-65", "ML-DSA-87"):
        with pytest.raises(BadKeyError):
            public_key_from_jwk({**AKP_JWK, "alg": alg})
    for alg in ("ML-KEM-768", "ES256", "ML-DSA-44-ES256"):
        with pytest.raises(UnsupportedError):
            public_key_from_jwk({**AKP_JWK, "alg": alg})


def rsa_jwk(bits: int, exponent: int) -> dict[str, str]:
    """An RSA key of any size and exponent as a JWK."""
    numbers = rsa.generate_private_key(65537, bits).public_key().public_numbers()
    octets = numbers.n.to_bytes((numbers.n.bit_length() + 7) // 8, "big")
    return {"kty": "RSA", "n": b64(octets), "e": b64(exponent.to_bytes((exponent.bit_length() + 7) // 8, "big"))}


@pytest.mark.parametrize(("bits", "exponent"), [(1024, 65537), (2056, 65537), (2048, 3), (2048, 17), (2048, 65539)])
def test_rsa_rules(bits: int, exponent: int) -> None:
    """RSA keys follow the rules of certificates: offered sizes, exponent 65537."""
    with pytest.raises(BadKeyError):
        public_key_from_jwk(rsa_jwk(bits, exponent))


@pytest.mark.requirement("rfc8555-8.1-01")
def test_rsa_integers_are_minimal() -> None:
    """Leading zeros would give one key two thumbprints elsewhere."""
    with pytest.raises(MalformedError, match="leading zeros"):
        public_key_from_jwk({**RSA_JWK, "e": b64(b"\0\1\0\1")})


def test_curves_that_are_not_offered() -> None:
    """secp256k1, X25519 and Ed448 keys are refused, by name and as objects."""
    k1 = ec.generate_private_key(ec.SECP256K1()).public_key()
    numbers = k1.public_numbers()
    octets = {"x": b64(numbers.x.to_bytes(32, "big")), "y": b64(numbers.y.to_bytes(32, "big"))}
    unsupported: list[dict[str, Any]] = [
        {"kty": "EC", "crv": "secp256k1", **octets},
        {"kty": "EC", "crv": "p-256", **octets},
        {"kty": "OKP", "crv": "X25519", "x": b64(x25519.X25519PrivateKey.generate().public_key().public_bytes_raw())},
        {"kty": "OKP", "crv": "Ed448", "x": b64(ed448.Ed448PrivateKey.generate().public_key().public_bytes_raw())},
    ]
    for jwk in unsupported:
        with pytest.raises(UnsupportedError):
            public_key_from_jwk(jwk)
    with pytest.raises(PkiError):
        public_key_from_jwk({"kty": "EC", "crv": "P-256", **octets})


def test_points_off_the_curve() -> None:
    """Invalid-curve points are refused."""
    with pytest.raises(BadKeyError):
        public_key_from_jwk({**EC_JWK, "y": b64(bytes(31) + b"\1")})


def test_keys_without_a_jwk() -> None:
    """What is no offered key has no JWK."""
    with pytest.raises(UnsupportedError):
        jwk_of(ed448.Ed448PrivateKey.generate().public_key())  # type: ignore[arg-type] # on purpose


@given(
    st.dictionaries(
        st.sampled_from(["kty", "crv", "x", "y", "n", "e", "alg", "pub", "use", "key_ops"]),
        st.sampled_from(["EC", "RSA", "OKP", "AKP", "P-256", "Ed25519", "ML-DSA-44", "AQAB", "AAAA"])
        | st.text(max_size=50)
        | st.none()
        | st.integers()
        | st.lists(st.integers(), max_size=2),
    )
)
def test_noise_never_crashes(jwk: dict[str, Any]) -> None:
    """Whatever the JWK holds, the answer is a key or one of our errors."""
    with suppress(PkiError):
        public_key_from_jwk(jwk)
