"""Account keys and the CA's block list: a key that is blocked makes no account, and an account that has it is dead.

The key of a certificate makes no account, either, as the key of an account makes no certificate; nor does that of a
CSR whose order waits for the CA, which knows nothing of it yet.

The CA is asked, and its answer holds for half a minute, so that an account at work costs one request now and then; for
a new account, a change of keys, a certificate and a revocation it is asked each time.
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import structlog
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pkicore.algorithms import PublicKey
from services.acme.answers import retry_after
from services.acme.errors import AcmeError
from services.ca import client as ca

HOLDS_SECONDS: Final = 30.0  # an answer of the CA
REMEMBERED: Final = 10_000  # keys
_AWAY_SECONDS: Final = 5.0  # not asked again, where an account can do without the answer

_log = structlog.get_logger("acme.blocked_keys")


class AsksAboutKeys(Protocol):
    """Who knows the block list; `services.ca.client.CaClient` does."""

    async def key_status(self, key_hash: str) -> ca.KeyStatus:
        """Whether the key with this SHA-256 (hex) is blocked, and whether it is certified, or CaError."""


class KnowsCsrsUnderWay(Protocol):
    """Who knows what waits for the CA; `services.acme.store.csrs_under_way.CsrsUnderWay` does."""

    async def all(self) -> Sequence[bytes]:
        """The CSRs of orders that are processing, DER."""


class BlockedKeys:
    """What the CA says of keys, for a while.

    Args:
        authority: who is asked.
        under_way: CSRs that the CA may not know yet.
        monotonic: seconds that never go back.
        remembered: keys at most.
    """

    def __init__(
        self,
        authority: AsksAboutKeys,
        under_way: KnowsCsrsUnderWay,
        monotonic: Callable[[], float] = time.monotonic,
        remembered: int = REMEMBERED,
    ) -> None:
        self._authority = authority
        self._under_way = under_way
        self._remembered = remembered
        self._monotonic = monotonic
        self._known: OrderedDict[str, tuple[bool, float]] = OrderedDict()
        self._away_until = 0.0

    async def refuse_new(self, key: PublicKey) -> None:
        """The key of an account that is to be made: never without the CA's answer, given now.

        What waits for the CA is looked at before: when that is over, the CA knows it.

        Raises:
            AcmeError: badPublicKey (blocked, or the key of a certificate, or of one that is being issued);
                serverInternal where the CA cannot be asked.
        """
        der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        if any(der in csr for csr in await self._under_way.all()):  # as CSRs carry it
            raise AcmeError("badPublicKey", "a certificate is being issued for this key; make another for the account")
        status = await self._ask_now(key_hash_of(key))
        if status.is_blocked:
            raise AcmeError("badPublicKey", "this key is on the block list of the CA; make another one")
        if status.is_certified:
            raise AcmeError("badPublicKey", "this key is the key of a certificate; make another one for the account")

    async def refuse_old(self, key_hash: str) -> None:
        """The key of an account that does what no block undoes: gives it up for another, revokes; asked now.

        Raises:
            AcmeError: unauthorized; serverInternal where the CA cannot be asked.
        """
        if (await self._ask_now(key_hash)).is_blocked:
            raise _dead()

    async def refuse_account(self, key: PublicKey) -> None:
        """The key of an account that asks for something; while the CA is away, what it said last holds.

        Nothing is issued on that: the CA itself refuses a request of a blocked account.

        Raises:
            AcmeError: unauthorized.
        """
        await self.refuse_hash(key_hash_of(key))

    async def refuse_hash(self, key_hash: str) -> None:
        """As `refuse_account`, where the key's hash is known."""
        blocked, _ = self._known.get(key_hash, (False, 0.0))
        if self._monotonic() >= self._away_until:
            try:
                blocked = await self._recent(key_hash)
            except ca.CaError as error:
                self._away_until = self._monotonic() + _AWAY_SECONDS
                _log.warning("block list not asked", error=str(error))
        if blocked:
            raise _dead()

    async def _recent(self, key_hash: str) -> bool:
        blocked, until = self._known.get(key_hash, (False, 0.0))
        return blocked if self._monotonic() < until else (await self._ask(key_hash)).is_blocked

    async def _ask_now(self, key_hash: str) -> ca.KeyStatus:
        try:
            return await self._ask(key_hash)
        except ca.CaError as error:
            _log.warning("no key of an account without the block list", error=str(error))
            detail = "the CA cannot be asked about this key now; try again"
            raise AcmeError("serverInternal", detail, headers=[retry_after(int(_AWAY_SECONDS))]) from error

    async def _ask(self, key_hash: str) -> ca.KeyStatus:
        now = self._monotonic()
        try:
            status = await self._authority.key_status(key_hash)
        except ca.ForbiddenError:  # by a policy file that is older than this question; all else goes on as it was
            _log.error(
                "not allowed to ask for blocked keys: add the endpoint to /service/acme in config/policy.toml",
                endpoint="GET /v1/blocked-keys/{key_hash}",
            )
            status = ca.KeyStatus(key_hash, is_blocked=False, is_certified=False)
        self._known[key_hash] = (status.is_blocked, now + HOLDS_SECONDS)
        self._known.move_to_end(key_hash)
        if len(self._known) > self._remembered:
            self._known.popitem(last=False)
        return status


def _dead() -> AcmeError:
    detail = "the key of this account is on the block list of the CA: make an account with another key"
    return AcmeError("unauthorized", detail)


def key_hash_of(key: PublicKey) -> str:
    """By which the block list knows a key: SHA-256 over it as certificates carry it, hex."""
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()
