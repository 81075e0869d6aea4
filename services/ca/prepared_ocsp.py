"""OCSP answers as the HTTP listener looks them up before anything else (`services.chassis.prepared`).

Ready are the answers that are kept, and those to requests with a nonce about a serial whose status is known, where the
responder's key is in this process and quick. Whatever else is asked, and whatever is asked in an odd way, goes to
`services.ca.status`, which answers the same.
"""

from __future__ import annotations

import binascii
from functools import lru_cache
from typing import Final

from pkicore.clock import Clock, unix
from pkicore.ocsp import MAX_REQUEST_BYTES
from services.ca.responder import Kept, OcspAnswers
from services.ca.status import GET_ROUTE, NO_STORE, OCSP, OCSP_REQUEST, POST_ROUTE, ocsp_headers
from services.chassis.plain_request import PlainRequest
from services.chassis.prepared import Prepared, head_of

_PATH: Final = POST_ROUTE.encode()
_BEFORE: Final = _PATH + b"/"
_MEDIA_TYPE: Final = OCSP_REQUEST.encode()


class PreparedOcsp:
    """The look-up; `max_age` is in seconds."""

    def __init__(self, answers: OcspAnswers, max_age: int, clock: Clock) -> None:
        self._answers = answers
        self._max_age = max_age
        self._clock = clock

    def find(self, request: PlainRequest) -> Prepared | None:
        """The answer to a request, where it is ready."""
        is_get = request.method == b"GET"
        der = _in_path(request.target) if is_get else _in_body(request)
        if der is None:
            return None
        now, route = unix(self._clock.now()), GET_ROUTE if is_get else POST_ROUTE
        kept = self._answers.ready(der, now)
        if kept is not None:
            answer = kept.answer.der
            return Prepared(route, self._head(kept, now) if is_get else _unstored_head(len(answer)), answer)
        signed = self._answers.signed_here(der, now)
        return None if signed is None else Prepared(route, _unstored_head(len(signed)), signed)

    def _head(self, kept: Kept, now: int) -> bytes:
        """The head of a GET, made once for each max-age: it gets shorter only close to nextUpdate."""
        answer = kept.answer
        max_age = max(0, min(self._max_age, answer.next_update - now))
        if kept.max_age != max_age:
            kept.head, kept.max_age = head_of([OCSP, *ocsp_headers(answer, max_age)], len(answer.der)), max_age
        return kept.head


def _in_body(request: PlainRequest) -> bytes | None:
    is_ours = request.target == _PATH and request.media_type == _MEDIA_TYPE and len(request.body) <= MAX_REQUEST_BYTES
    return request.body if is_ours else None


def _in_path(target: bytes) -> bytes | None:
    """The request behind /ocsp/ in base64, padded or not, with the three signs percent-encoded that clients encode."""
    if not target.startswith(_BEFORE):
        return None
    text = target[len(_BEFORE) :]
    if b"%" in text:
        text = text.replace(b"%2B", b"+").replace(b"%2F", b"/").replace(b"%3D", b"=")
    try:
        return binascii.a2b_base64(text + b"=" * (-len(text) % 4), strict_mode=True)
    except binascii.Error:
        return None


@lru_cache(maxsize=256)
def _unstored_head(length: int) -> bytes:
    return head_of([OCSP, NO_STORE], length)
