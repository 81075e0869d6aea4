"""OCSP answers spliced together: what `pkicore.ocsp.response` makes, for one CertID and a key of this process.

All but the CertID, the nonce and the signature is the same for a second, and the headers around them depend on lengths
alone.
"""

from __future__ import annotations

from datetime import timedelta
from functools import lru_cache
from typing import Final

from pkicore.algorithms import signature_algorithm_der
from pkicore.clock import from_unix
from pkicore.encoding import (
    BIT_STRING,
    OCTET_STRING,
    SEQUENCE,
    enumerated,
    generalized_time,
    header,
    object_identifier,
)
from pkicore.errors import UnsupportedError
from pkicore.keys import OwnKey
from pkicore.ocsp.request import NONCE_OID
from pkicore.ocsp.response import BASIC_RESPONSE, Responder, encode_times

_SUCCESSFUL: Final = enumerated(0)
_BASIC: Final = object_identifier(BASIC_RESPONSE)
_NONCE: Final = object_identifier(NONCE_OID)


class ResponseTemplate:
    """The answers of one proven responder; times are Unix seconds.

    Args:
        responder: who signs.
        key: the responder's, once more.
        lifetime: from an answer's thisUpdate to its nextUpdate, which is never after the responder's end.
        archive: how long after its end a certificate is answered for (RFC 6960 §4.4.4); zero says nothing of it.

    Raises:
        UnsupportedError: the responder is not proven.
    """

    def __init__(self, responder: Responder, key: OwnKey, lifetime: int, archive: timedelta) -> None:
        if not responder.is_proven or responder.key is not key:
            raise UnsupportedError("answers are spliced with a proven key only")
        self._sign = key.sign_here
        self._end = responder.end
        self._lifetime, self._archive = lifetime, archive
        self._id = responder.id_der
        self._before_signature = signature_algorithm_der(key.algorithm)
        self._after_signature = responder.certificates_der
        self._around = len(self._before_signature) + len(self._after_signature)
        self._second: tuple[int, int] = (-1, -1)
        self._produced = self._times = b""

    def response(self, cert_id: bytes, status: bytes, nonce: bytes, *, this_update: int, produced_at: int) -> bytes:
        """An OCSPResponse in DER about one CertID, with this status (`CertStatus.encode`) and this nonce."""
        if self._second != (this_update, produced_at):
            self._set_times(this_update, produced_at)
        single = cert_id + status + self._times
        before, between = _tbs_headers(len(self._id) + len(self._produced), len(single), len(nonce))
        tbs = b"".join((before, self._id, self._produced, between[0], single, between[1], nonce))
        signature = self._sign(tbs)
        outside, inside = _outer_headers(len(tbs), len(signature), self._around)
        return b"".join((outside, tbs, self._before_signature, inside, signature, self._after_signature))

    def _set_times(self, this_update: int, produced_at: int) -> None:
        produced = from_unix(produced_at)
        next_update = from_unix(min(this_update + self._lifetime, self._end))
        cutoff = produced - self._archive if self._archive else None
        self._produced = generalized_time(produced)
        self._times = encode_times(from_unix(this_update), next_update, cutoff)
        self._second = this_update, produced_at


@lru_cache(maxsize=1024)
def _tbs_headers(before: int, single: int, nonce: int) -> tuple[bytes, tuple[bytes, bytes]]:
    """ResponseData up to its responderID, around its single response, and up to its nonce (RFC 6960 §4.2.1)."""
    of_nonce = b"" if not nonce else _nonce_header(nonce)
    of_single = header(SEQUENCE, single)
    singles = header(SEQUENCE, len(of_single) + single) + of_single
    size = before + len(singles) + single + len(of_nonce) + nonce
    return header(SEQUENCE, size), (singles, of_nonce)


def _nonce_header(size: int) -> bytes:
    inner = header(OCTET_STRING, size)
    value = header(OCTET_STRING, len(inner) + size) + inner
    fields = header(SEQUENCE, len(_NONCE) + len(value) + size) + _NONCE + value
    listed = header(SEQUENCE, len(fields) + size) + fields
    return header(0xA1, len(listed) + size) + listed


@lru_cache(maxsize=1024)
def _outer_headers(tbs: int, signature: int, around: int) -> tuple[bytes, bytes]:
    """OCSPResponse up to its ResponseData, and what stands before the signature's octets."""
    of_signature = header(BIT_STRING, signature + 1) + b"\x00"
    size = tbs + around + len(of_signature) + signature
    head = header(SEQUENCE, size)
    for tag, before in ((OCTET_STRING, _BASIC), (SEQUENCE, b""), (0xA0, _SUCCESSFUL), (SEQUENCE, b"")):
        head = before + header(tag, len(head) + size) + head
    return head, of_signature
