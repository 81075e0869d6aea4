"""The elements of CMS and RFC 3161 that `DerReader` has no word for; every function reads the next element of a reader.

Not by asn1crypto: it takes BER, reads a content by the type that it claims, decides by a version number whether to read
PKCS#7 or CMS, and writes certificates anew when asked for their bytes, all of which matter where bytes are signed.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final

from pkicore.encoding import GENERALIZED_TIME, NULL, OID, UTC_TIME, DerReader, object_identifier, tlv
from pkicore.errors import MalformedError, UnsupportedError

BOOLEAN: Final = 0x01
UTF8_STRING: Final = 0x0C
SET: Final = 0x31
_MAX_OID: Final = 64  # octets
_MORE: Final = 0x80
_UTC_TIME: Final = re.compile(r"[0-9]{12}Z")
_GENERALIZED_TIME: Final = re.compile(r"([0-9]{14})(?:\.([0-9]{0,5}[1-9]))?Z")
_PIVOT: Final = "50"  # RFC 5280 §4.1.2.5.1; that of strptime's %y is another


def set_of(*members: bytes) -> bytes:
    """SET OF encoded elements, in the one order of DER (X.690 §11.6)."""
    return tlv(SET, b"".join(sorted(members)))


def implicit(number: int, element: bytes) -> bytes:
    """[number] IMPLICIT in place of the tag of a constructed element."""
    return bytes((0xA0 | number,)) + element[1:]


def only(der: bytes) -> DerReader:
    """A reader within a SEQUENCE that is all there is.

    Raises:
        MalformedError: it is not.
    """
    outer = DerReader(der)
    inner = outer.enter()
    outer.finish()
    return inner


def read_elements(reader: DerReader, most: int, what: str) -> tuple[bytes, ...]:
    """All that is left of a reader, element by element.

    Raises:
        MalformedError: more than `most`.
    """
    found: list[bytes] = []
    while not reader.at_end:
        if len(found) == most:
            raise MalformedError(f"there are at most {most} {what}")
        found.append(reader.read_element())
    return tuple(found)


def read_oid(reader: DerReader) -> str:
    """OBJECT IDENTIFIER as dotted string.

    Raises:
        MalformedError: not one in its one encoding, or of more than 64 octets.
    """
    content = reader.read(OID)
    if not content or len(content) > _MAX_OID or content[-1] & _MORE:
        raise MalformedError("an OBJECT IDENTIFIER that is empty, endless or cut off")
    arcs, value = [], 0
    for octet in content:
        value = value << 7 | octet & 0x7F
        if not octet & _MORE:
            arcs.append(value)
            value = 0
    first = min(arcs[0] // 40, 2)
    dotted = ".".join(map(str, (first, arcs[0] - 40 * first, *arcs[1:])))
    if object_identifier(dotted) != tlv(OID, content):
        raise MalformedError("an OBJECT IDENTIFIER that is not minimal")
    return dotted


def read_algorithm(reader: DerReader) -> str:
    """AlgorithmIdentifier whose parameters are absent or NULL, as dotted string; from within its SEQUENCE.

    Raises:
        MalformedError: it is not.
        UnsupportedError: other parameters.
    """
    oid = read_oid(reader)
    if not reader.at_end and reader.read_element() != NULL:
        raise UnsupportedError(f"the algorithm {oid} has parameters")
    reader.finish()
    return oid


def read_boolean(reader: DerReader) -> bool:
    """BOOLEAN DEFAULT FALSE, absent or not; a FALSE that DER leaves out is taken, since it means one thing only.

    Raises:
        MalformedError: neither FALSE nor the one TRUE of DER.
    """
    if not reader.next_is(BOOLEAN):
        return False
    content = reader.read(BOOLEAN)
    if content not in {b"\x00", b"\xff"}:
        raise MalformedError("a BOOLEAN that DER does not allow")
    return content == b"\xff"


def read_time(reader: DerReader) -> datetime:
    """UTCTime or GeneralizedTime, in UTC; the latter with up to six decimals.

    Raises:
        MalformedError: another form, or no such day.
    """
    if reader.next_is(UTC_TIME):
        short = reader.read(UTC_TIME).decode(errors="replace")
        if not _UTC_TIME.fullmatch(short):
            raise MalformedError("a UTCTime that is not in UTC and in DER")
        text = ("19" if short >= _PIVOT else "20") + short
    else:
        text = reader.read(GENERALIZED_TIME).decode(errors="replace")
    found = _GENERALIZED_TIME.fullmatch(text)
    if found is None:
        raise MalformedError("a GeneralizedTime that is not in UTC and in DER")
    decimals = (found[2] or "").ljust(6, "0")
    try:
        return datetime.strptime(found[1], "%Y%m%d%H%M%S").replace(tzinfo=UTC, microsecond=int(decimals))
    except ValueError as error:
        raise MalformedError("a time that is no time") from error
