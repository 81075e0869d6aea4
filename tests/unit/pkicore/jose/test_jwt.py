"""Tokens of issuers: what is believed, and everything that RFC 8725 says must not be."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jwcrypto import jwk as oracle_jwk  # type: ignore[import-untyped] # the oracle has no types
from jwcrypto import jws as oracle_jws
from jwcrypto import jwt as oracle_jwt

from pkicore.algorithms import ALGORITHMS, PrivateKey, algorithm_of, generate_private_key
from pkicore.errors import BadTokenError, MalformedError, PkiError, UnsupportedError
from pkicore.jose.jwk import jwk_of
from pkicore.jose.jws import JWS_ALGORITHMS, sign_jws
from pkicore.jose.jwt import MAX_JWKS, MAX_JWT, JwkSet, TokenRules, UnverifiedJwt, VerifiedJwt
from tests.support.key_pairs import KEYS

NAMES = ("ecdsa-p256", "ecdsa-p384", "ecdsa-p521", "rsa-2048", "ed25519", "ml-dsa-44", "ml-dsa-65", "ml-dsa-87")
KEY, OTHER = KEYS["ecdsa-p256"], generate_private_key(ALGORITHMS["ecdsa-p256"])
NOW = 1_900_000_000
RULES = TokenRules("https://id.test", "signer-hsm", frozenset(JWS_ALGORITHMS), clock_skew=10, max_age=3600)
CLAIMS: dict[str, Any] = {
    "iss": "https://id.test",
    "aud": "signer-hsm",
    "sub": "alice",
    "iat": NOW - 60,
    "exp": NOW + 60,
    "email": "alice@test",
}


def b64(data: bytes) -> str:
    """base64url without padding, made without our own code."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def compact(key: PrivateKey, payload: bytes, **header: object) -> str:
    """A compact JWS from our own flattened one, whose tests have oracles of their own; headers replace or add."""
    members = json.loads(sign_jws(key, payload, {"kid": "k1", **header}))
    return f"{members['protected']}.{members['payload']}.{members['signature']}"


def token(key: PrivateKey = KEY, /, **claims: object) -> str:
    """A token with claims replaced, or removed where None."""
    return compact(key, payload(**claims))


def payload(**claims: object) -> bytes:
    """The claims as JSON."""
    return json.dumps({name: value for name, value in (CLAIMS | claims).items() if value is not None}).encode()


def verified(text: str, key: PrivateKey = KEY, rules: TokenRules = RULES, at: int = NOW) -> VerifiedJwt:
    """What the token says, if it is good."""
    return UnverifiedJwt.parse(text).verify(key.public_key(), rules, at)


def refusal(text: str, key: PrivateKey = KEY, rules: TokenRules = RULES, at: int = NOW) -> str:
    """The reason why a well-formed token is refused."""
    with pytest.raises(BadTokenError) as refused:
        verified(text, key, rules, at)
    return refused.value.reason


@pytest.mark.parametrize("name", NAMES)
def test_a_good_token_of_each_algorithm(name: str) -> None:
    """Issuer, subject, times and claims come out."""
    good = verified(token(KEYS[name]), KEYS[name])
    assert (good.issuer, good.subject, good.issued_at, good.expires_at) == (
        "https://id.test",
        "alice",
        NOW - 60,
        NOW + 60,
    )
    assert good.claims["email"] == "alice@test"


@pytest.mark.parametrize(
    ("alg", "make"),
    [
        ("ES256", {"kty": "EC", "crv": "P-256"}),
        ("ES384", {"kty": "EC", "crv": "P-384"}),
        ("ES512", {"kty": "EC", "crv": "P-521"}),
        ("RS256", {"kty": "RSA", "size": 2048}),
        ("EdDSA", {"kty": "OKP", "crv": "Ed25519"}),
    ],
)
def test_tokens_and_keys_of_jwcrypto(alg: str, make: dict[str, Any]) -> None:
    """An independent implementation's token verifies with the key set that it exports."""
    key = oracle_jwk.JWK.generate(kid="k1", use="sig", **make)
    made = oracle_jwt.JWT(header={"alg": alg, "kid": "k1", "typ": "JWT"}, claims=CLAIMS)
    made.make_signed_token(key)
    unverified = UnverifiedJwt.parse(made.serialize())
    keys = JwkSet.parse(json.dumps({"keys": [key.export_public(as_dict=True)]}).encode())
    public_key = keys.find(unverified.kid, unverified.alg)
    assert public_key is not None
    assert unverified.verify(public_key, RULES, NOW).subject == "alice"


@pytest.mark.parametrize("name", ["ecdsa-p256", "ecdsa-p384", "rsa-2048", "ed25519"])
def test_jwcrypto_verifies_what_the_tests_make(name: str) -> None:
    """So the other tests' tokens are refused for what was changed, not for how they are made."""
    jws = oracle_jws.JWS()
    jws.allowed_algs = list(JWS_ALGORITHMS)
    jws.deserialize(token(KEYS[name]), oracle_jwk.JWK(**jwk_of(KEYS[name].public_key())))
    assert json.loads(jws.payload) == CLAIMS


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"iss": "https://id.test/"}, "issuer"),
        ({"iss": "HTTPS://id.test"}, "issuer"),
        ({"aud": "signer"}, "audience"),
        ({"aud": None}, "audience"),
        ({"aud": []}, "audience"),
        ({"aud": ["x", 1, "signer-hsm"]}, "audience"),
        ({"aud": {"signer-hsm": 1}}, "audience"),
        ({"aud": ["x"] * 40 + ["signer-hsm"]}, "audience"),
        ({"exp": None}, "times"),
        ({"exp": "2000000000"}, "times"),
        ({"exp": True}, "times"),
        ({"exp": -1}, "times"),
        ({"exp": 10**15}, "times"),
        ({"exp": NOW - 10}, "expired"),
        ({"iat": None}, "times"),
        ({"iat": [NOW]}, "times"),
        ({"iat": NOW + 11}, "not-yet"),
        ({"nbf": NOW + 11}, "not-yet"),
        ({"nbf": "now"}, "times"),
        ({"iat": NOW - 3611}, "too-old"),
        ({"sub": None}, "subject"),
        ({"sub": ""}, "subject"),
        ({"sub": 5}, "subject"),
        ({"sub": "a" * 256}, "subject"),
        ({"sub": "alice\n"}, "subject"),
    ],
)
def test_claims_that_are_refused(claims: dict[str, object], reason: str) -> None:
    """Issuer and audience exactly, times with the skew and no more, a subject of sensible length."""
    assert refusal(token(**claims)) == reason


@pytest.mark.parametrize(
    "claims",
    [
        {"aud": ["account", "signer-hsm"]},
        {"exp": NOW - 9},
        {"exp": NOW + 0.5},
        {"nbf": NOW + 10},
        {"iat": NOW + 10},
        {"iat": NOW - 3610},
        {"sub": "a" * 255},
    ],
)
def test_claims_that_are_just_good(claims: dict[str, object]) -> None:
    """The other side of each bound."""
    assert verified(token(**claims)).issuer == "https://id.test"


def test_a_token_without_issuer_is_malformed() -> None:
    """Nobody's rules could be chosen."""
    for issuer in (None, "", 7, "a" * 1025):
        with pytest.raises(MalformedError):
            UnverifiedJwt.parse(token(iss=issuer))


@pytest.mark.parametrize("alg", ["none", "None", "HS256", "HS512", "RS512", "PS256", "ES256K", "dir", ""])
def test_algorithms_that_are_never_taken(alg: str) -> None:
    """No `none`, no HMAC with a public key as its secret, nothing outside the table (RFC 8725 §3.1)."""
    head = b64(json.dumps({"alg": alg, "kid": "k1"}).encode())
    for signature in ("", b64(b"x" * 32)):
        with pytest.raises(UnsupportedError):
            UnverifiedJwt.parse(f"{head}.{b64(payload())}.{signature}")


def test_the_issuers_algorithms_are_an_allow_list() -> None:
    """A good signature of an algorithm that is not configured is refused."""
    only_es384 = TokenRules("https://id.test", "signer-hsm", frozenset({"ES384"}), 10, 3600)
    assert refusal(token(), rules=only_es384) == "algorithm"


@pytest.mark.parametrize("name", [name for name in NAMES if name != "ecdsa-p256"])
def test_a_key_verifies_its_own_algorithm_only(name: str) -> None:
    """Which key it is decides how it verifies, not what the header says (RFC 8725 §2.1)."""
    assert refusal(token(), KEYS[name]) == "algorithm"


def test_another_key_of_the_algorithm() -> None:
    """The signature does not verify."""
    assert refusal(token(OTHER)) == "signature"


@pytest.mark.parametrize("part", [0, 1, 2])
def test_any_part_changed(part: int) -> None:
    """Header, payload and signature are all bound."""
    other = compact(KEY, payload(sub="mallory"), kid="k2").split(".")
    parts = token().split(".")
    parts[part] = other[part]
    assert refusal(".".join(parts)) == "signature"


def test_ecdsa_zeros_are_no_signature() -> None:
    """CVE-2022-21449."""
    parts = token().split(".")
    for signature in (bytes(64), b"", bytes(63), b"\x01" * 65):
        assert refusal(".".join([*parts[:2], b64(signature)])) == "signature"


@pytest.mark.parametrize(
    "header",
    [
        {"crit": ["exp"], "exp": NOW},
        {"crit": []},
        {"b64": False},
        {"b64": True},
        {"zip": "DEF"},
        {"enc": "A256GCM"},
        {"typ": "logout+jwt"},
        {"typ": "dpop+jwt"},
        {"typ": 5},
        {"kid": 5},
        {"kid": ""},
        {"kid": "k" * 1025},
        {"kid": None},
        {"alg": None},
        {"alg": ["ES256"]},
    ],
)
def test_headers_that_are_refused(header: dict[str, object]) -> None:
    """Extensions that must be understood, compression, encryption, other kinds of token, nonsense."""
    with pytest.raises(MalformedError):
        UnverifiedJwt.parse(compact(KEY, payload(), **header))


@pytest.mark.parametrize("typ", ["JWT", "jwt", "at+jwt", "application/at+jwt", "application/JWT"])
def test_types_that_are_taken(typ: str) -> None:
    """ID tokens and access tokens, in the spellings of RFC 7519 §5.1 and RFC 9068 §2.1."""
    assert verified(compact(KEY, payload(), typ=typ)).subject == "alice"


def test_keys_in_the_header_are_not_looked_at() -> None:
    """A token that brings its own key is verified with the issuer's (RFC 8725 §3.10)."""
    own = {"jwk": jwk_of(OTHER.public_key()), "jku": "https://evil.test", "x5u": "https://evil.test", "x5c": ["AA=="]}
    assert refusal(compact(OTHER, payload(), **own)) == "signature"
    assert verified(compact(KEY, payload(), **own)).subject == "alice"


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text[:0],
        lambda text: text.rpartition(".")[0],
        lambda text: text + ".",
        lambda text: text + ".x.y",
        lambda text: text + "=",
        lambda text: " " + text,
        lambda text: text.replace(".", "..", 1),
        lambda text: text + "é",
        lambda text: text + "A" * MAX_JWT,
        lambda text: json.dumps(dict(zip(("protected", "payload", "signature"), text.split("."), strict=True))),
    ],
)
def test_texts_that_are_no_token(change: Callable[[str], str]) -> None:
    """Other numbers of parts, padding, stray characters, too long, JSON forms, encrypted tokens."""
    with pytest.raises(MalformedError):
        UnverifiedJwt.parse(change(token()))


@pytest.mark.parametrize(
    "octets",
    [
        b"",
        b"[]",
        b'"x"',
        b'{"iss":"https://id.test","iss":"https://id.test"}',
        b'{"iss":"https://id.test","x":{"a":1,"a":2}}',
        b'{"iss":"https://id.test","exp":NaN}',
        b'\xff{"iss":"https://id.test"}',
        b'{"iss":"https://id.test","x":"\\ud800"}',
    ],
)
def test_payloads_that_are_no_claims(octets: bytes) -> None:
    """Members given twice, at any depth, and what is no JSON object."""
    with pytest.raises(MalformedError):
        UnverifiedJwt.parse(compact(KEY, octets))


@settings(deadline=None)  # a busy machine is no fault
@given(st.text(max_size=300) | st.from_regex(r"[A-Za-z0-9_-]{0,80}\.[A-Za-z0-9_-]{0,80}\.[A-Za-z0-9_-]{0,80}"))
def test_no_text_ends_in_another_error(text: str) -> None:
    """Random texts are refused by an error of the tree."""
    with pytest.raises(PkiError):
        UnverifiedJwt.parse(text)


_NUMBERS = st.integers() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False)
_VALUES = _NUMBERS | st.text() | st.none() | st.lists(st.text())


@settings(deadline=None)  # a busy machine is no fault
@given(st.dictionaries(st.sampled_from(["iss", "aud", "sub", "exp", "iat", "nbf"]), _VALUES))
def test_no_claims_end_in_another_error(claims: dict[str, Any]) -> None:
    """Claims of any type are good or refused by an error of the tree."""
    try:
        assert verified(compact(KEY, json.dumps(CLAIMS | claims).encode())).issuer == RULES.issuer
    except PkiError as error:
        assert str(error)  # noqa: PT017 - both ends are allowed


def jwks(*keys: dict[str, Any]) -> bytes:
    """A JWK set."""
    return json.dumps({"keys": keys}).encode()


def public(key: PrivateKey, **members: object) -> dict[str, Any]:
    """A public JWK with further members."""
    return {**jwk_of(key.public_key()), **members}


def test_a_key_is_found_by_name_and_algorithm() -> None:
    """The same kid may name keys of two algorithms (RFC 7517 §4.5), and each is used for its own."""
    keys = JwkSet.parse(jwks(public(KEY, kid="a"), public(KEYS["ed25519"], kid="a"), public(OTHER, kid="b")))
    found = keys.find("a", "ES256")
    assert found is not None
    assert found.public_numbers() == KEY.public_key().public_numbers()  # type: ignore[union-attr] # an EC key
    assert algorithm_of(keys.find("a", "EdDSA")).name == "ed25519"
    assert keys.find("c", "ES256") is None
    assert keys.find("b", "EdDSA") is None


def test_a_token_without_kid_takes_the_only_key() -> None:
    """With two of its algorithm there is no telling, so none is tried."""
    assert JwkSet.parse(jwks(public(KEY), public(KEYS["ed25519"]))).find(None, "ES256") is not None
    assert JwkSet.parse(jwks(public(KEY, kid="a"), public(OTHER, kid="b"))).find(None, "ES256") is None


def test_keys_that_are_not_taken_are_passed_over() -> None:
    """Other key types, uses, sizes and halves of keys do not spoil the set (RFC 7517 §5), and are never found."""
    private = {**public(OTHER, kid="p"), "d": b64(b"x" * 32)}
    secret = {"kty": "oct", "k": b64(b"x" * 32), "kid": "o"}
    encryption = public(OTHER, kid="e", use="enc")
    other_alg = public(KEYS["rsa-2048"], kid="r", alg="PS256")
    small = {"kty": "RSA", "n": b64(b"\xff" * 128), "e": "AQAB", "kid": "s"}
    keys = JwkSet.parse(jwks(private, secret, encryption, other_alg, small, {"kty": "EC"}, public(KEY, kid="k")))
    assert keys.find("k", "ES256") is not None
    for kid in "poers":
        for alg in JWS_ALGORITHMS:
            assert keys.find(kid, alg) is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        b'{"keys":{}}',
        b'{"keys":[]}',
        b'{"keys":[1]}',
        b'{"keys":[{}]}',
        b'{"keys":[],"keys":[]}',
        jwks(public(KEY, kid="a"), public(OTHER, kid="a")),
        jwks(public(KEY), public(OTHER)),
        jwks(public(KEY, kid=5)),
        jwks(public(KEY, kid="")),
        jwks(*[public(KEY, kid=str(number)) for number in range(101)]),
        b" " * (MAX_JWKS + 1),
    ],
)
def test_sets_that_are_refused(data: bytes) -> None:
    """No set, no usable key, two keys of one name, too many, too large."""
    with pytest.raises(MalformedError):
        JwkSet.parse(data)
