from __future__ import annotations

import base64
import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import josepy
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from josepy.jwa import JWASignature
from jwcrypto import jwk as oracle_jwk  # type: ignore[import-untyped] # the oracle has no types
from jwcrypto import jws as oracle_jws

from pkicore.algorithms import ALGORITHMS, PrivateKey, generate_private_key, sign_with
from pkicore.errors import BadSignatureError, MalformedError, PkiError, UnsupportedError
from pkicore.jose.jwk import jwk_of, public_key_from_jwk
from pkicore.jose.jws import JWS_ALGORITHMS, MAX_JWS, UnverifiedJws, sign_jws
from tests.support.key_pairs import KEYS

NAMES = [name for name in ALGORITHMS if name != "rsa-4096"]  # slow to generate, and nothing differs from rsa-3072
KEY = KEYS["ecdsa-p256"]
HEADER = {"kid": "https://ca.example/acme/acct/1", "nonce": "AAAA", "url": "https://ca.example/acme/new-order"}


def b64(data: bytes) -> str:
    """base64url without padding, made without our own code."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def resigned(change: Callable[[dict[str, Any]], None], key: PrivateKey = KEY) -> bytes:
    """A JWS that is signed well over a header that was changed before."""
    header: dict[str, Any] = {"alg": "ES256", **HEADER}
    change(header)
    return with_protected(json.dumps(header).encode(), key)


def with_protected(protected: bytes, key: PrivateKey = KEY, payload: str = "e30") -> bytes:
    """A JWS over exactly these header octets, as jwcrypto's ECDSA would sign them."""
    signing_input = f"{b64(protected)}.{payload}".encode()
    r, s = decode_dss_signature(sign_with(key, signing_input))
    signature = r.to_bytes(32, "big") + s.to_bytes(32, "big")
    return json.dumps({"protected": b64(protected), "payload": payload, "signature": b64(signature)}).encode()


def changed(**members: object) -> bytes:
    """A good JWS with members of the outer object replaced or, where None, removed."""
    jws = json.loads(sign_jws(KEY, b"{}", HEADER)) | members
    return json.dumps({name: value for name, value in jws.items() if value is not None}).encode()


@pytest.mark.parametrize("name", NAMES)
def test_signature_round_trip(name: str) -> None:
    """What a key signs verifies with its public key and says what was said."""
    key = KEYS[name]
    verified = UnverifiedJws.parse(sign_jws(key, b'{"a":1}', HEADER)).verify(key.public_key())
    assert verified.payload == b'{"a":1}'
    assert (verified.kid, verified.nonce, verified.url) == (HEADER["kid"], HEADER["nonce"], HEADER["url"])
    assert verified.alg == ALGORITHMS[name].jws


@pytest.mark.parametrize("name", NAMES)
def test_an_independent_library_verifies_ours(name: str) -> None:
    """Jwcrypto accepts every signature that this package makes."""
    key = KEYS[name]
    oracle = oracle_jws.JWS()
    oracle.allowed_algs = list(JWS_ALGORITHMS)
    oracle.deserialize(sign_jws(key, b"payload", HEADER).decode())
    oracle.verify(oracle_jwk.JWK(**jwk_of(key.public_key())))
    assert oracle.payload == b"payload"


@pytest.mark.parametrize("alg", [*JWS_ALGORITHMS])
def test_an_independent_librarys_signatures_verify(alg: str) -> None:
    """What jwcrypto signs, by each algorithm, is accepted here."""
    kinds: dict[str, dict[str, Any]] = {
        "ES256": {"kty": "EC", "crv": "P-256"},
        "ES384": {"kty": "EC", "crv": "P-384"},
        "ES512": {"kty": "EC", "crv": "P-521"},
        "RS256": {"kty": "RSA", "size": 2048},
        "EdDSA": {"kty": "OKP", "crv": "Ed25519"},
    }
    key = oracle_jwk.JWK.generate(**kinds.get(alg, {"kty": "AKP", "alg": alg}))
    oracle = oracle_jws.JWS(b"{}")
    oracle.allowed_algs = list(JWS_ALGORITHMS)
    public = json.loads(key.export_public())
    oracle.add_signature(key, None, json.dumps({"alg": alg, "jwk": public, "nonce": "AAAA", "url": "https://x/"}))
    parsed = UnverifiedJws.parse(oracle.serialize().encode())
    assert parsed.jwk is not None
    assert parsed.verify(public_key_from_jwk(parsed.jwk)).payload == b"{}"


@pytest.mark.parametrize("name", ["ed25519", "ml-dsa-44", "ml-dsa-65", "ml-dsa-87"])
def test_josepy_carries_the_registered_types(name: str) -> None:
    """Josepy signs and verifies with the key types and algorithms that were registered with it."""
    key = KEYS[name]
    jwk_type = josepy.jwk.JWK.TYPES["OKP" if name == "ed25519" else "AKP"]
    carried = jwk_type(key=key)
    algorithm = JWASignature.SIGNATURES[ALGORITHMS[name].jws]
    signed = josepy.jws.JWS.sign(b"x", key=carried, alg=algorithm, protect=frozenset(["alg", "jwk"]), include_jwk=True)
    assert josepy.jws.JWS.from_json(json.loads(signed.json_dumps())).verify()
    assert not algorithm.verify(key.public_key(), b"y", key.sign(b"x"))  # type: ignore[call-arg] # no EC or RSA here


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("part", ["protected", "payload", "signature"])
def test_every_part_is_protected(name: str, part: str) -> None:
    """One changed octet anywhere is refused."""
    key = KEYS[name]
    jws = json.loads(sign_jws(key, b'{"a":"b"}', HEADER))
    octets = bytearray(base64.urlsafe_b64decode(jws[part] + "==="))
    octets[-3] ^= 1
    jws[part] = b64(bytes(octets))
    with pytest.raises(PkiError):
        UnverifiedJws.parse(json.dumps(jws).encode()).verify(key.public_key())


@pytest.mark.parametrize("name", NAMES)
def test_another_key_does_not_verify(name: str) -> None:
    """A signature by another key of the same kind is refused."""
    jws = UnverifiedJws.parse(sign_jws(KEYS[name], b"{}", HEADER))
    other = KEYS[name] if name.startswith("rsa") else generate_private_key(ALGORITHMS[name])
    if name.startswith("rsa"):
        other = generate_private_key(ALGORITHMS["rsa-2048"])
    with pytest.raises(BadSignatureError):
        jws.verify(other.public_key())


@pytest.mark.parametrize("alg", ["none", "None", "HS256", "HS512", "PS256", "RS1", "ES256K", "Ed25519", "ES25", ""])
def test_algorithms_that_are_not_offered(alg: str) -> None:
    """`none`, HMAC and everything else outside the list is refused before any key is looked at."""
    with pytest.raises(UnsupportedError, match="alg must be one of"):
        UnverifiedJws.parse(resigned(lambda header: header.update(alg=alg)))


@pytest.mark.parametrize("alg", [alg for alg in JWS_ALGORITHMS if alg != "ES256"])
def test_the_algorithm_belongs_to_the_key(alg: str) -> None:
    """A header that names another algorithm than the key's is refused, whatever the signature (algorithm confusion)."""
    with pytest.raises(UnsupportedError, match="ES256"):
        UnverifiedJws.parse(resigned(lambda header: header.update(alg=alg))).verify(KEY.public_key())


@pytest.mark.parametrize("name", ["crit", "b64", "zip", "enc"])
def test_refused_header_parameters(name: str) -> None:
    """Extensions that change how a JWS is read are refused, known or not."""
    with pytest.raises(MalformedError, match=name):
        UnverifiedJws.parse(resigned(lambda header: header.update({name: ["exp"]})))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b'"x"',
        b"{",
        b"\xff\xfe",
        b"[" * 5000 + b"]" * 5000,
        b'{"protected":NaN}',
        b'{"protected":"\\ud800","payload":"","signature":""}',
        b"9" * 5000,
        changed(payload=None),
        changed(payload=None, signature=None, protected=None),
        changed(payload=1),
        changed(protected=["x"]),
        changed(header={"kid": "x"}),
        changed(header={}),
        changed(signatures=[]),
        changed(extra="x"),
        changed(signature="A==="),
        changed(payload="e30="),
        changed(payload="e3 0"),
        changed(payload="e31"),
        changed(payload="e+/0"),
        changed(payload="e30\n"),
        changed(protected=b64(b"[]")),
        changed(protected=b64(b"not json")),
        changed(protected=b64(b'{"alg":"ES256"')),
        changed(protected=""),
        b"eyJhbGciOiJFUzI1NiJ9.e30.AAAA",
    ],
)
def test_other_forms(body: bytes) -> None:
    """Only one flattened JSON object of three exact base64url strings is a JWS here."""
    with pytest.raises(MalformedError):
        UnverifiedJws.parse(body)


@pytest.mark.parametrize("member", ["protected", "payload", "signature"])
def test_the_member_that_does_not_decode_is_named(member: str) -> None:
    """Whoever writes a client learns which of the three is not base64url."""
    jws = json.loads(sign_jws(generate_private_key(ALGORITHMS["ed25519"]), b"{}", {"kid": "k"}))
    jws[member] += "="
    with pytest.raises(MalformedError, match=f"^{member} is not base64url"):
        UnverifiedJws.parse(json.dumps(jws).encode())


def test_members_given_twice() -> None:
    """A member that two parsers might read differently is refused: outside, in the header, and deep in the jwk."""
    outer = changed().decode()
    with pytest.raises(MalformedError, match="twice"):
        UnverifiedJws.parse((outer[:-1] + ',"payload":"e30"}').encode())
    for header in (
        b'{"alg":"ES256","alg":"ES256","kid":"x"}',
        b'{"alg":"ES256","kid":"x","\\u006bid":"y"}',
        b'{"alg":"ES256","jwk":{"kty":"EC","kty":"RSA"}}',
    ):
        with pytest.raises(MalformedError, match="twice"):
            UnverifiedJws.parse(with_protected(header))


@pytest.mark.parametrize(
    "change",
    [
        lambda header: header.pop("kid"),
        lambda header: header.update(jwk=jwk_of(KEY.public_key())),
        lambda header: header.update(kid=7),
        lambda header: header.update(kid=None),
        lambda header: header.update(kid=""),
        lambda header: header.update(kid="x" * 3000),
        lambda header: (header.pop("kid"), header.update(jwk=[])),
        lambda header: (header.pop("kid"), header.update(jwk=None)),
        lambda header: header.update(url=1),
        lambda header: header.update(nonce=1),
        lambda header: header.update(nonce="not base64url!"),
        lambda header: header.update(nonce="AAAA=="),
        lambda header: header.pop("alg"),
        lambda header: header.update(alg=["ES256"]),
    ],
)
def test_bad_headers(change: Callable[[dict[str, Any]], None]) -> None:
    """The header names exactly one of jwk and kid, and every parameter has its type."""
    with pytest.raises(MalformedError):
        UnverifiedJws.parse(resigned(change))


def test_size_is_bounded() -> None:
    """64 KiB are read, one octet more is not."""
    body = sign_jws(KEY, b"x" * 48_000, HEADER)
    padded = body + b" " * (MAX_JWS - len(body))
    UnverifiedJws.parse(padded).verify(KEY.public_key())
    with pytest.raises(MalformedError, match="larger"):
        UnverifiedJws.parse(padded + b" ")


@pytest.mark.parametrize("name", ["ecdsa-p256", "ecdsa-p384", "ecdsa-p521"])
def test_psychic_signatures(name: str) -> None:
    """ECDSA signatures with r or s zero, of another width, or in DER are refused (CVE-2022-21449)."""
    key = KEYS[name]
    jws = json.loads(sign_jws(key, b"{}", HEADER))
    signature = base64.urlsafe_b64decode(jws["signature"] + "==")
    half = len(signature) // 2
    order = ec.SECP256R1.group_order if name == "ecdsa-p256" else 0
    bad = [
        bytes(2 * half),
        bytes(half) + signature[half:],
        signature[:half] + bytes(half),
        signature[:-1],
        signature + b"\0",
        b"\0" + signature[:half] + b"\0" + signature[half:],
        b"",
        b"\x30\x06\x02\x01\x01\x02\x01\x01",
    ]
    if order:
        bad.append(order.to_bytes(32, "big") * 2)
    for octets in bad:
        jws["signature"] = b64(octets)
        with pytest.raises(BadSignatureError):
            UnverifiedJws.parse(json.dumps(jws).encode()).verify(key.public_key())


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(st.one_of(st.binary(max_size=300), st.text(max_size=300).map(lambda text: text.encode("utf-8", "ignore"))))
def test_noise_never_crashes(body: bytes) -> None:
    """Whatever is sent, parsing ends in a value or in one of our errors."""
    with suppress(PkiError):
        UnverifiedJws.parse(body)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.dictionaries(
        st.sampled_from(["alg", "kid", "jwk", "nonce", "url", "crit", "b64", "x5c"]),
        JSON_VALUES | st.sampled_from([*JWS_ALGORITHMS, "https://x/", "AAAA"]),
    )
)
def test_hostile_headers_never_crash(header: dict[str, Any]) -> None:
    """Any JSON in the protected header ends in a value or in one of our errors."""
    body = json.dumps({"protected": b64(json.dumps(header).encode()), "payload": "", "signature": "AAAA"})
    with suppress(PkiError):
        UnverifiedJws.parse(body.encode("utf-8", "surrogatepass")).verify(KEY.public_key())
