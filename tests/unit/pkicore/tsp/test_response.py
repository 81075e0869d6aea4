"""Answers of an authority, also as openssl and rfc3161-client read them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pkicore.encoding import bit_string, integer, sequence, tlv
from pkicore.errors import MalformedError, PkiError, TimestampRefusedError, UnsupportedError
from pkicore.tsp import FAILURES, MAX_RESPONSE_BYTES, granted, rejection, token_of
from tests.support.openssl import openssl

TOKEN = sequence(integer(7))
SAYS = {
    "badAlg": "unrecognized or unsupported algorithm identifier",
    "badRequest": "transaction not permitted or supported",
    "badDataFormat": "the data submitted has the wrong format",
    "timeNotAvailable": "the TSA's time source is not available",
    "unacceptedPolicy": "the requested TSA policy is not supported by the TSA",
    "unacceptedExtension": "the requested extension is not supported by the TSA",
    "addInfoNotAvailable": "the additional information requested could not be understood or is not available",
    "systemFailure": "the request cannot be handled due to system failure",
}


def utf8(text: str) -> bytes:
    """UTF8String."""
    return tlv(0x0C, text.encode())


@pytest.mark.parametrize("failure", FAILURES)
def test_openssl_understands_every_rejection(failure: str, tmp_path: Path) -> None:
    """The bit is the right one, and the sentence is ours."""
    path = tmp_path / "response"
    path.write_bytes(rejection(failure, "because of this"))
    output = openssl("ts", "-reply", "-in", path, "-text")
    assert "Status: Rejected." in output
    assert "Status description: because of this" in output
    assert f"Failure info: {SAYS[failure]}" in output


@pytest.mark.parametrize("failure", FAILURES)
def test_a_rejection_is_an_error_for_the_client(failure: str) -> None:
    """With the authority's reason."""
    with pytest.raises(TimestampRefusedError, match="because of this") as caught:
        token_of(rejection(failure, "because of this"))
    assert caught.value.failure == failure


def test_there_is_no_other_failure() -> None:
    """A name that RFC 3161 does not have is our own mistake."""
    with pytest.raises(UnsupportedError):
        rejection("tooBusy", "come back later")


def test_a_granted_token_comes_out_as_it_went_in() -> None:
    """Also when the authority changed something: the token says what it is."""
    assert token_of(granted(TOKEN)) == TOKEN
    assert token_of(sequence(sequence(integer(1)), TOKEN)) == TOKEN


@pytest.mark.parametrize("status", [2, 3, 4, 5, 6, -1])
def test_a_token_beside_another_status_is_no_token(status: int) -> None:
    """Rejected, waiting or warning: whoever looks for a token first would be taken in."""
    with pytest.raises(TimestampRefusedError, match="no failure") as caught:
        token_of(sequence(sequence(integer(status)), TOKEN))
    assert caught.value.failure is None


def test_what_a_hostile_authority_says_is_bounded_and_printable() -> None:
    """Control characters, endless text and bytes that are no UTF-8 do not reach a terminal."""
    text = sequence(utf8("a\x1b[31m\n" + "b" * 1000), tlv(0x0C, b"\xff"))
    with pytest.raises(TimestampRefusedError) as caught:
        token_of(sequence(sequence(integer(2), text)))
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("bits", [b"", b"\x00", bytes(8), b"\x10", b"\x00\x00\x00\x00\x80"])
def test_unknown_failures_are_none(bits: bytes) -> None:
    """Bits without a name, or none at all."""
    with pytest.raises(TimestampRefusedError) as caught:
        token_of(sequence(sequence(integer(2), bit_string(bits))))
    assert caught.value.failure is None


@pytest.mark.parametrize(
    "der",
    [
        b"",
        granted(TOKEN) + b"\x00",
        granted(b""),
        granted(TOKEN + TOKEN),
        sequence(),
        sequence(integer(0), TOKEN),
        sequence(sequence(), TOKEN),
        b"\x30\x80" + granted(TOKEN)[2:] + b"\x00\x00",
        sequence(sequence(integer(2), sequence(*[utf8("x")] * 17))),
        sequence(sequence(integer(2), sequence(integer(1)))),
        sequence(sequence(integer(2), integer(1))),
        tlv(0x30, bytes(MAX_RESPONSE_BYTES)),
    ],
)
def test_what_is_no_response_is_refused(der: bytes) -> None:
    """Bytes behind, two tokens or none, BER, strange members, too large."""
    with pytest.raises(MalformedError):
        token_of(der)


@given(st.binary(max_size=60))
def test_noise_is_refused(noise: bytes) -> None:
    """Nothing but our own errors."""
    for der in (noise, sequence(noise), sequence(sequence(integer(2), noise))):
        with pytest.raises(PkiError):
            token_of(der)
