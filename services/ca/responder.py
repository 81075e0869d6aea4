"""OCSP answers (RFC 6960, RFC 5019): what the ledger says of a serial, signed by the issuer's delegated responder.

Answers to the usual requests (RFC 5019: one CertID and nothing else) about certificates that we issued are kept by the
bytes of the request, at most so many and so large, until half of their life is over. Those that were asked for
meanwhile are signed anew in the background before that; a revocation drops those that name its serial at once, and has
the newest of them signed anew, too. Other answers are signed on demand: strangers must not fill the memory, nor choose
how much there is to sign, and what is unknown now may be issued next.
A serial that was never issued is unknown, also when it is reserved; a serial of another issuer is none of our business.
"""

import asyncio
import math
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import structlog
from cryptography import x509

from pkicore.clock import Clock, from_unix, unix
from pkicore.errors import BadSignatureError, KeyAccessError, MalformedError, UnsupportedError
from pkicore.ocsp import (
    CertId,
    CertStatus,
    HashName,
    OcspRequest,
    build_response,
    error_response,
    issuer_hashes,
    request_for,
    split_usual,
)
from services.ca.known_statuses import KnownStatuses
from services.ca.response_templates import Responders, Templates
from services.ca.revocation_store import RevocationStore, Revoked, SerialStatus
from services.chassis.errors import DatabaseError

_DIGESTS: Final[tuple[HashName, ...]] = ("sha1", "sha256")
_ANEW: Final = 256  # answers that revocations dropped and that are signed anew unasked; of more, the newest
_LOOK: Final = 30.0  # seconds between looks for answers that are about to get old
_AHEAD: Final = 10  # parts of an answer's fresh life of which the last is for signing it anew
_LEAST_AHEAD: Final = 90  # seconds

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class OcspAnswer:
    """A DER response; `fresh_until` is 0 where it must not be kept. Times are Unix seconds."""

    der: bytes
    this_update: int = 0
    next_update: int = 0
    fresh_until: int = 0


@dataclass(frozen=True, slots=True)
class Room:
    """For at most so many answers, of so many octets together."""

    answers: int
    octets: int = 128 << 20


@dataclass(slots=True)
class Kept:
    """An answer about a serial, whether anybody has asked for it since, and its HTTP head by GET for a max-age."""

    answer: OcspAnswer
    serial: int
    asked: bool = False
    head: bytes = b""
    max_age: int = -1

    def is_due(self, now: int) -> bool:
        """Whether it gets old, and is to be signed anew if somebody wants it."""
        life = self.answer.fresh_until - self.answer.this_update
        return now >= self.answer.fresh_until - max(_LEAST_AHEAD, life // _AHEAD)


MALFORMED: Final = OcspAnswer(error_response("malformedRequest"))
UNAUTHORIZED: Final = OcspAnswer(error_response("unauthorized"))
TRY_LATER: Final = OcspAnswer(error_response("tryLater"))


class OcspAnswers:
    """Answers requests about the issuers whose CertIDs it was given."""

    def __init__(
        self,
        *,
        store: RevocationStore,
        issuers: Mapping[str, x509.Certificate],
        responders: Responders,
        clock: Clock,
        lifetime: timedelta,
        room: Room,
        archive: timedelta = timedelta(),
        log_age: Callable[[], float] = lambda: math.inf,
    ) -> None:
        self._store = store
        self._responders = responders
        self._clock = clock
        self._lifetime = int(lifetime.total_seconds())
        self._room = room
        self._issuers: dict[tuple[str, bytes, bytes], str] = {}
        self.include(issuers)
        self._archive = archive
        self._kept: OrderedDict[bytes, Kept] = OrderedDict()
        self._kept_octets = 0
        self._dropped = deque[bytes](maxlen=_ANEW)
        self._wake = asyncio.Event()
        self._requests_of: dict[int, set[bytes]] = {}
        self._known = KnownStatuses(log_age, room.answers)
        self._templates = Templates(responders, self._lifetime, archive)

    def include(self, issuers: Mapping[str, x509.Certificate]) -> None:
        """Answer for these issuers, too."""
        self._issuers |= {
            (digest, *issuer_hashes(certificate, digest)): name
            for name, certificate in issuers.items()
            for digest in _DIGESTS
        }

    @property
    def filled(self) -> float:
        """The share of the room for answers that is taken."""
        room = self._room
        return max(len(self._kept) / room.answers, self._kept_octets / room.octets) if room.answers else 1.0

    @property
    def kept(self) -> int:
        """How many answers are kept."""
        return len(self._kept)

    async def answer(self, request: bytes) -> OcspAnswer:
        """The response to a DER request; errors are responses too (RFC 6960 §2.3)."""
        kept = self.ready(request, unix(self._clock.now()))
        return await self._made(request) if kept is None else kept.answer

    def ready(self, request: bytes, now: int) -> Kept | None:
        """The kept answer to a request, where it is still fresh."""
        kept = self._kept.get(request)
        # Where the clock was set back, an answer is from the future, and nobody would believe it.
        if kept is None or not kept.answer.this_update <= now < kept.answer.fresh_until:
            return None
        kept.asked = True
        self._kept.move_to_end(request)
        return kept

    def signed_here(self, request: bytes, now: int) -> bytes | None:
        """A new answer to a request with a nonce, about a known status; None where it takes longer than a moment."""
        parts = split_usual(request)
        known = None if parts is None else self._known.of(parts[0])
        template = None if known is None else self._templates.of(known.issuer, now)
        if parts is None or known is None or template is None:
            return None
        cert_id, nonce = parts
        return template.response(cert_id, known.der, nonce, this_update=self._known.known_at(now), produced_at=now)

    async def make_ready(self, issuer: x509.Certificate, serial: int) -> bool:
        """Have the answer to the usual request about a certificate of this issuer, whether or not anybody asks.

        False where it cannot be had now.
        """
        request = request_for(CertId.of(issuer, serial))
        return request in self._kept or bool((await self._made(request)).fresh_until)

    async def _made(self, request: bytes) -> OcspAnswer:
        try:
            parsed = OcspRequest.parse(request)
        except (MalformedError, UnsupportedError):
            return MALFORMED
        issuer = self._issuer_of(parsed.cert_ids)
        if issuer is None:
            return UNAUTHORIZED
        seen = self._known.seen
        try:
            answer = await self._sign(issuer, parsed)
        except (DatabaseError, KeyAccessError, BadSignatureError) as error:
            _log.error("OCSP answer not signed", error=str(error))
            return TRY_LATER
        first = parsed.cert_ids[0]
        if answer.fresh_until and request == request_for(first) and seen == self._known.seen:
            self._keep(request, first.serial, answer)
        return answer

    def take(self, batch: Sequence[Revoked]) -> None:
        """New revocations, from the log: no kept answer may contradict them, nor one that is being made."""
        self._known.take(batch)
        for revoked in batch:
            for request in tuple(self._requests_of.get(revoked.serial, ())):
                self._forget(request)
                self._dropped.append(request)
        if self._dropped:
            self._wake.set()

    async def refresh(self) -> int:
        """Sign anew what was dropped, and what is asked for and gets old; how many answers that were.

        What nobody asked for since it was made is left to end.
        """
        now, done = unix(self._clock.now()), 0
        old = [request for request, kept in self._kept.items() if kept.asked and kept.is_due(now)]
        while (request := self._next_dropped() or (old.pop() if old else None)) is not None:
            await self._made(request)
            done += 1
            await asyncio.sleep(0)  # whoever asks for something else need not wait for all of them
        return done

    def _next_dropped(self) -> bytes | None:
        """The newest that nobody has asked for since: a revocation does not wait for those before it."""
        while self._dropped:
            request = self._dropped.pop()
            if request not in self._kept:
                return request
        return None

    async def run(self) -> None:
        """Keep answers warm for ever."""
        while True:
            try:
                async with asyncio.timeout(_LOOK):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()
            await self.refresh()

    def _issuer_of(self, cert_ids: Sequence[CertId]) -> str | None:
        """The one issuer that all of these are about; several could not be signed by one delegate."""
        found = {self._issuers.get((item.hash_name, item.name_hash, item.key_hash)) for item in cert_ids}
        return found.pop() if len(found) == 1 else None

    async def _sign(self, issuer: str, request: OcspRequest) -> OcspAnswer:
        responder = self._responders.of(issuer)
        known = None if request.nonce is None else self._known.of_all(request.cert_ids)
        read = [await self._status(issuer, item) for item in request.cert_ids] if known is None else known
        now = self._clock.now()
        this_update = unix(now) if known is None else self._known.known_at(unix(now))
        statuses = list(zip(request.cert_ids, read, strict=True))
        next_update = min(this_update + self._lifetime, responder.end)
        der = await build_response(
            responder,
            statuses,
            this_update=from_unix(this_update),
            next_update=from_unix(next_update),
            nonce=request.nonce,
            produced_at=now,
            archive_cutoff=now - self._archive if self._archive else None,
        )
        lasting = request.nonce is None and all(status.state != "unknown" for status in read)
        fresh_until = this_update + (next_update - this_update) // 2 if lasting else 0
        return OcspAnswer(der, this_update, next_update, fresh_until)

    async def _status(self, issuer: str, cert_id: CertId) -> CertStatus:
        seen = self._known.seen
        row = await self._store.status(issuer, cert_id.serial)
        status = _status_of(row)
        self._known.learn(issuer, cert_id, status, seen)
        return status

    def _keep(self, request: bytes, serial: int, answer: OcspAnswer) -> None:
        if request in self._kept:
            self._forget(request)
        self._kept[request] = Kept(answer, serial)
        self._kept_octets += len(answer.der)
        self._requests_of.setdefault(serial, set()).add(request)
        while len(self._kept) > self._room.answers or self._kept_octets > self._room.octets:
            self._forget(next(iter(self._kept)))

    def _forget(self, request: bytes) -> None:
        kept = self._kept.pop(request)
        self._kept_octets -= len(kept.answer.der)
        requests = self._requests_of[kept.serial]
        requests.discard(request)
        if not requests:
            del self._requests_of[kept.serial]


def _status_of(row: SerialStatus | None) -> CertStatus:
    if row is None:
        return CertStatus.unknown()
    if row.revoked_at is not None and row.reason is not None:
        return CertStatus.revoked(from_unix(row.revoked_at), row.reason)
    return CertStatus.good() if row.issued else CertStatus.unknown()
