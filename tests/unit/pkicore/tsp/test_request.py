"""What clients ask of a time-stamping authority, and what it must answer to the rest."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rfc3161_client import HashAlgorithm, TimestampRequestBuilder

from pkicore.encoding import NULL, DerReader, extension, integer, object_identifier, octet_string, sequence, tlv
from pkicore.errors import MalformedError, TimestampRefusedError, UnsupportedError
from pkicore.tsp import MAX_REQUEST_BYTES, MessageImprint, TimeStampRequest
from tests.support.openssl import openssl

DATA = b"hello"
DIGEST = hashlib.sha256(DATA).digest()
SHA1, SHA256, SHA512 = "1.3.14.3.2.26", "2.16.840.1.101.3.4.2.1", "2.16.840.1.101.3.4.2.3"
IMPRINT = MessageImprint.of("sha256", DIGEST)


def imprint(oid: str, digest: bytes, *parameters: bytes) -> bytes:
    """MessageImprint, right or wrong."""
    return sequence(sequence(object_identifier(oid), *parameters), octet_string(digest))


def request(*parts: bytes, version: int = 1, stamped: bytes = IMPRINT.der) -> bytes:
    """TimeStampReq with whatever follows the imprint."""
    return sequence(integer(version), stamped, *parts)


@pytest.mark.parametrize("hash_name", ["sha256", "sha384", "sha512"])
@pytest.mark.parametrize(
    ("options", "policy", "certificates"),
    [([], None, False), (["-cert"], None, True), (["-tspolicy", "1.2.3.4.5"], "1.2.3.4.5", False)],
)
@pytest.mark.parametrize("nonce", [True, False])
def test_requests_of_openssl_are_read(
    hash_name: str, options: list[str], policy: str | None, *, certificates: bool, nonce: bool, tmp_path: Path
) -> None:
    """Every field; and written again they are the same octets."""
    (tmp_path / "data").write_bytes(DATA)
    out = tmp_path / "request"
    more = options if nonce else [*options, "-no_nonce"]
    openssl("ts", "-query", "-data", tmp_path / "data", f"-{hash_name}", "-out", out, *more)
    found = TimeStampRequest.parse(out.read_bytes())
    assert found.imprint == MessageImprint.of(hash_name, hashlib.new(hash_name, DATA).digest())
    assert (found.policy, found.certificates) == (policy, certificates)
    assert (found.nonce is not None) == nonce
    assert found.to_der() == out.read_bytes()


@pytest.mark.parametrize("hash_algorithm", [HashAlgorithm.SHA256, HashAlgorithm.SHA512])
def test_requests_of_sigstores_client_are_read(hash_algorithm: HashAlgorithm) -> None:
    """rfc3161-client, which sigstore-python asks with."""
    theirs = TimestampRequestBuilder().data(DATA).hash_algorithm(hash_algorithm).nonce(nonce=True).build()
    found = TimeStampRequest.parse(theirs.as_bytes())
    assert (found.nonce, found.certificates) == (theirs.nonce, theirs.cert_req)
    assert found.imprint.digest == theirs.message_imprint.message


@given(
    policy=st.sampled_from([None, "1.2.3", "2.999.1"]),
    nonce=st.none() | st.integers(-(2**256) + 1, 2**256 - 1),
    certificates=st.booleans(),
)
def test_what_is_written_is_read(policy: str | None, nonce: int | None, *, certificates: bool) -> None:
    """Our own requests, with nonces of any sign: some clients draw signed ones."""
    ours = TimeStampRequest(IMPRINT, policy, nonce, certificates)
    assert TimeStampRequest.parse(ours.to_der()) == ours


def test_the_imprint_is_kept_to_the_octet() -> None:
    """With NULL parameters or without: the token must echo what was asked, and both mean the same."""
    with_null = imprint(SHA256, DIGEST, NULL)
    found = TimeStampRequest.parse(request(stamped=with_null)).imprint
    assert found.der == with_null
    assert found == IMPRINT


@pytest.mark.parametrize(
    ("der", "failure"),
    [
        (b"", "badDataFormat"),
        (b"GET / HTTP/1.1", "badDataFormat"),
        (request() + b"\x00", "badDataFormat"),
        (request()[:-1], "badDataFormat"),
        (b"\x30\x80" + request()[2:] + b"\x00\x00", "badDataFormat"),
        (b"\x30\x81" + request()[1:], "badDataFormat"),
        (request(NULL), "badDataFormat"),
        (request(integer(1), integer(2)), "badDataFormat"),
        (request(integer(1), object_identifier("1.2.3")), "badDataFormat"),
        (request(b"\x01\x01\x01"), "badDataFormat"),
        (request(b"\x02\x02\x00\x01"), "badDataFormat"),
        (request(integer(2**256)), "badDataFormat"),
        (request(b"\x06\x03\x2a\x80\x01"), "badDataFormat"),
        (request(stamped=IMPRINT.der + IMPRINT.der), "badDataFormat"),
        (request(stamped=imprint(SHA256, DIGEST + b"\x00")), "badDataFormat"),
        (request(stamped=imprint(SHA256, DIGEST[:-1])), "badDataFormat"),
        (request(stamped=imprint(SHA256, b"")), "badDataFormat"),
        (request(stamped=imprint(SHA512, DIGEST)), "badDataFormat"),
        (request(stamped=imprint(SHA1, bytes(20))), "badAlg"),
        (request(stamped=imprint("1.2.840.113549.2.5", bytes(16))), "badAlg"),
        (request(stamped=imprint(SHA256, DIGEST, integer(1))), "badAlg"),
        (request(version=0), "badRequest"),
        (request(version=2), "badRequest"),
        (request(tlv(0xA0, extension("1.2.3", b""))), "unacceptedExtension"),
        (request(tlv(0xA0, extension("1.2.3", b"", critical=True))), "unacceptedExtension"),
        (request(tlv(0xA0, b"")), "unacceptedExtension"),
        (request(octet_string(bytes(MAX_REQUEST_BYTES))), "badDataFormat"),
    ],
)
def test_the_rest_is_refused_with_its_reason(der: bytes, failure: str) -> None:
    """The PKIFailureInfo that RFC 3161 §2.4.2 has for it."""
    with pytest.raises(TimestampRefusedError) as caught:
        TimeStampRequest.parse(der)
    assert caught.value.failure == failure


@given(st.binary(max_size=100))
def test_noise_is_refused(noise: bytes) -> None:
    """Alone, behind a version, and in place of an imprint: nothing else is ever raised."""
    for der in (noise, sequence(integer(1), noise), request(stamped=noise)):
        with pytest.raises(TimestampRefusedError):
            TimeStampRequest.parse(der)


def test_an_imprint_is_a_digest_of_its_hash() -> None:
    """Other hashes and other lengths are refused before anything is asked."""
    with pytest.raises(UnsupportedError):
        MessageImprint.of("sha1", bytes(20))
    with pytest.raises(MalformedError):
        MessageImprint.of("sha256", bytes(20))
    assert MessageImprint.parse(IMPRINT.der) == IMPRINT
    assert DerReader(IMPRINT.der).enter().enter().read(0x06) == object_identifier(SHA256)[2:]
