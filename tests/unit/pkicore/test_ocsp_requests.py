"""OCSP requests of other shapes, hostile and bent: each is read right, or refused with a sentence."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pkicore.encoding import explicit, extension, integer, object_identifier, octet_string, sequence, tlv
from pkicore.errors import (
    MalformedError,
)
from pkicore.ocsp import (
    MAX_CERT_IDS,
    OcspRequest,
)

HOUR = timedelta(hours=1)
NONCE_OID = "1.3.6.1.5.5.7.48.1.2"


def request(*requests: bytes, before: bytes = b"", after: bytes = b"") -> bytes:
    """An OCSPRequest of encoded parts."""
    return sequence(sequence(before, sequence(*requests), after))


ID = sequence(
    sequence(object_identifier("1.3.14.3.2.26"), b"\x05\x00"),
    octet_string(bytes(20)),
    octet_string(bytes(20)),
    integer(9),
)
ONE = sequence(ID)
NONCE = extension(NONCE_OID, octet_string(bytes(16)))


@pytest.mark.parametrize(
    "der",
    [
        request(ONE, before=explicit(0, integer(0))),
        request(ONE, before=explicit(1, tlv(0x82, b"name"))),
        request(ONE, after=explicit(2, sequence(NONCE))),
        request(ONE, after=explicit(2, sequence(extension(NONCE_OID, octet_string(b"x"), critical=True)))),
        request(ONE, after=explicit(2, sequence(extension("1.3.6.1.5.5.7.48.1.4", sequence())))),
        request(sequence(ID, explicit(0, sequence(extension("1.2.3", b"\x05\x00"))))),
        sequence(sequence(sequence(ONE)), explicit(0, sequence())),
        request(*[ONE] * MAX_CERT_IDS),
    ],
)
def test_good_requests_of_other_shapes(der: bytes) -> None:
    """Versions, requestor names, extensions that are not critical and signatures are read over."""
    assert OcspRequest.parse(der).cert_ids[0].serial == 9


@pytest.mark.parametrize(
    "der",
    [
        b"",
        b"\x30\x00",
        request(),
        request(*[ONE] * (MAX_CERT_IDS + 1)),
        request(ONE) + b"\x00",
        request(ONE)[:-1],
        request(ONE, before=explicit(0, integer(1))),
        request(ONE, after=explicit(2, sequence(NONCE, NONCE))),
        request(ONE, after=explicit(2, sequence(NONCE)) * 2),
        request(ONE, after=explicit(2, sequence(extension(NONCE_OID, octet_string(b""))))),
        request(ONE, after=explicit(2, sequence(extension(NONCE_OID, octet_string(bytes(129)))))),
        request(ONE, after=explicit(2, sequence(extension(NONCE_OID, bytes(16))))),
        request(ONE, after=explicit(2, sequence(extension("1.2.3", b"", critical=True)))),
        request(sequence(ID, ID)),
        request(sequence(ID, explicit(0, sequence(extension("1.2.3", b"\x05\x00", critical=True))))),
        request(sequence(ID.replace(object_identifier("1.3.14.3.2.26"), object_identifier("1.3.14.3.2.27")))),
        request(sequence(ID.replace(b"\x05\x00", b"\x05\x01", 1))),
        request(
            sequence(
                sequence(
                    sequence(object_identifier("1.3.14.3.2.26")), octet_string(b"x"), octet_string(b"y"), integer(9)
                )
            )
        ),
        request(
            sequence(
                sequence(
                    sequence(object_identifier("1.3.14.3.2.26")),
                    octet_string(bytes(20)),
                    octet_string(bytes(20)),
                    integer(1 << 160),
                )
            )
        ),
        sequence(sequence(sequence(ONE)), explicit(1, sequence())),
        bytes(5000),
        b"\x30\x84\xff\xff\xff\xff",
    ],
)
def test_hostile_requests(der: bytes) -> None:
    """Whatever is bent is malformed: sizes, counts, versions, hashes, nonces, doubled and critical extensions."""
    with pytest.raises(MalformedError):
        OcspRequest.parse(der)


@given(st.binary(max_size=200))
def test_parsing_rubbish_is_total(data: bytes) -> None:
    """Any bytes are malformed."""
    with pytest.raises(MalformedError):
        OcspRequest.parse(data)


BENT = request(ONE, after=explicit(2, sequence(NONCE)))


@given(st.integers(0, len(BENT) - 1), st.binary(min_size=1, max_size=4))
def test_parsing_bent_requests_is_total(at: int, piece: bytes) -> None:
    """A request with some bytes changed is read or malformed, and what is read is within bounds."""
    try:
        found = OcspRequest.parse(BENT[:at] + piece + BENT[at + len(piece) :])
    except MalformedError:
        return
    assert 1 <= len(found.cert_ids) <= MAX_CERT_IDS
    assert found.nonce is None or 1 <= len(found.nonce) <= 128
