"""A wall of DER before asn1crypto, which by itself reads BER, ignores what it is not asked for, and parses lazily.

Behind it lengths are definite and minimal, strings are in one piece, and nothing follows the last element (X.690 §10).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

from asn1crypto import core

from pkicore.encoding import ENUMERATED, INTEGER, NULL_TAG, DerReader
from pkicore.errors import MalformedError

Structure = TypeVar("Structure", bound=core.Asn1Value)

_MAX_DEPTH: Final = 24  # a name in a certificate in a token of a token stands 14 deep
_BOOLEAN: Final = 0x01
_CONSTRUCTED: Final = 0x20
_UNIVERSAL: Final = 0x40  # the first tag that is not
_SEQUENCE_AND_SET: Final = (0x30, 0x31)


def load_der(structure: type[Structure], der: bytes, what: str, *, max_bytes: int) -> Structure:
    """A structure of asn1crypto, whose parts are parsed when they are asked for: wrap asking in `parsing`.

    Args:
        structure: what it must be.
        der: hostile bytes.
        what: its name in errors.
        max_bytes: the most that is looked at.

    Raises:
        MalformedError: larger than `max_bytes`, not DER, another structure, or with bytes behind it.
    """
    if len(der) > max_bytes:
        raise MalformedError(f"{what} is larger than {max_bytes} octets")
    check_der(der)
    with parsing(what):
        loaded: Structure = structure.load(der, strict=True)
        return loaded


@contextmanager
def parsing(what: str) -> Iterator[None]:
    """Turn whatever asn1crypto raises about hostile bytes into one MalformedError."""
    try:
        yield
    except (ValueError, TypeError, KeyError, IndexError, OverflowError) as error:
        raise MalformedError(f"{what} does not parse") from error


def check_der(der: bytes) -> None:
    """One element of DER and nothing else, as far as that shows without knowing its structure.

    Raises:
        MalformedError: it is not; or it is nested deeper than 24 levels.
    """
    reader = DerReader(der)
    _check_element(reader.read_element(), _MAX_DEPTH)
    reader.finish()


def _check_element(element: bytes, depth: int) -> None:
    tag = element[0]
    if depth == 0:
        raise MalformedError(f"DER nested deeper than {_MAX_DEPTH} levels")
    if tag < _UNIVERSAL and bool(tag & _CONSTRUCTED) != (tag | _CONSTRUCTED in _SEQUENCE_AND_SET):
        raise MalformedError(f"DER allows no element of tag {tag:#04x}")
    if not tag & _CONSTRUCTED:
        _check_primitive(tag, element)
        return
    content = DerReader(DerReader(element).read(tag))
    while not content.at_end:
        _check_element(content.read_element(), depth - 1)


def _check_primitive(tag: int, element: bytes) -> None:
    content = DerReader(element).read(tag)
    if tag in {INTEGER, ENUMERATED}:
        DerReader(bytes((INTEGER,)) + element[1:]).read_integer()
    if tag == _BOOLEAN and content not in {b"\x00", b"\xff"}:
        raise MalformedError("a BOOLEAN that DER does not allow")
    if tag == NULL_TAG and content:
        raise MalformedError("a NULL with content")


def only(values: Any, what: str) -> Any:  # noqa: ANN401 - asn1crypto ships no types
    """The single member of a SET OF or SEQUENCE OF.

    Raises:
        MalformedError: there are none, or several.
    """
    if len(values) != 1:
        raise MalformedError(f"{what} must have exactly one value")
    return values[0]
