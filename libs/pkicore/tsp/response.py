"""Time-stamp responses (RFC 3161 §2.4.2): a token, or why there is none."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from pkicore.cms.der import UTF8_STRING, only, read_elements
from pkicore.encoding import BIT_STRING, SEQUENCE, DerReader, integer, sequence, tlv
from pkicore.errors import MalformedError, TimestampRefusedError, UnsupportedError

MAX_RESPONSE_BYTES: Final = 256 * 1024
FAILURES: Final[Mapping[str, int]] = MappingProxyType(
    {
        "badAlg": 0,
        "badRequest": 2,
        "badDataFormat": 5,
        "timeNotAvailable": 14,
        "unacceptedPolicy": 15,
        "unacceptedExtension": 16,
        "addInfoNotAvailable": 17,
        "systemFailure": 25,
    }
)
"""PKIFailureInfo: name to bit."""

_REJECTION: Final = 2
_GRANTED: Final = (0, 1)  # granted, grantedWithMods
_MAX_TEXT: Final = 256  # characters
_MAX_TEXTS: Final = 16
_WHAT: Final = "the time-stamp response"


def granted(token: bytes) -> bytes:
    """TimeStampResp with a token, as it was asked for."""
    return sequence(sequence(integer(0)), token)


def rejection(failure: str, text: str) -> bytes:
    """TimeStampResp without a token.

    Args:
        failure: one of `FAILURES`.
        text: one sentence for the client.

    Raises:
        UnsupportedError: no PKIFailureInfo of this name.
    """
    if failure not in FAILURES:
        raise UnsupportedError(f"{failure!r} is no PKIFailureInfo; there are {', '.join(FAILURES)}")
    status_string = sequence(tlv(UTF8_STRING, text.encode()))
    return sequence(sequence(integer(_REJECTION), status_string, _named_bit(FAILURES[failure])))


def token_of(response: bytes) -> bytes:
    """The token of a response, unverified.

    Raises:
        TimestampRefusedError: there is none; why, as the authority says it.
        MalformedError: not a TimeStampResp in DER, or larger than 256 KiB.
    """
    if len(response) > MAX_RESPONSE_BYTES:
        raise MalformedError(f"{_WHAT} is larger than {MAX_RESPONSE_BYTES} octets")
    members = only(response)
    status = members.enter()
    if status.read_integer() not in _GRANTED:
        raise _refusal(status)
    token = members.read_element()
    members.finish()
    return token


def _refusal(status: DerReader) -> TimestampRefusedError:
    texts = _texts(status.enter()) if status.next_is(SEQUENCE) else "no reason given"
    failure = _failure(status.read(BIT_STRING)) if status.next_is(BIT_STRING) else None
    status.finish()
    text = "".join(character if character.isprintable() else "?" for character in texts[:_MAX_TEXT])
    return TimestampRefusedError(failure, f"the time-stamping authority refuses ({failure or 'no failure'}): {text}")


def _texts(texts: DerReader) -> str:
    elements = read_elements(texts, _MAX_TEXTS, "texts of a status")
    return " ".join(DerReader(element).read(UTF8_STRING).decode(errors="replace") for element in elements)


def _failure(bits: bytes) -> str | None:
    """The first bit that is set, if it has a name; `bits` is the content of a BIT STRING."""
    octets = bits[1:]
    for name, bit in FAILURES.items():
        if bit // 8 < len(octets) and octets[bit // 8] & 0x80 >> bit % 8:
            return name
    return None


def _named_bit(bit: int) -> bytes:
    """BIT STRING with one bit set and no bits after it (X.690 §11.2.2)."""
    return tlv(BIT_STRING, bytes((7 - bit % 8, *([0] * (bit // 8)), 0x80 >> bit % 8)))
