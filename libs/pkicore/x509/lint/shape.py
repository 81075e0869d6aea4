"""The bytes of a linted certificate around the fields that are each certificate's own.

What a rule has to say of a certificate whose shape was linted before, it has said then, unless it looks at serial,
period, subject, key, key identifier or alternative names. The extensions and their order are the shape's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pkicore.encoding import INTEGER, SEQUENCE, DerReader, object_identifier
from pkicore.errors import MalformedError
from pkicore.x509.profiles import Profile
from pkicore.x509.tbs import Issuer

_EXTENSIONS: Final = 0xA3
_IDENTIFIER_SIZE: Final = 20
_IDENTIFIER: Final = b"\x30\x1d" + object_identifier("2.5.29.14") + b"\x04\x16\x04\x14"  # of 20 octets, not critical
_NAMES: Final = object_identifier("2.5.29.17")


@dataclass(frozen=True)
class Shape:
    """What was linted; `middle` is signature algorithm and issuer, the rest are extensions.

    Attributes:
        profile: by which it was linted, this very object.
        issuer: for which it was linted, this very object.
        version: the first field.
        middle: signature algorithm and issuer.
        before: extensions to the first octet of the subject's key identifier.
        between: those between that and the names.
        after: those after the names; None where there are no names, and `between` goes to the end.
    """

    profile: Profile
    issuer: Issuer
    version: bytes
    middle: bytes
    before: bytes
    between: bytes
    after: bytes | None

    @classmethod
    def of(cls, tbs: bytes, profile: Profile, issuer: Issuer) -> Shape | None:
        """The shape of linted bytes; None where a field is not where it is in what this CA makes.

        Raises:
            MalformedError: they are no TBSCertificate.
        """
        version, _, signature, name, _, _, _, wrapper, *_ = DerReader(tbs).enter().read_elements()
        extensions = DerReader(wrapper).enter(_EXTENSIONS).enter().read_elements()
        own = [index for index, der in enumerate(extensions) if der.startswith(_IDENTIFIER)]
        if len(own) != 1:
            return None
        before, rest = extensions[: own[0]], extensions[own[0] + 1 :]
        names = next((i for i, der in enumerate(rest) if DerReader(der).enter().read_element() == _NAMES), None)
        between = rest if names is None else rest[:names]
        after = None if names is None else b"".join(rest[names + 1 :])
        start = b"".join(before) + _IDENTIFIER
        return cls(profile, issuer, version, signature + name, start, b"".join(between), after)

    def fits(self, tbs: bytes, profile: Profile, issuer: Issuer) -> bool:
        """Whether these bytes, which are DER, are this shape around some fields, for this profile and issuer."""
        if profile is not self.profile or issuer is not self.issuer:
            return False
        try:
            return self._end(tbs) == len(tbs)
        except (IndexError, MalformedError):
            return False

    def _end(self, tbs: bytes) -> int:
        """Where the shape's last octet is.

        Raises:
            IndexError, MalformedError: the bytes are of another shape.
        """
        at = _past(tbs, _content(tbs, 0, SEQUENCE), self.version)
        at = _past(tbs, _skip(tbs, at, INTEGER), self.middle)
        for _ in range(3):  # period, subject, key
            at = _skip(tbs, at, SEQUENCE)
        at = _content(tbs, _content(tbs, at, _EXTENSIONS), SEQUENCE)
        at = _past(tbs, at, self.before) + _IDENTIFIER_SIZE
        at = _past(tbs, at, self.between)
        if self.after is None:
            return at
        _past(tbs, _content(tbs, at, SEQUENCE), _NAMES)
        return _past(tbs, _skip(tbs, at, SEQUENCE), self.after)


def _past(tbs: bytes, at: int, expected: bytes) -> int:
    """Where these octets end, which must stand there."""
    if not tbs.startswith(expected, at):
        raise MalformedError("other bytes than the shape's")
    return at + len(expected)


def _skip(tbs: bytes, at: int, tag: int) -> int:
    """Where the element ends, which must have this tag."""
    start, size = _header(tbs, at, tag)
    return start + size


def _content(tbs: bytes, at: int, tag: int) -> int:
    """Where the content of the element begins, which must have this tag."""
    return _header(tbs, at, tag)[0]


def _header(tbs: bytes, at: int, tag: int) -> tuple[int, int]:
    """Start and size of the element's content; that lengths are minimal, whoever parsed the bytes has seen."""
    if tbs[at] != tag:
        raise MalformedError("another field than the shape's")
    first = tbs[at + 1]
    if first < 0x80:  # noqa: PLR2004 - the short form of X.690 §8.1.3.4
        return at + 2, first
    start = at + 2 + (first & 0x7F)
    return start, int.from_bytes(tbs[at + 2 : start], "big")
