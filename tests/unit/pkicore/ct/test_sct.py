import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from pkicore.algorithms import ALGORITHMS, generate_private_key
from pkicore.ct import (
    SignedCertificateTimestamp,
    decode_sct_list,
    encode_leaf_index,
    encode_sct_list,
    log_id,
)
from pkicore.ct.sct import MAX_LEAF_INDEX, MAX_TIMESTAMP, signature_algorithm, vector
from pkicore.encoding import octet_string
from pkicore.errors import MalformedError, UnsupportedError

LOG_KEY = ec.derive_private_key(7, ec.SECP256R1()).public_key()
AT = 1_900_000_000_123
SCT = SignedCertificateTimestamp.assemble(LOG_KEY, AT, encode_leaf_index(5), b"signature")
BYTES = SCT.to_bytes()


def test_a_timestamp_is_the_structure_of_the_specification() -> None:
    """Octet for octet: version, log, time, extensions, algorithm, signature (RFC 6962 §3.2)."""
    spki = LOG_KEY.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert log_id(LOG_KEY) == hashlib.sha256(spki).digest()
    assert (
        b"\x00"
        + hashlib.sha256(spki).digest()
        + AT.to_bytes(8, "big")
        + b"\x00\x08\x00\x00\x05\x00\x00\x00\x00\x05"
        + b"\x04\x03"
        + b"\x00\x09signature"
    ) == BYTES


def test_a_list_is_the_structure_of_the_specification() -> None:
    """An OCTET STRING around a vector of vectors (RFC 6962 §3.3)."""
    one = vector(BYTES, 2)
    assert encode_sct_list([SCT]) == octet_string(vector(one, 2))
    assert decode_sct_list(octet_string(vector(one + one, 2))) == (SCT, SCT)


@pytest.mark.parametrize(("algorithm", "octets"), [("ecdsa-p256", "0403"), ("rsa-2048", "0401"), ("rsa-3072", "0401")])
def test_the_keys_of_logs(algorithm: str, octets: str) -> None:
    """P-256 and RSA, both with SHA-256 (RFC 6962 §2.1.4)."""
    public_key = generate_private_key(ALGORITHMS[algorithm]).public_key()
    assert signature_algorithm(public_key).hex() == octets


@pytest.mark.parametrize("algorithm", ["ecdsa-p384", "ecdsa-p521", "ed25519", "ml-dsa-44", "ml-dsa-65"])
def test_no_log_of_version_1_has_another_key(algorithm: str) -> None:
    """Post-quantum logs need a version that is not written yet."""
    public_key = generate_private_key(ALGORITHMS[algorithm]).public_key()
    with pytest.raises(UnsupportedError, match="ECDSA key on P-256 or an RSA key"):
        SignedCertificateTimestamp.assemble(public_key, AT, b"", b"signature")


@given(
    st.integers(0, MAX_TIMESTAMP),
    st.binary(max_size=40),
    st.binary(min_size=2, max_size=2),
    st.binary(min_size=1, max_size=80),
)
def test_every_timestamp_is_read_as_it_was_written(
    timestamp: int, extensions: bytes, algorithm: bytes, signature: bytes
) -> None:
    """Alone and in a list."""
    sct = SignedCertificateTimestamp(bytes(range(32)), timestamp, extensions, algorithm, signature)
    assert SignedCertificateTimestamp.parse(sct.to_bytes()) == sct
    assert decode_sct_list(encode_sct_list([sct, SCT])) == (sct, SCT)


@pytest.mark.parametrize("size", range(len(BYTES)))
def test_a_timestamp_that_was_cut_is_refused(size: int) -> None:
    """At any place."""
    with pytest.raises(MalformedError):
        SignedCertificateTimestamp.parse(BYTES[:size])


def test_a_timestamp_with_more_behind_it_is_refused() -> None:
    """One octet is enough."""
    with pytest.raises(MalformedError, match="1 stray octets"):
        SignedCertificateTimestamp.parse(BYTES + b"\x00")


def test_a_timestamp_of_another_version_is_refused() -> None:
    """Version 2 looks different (RFC 9162 §4.8)."""
    with pytest.raises(UnsupportedError, match="version 1"):
        SignedCertificateTimestamp.parse(b"\x01" + BYTES[1:])


def test_a_timestamp_without_a_signature_is_refused() -> None:
    """An empty vector is none."""
    with pytest.raises(MalformedError, match="no signature"):
        SignedCertificateTimestamp.parse(BYTES[: -len(b"signature") - 2] + b"\x00\x00")


@pytest.mark.parametrize(
    ("log", "timestamp", "extensions", "algorithm", "signature"),
    [
        (bytes(31), AT, b"", b"\x04\x03", b"s"),
        (bytes(32), -1, b"", b"\x04\x03", b"s"),
        (bytes(32), MAX_TIMESTAMP + 1, b"", b"\x04\x03", b"s"),
        (bytes(32), AT, bytes(65536), b"\x04\x03", b"s"),
        (bytes(32), AT, b"", b"\x04", b"s"),
        (bytes(32), AT, b"", b"\x04\x03", b""),
        (bytes(32), AT, b"", b"\x04\x03", bytes(65536)),
    ],
)
def test_a_timestamp_that_could_not_be_read_is_not_made(
    log: bytes, timestamp: int, extensions: bytes, algorithm: bytes, signature: bytes
) -> None:
    """Each field has its size."""
    with pytest.raises(MalformedError):
        SignedCertificateTimestamp(log, timestamp, extensions, algorithm, signature)


ONE = vector(BYTES, 2)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        octet_string(b""),
        octet_string(vector(b"", 2)),
        octet_string(vector(ONE, 2)) + b"\x00",
        octet_string(vector(ONE, 2) + b"\x00"),
        octet_string(vector(ONE, 2)[:-1]),
        octet_string(vector(ONE[:-1], 2)),
        octet_string(vector(ONE + b"\x00", 2)),
        octet_string(vector(vector(BYTES + b"\x00", 2), 2)),
        octet_string(vector(vector(b"", 2) + ONE, 2)),
        octet_string(BYTES),
        vector(ONE, 2),
        b"\x24" + octet_string(vector(ONE, 2))[1:],
    ],
)
def test_a_list_in_another_form_is_refused(value: bytes) -> None:
    """Cut, with more in it than it says, empty, or without its wrapping."""
    with pytest.raises(MalformedError):
        decode_sct_list(value)


def test_a_list_that_cannot_be_read_is_not_made() -> None:
    """Neither an empty one, nor one beyond 65,535 octets."""
    with pytest.raises(MalformedError, match="at least one"):
        encode_sct_list([])
    with pytest.raises(MalformedError, match="do not fit"):
        encode_sct_list([SignedCertificateTimestamp(bytes(32), AT, b"", b"\x04\x03", bytes(40_000))] * 2)


@given(st.binary(max_size=120))
def test_whatever_is_received_is_a_timestamp_or_refused(data: bytes) -> None:
    """And a timestamp that is taken has no other form."""
    for attempt in (data, b"\x00" + data, BYTES[:41] + data):
        try:
            sct = SignedCertificateTimestamp.parse(attempt)
        except (MalformedError, UnsupportedError):
            continue
        assert sct.to_bytes() == attempt


@pytest.mark.parametrize("index", [0, 5, 2**32, MAX_LEAF_INDEX])
def test_a_timestamp_says_where_its_entry_is(index: int) -> None:
    """40 bits, in 8 octets of extensions (C2SP static-ct-api)."""
    extensions = encode_leaf_index(index)
    assert len(extensions) == 8
    assert SignedCertificateTimestamp(bytes(32), AT, extensions, b"\x04\x03", b"s").leaf_index == index


def with_extensions(extensions: bytes) -> SignedCertificateTimestamp:
    """A timestamp with these."""
    return SignedCertificateTimestamp(bytes(32), AT, extensions, b"\x04\x03", b"s")


def test_extensions_of_other_kinds_are_passed_over() -> None:
    """In any order; without a leaf index among them there is none."""
    other, index = b"\x07\x00\x01x", encode_leaf_index(9)
    assert with_extensions(b"").leaf_index is None
    assert with_extensions(other).leaf_index is None
    assert with_extensions(other + index).leaf_index == with_extensions(index + other).leaf_index == 9


@pytest.mark.parametrize(
    "extensions",
    [
        encode_leaf_index(9) * 2,
        encode_leaf_index(9)[:-1],
        encode_leaf_index(9) + b"\x07",
        b"\x00\x00\x04\x00\x00\x00\x09",
        b"\x00\x00\x06\x00\x00\x00\x00\x00\x09",
        b"\x00\x00\x00",
        b"opaque",
    ],
)
def test_a_leaf_index_in_another_form_is_refused(extensions: bytes) -> None:
    """Doubled, cut, or of another size; the timestamp itself is still one of RFC 6962."""
    sct = SignedCertificateTimestamp.parse(with_extensions(extensions).to_bytes())
    with pytest.raises(MalformedError):
        _ = sct.leaf_index


@pytest.mark.parametrize("index", [-1, MAX_LEAF_INDEX + 1])
def test_an_index_beyond_40_bits_is_refused(index: int) -> None:
    """Before it is written."""
    with pytest.raises(MalformedError, match="40 bits"):
        encode_leaf_index(index)
