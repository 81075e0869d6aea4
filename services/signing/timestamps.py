"""Our own time-stamping authority (RFC 3161, RFC 5816): it says that a digest existed, and when.

1 the request is read, and refused by name where it is none · 2 the policy is ours · 3 the clock has not gone back ·
4 the serial was never used before · 5 the key signs, wherever it is · 6 its signature is verified before it leaves.
The authority learns digests and nothing else, and asks nobody who wants to know.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Protocol

from cryptography import x509

from pkicore.clock import Clock
from pkicore.errors import BadCertificateError, TimestampRefusedError
from pkicore.keys import SigningKey
from pkicore.tsp import (
    MAX_REQUEST_BYTES,
    MessageImprint,
    TimeStampRequest,
    TstInfo,
    check_authority,
    granted,
    prepare_token,
    rejection,
)
from services.chassis.asgi import Request, Response, Route
from services.signing.chains import check_issued

QUERY_TYPE: Final = "application/timestamp-query"
REPLY_TYPE: Final = b"application/timestamp-reply"
PATH: Final = "/v1/timestamp"
DEFAULT_POLICY: Final = "2.999.3161.1"
"""Of the arc for examples, which is nobody's: whoever has an arc of their own names a policy there."""
_BLOCK: Final = 1024  # serials that are reserved at once; a restart leaves the rest of a block unused
_LEAST_CHAIN: Final = 2


class SerialStore(Protocol):
    """Where it is remembered which serials are taken."""

    async def reserve(self, count: int) -> int:
        """The first of `count` serials in a row that are the caller's alone, durably; the first of all is 1.

        Raises:
            UnavailableError: it cannot be remembered now.
        """
        ...


class Serials:
    """Serials that are never used twice, not even across restarts, and rise; one write for each 1024 of them."""

    def __init__(self, store: SerialStore, block: int = _BLOCK) -> None:
        self._store = store
        self._block = block
        self._next = self._end = 0
        self._lock = asyncio.Lock()

    async def take(self) -> int:
        """The next one."""
        async with self._lock:
            if self._next == self._end:
                self._next = await self._store.reserve(self._block)
                self._end = self._next + self._block
            serial, self._next = self._next, self._next + 1
            return serial


@dataclass(frozen=True, slots=True)
class TimestampPolicy:
    """What the authority promises.

    Attributes:
        oid: dotted object identifier of the policy.
        accuracy: how far the clock may be off.
    """

    oid: str
    accuracy: timedelta = timedelta(seconds=1)


class TimestampAuthority:
    """Signs times.

    Args:
        key: that of the certificate.
        chain: the authority's certificate, those above it, and the root.
        policy: what is promised.
        serials: where serials come from.
        clock: where the time comes from.

    Raises:
        BadCertificateError: the first certificate is not for time-stamping alone, not in force, or not of this key;
            the chain has no root, or does not hang together.
    """

    def __init__(
        self,
        key: SigningKey,
        chain: Sequence[x509.Certificate],
        *,
        policy: TimestampPolicy,
        serials: Serials,
        clock: Clock,
    ) -> None:
        check_chain(chain, key, clock.now())
        self.chain = tuple(chain)
        self._key = key
        self._policy = policy
        self._serials = serials
        self._clock = clock
        self._latest = clock.now()

    def take(self, chain: Sequence[x509.Certificate]) -> None:
        """Go on with another certificate of the same key; requests under way end with the one that they began with.

        Raises:
            BadCertificateError: as for the first one; that stays in use.
        """
        check_chain(chain, self._key, self._clock.now())
        self.chain = tuple(chain)

    async def timestamp(self, imprint_of: bytes) -> bytes:
        """A TimeStampResp in DER about the SHA-256 of these octets, with the authority's certificate in it.

        Raises:
            TimestampRefusedError: the clock has gone back, or the certificate is no longer in force.
            KeyAccessError: the key cannot be used now.
        """
        imprint = MessageImprint.of("sha256", hashlib.sha256(imprint_of).digest())
        return await self._granted(TimeStampRequest(imprint, certificates=True))

    async def answer(self, query: bytes) -> bytes:
        """The TimeStampResp in DER to a TimeStampReq; a refusal is an answer too.

        Raises:
            KeyAccessError: the key cannot be used now.
        """
        try:
            return await self._granted(TimeStampRequest.parse(query))
        except TimestampRefusedError as refused:
            return rejection(refused.failure or "systemFailure", str(refused))

    async def _granted(self, request: TimeStampRequest) -> bytes:
        if request.policy not in {None, self._policy.oid}:
            raise TimestampRefusedError("unacceptedPolicy", f"the policy of this authority is {self._policy.oid}")
        serial, chain = await self._serials.take(), self.chain
        info = TstInfo(
            policy=self._policy.oid,
            imprint=request.imprint,
            serial=serial,
            gen_time=self._present(chain[0]),
            accuracy=self._policy.accuracy,
            nonce=request.nonce,
        )
        prepared = prepare_token(info, chain[0])
        signature = await self._key.sign(prepared.message)
        certificates = chain[:-1] if request.certificates else ()
        return granted(prepared.finish(signature, certificates))

    def _present(self, certificate: x509.Certificate) -> datetime:
        """The time, which may not go back further than it may be off; nor outlive the certificate."""
        now = self._clock.now()
        if now < self._latest - self._policy.accuracy:
            raise TimestampRefusedError("timeNotAvailable", "the clock of this authority has gone back")
        self._latest = max(now, self._latest)
        if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
            raise TimestampRefusedError("systemFailure", "the certificate of this authority is not in force")
        return now


def check_chain(chain: Sequence[x509.Certificate], key: SigningKey, at: datetime) -> None:
    """Refuse to begin with a certificate that no verifier would take.

    Raises:
        BadCertificateError: see `TimestampAuthority`.
    """
    if len(chain) < _LEAST_CHAIN:
        raise BadCertificateError("a time-stamping chain is the authority's certificate and a root at least")
    check_authority(chain[0], at)
    if chain[0].public_key() != key.public_key:
        raise BadCertificateError(f"the time-stamping certificate is not of the key {key.uri}")
    for below, above in zip(chain, (*chain[1:], chain[-1]), strict=True):
        check_issued(below, above)


def routes(authority: TimestampAuthority) -> list[Route]:
    """`POST /v1/timestamp` (RFC 3161 §3.4), for anybody; where the key cannot be used, the frame's problem says so."""

    async def stamp(request: Request) -> Response:
        reply = await authority.answer(await request.body())
        return Response(200, reply, [(b"content-type", REPLY_TYPE), (b"cache-control", b"no-store")])

    return [Route("POST", PATH, stamp, (QUERY_TYPE,), body_limit=MAX_REQUEST_BYTES)]
