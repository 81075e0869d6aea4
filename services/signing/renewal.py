"""Renewing certificates of keys that stay, while the service runs: the same key, the same name, a later end.

1 what the database holds is taken notice of, another process may have renewed · 2 where it is time, a request is signed
and kept · 3 the CA is asked with it; it gives this service certificates for no key that it has not certified before ·
4 its answer is held against the certificate that it follows · 5 it is kept with an audit event, in one commit.
A process killed anywhere repeats the kept request, and gets the same certificate for it.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import structlog
from cryptography import x509

from pkicore.clock import Clock, unix
from pkicore.errors import BadCertificateError, KeyAccessError, PkiError
from pkicore.keys import SigningKey
from pkicore.keys.remote import RemoteSigner, open_remote_key
from pkicore.x509.certificate import load_chain
from services.ca.client import CaError
from services.ca.client.csr import make_csr
from services.ca.client.identity import Issuer
from services.ca.wire import CertificateRequest, format_serial
from services.chassis.database import AuditEvent
from services.chassis.errors import ChassisError, ConflictError, DuplicateError
from services.signing.chains import Chain, check_issued, check_successor
from services.signing.domain import SERVICE
from services.signing.key_certificates import CertifiedKey
from services.signing.metrics import SigningMetrics
from services.signing.store.certificates import CertificateStore, StoredRequest

_LOOK_SECONDS: Final = 60.0
_RETRY_FIRST: Final = 30.0
_RETRY_LAST: Final = 3600.0
_STALE: Final = timedelta(days=1)
"""A request that has brought nothing for so long is made anew."""
_GAIN: Final = timedelta(days=1)
"""A certificate that ends no later than this after the one before is none worth having."""

_log = structlog.get_logger("certificates")


@dataclass(frozen=True, kw_only=True)
class Means:
    """What renewal works with.

    Attributes:
        store: of certificates and requests.
        authority: the CA.
        signer: holds the keys.
        pool: where long messages are hashed.
        roots: of our CA, as they are trusted now.
    """

    store: CertificateStore
    authority: Issuer
    signer: RemoteSigner
    pool: Executor
    roots: Callable[[], Sequence[x509.Certificate]]


class Renewal:
    """Keeps the certificates of some keys fresh.

    Args:
        keys: those keys.
        means: see there.
        metrics: has the ends, and counts attempts.
        clock: the time.
        changed: called when another certificate of any key is at hand, used yet or not.
    """

    def __init__(
        self,
        keys: Sequence[CertifiedKey],
        means: Means,
        metrics: SigningMetrics,
        clock: Clock,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self.keys = tuple(keys)
        self.changed = changed
        self._means = means
        self._metrics = metrics
        self._clock = clock

    async def open(self) -> None:
        """Put the settings' own certificates on record, since they may be replaced there, and follow the database.

        Raises:
            DatabaseError: it cannot be read or written.
            BadCertificateError: see `CertifiedKey.follow`.
        """
        for key in self.keys:
            stored = await self._means.store.chains(key.key_id)
            if all(load_chain(one.chain)[0] != key.configured[0] for one in stored):
                await self._keep(key, key.configured, "certificate.configured")
            await self._follow(key)

    async def run(self) -> None:
        """Renew for ever; after a failure the pause doubles, up to an hour."""
        wait = _RETRY_FIRST
        while True:
            if await self.look():
                wait = _RETRY_FIRST
                await asyncio.sleep(_LOOK_SECONDS)
            else:
                await asyncio.sleep(wait * random.uniform(0.8, 1.2))  # noqa: S311 - spreads load, no secret
                wait = min(wait * 2, _RETRY_LAST)

    async def look(self) -> bool:
        """Follow the database and renew what is due, each key by itself; whether all of it went well."""
        return all([await self._looked_at(key) for key in self.keys])

    async def renew(self, key: CertifiedKey) -> None:
        """Obtain the next certificate of a key, now.

        Raises:
            CaError: the CA does not answer, or says no.
            PkiError: signer-hsm does not sign the request, or the answer is no certificate to use.
            DatabaseError: nothing was kept; the same request will be repeated.
        """
        former = key.newest
        renews = format_serial(former[0].serial_number)
        request = await self._request(key, former, renews)
        issued = await self._means.authority.issue(
            CertificateRequest(
                csr=request.csr,
                profile=key.profile,
                identifiers=(),
                idempotency_key=f"{SERVICE}-renewal-{hashlib.sha256(request.csr).hexdigest()}",
                requester={"purpose": f"renewal of the certificate of {key.key_id}"},
                renews=renews,
            )
        )
        roots = self._means.roots()
        chain = _completed(load_chain(issued.chain.encode()), roots)
        check_renewed(chain, former, roots)
        await self._keep(key, chain, "certificate.renewed", renews=renews)
        self._metrics.renewal("success")
        await self._follow(key)

    async def _looked_at(self, key: CertifiedKey) -> bool:
        try:
            await self._follow(key)
            if key.renewal_due(self._clock.now()):
                await self.renew(key)
        except (CaError, PkiError, ChassisError) as error:
            self._metrics.renewal("failure")
            ends = key.newest[0].not_valid_after_utc.isoformat()
            _log.error("certificate not renewed, tried again", key=key.key_id, not_after=ends, error=str(error))
            return False
        return True

    async def _follow(self, key: CertifiedKey) -> None:
        stored, known = await self._means.store.chains(key.key_id), key.every
        try:
            key.follow(stored, self._means.roots(), self._clock.now())
        finally:
            self._metrics.certificate(key.key_id, key.newest[0].not_valid_after_utc)
            if key.every != known:
                self.changed()

    async def _request(self, key: CertifiedKey, former: Chain, renews: str) -> StoredRequest:
        """The one that is kept, whoever made it; a fresh one where there is none or it brought nothing for a day."""
        store, now = self._means.store, unix(self._clock.now())
        kept = await store.request(key.key_id, renews)
        if kept is not None and now - kept.requested_at < _STALE.total_seconds():
            return kept
        fresh = StoredRequest(await _csr(await self._signing_key(key, former), former[0]), now)
        try:
            if kept is None:
                await store.begin(key.key_id, renews, fresh)
            else:
                await store.begin_anew(key.key_id, renews, kept, fresh)
        except (DuplicateError, ConflictError):  # another process was quicker
            return await store.request(key.key_id, renews) or fresh
        return fresh

    async def _signing_key(self, key: CertifiedKey, former: Chain) -> SigningKey:
        found = await open_remote_key(key.uri, self._means.signer, self._means.pool)
        if found.public_key != former[0].public_key():
            raise KeyAccessError(
                f"{key.key_id} was rotated, and its certificate is of a former version: have the CA certify the "
                "present one, and name that certificate in the settings"
            )
        return found

    async def _keep(self, key: CertifiedKey, chain: Chain, event: str, **more: str) -> None:
        leaf = chain[0]
        detail = {"key": key.key_id, "serial": format_serial(leaf.serial_number), **more}
        detail |= {"profile": key.profile, "not_after": leaf.not_valid_after_utc.isoformat()}
        try:
            await self._means.store.keep(key.key_id, chain, unix(self._clock.now()), AuditEvent(event, SERVICE, detail))
        except DuplicateError:
            _log.info("another process has kept this certificate", **detail)


def check_renewed(chain: Chain, former: Chain, roots: Sequence[x509.Certificate]) -> None:
    """What the CA has answered may follow a certificate.

    Raises:
        BadCertificateError: it is of another key, name or use, ends too soon, or does not lead to a root of ours.
    """
    check_successor(chain, former, roots)
    leaf, old = chain[0], former[0]
    if leaf.public_key() != old.public_key() or leaf.subject != old.subject:
        raise BadCertificateError("the CA answered a certificate for another key or name")
    if leaf.not_valid_after_utc < old.not_valid_after_utc + _GAIN:
        raise BadCertificateError(
            f"the CA answered a certificate that ends on {leaf.not_valid_after_utc:%Y-%m-%d}, hardly later than the "
            "one before: its issuing CA ends soon"
        )


async def _csr(key: SigningKey, former: x509.Certificate) -> bytes:
    name = former.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    return await make_csr(key, common_name=str(name[0].value) if name else None)


def _completed(chain: Chain, roots: Sequence[x509.Certificate]) -> Chain:
    """With the root behind it, which the CA does not send along."""
    for root in roots:
        try:
            check_issued(chain[-1], root)
        except BadCertificateError:
            continue
        return (*chain, root)
    raise BadCertificateError("the CA answered a chain that none of our roots is above")
