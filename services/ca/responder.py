"""OCSP answers (RFC 6960, RFC 5019): what the ledger says of a serial, signed by the issuer's delegated responder.

Answers to the requests of RFC 5019 (short, without a nonce) about certificates that we issued are kept by the bytes of
the request, at most so many, until half of their life is over; a revocation drops those that name its serial at once.
Other answers are signed on demand: strangers must not fill the memory, and what is unknown now may be issued next.
A serial that was never issued is unknown, also when it is reserved; a serial of another issuer is none of our business.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Protocol

import structlog
from cryptography import x509

from pkicore.clock import Clock, from_unix, unix
from pkicore.errors import BadSignatureError, KeyAccessError, MalformedError, UnsupportedError
from pkicore.ocsp import (
    CertId,
    CertStatus,
    HashName,
    OcspRequest,
    Responder,
    build_response,
    error_response,
    issuer_hashes,
)
from services.ca.revocation_store import RevocationStore, Revoked
from services.chassis.errors import DatabaseError

_DIGESTS: Final[tuple[HashName, ...]] = ("sha1", "sha256")
_MAX_KEPT_REQUEST: Final = 256  # octets; one CertID with SHA-256 takes about 120

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class OcspAnswer:
    """A DER response; `fresh_until` is 0 where it must not be kept. Times are Unix seconds."""

    der: bytes
    this_update: int = 0
    next_update: int = 0
    fresh_until: int = 0


class Responders(Protocol):
    """Where the delegated responder of an issuer comes from; it changes when its certificate is renewed."""

    def of(self, issuer: str) -> Responder:
        """The responder in force.

        Raises:
            KeyAccessError: there is none with a valid certificate.
        """
        ...


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
        capacity: int,
    ) -> None:
        self._store = store
        self._responders = responders
        self._clock = clock
        self._lifetime = int(lifetime.total_seconds())
        self._capacity = capacity
        self._issuers = {
            (digest, *issuer_hashes(certificate, digest)): name
            for name, certificate in issuers.items()
            for digest in _DIGESTS
        }
        self._kept: OrderedDict[bytes, OcspAnswer] = OrderedDict()
        self._requests_of: dict[int, set[bytes]] = {}
        self._revocations_seen = 0

    @property
    def kept(self) -> int:
        """How many answers are kept."""
        return len(self._kept)

    async def answer(self, request: bytes) -> OcspAnswer:
        """The response to a DER request; errors are responses too (RFC 6960 §2.3)."""
        kept = self._kept.get(request)
        if kept is not None and unix(self._clock.now()) < kept.fresh_until:
            self._kept.move_to_end(request)
            return kept
        try:
            parsed = OcspRequest.parse(request)
        except (MalformedError, UnsupportedError):
            return MALFORMED
        issuer = self._issuer_of(parsed.cert_ids)
        if issuer is None:
            return UNAUTHORIZED
        seen = self._revocations_seen
        try:
            answer = await self._sign(issuer, parsed)
        except (DatabaseError, KeyAccessError, BadSignatureError) as error:
            _log.error("OCSP answer not signed", error=str(error))
            return TRY_LATER
        if answer.fresh_until and len(request) <= _MAX_KEPT_REQUEST and seen == self._revocations_seen:
            self._keep(request, parsed, answer)
        return answer

    def take(self, batch: Sequence[Revoked]) -> None:
        """New revocations, from the log: no kept answer may contradict them, nor one that is being made."""
        self._revocations_seen += len(batch)
        for revoked in batch:
            for request in self._requests_of.pop(revoked.serial, ()):
                self._kept.pop(request, None)

    def _issuer_of(self, cert_ids: Sequence[CertId]) -> str | None:
        """The one issuer that all of these are about; several could not be signed by one delegate."""
        found = {self._issuers.get((item.hash_name, item.name_hash, item.key_hash)) for item in cert_ids}
        return found.pop() if len(found) == 1 else None

    async def _sign(self, issuer: str, request: OcspRequest) -> OcspAnswer:
        responder = self._responders.of(issuer)
        statuses = [(item, await self._status(issuer, item.serial)) for item in request.cert_ids]
        now = self._clock.now()
        this_update, lifetime = unix(now), self._lifetime
        expiry = unix(responder.certificate.not_valid_after_utc)
        next_update = min(this_update + lifetime, expiry)
        der = await build_response(
            responder, statuses, this_update=now, next_update=from_unix(next_update), nonce=request.nonce
        )
        lasting = request.nonce is None and all(status.state != "unknown" for _, status in statuses)
        fresh_until = this_update + (next_update - this_update) // 2 if lasting else 0
        return OcspAnswer(der, this_update, next_update, fresh_until)

    async def _status(self, issuer: str, serial: int) -> CertStatus:
        row = await self._store.status(issuer, serial)
        if row is None:
            return CertStatus.unknown()
        if row.revoked_at is not None and row.reason is not None:
            return CertStatus.revoked(from_unix(row.revoked_at), row.reason)
        return CertStatus.good() if row.issued else CertStatus.unknown()

    def _keep(self, request: bytes, parsed: OcspRequest, answer: OcspAnswer) -> None:
        self._kept[request] = answer
        self._kept.move_to_end(request)
        for item in parsed.cert_ids:
            self._requests_of.setdefault(item.serial, set()).add(request)
        while len(self._kept) > self._capacity:
            self._forget(next(iter(self._kept)))

    def _forget(self, request: bytes) -> None:
        del self._kept[request]
        for item in OcspRequest.parse(request).cert_ids:
            requests = self._requests_of.get(item.serial, set())
            requests.discard(request)
            if not requests:
                self._requests_of.pop(item.serial, None)
