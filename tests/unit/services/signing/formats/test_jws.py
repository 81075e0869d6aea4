from __future__ import annotations

import base64

import orjson
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwcrypto import jwk  # type: ignore[import-untyped] # the oracle has no types
from jwcrypto import jws as foreign

from pkicore.algorithms import ALGORITHMS, PrivateKey, algorithm_of, generate_private_key, sign_with
from pkicore.dsse import key_id
from pkicore.encoding import base64url_encode
from pkicore.errors import BadSignatureError, MalformedError, UnsupportedError
from pkicore.jose.jws import jws_signature
from services.signing.formats import SignedWith, jws
from services.signing.statements import Subject, statement

STATEMENT = statement(
    [Subject("app.tar.gz", {"sha256": "ab" * 32})], "https://example.org/predicate", b'{"passed":true}'
)


def signed_jws(key: PrivateKey, payload: bytes = STATEMENT) -> bytes:
    """The file that the service makes."""
    message = jws.to_sign("default.k", key.public_key(), payload).message
    assert message is not None
    signed = SignedWith("default.k", algorithm_of(key.public_key()), key.public_key(), sign_with(key, message))
    return jws.output(signed).content


def forged_jws(key: PrivateKey, header: object, payload: bytes = STATEMENT) -> bytes:
    """A JWS of the right key with another header."""
    protected = base64url_encode(orjson.dumps(header))
    signature = sign_with(key, f"{protected}.{base64url_encode(payload)}".encode())
    raw = jws_signature(algorithm_of(key.public_key()).jws, signature)
    return f"{protected}..{base64url_encode(raw)}".encode()


@pytest.mark.parametrize(
    "name", ["ecdsa-p256", "ecdsa-p384", "rsa-2048", "ed25519", "ml-dsa-44", "ml-dsa-65", "ml-dsa-87"]
)
def test_jwcrypto_verifies_the_detached_form(name: str) -> None:
    """An independent JOSE library believes the file, given the Statement as detached payload."""
    key = generate_private_key(ALGORITHMS[name])
    token = foreign.JWS()
    token.allowed_algs = [algorithm_of(key.public_key()).jws]
    token.deserialize(signed_jws(key).decode())
    token.detach_payload()
    foreign_key = jwk.JWK.from_pem(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    token.verify(foreign_key, detached_payload=STATEMENT)
    with pytest.raises(foreign.InvalidJWSSignature):
        token.verify(foreign_key, detached_payload=STATEMENT + b" ")


def test_the_header_names_algorithm_key_and_content() -> None:
    """The header has alg, kid and cty, and nothing that could change what was signed."""
    key = generate_private_key(ALGORITHMS["ecdsa-p256"])
    protected, payload, signature = signed_jws(key).decode().split(".")
    header = orjson.loads(base64.urlsafe_b64decode(protected + "=="))
    assert header == {"alg": "ES256", "kid": key_id(key.public_key()), "cty": "vnd.in-toto+json"}
    assert payload == ""
    assert len(base64.urlsafe_b64decode(signature + "==")) == 64


@pytest.mark.parametrize("name", ["ecdsa-p256", "rsa-2048", "ml-dsa-65"])
def test_our_verifier_believes_what_the_service_makes(name: str) -> None:
    """The Statement is believed, another is not."""
    key = generate_private_key(ALGORITHMS[name])
    jws.verify(signed_jws(key), STATEMENT, key.public_key())
    with pytest.raises(BadSignatureError):
        jws.verify(signed_jws(key), STATEMENT.replace(b"true", b"fals"), key.public_key())


def test_another_key_is_not_believed() -> None:
    """The kid does not decide: what counts is the key that the caller gives."""
    key, other = generate_private_key(ALGORITHMS["ecdsa-p256"]), generate_private_key(ALGORITHMS["ecdsa-p256"])
    with pytest.raises(BadSignatureError):
        jws.verify(signed_jws(key), STATEMENT, other.public_key())


@pytest.mark.parametrize(
    ("header", "error"),
    [
        ({"alg": "none", "kid": "k", "cty": "vnd.in-toto+json"}, UnsupportedError),
        ({"alg": "HS256", "kid": "k", "cty": "vnd.in-toto+json"}, UnsupportedError),
        ({"alg": "ES384", "kid": "k", "cty": "vnd.in-toto+json"}, UnsupportedError),
        ({"alg": ["ES256"], "kid": "k", "cty": "vnd.in-toto+json"}, UnsupportedError),
        ({"alg": "ES256", "kid": "k", "cty": "JWT"}, UnsupportedError),
        ({"alg": "ES256", "kid": "k", "cty": "vnd.in-toto+json", "b64": False, "crit": ["b64"]}, MalformedError),
        ({"alg": "ES256", "cty": "vnd.in-toto+json"}, MalformedError),
        (["ES256"], MalformedError),
    ],
)
def test_headers_of_other_makes_are_refused(header: object, error: type[Exception]) -> None:
    """Whoever holds the key may sign other JWS with it: they are not taken for signatures of Statements."""
    key = generate_private_key(ALGORITHMS["ecdsa-p256"])
    with pytest.raises(error):
        jws.verify(forged_jws(key, header), STATEMENT, key.public_key())


def test_a_jws_with_a_payload_of_its_own_is_refused() -> None:
    """There is one place for the payload, and it is not in the file."""
    key = generate_private_key(ALGORITHMS["ecdsa-p256"])
    attached = signed_jws(key).replace(b"..", f".{base64url_encode(STATEMENT)}.".encode())
    with pytest.raises(MalformedError, match="not detached"):
        jws.verify(attached, STATEMENT, key.public_key())


@pytest.mark.parametrize("data", [b"", b"..", b"a.b", b"\xff..", b"e30..!", b"e30.." + b"A" * 20_000, b"e30..AA\n"])
def test_what_is_no_jws_is_malformed(data: bytes) -> None:
    """Bytes that are none, or too many, are refused before any key is used."""
    key = generate_private_key(ALGORITHMS["ecdsa-p256"])
    with pytest.raises(MalformedError):
        jws.verify(data, STATEMENT, key.public_key())


def test_zeros_are_no_signature() -> None:
    """The pair (0, 0), which some verifiers once believed, never reaches one."""
    key = generate_private_key(ALGORITHMS["ecdsa-p256"])
    protected = signed_jws(key).partition(b".")[0]
    with pytest.raises(BadSignatureError, match="never zero"):
        jws.verify(protected + b".." + base64url_encode(bytes(64)).encode(), STATEMENT, key.public_key())


def test_files_are_named_after_the_algorithm() -> None:
    """A hybrid is two files, so each says whose it is."""
    key = generate_private_key(ALGORITHMS["ml-dsa-65"])
    output = jws.output(SignedWith("default.k", ALGORITHMS["ml-dsa-65"], key.public_key(), b"x"))
    assert (output.name, output.media_type) == ("detached-ml-dsa-65.jws", "application/jose")
