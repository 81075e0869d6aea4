"""The elements that CMS adds: one reading each, and none that is endless."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pkicore.cms.der import only, read_algorithm, read_boolean, read_elements, read_oid, read_time, set_of
from pkicore.encoding import NULL, DerReader, integer, object_identifier, tlv, x509_time
from pkicore.errors import MalformedError, UnsupportedError


@given(st.integers(0, 2), st.integers(0, 39), st.lists(st.integers(0, 2**70), max_size=5))
def test_object_identifiers_survive(first: int, second: int, rest: list[int]) -> None:
    """Whatever is written is read again, with arcs of any size."""
    dotted = ".".join(map(str, (first, second, *rest)))
    assert read_oid(DerReader(object_identifier(dotted))) == dotted


@pytest.mark.parametrize("content", [b"", b"\x80\x01", b"\x2a\x80\x01", b"\x2a\x86", b"\x2a" + b"\x81" * 64 + b"\x01"])
def test_other_object_identifiers_are_refused(content: bytes) -> None:
    """Empty, padded, cut off, endless: else one name would have several spellings."""
    with pytest.raises(MalformedError):
        read_oid(DerReader(tlv(6, content)))


def test_the_arc_of_two_has_no_limit() -> None:
    """2.999 is 0x88 0x37: below the arc 2 the second number may exceed 39."""
    assert read_oid(DerReader(b"\x06\x02\x88\x37")) == "2.999"


@pytest.mark.parametrize(
    ("der", "expected"),
    [
        (b"\x17\r491231235959Z", datetime(2049, 12, 31, 23, 59, 59, tzinfo=UTC)),
        (b"\x17\r500101000000Z", datetime(1950, 1, 1, tzinfo=UTC)),
        (b"\x17\r680101000000Z", datetime(1968, 1, 1, tzinfo=UTC)),
        (b"\x17\r690101000000Z", datetime(1969, 1, 1, tzinfo=UTC)),
        (b"\x18\x0f20500101000000Z", datetime(2050, 1, 1, tzinfo=UTC)),
        (
            b"\x18\x1120261122095855.5Z",
            datetime(2026, 11, 22, 9, 58, 55, 500_000, UTC),
        ),
        (b"\x18\x1620261122095855.000001Z", datetime(2026, 11, 22, 9, 58, 55, 1, UTC)),
    ],
)
def test_times_are_read(der: bytes, expected: datetime) -> None:
    """Both kinds; years of two digits turn at 50 (RFC 5280 §4.1.2.5.1)."""
    assert read_time(DerReader(der)) == expected


@given(st.datetimes(datetime(1950, 1, 1), datetime(9999, 12, 31), timezones=st.just(UTC)))  # noqa: DTZ001 - hypothesis adds the zone
def test_written_times_are_read(moment: datetime) -> None:
    """What `x509_time` writes comes back in whole seconds."""
    whole = moment.replace(microsecond=0)
    assert read_time(DerReader(x509_time(whole))) == whole


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"20261122095855",
        b"20261122095855+0100",
        b"202611220958Z",
        b"20261122095855.Z",
        b"20261122095855.0Z",
        b"20261122095855.10Z",
        b"20261122095855.1234567Z",
        b"20261122095855,5Z",
        b"20261322095855Z",
        b"20261122095860Z",
    ],
)
def test_other_times_are_refused(text: bytes) -> None:
    """Local, with another zone, without seconds, with idle zeros, no day at all."""
    with pytest.raises(MalformedError):
        read_time(DerReader(tlv(0x18, text)))


def test_booleans() -> None:
    """Absent is FALSE; TRUE has one form."""
    assert not read_boolean(DerReader(b""))
    assert not read_boolean(DerReader(b"\x01\x01\x00"))
    assert read_boolean(DerReader(b"\x01\x01\xff"))
    for content in (b"", b"\x01", b"\xff\xff"):
        with pytest.raises(MalformedError):
            read_boolean(DerReader(tlv(1, content)))


def test_algorithms_have_no_parameters() -> None:
    """Absent or NULL; anything else is another algorithm, and nothing may follow."""
    oid = object_identifier("1.2.3")
    assert read_algorithm(DerReader(oid)) == read_algorithm(DerReader(oid + NULL)) == "1.2.3"
    with pytest.raises(UnsupportedError):
        read_algorithm(DerReader(oid + integer(1)))
    with pytest.raises(MalformedError):
        read_algorithm(DerReader(oid + NULL + NULL))


def test_elements_are_counted() -> None:
    """As many as are allowed, and not one more."""
    assert read_elements(DerReader(NULL * 3), 3, "things") == (NULL, NULL, NULL)
    with pytest.raises(MalformedError, match="at most 2 things"):
        read_elements(DerReader(NULL * 3), 2, "things")


def test_only_means_nothing_behind() -> None:
    """A SEQUENCE and no byte after it."""
    assert only(b"\x30\x00").at_end
    for der in (b"\x30\x00\x00", b"\x31\x00", b"", b"\x30\x80\x00\x00"):
        with pytest.raises(MalformedError):
            only(der)


def test_sets_are_sorted() -> None:
    """X.690 §11.6, whatever order they are given in."""
    assert (
        set_of(integer(2), integer(1), NULL)
        == set_of(NULL, integer(2), integer(1))
        == b"\x31\x08" + integer(1) + integer(2) + NULL
    )
