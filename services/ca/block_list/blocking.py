"""Blocking a key: first nothing new is certified, then what there is is revoked.

The block is committed before the first revocation, so that no certificate slips in behind; a process that dies between
leaves certificates that `sweep` finds.
"""

import asyncio
import math
from typing import Final

import structlog
from prometheus_client import CollectorRegistry, Gauge

from pkicore.clock import Clock, unix
from pkicore.identity import SpiffeId
from services.ca.authorization import is_operator
from services.ca.block_list.store import BlockListStore
from services.ca.block_list.wire import BlockAnswer, BlockedKeyPage, BlockRequest, IssuedByRoot, KeyStatus
from services.ca.errors import CaServiceError, NotAuthorisedError, NotBlockedError
from services.ca.hierarchy import Hierarchy
from services.ca.revocation import Revoker
from services.ca.wire import format_serial
from services.chassis.database import AuditEvent
from services.chassis.errors import ConflictError, DatabaseError, DuplicateError

PAGE: Final = 500  # entries in one answer
_SWEEP: Final = 60.0  # seconds between looks for certificates of blocked keys

_log = structlog.get_logger(__name__)


class BlockMetrics:
    """How many keys are blocked, and how many of them still have certificates."""

    def __init__(self) -> None:
        self.blocked = Gauge("pqcpki_ca_blocked_keys", "Keys on the block list.", registry=None)
        self.overdue = Gauge(
            "pqcpki_ca_blocked_keys_overdue",
            "Blocked keys whose certificates are not revoked yet; a hundred at most.",
            registry=None,
        )
        self.blocked.set(math.nan)  # until it is counted: no number that grows after a restart

    def register(self, registry: CollectorRegistry) -> None:
        """Show the gauges in a registry."""
        registry.register(self.blocked)
        registry.register(self.overdue)


class BlockList:
    """The block list over its store; `revoker` takes back what a key has, and `hierarchy` is told of its own keys."""

    def __init__(
        self, *, store: BlockListStore, revoker: Revoker, hierarchy: Hierarchy, own: SpiffeId, clock: Clock
    ) -> None:
        self.metrics = BlockMetrics()
        self._store = store
        self._revoker = revoker
        self._hierarchy = hierarchy
        self._own = own
        self._clock = clock

    async def add(self, caller: SpiffeId, request: BlockRequest) -> BlockAnswer:
        """Block a key and revoke its certificates for keyCompromise; repeated, it does what was left undone.

        An issuing CA that has it issues nothing any more. What a root issued is not revoked here; the answer names it.

        Raises:
            NotAuthorisedError: the caller is no operator.
            DatabaseError: not everything is done; it may be repeated, and is completed in any case.
        """
        _require_operator(caller)
        key_hash = request.key_hash
        event = AuditEvent("key.blocked", str(caller), {"key_hash": key_hash.hex(), "reason": request.reason})
        is_new = True
        try:
            await self._store.add(key_hash, unix(self._clock.now()), request.reason, event)
        except (ConflictError, DuplicateError):
            is_new = False
        await self.heed()
        of_key = await self._revoker.revoke_key(caller, key_hash)
        unrevoked = [IssuedByRoot(format_serial(item.serial), item.issuer) for item in of_key.by_roots]
        return BlockAnswer(key_hash.hex(), is_new, [format_serial(serial) for serial in of_key.revoked], unrevoked)

    async def remove(self, caller: SpiffeId, key_hash: bytes) -> None:
        """Let a key be certified again; what was revoked stays revoked.

        Raises:
            NotAuthorisedError: the caller is no operator.
            NotBlockedError: it is not blocked.
        """
        _require_operator(caller)
        event = AuditEvent("key.unblocked", str(caller), {"key_hash": key_hash.hex()})
        try:
            await self._store.remove(key_hash, event)
        except ConflictError as error:
            raise NotBlockedError(f"the key {key_hash.hex()} is not blocked") from error
        await self.heed()

    async def status(self, key_hash: bytes) -> KeyStatus:
        """Whether a key is blocked, and whether it is certified."""
        is_certified = await self._store.is_certified(key_hash, unix(self._clock.now()))
        return KeyStatus(key_hash.hex(), await self._store.has(key_hash), is_certified)

    async def page(self, after: bytes) -> BlockedKeyPage:
        """A page of entries."""
        keys = await self._store.page(after, PAGE)
        return BlockedKeyPage(keys, keys[-1].key_hash if len(keys) == PAGE else None)

    async def heed(self) -> None:
        """Have those issuing CAs issue nothing whose keys are blocked, by whichever process.

        Raises:
            DatabaseError: the database cannot be read.
        """
        own = self._hierarchy.key_hashes
        self._hierarchy.heed_blocked([key_hash for key_hash in own if await self._store.has(key_hash)])

    async def sweep(self) -> int:
        """Revoke what blocked keys still have; how many certificates that were.

        A key is overdue as long as it has any; what a root issued waits for somebody who has the root's key.

        Raises:
            DatabaseError: the database cannot be read or written.
        """
        swept = 0
        await self.heed()
        self.metrics.blocked.set(await self._store.count())
        overdue = await self._store.overdue(unix(self._clock.now()))
        self.metrics.overdue.set(len(overdue))
        for key_hash in overdue:
            of_key = await self._revoker.revoke_key(self._own, key_hash)
            swept += len(of_key.revoked)
            if not of_key.by_roots:
                self.metrics.overdue.dec()
            for item in of_key.by_roots:
                _log.error(
                    "not revoked by its root: `ztca ca root-crl`", serial=format_serial(item.serial), root=item.issuer
                )
        return swept

    async def run(self) -> None:
        """Sweep for ever; a failure is logged and tried again."""
        while True:
            try:
                if swept := await self.sweep():
                    _log.warning("certificates of blocked keys revoked", number=swept)
            except (DatabaseError, CaServiceError) as error:
                _log.error("certificates of blocked keys not revoked", error=str(error))
            await asyncio.sleep(_SWEEP)


def _require_operator(caller: SpiffeId) -> None:
    if not is_operator(caller):
        raise NotAuthorisedError("only operators change the block list")
