"""Bytes in and out."""

from __future__ import annotations

import base64
import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from pkicore import encoding
from pkicore.encoding import (
    DerReader,
    base64url_decode,
    base64url_encode,
    canonical_json,
    integer,
    object_identifier,
    pem_join,
    pem_split,
    sequence,
    tlv,
    write_atomically,
    write_new,
    x509_time,
)
from pkicore.errors import MalformedError


@given(st.binary(max_size=300))
def test_base64url_there_and_back(data: bytes) -> None:
    """Decoding what was encoded gives the bytes, and the text is what the standard library makes."""
    text = base64url_encode(data)
    assert base64url_decode(text) == data
    assert text == base64.urlsafe_b64encode(data).decode().rstrip("=")


@pytest.mark.parametrize("text", ["QQ==", "QR", "Q", "QU+B", "QU/B", "QU B", "QUI\n", "ä", "QUJ\x00", "\ud800"])
def test_base64url_has_one_spelling(text: str) -> None:
    """Padding, loose bits, the other alphabet, white space and stray characters are refused."""
    with pytest.raises(MalformedError):
        base64url_decode(text)


@given(st.text(max_size=40))
def test_base64url_is_total(text: str) -> None:
    """Any text decodes to bytes that encode to it again, or is malformed."""
    try:
        data = base64url_decode(text)
    except MalformedError:
        return
    assert base64url_encode(data) == text


@given(st.lists(st.binary(min_size=1, max_size=200), min_size=1, max_size=4))
def test_pem_there_and_back(ders: list[bytes]) -> None:
    """A chain of blocks splits into what was joined."""
    assert list(pem_split(pem_join("THING", *ders), "THING")) == ders


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"rubbish",
        b"-----BEGIN THING-----\nQUJD\n",
        b"-----BEGIN OTHER-----\nQUJD\n-----END OTHER-----\n",
        b"text before\n-----BEGIN THING-----\nQUJD\n-----END THING-----\n",
        b"-----BEGIN THING-----\nQUJD\n-----END THING-----\ntext after",
        b"-----BEGIN THING-----\nQ=JD\n-----END THING-----\n",
        b"-----BEGIN THING-----\nProc-Type: 4,ENCRYPTED\n\nQUJD\n-----END THING-----\n",
    ],
)
def test_pem_is_strict(text: bytes) -> None:
    """No other labels, no text around, no headers, no bad base64."""
    with pytest.raises(MalformedError):
        pem_split(text, "THING")


def test_pem_is_bounded() -> None:
    """A text beyond the bound is refused before it is looked at."""
    with pytest.raises(MalformedError, match="longer"):
        pem_split(b" " * 11, "THING", max_bytes=10)


@given(st.integers(-(1 << 200), 1 << 200))
def test_integers_are_minimal(value: int) -> None:
    """The reader, which refuses padded integers, reads back each integer that is written."""
    assert DerReader(integer(value)).read_integer() == value


def test_known_der() -> None:
    """X.690's own examples and the edges of lengths and integers."""
    assert object_identifier("1.2.840.113549").hex() == "06062a864886f70d"
    assert object_identifier("2.999.3").hex() == "0603883703"
    assert [integer(n).hex() for n in (0, 127, 128, 255, 256, -128, -129)] == [
        "020100",
        "02017f",
        "02020080",
        "020200ff",
        "02020100",
        "020180",
        "0202ff7f",
    ]
    assert tlv(4, bytes(127))[:2].hex() == "047f"
    assert tlv(4, bytes(128))[:3].hex() == "048180"
    assert tlv(4, bytes(256))[:4].hex() == "04820100"


@pytest.mark.parametrize("oid", ["1.3.6.1.5.5.7.48.1.2", "2.5.29.35", "2.16.840.1.101.3.4.3.18", "1.3.101.112"])
def test_object_identifiers_agree_with_cryptography(oid: str) -> None:
    """An extension of this type, as cryptography encodes it, holds the same octets."""
    name = x509.Name([x509.NameAttribute(x509.ObjectIdentifier(oid), "x")])
    assert object_identifier(oid) in name.public_bytes()


def test_times_change_form_in_2050() -> None:
    """RFC 5280 §4.1.2.5: two-digit years through 2049, four digits after."""
    assert x509_time(datetime(2049, 12, 31, 23, 59, 59, tzinfo=UTC)) == b"\x17\x0d491231235959Z"
    assert x509_time(datetime(2050, 1, 1, tzinfo=UTC)) == b"\x18\x0f20500101000000Z"


@pytest.mark.parametrize(
    "der",
    [
        "",
        "30",
        "3001",
        "3080",
        "30800000",
        "308100",
        "30817f" + "00" * 127,
        "30820080" + "00" * 128,
        "3085010000000000",
        "1f8101",
        "30ff",
    ],
)
def test_the_reader_refuses_what_der_forbids(der: str) -> None:
    """Truncated, indefinite, padded and absurd lengths, and tags of several octets."""
    with pytest.raises(MalformedError):
        DerReader(bytes.fromhex(der)).read(0x30)


@pytest.mark.parametrize("der", ["0200", "02020001", "0202ff80"])
def test_the_reader_refuses_padded_integers(der: str) -> None:
    """An integer has one encoding."""
    with pytest.raises(MalformedError):
        DerReader(bytes.fromhex(der)).read_integer()


def test_the_reader_walks_and_notices_the_rest() -> None:
    """Elements come one after the other; another tag is refused without moving on; nothing may be left."""
    reader = DerReader(sequence(integer(1), integer(2)) + b"\x05\x00").enter()
    assert reader.read_integer() == 1
    with pytest.raises(MalformedError, match="expected tag"):
        reader.read(0x04)
    with pytest.raises(MalformedError, match="stray"):
        reader.finish()
    assert reader.read_element() == integer(2)
    reader.finish()


@given(st.binary(max_size=60))
def test_the_reader_is_total(data: bytes) -> None:
    """Any bytes are read to the end or are malformed."""
    reader = DerReader(data)
    try:
        while not reader.at_end:
            reader.read_element()
    except MalformedError:
        return
    reader.finish()


def test_canonical_json_sorts_and_has_no_spaces() -> None:
    """The order of insertion does not show."""
    assert canonical_json({"b": 1, "a": {"d": "ä", "c": None}}) == '{"a":{"c":null,"d":"ä"},"b":1}'.encode()


def test_write_atomically_replaces_whole_with_the_mode(tmp_path: Path) -> None:
    """The new content is there with its mode, and no temporary file is left."""
    path = tmp_path / "file"
    path.write_bytes(b"old and longer")
    write_atomically(path, b"new", 0o640)
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert list(tmp_path.iterdir()) == [path]


def test_write_new_never_replaces(tmp_path: Path) -> None:
    """A path that is taken keeps its content, also if it is a dangling link."""
    path = tmp_path / "file"
    write_new(path, b"first", 0o600)
    with pytest.raises(FileExistsError):
        write_new(path, b"second", 0o600)
    assert path.read_bytes() == b"first"
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "nowhere")
    with pytest.raises(FileExistsError):
        write_new(link, b"second", 0o600)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file", "link"]


def test_a_failed_replacement_leaves_nothing_behind(tmp_path: Path) -> None:
    """Where the target is a directory the old state stays and the temporary file goes."""
    (tmp_path / "dir" / "full").mkdir(parents=True)
    with pytest.raises(OSError, match="irectory"):
        encoding.write_atomically(tmp_path / "dir", b"x", 0o600)
    assert [entry.name for entry in tmp_path.iterdir()] == ["dir"]
