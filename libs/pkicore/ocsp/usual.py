"""OCSP requests of the usual shape, cut where `OcspRequest.parse` would cut them: one CertID, and a nonce alone."""

from __future__ import annotations

from typing import Final

from pkicore.encoding import OCTET_STRING, SEQUENCE, object_identifier
from pkicore.ocsp.request import NONCE_OID

_NONCE: Final = object_identifier(NONCE_OID)
_NONCE_AT: Final = 6 + len(_NONCE)  # behind the headers of [2], Extensions and Extension
_NESTED: Final = 4  # octets of header within requestList, before the content of CertID
_LONG: Final = 0x81  # a length in one more octet
_SHORT: Final = 0x80  # lengths below this one are one octet


def split_usual(der: bytes) -> tuple[bytes, bytes] | None:
    """CertID and nonce of a request that has one of each and nothing else; None for all others, good or bad.

    The octets of the CertID are not looked into. Where they are those of a CertID that `OcspRequest.parse` took before,
    it takes this request, too, and finds the same in it.
    """
    at = _content(der, 0)
    at = at and _content(der, at)
    if not at or len(der) < at + 6 or der[at] != SEQUENCE:  # requestList, Request, CertID
        return None
    size = der[at + 1]
    if not _NESTED < size < _SHORT or der[at + 2 : at + 6] != bytes((SEQUENCE, size - 2, SEQUENCE, size - _NESTED)):
        return None
    extensions = at + 2 + size
    nonce = _nonce(der, extensions, len(der) - extensions)
    return None if nonce is None else (der[at + 4 : extensions], nonce)


def _content(der: bytes, at: int) -> int:
    """Where the content of a SEQUENCE begins that goes on to the end of the data; 0 where there is none."""
    if len(der) < at + 3 or der[at] != SEQUENCE:
        return 0
    start, size = (at + 3, der[at + 2]) if der[at + 1] == _LONG else (at + 2, der[at + 1])
    minimal = (size >= _SHORT) == (start == at + 3)
    return start if minimal and start + size == len(der) else 0


def _nonce(der: bytes, at: int, size: int) -> bytes | None:
    """The nonce of requestExtensions that are of this size, headers included, and hold nothing else."""
    length = size - _NONCE_AT - 4
    if length < 1 or size - 2 >= _SHORT:
        return None
    expected = bytes((0xA2, size - 2, SEQUENCE, size - 4, SEQUENCE, size - 6)) + _NONCE
    expected += bytes((OCTET_STRING, length + 2, OCTET_STRING, length))
    return der[at + len(expected) :] if der.startswith(expected, at) else None
