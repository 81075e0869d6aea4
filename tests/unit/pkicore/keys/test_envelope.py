"""The sealed form of a key, as an attacker with the file would bend it."""

from __future__ import annotations

import time
from typing import Any

import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from pkicore.algorithms import ALGORITHMS, generate_private_key
from pkicore.encoding import base64url_decode
from pkicore.errors import KeyLockedError, MalformedError, UnsupportedError
from pkicore.keys.envelope import MAX_ENVELOPE_BYTES, seal, unseal

PASSPHRASE = b"correct horse"


@pytest.fixture(scope="module")
def envelope() -> dict[str, Any]:
    """A sealed ML-DSA key."""
    sealed = seal(generate_private_key(ALGORITHMS["ml-dsa-65"]), PASSPHRASE)
    found = orjson.loads(sealed)
    assert isinstance(found, dict)
    return found


def test_what_the_envelope_says(envelope: dict[str, Any]) -> None:
    """Scrypt costs 64 MiB, the salt and nonce are fresh, and the seed form is what is sealed (54 bytes and a tag)."""
    assert envelope["kdf"] | {"salt": ""} == {"name": "scrypt", "n": 65536, "r": 8, "p": 1, "salt": ""}
    assert envelope["algorithm"] == "ml-dsa-65"
    assert len(base64url_decode(envelope["ciphertext"])) == 54 + 16
    other = orjson.loads(seal(generate_private_key(ALGORITHMS["ml-dsa-65"]), PASSPHRASE))
    assert other["kdf"]["salt"] != envelope["kdf"]["salt"]
    assert other["cipher"]["nonce"] != envelope["cipher"]["nonce"]


def test_the_order_of_members_does_not_matter(envelope: dict[str, Any]) -> None:
    """The header is authenticated in canonical form, so a reformatted file still opens."""
    turned = dict(reversed(envelope.items()))
    assert unseal(orjson.dumps(turned, option=orjson.OPT_INDENT_2), PASSPHRASE) is not None


@pytest.mark.parametrize(
    "change",
    [
        {"algorithm": "ml-dsa-87"},
        {"public_key": "AAAA"},
        {"comment": "added"},
        {"kdf": {"n": 131072}},
        {"cipher": {"nonce": "AAAAAAAAAAAAAAAA"}},
        {"kdf": {"salt": "AAAAAAAAAAAAAAAAAAAAAA"}},
    ],
)
def test_an_altered_header_does_not_open(envelope: dict[str, Any], change: dict[str, Any]) -> None:
    """Whatever the header says is authenticated by the cipher."""
    with pytest.raises(KeyLockedError):
        unseal(orjson.dumps(_changed(envelope, change)), PASSPHRASE)


def test_an_altered_ciphertext_does_not_open(envelope: dict[str, Any]) -> None:
    """A flipped bit is noticed."""
    text = envelope["ciphertext"]
    with pytest.raises(KeyLockedError):
        unseal(orjson.dumps(envelope | {"ciphertext": ("B" if text[0] == "A" else "A") + text[1:]}), PASSPHRASE)


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"kdf": {"n": 1 << 30}},
        {"kdf": {"n": 1 << 14}},
        {"kdf": {"n": 65536.0}},
        {"kdf": {"n": True}},
        {"kdf": {"r": 1 << 20}},
        {"kdf": {"p": 1 << 20}},
        {"kdf": {"name": "pbkdf2"}},
        {"cipher": {"name": "none"}},
    ],
)
def test_parameters_that_are_not_offered_cost_nothing(envelope: dict[str, Any], change: dict[str, Any]) -> None:
    """A file that asks for gigabytes, for weak parameters or for no cipher is refused before any derivation."""
    started = time.process_time()
    with pytest.raises(UnsupportedError):
        unseal(orjson.dumps(_changed(envelope, change)), PASSPHRASE)
    assert time.process_time() - started < 0.05


@pytest.mark.parametrize(
    "change", [{"kdf": {"salt": "AAAA"}}, {"cipher": {"nonce": ""}}, {"kdf": {"salt": 7}}, {"kdf": {"salt": "="}}]
)
def test_salt_and_nonce_have_their_sizes(envelope: dict[str, Any], change: dict[str, Any]) -> None:
    """Other sizes or types are malformed."""
    with pytest.raises(MalformedError):
        unseal(orjson.dumps(_changed(envelope, change)), PASSPHRASE)


@pytest.mark.parametrize("missing", ["version", "kdf", "cipher", "ciphertext"])
def test_missing_members(envelope: dict[str, Any], missing: str) -> None:
    """Each is needed."""
    with pytest.raises(MalformedError):
        unseal(orjson.dumps({k: v for k, v in envelope.items() if k != missing}), PASSPHRASE)


@given(
    st.one_of(
        st.binary(max_size=200),
        st.recursive(
            st.none() | st.integers(0, 9) | st.text(max_size=3),
            lambda inner: st.dictionaries(
                st.sampled_from(["version", "kdf", "cipher", "ciphertext", "x"]), inner, max_size=4
            ),
        ).map(orjson.dumps),
    )
)
def test_unsealing_is_total(data: bytes) -> None:
    """Whatever is not ours is malformed or not offered; nothing else comes out."""
    with pytest.raises((MalformedError, UnsupportedError)):
        unseal(data, PASSPHRASE)


def test_envelopes_are_bounded() -> None:
    """A large file is refused before it is parsed."""
    with pytest.raises(MalformedError, match="at most"):
        unseal(b"{" * (MAX_ENVELOPE_BYTES + 1), PASSPHRASE)


def test_keys_beyond_the_table_are_not_sealed() -> None:
    """What could not be used is not kept."""
    with pytest.raises(UnsupportedError):
        seal(ec.generate_private_key(ec.SECP256K1()), PASSPHRASE)


def _changed(envelope: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    merged = dict(envelope)
    for name, value in change.items():
        merged[name] = {**envelope[name], **value} if isinstance(value, dict) else value
    return merged
