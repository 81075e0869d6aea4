"""Bytes in and out: strict base64url, PEM, a little DER, canonical JSON, and files written whole or not at all.

The DER half is small on purpose: it writes the outer shells that cryptography's builders cannot write around a
signature that came later (RFC 5280 §4.1.1, RFC 6960 §4.2.1) and reads requests whose every byte is hostile.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import tempfile
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

import orjson

from pkicore.errors import MalformedError

INTEGER, BIT_STRING, OCTET_STRING, NULL_TAG, OID, ENUMERATED = 0x02, 0x03, 0x04, 0x05, 0x06, 0x0A
UTC_TIME, GENERALIZED_TIME, SEQUENCE = 0x17, 0x18, 0x30
NULL = b"\x05\x00"

_BASE64URL = re.compile(rb"[A-Za-z0-9_-]*")
_TO_STANDARD, _TO_URL = bytes.maketrans(b"-_", b"+/"), bytes.maketrans(b"+/", b"-_")
_NO_LOOSE_BITS = {2: frozenset(b"AQgw"), 3: frozenset(b"AEIMQUYcgkosw048")}
"""Where so many characters are left over: the last one, whose low four or two bits are no octet's."""
_SHORT_LENGTH = 0x80
_MULTI_BYTE_TAG = 0x1F
_MAX_LENGTH_OCTETS = 4
_FIRST_GENERALIZED_YEAR = 2050


def base64url_encode(data: bytes) -> str:
    """RFC 4648 §5 without padding, as JOSE wants it (RFC 7515 §2)."""
    return binascii.b2a_base64(data, newline=False).rstrip(b"=").translate(_TO_URL).decode("ascii")


def base64url_decode(text: str | bytes) -> bytes:
    """The one and only decoding: no padding, no stray characters, no loose bits at the end.

    Raises:
        MalformedError: anything else.
    """
    raw = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    if not _BASE64URL.fullmatch(raw):
        raise MalformedError("not base64url without padding")
    left_over = len(raw) % 4
    if left_over == 1:
        raise MalformedError("not base64url without padding")
    if left_over and raw[-1] not in _NO_LOOSE_BITS[left_over]:
        raise MalformedError("base64url with loose bits at the end")
    return binascii.a2b_base64(raw.translate(_TO_STANDARD) + b"=" * (-left_over % 4))


def pem_join(label: str, *ders: bytes) -> bytes:
    """PEM blocks one after the other, lines of 64 characters (RFC 7468 §3)."""
    return b"".join(_pem(label, der) for der in ders)


def _pem(label: str, der: bytes) -> bytes:
    body = base64.b64encode(der)
    lines = b"".join(body[i : i + 64] + b"\n" for i in range(0, len(body), 64))
    return b"-----BEGIN %b-----\n%b-----END %b-----\n" % (label.encode(), lines, label.encode())


def pem_split(text: bytes, label: str, *, max_bytes: int = 1 << 20) -> tuple[bytes, ...]:
    """The DER of each block; nothing but white space may stand between blocks, and at least one must be there.

    Raises:
        MalformedError: another label, text between the blocks, bad base64, or more than `max_bytes`.
    """
    if len(text) > max_bytes:
        raise MalformedError(f"PEM text longer than {max_bytes} bytes")
    begin, end = f"-----BEGIN {label}-----".encode(), f"-----END {label}-----".encode()
    rest, ders = text.strip(), []
    while rest:
        if not rest.startswith(begin) or end not in rest:
            raise MalformedError(f"expected a PEM block {label}")
        body, rest = rest[len(begin) :].split(end, 1)
        ders.append(_pem_body(body))
        rest = rest.lstrip()
    if not ders:
        raise MalformedError(f"no PEM block {label}")
    return tuple(ders)


def _pem_body(body: bytes) -> bytes:
    try:
        return base64.b64decode(b"".join(body.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise MalformedError("a PEM block that is not base64") from error


def tlv(tag: int, content: bytes) -> bytes:
    """One DER element with a single-octet tag (X.690 §8.1)."""
    return header(tag, len(content)) + content


def header(tag: int, size: int) -> bytes:
    """Tag and length of an element whose content has so many octets, for contents that are too large to copy."""
    if size < _SHORT_LENGTH:
        return bytes((tag, size))
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(length))) + length


def sequence(*parts: bytes) -> bytes:
    """SEQUENCE of elements that are encoded already."""
    return tlv(SEQUENCE, b"".join(parts))


def explicit(number: int, content: bytes) -> bytes:
    """[number] EXPLICIT around an encoded element."""
    return tlv(0xA0 | number, content)


def integer(value: int) -> bytes:
    """INTEGER in the fewest octets, two's complement."""
    size = (value if value >= 0 else ~value).bit_length() // 8 + 1
    return tlv(INTEGER, value.to_bytes(size, "big", signed=True))


def enumerated(value: int) -> bytes:
    """ENUMERATED of a small non-negative value."""
    return tlv(ENUMERATED, bytes((value,)))


def bit_string(data: bytes) -> bytes:
    """BIT STRING of whole octets."""
    return tlv(BIT_STRING, b"\x00" + data)


def octet_string(data: bytes) -> bytes:
    """OCTET STRING."""
    return tlv(OCTET_STRING, data)


@lru_cache(maxsize=256)
def object_identifier(dotted: str) -> bytes:
    """OBJECT IDENTIFIER of a dotted string."""
    first, second, *rest = (int(arc) for arc in dotted.split("."))
    return tlv(OID, b"".join(_arc(arc) for arc in (40 * first + second, *rest)))


def _arc(value: int) -> bytes:
    octets = [value & 0x7F]
    while value := value >> 7:
        octets.append(0x80 | value & 0x7F)
    return bytes(reversed(octets))


def extension(dotted: str, value: bytes, *, critical: bool = False) -> bytes:
    """Extension ::= SEQUENCE { extnID, critical DEFAULT FALSE, extnValue } (RFC 5280 §4.1)."""
    return sequence(object_identifier(dotted), b"\x01\x01\xff" if critical else b"", octet_string(value))


def generalized_time(moment: datetime) -> bytes:
    """GeneralizedTime in UTC, whole seconds (RFC 5280 §4.1.2.5.2)."""
    return tlv(GENERALIZED_TIME, moment.astimezone(UTC).strftime("%Y%m%d%H%M%SZ").encode())


@lru_cache(maxsize=64)
def x509_time(moment: datetime) -> bytes:
    """Time of certificates and CRLs: UTCTime through 2049, GeneralizedTime from 2050 (RFC 5280 §4.1.2.5)."""
    utc = moment.astimezone(UTC)
    if utc.year >= _FIRST_GENERALIZED_YEAR:
        return generalized_time(utc)
    return tlv(UTC_TIME, utc.strftime("%y%m%d%H%M%SZ").encode())


class DerReader:
    """Reads DER elements one after the other: definite minimal lengths, single-octet tags, no element beyond the end.

    Every method raises MalformedError for what does not fit.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def at_end(self) -> bool:
        """Whether everything has been read."""
        return self._at == len(self._data)

    def next_is(self, tag: int) -> bool:
        """Whether the next element has this tag."""
        return not self.at_end and self._data[self._at] == tag

    def read(self, tag: int) -> bytes:
        """The content of the next element, which must have this tag."""
        found, start, end = self._header()
        if found != tag:
            raise MalformedError(f"expected tag {tag:#04x}, found {found:#04x}")
        self._at = end
        return self._data[start:end]

    def read_element(self) -> bytes:
        """The next element whole, tag and length included."""
        element_start = self._at
        _, _, end = self._header()
        self._at = end
        return self._data[element_start:end]

    def read_elements(self) -> list[bytes]:
        """All that are left, each whole."""
        found = list[bytes]()
        while not self.at_end:
            found.append(self.read_element())
        return found

    def enter(self, tag: int = SEQUENCE) -> DerReader:
        """A reader for the content of the next element, which must have this tag."""
        return DerReader(self.read(tag))

    def read_integer(self) -> int:
        """INTEGER in its one minimal encoding."""
        content = self.read(INTEGER)
        value = int.from_bytes(content, "big", signed=True)
        if integer(value) != tlv(INTEGER, content):
            raise MalformedError("an INTEGER that is empty or not minimal")
        return value

    def finish(self) -> None:
        """Nothing may be left."""
        if not self.at_end:
            raise MalformedError(f"{len(self._data) - self._at} stray bytes after the last element")

    def _header(self) -> tuple[int, int, int]:
        data, at = self._data, self._at
        if at + 2 > len(data):
            raise MalformedError("an element that runs past the end")
        tag, size, start = data[at], data[at + 1], at + 2
        if tag & _MULTI_BYTE_TAG == _MULTI_BYTE_TAG:
            raise MalformedError("tags of several octets are not used here")
        if size >= _SHORT_LENGTH:
            size, start = self._long_length(size & 0x7F, start)
        end = start + size
        if end > len(data):
            raise MalformedError("an element that runs past the end")
        return tag, start, end

    def _long_length(self, octets: int, start: int) -> tuple[int, int]:
        if not 1 <= octets <= _MAX_LENGTH_OCTETS or start + octets > len(self._data):
            raise MalformedError("a length that DER does not allow")
        size = int.from_bytes(self._data[start : start + octets], "big")
        if size < _SHORT_LENGTH or size.bit_length() <= 8 * (octets - 1):
            raise MalformedError("a length that is not minimal")
        return size, start + octets


def canonical_json(value: object) -> bytes:
    """JSON with sorted keys and no spaces: the form that is hashed and signed."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def write_atomically(path: Path, data: bytes, mode: int) -> None:
    """Replace the file whole, durably: readers see the old bytes or the new, also after a crash.

    Raises:
        OSError: the directory cannot be written.
    """
    temporary = _write_beside(path, data, mode)
    try:
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def write_new(path: Path, data: bytes, mode: int) -> None:
    """As `write_atomically`, but never over a file that is there.

    Raises:
        FileExistsError: the path is taken.
        OSError: the directory cannot be written.
    """
    temporary = _write_beside(path, data, mode)
    try:
        os.link(temporary, path)
    finally:
        temporary.unlink()
    sync_directory(path.parent)


def _write_beside(path: Path, data: bytes, mode: int) -> Path:
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)
            file.write(data)
            file.flush()
            os.fsync(descriptor)
    except BaseException:
        temporary.unlink()
        raise
    return temporary


def sync_directory(directory: Path) -> None:
    """See to it that names made, changed or removed in a directory outlast a crash."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
