"""`replaces` in newOrder (RFC 9773 §5): which certificate an order takes the place of, and old rows' certIDs."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

import structlog

from pkicore.clock import unix
from pkicore.errors import MalformedError, PkiError
from pkicore.x509.cert_id import cert_id_of, parse_cert_id
from pkicore.x509.certificate import load_chain
from services.acme.errors import AcmeError
from services.acme.identifiers import Identifier
from services.acme.renewals.renewal_info import window_of
from services.acme.store import OrderRow
from services.acme.store.renewals import RenewalRow, RenewalStore, ReplaceableRow
from services.chassis.database import Write
from services.chassis.errors import ConflictError, DatabaseError

MIN_AGE: Final = 86400  # seconds from issuance; an end that the client chose brings no exemption any sooner
_PAUSE_SECONDS: Final = 0.05  # between two commits, so that requests are not held up
_RETRY_SECONDS: Final = 60.0

_log: Final = structlog.get_logger("acme.renewals")


@dataclass(frozen=True, slots=True)
class Replacement:
    """What an order replaces.

    Attributes:
        cert_id: as the order said it.
        certificate_id: of the row.
        former: the order that was to replace it before.
        free: the names, without wildcard labels, that the order is not charged for; None where it is not exempt. Exempt
            is the first order that replaces a certificate in force, from the beginning of its suggested window on, for
            the names of that certificate. An order that failed has used that up.
    """

    cert_id: str
    certificate_id: str
    former: str | None
    free: frozenset[Identifier] | None


class Renewals:
    """Judges `replaces`; what is written rides in the unit of the order."""

    def __init__(self, store: RenewalStore) -> None:
        self._store = store

    async def replaced(
        self, value: object, account_id: str, names: Collection[Identifier], now: int
    ) -> Replacement | None:
        """The certificate that an order of this account for these names replaces; None where it says of none.

        Args:
            value: the member `replaces` of newOrder; None where there is none.
            account_id: who orders.
            names: what is ordered.
            now: Unix time.

        Raises:
            AcmeError: malformed: no certID, or of no certificate of the account, or of one with none of these names.
        """
        if value is None:
            return None
        cert_id = _checked(value)
        row = await self._store.replaceable(cert_id)
        if row is None or row.account_id != account_id:
            raise AcmeError("malformed", "replaces: the account has no certificate with this certID")
        if not set(names) & set(row.identifiers):
            raise AcmeError("malformed", "replaces: the certificate has none of the identifiers of this order")
        free = await self._free(cert_id, row, now) if row.replaced_by is None else None
        return Replacement(cert_id, row.id, row.replaced_by, free)

    async def free_names(self, order: OrderRow, now: int) -> frozenset[Identifier]:
        """The names that an order, about to be fulfilled, is not charged for: those of what it replaces, if exempt."""
        row = None if order.replaces is None else await self._store.replaceable(order.replaces)
        if order.replaces is None or row is None or row.replaced_by != order.id:
            return frozenset()
        return await self._free(order.replaces, row, now) or frozenset()

    def writes(self, replacement: Replacement | None, order_id: str, now: int) -> tuple[Write, ...]:
        """What rides in the order's unit: nothing where it replaces nothing."""
        if replacement is None:
            return ()
        return (self._store.replace(replacement.certificate_id, replacement.former, order_id, now),)

    def refuse(self, replacement: Replacement | None, error: ConflictError, position: int) -> None:
        """Say so where the write at `position` of the unit, which is the one of `writes`, has undone it.

        Raises:
            AcmeError: alreadyReplaced.
        """
        if replacement is not None and error.write == position:
            raise AcmeError("alreadyReplaced", "replaces: another order replaces this certificate") from error

    async def name_certificates(self) -> int:
        """Give certificates from before there were certIDs theirs, a bounded number per commit; how many got one.

        Raises:
            DatabaseError: the rest is done at the next call.
        """
        done = 0
        while rows := await self._store.unnamed():
            named = [item for row in rows if (item := _named(*row)) is not None]
            if not named:
                break
            await self._store.name(named)
            done += len(named)
            await asyncio.sleep(_PAUSE_SECONDS)
        return done

    async def run_naming(self) -> None:
        """As `name_certificates`, until there is nothing left to do."""
        while True:
            try:
                done = await self.name_certificates()
            except DatabaseError as error:
                _log.warning("certificates have no certID yet", error=str(error), retry_seconds=_RETRY_SECONDS)
                await asyncio.sleep(_RETRY_SECONDS)
            else:
                _log.info("certificates have their certID", certificates=done)
                return

    async def _free(self, cert_id: str, row: ReplaceableRow, now: int) -> frozenset[Identifier] | None:
        info = await self._store.info(cert_id)
        if info is None or not _is_exempt(info, now):
            return None
        return frozenset(name.base for name in row.identifiers)


def _is_exempt(info: RenewalRow, now: int) -> bool:
    """Whether it is time to replace a certificate for a reason that is not the client's own doing.

    A client may revoke what it has, or ask for an end as near as it likes: neither lets it order without limit.
    """
    if not window_of(info).start <= now <= info.not_after:
        return False
    if info.incident is not None:
        return True
    issued = info.not_before if info.issued_at is None else info.issued_at
    return info.revoked_at is None and issued + MIN_AGE <= now


def _checked(value: object) -> str:
    if not isinstance(value, str):
        raise AcmeError("malformed", "replaces must be a certID (RFC 9773 §4.1)")
    try:
        parse_cert_id(value)
    except MalformedError as error:
        raise AcmeError("malformed", f"replaces: {error}") from error
    return value


def _named(certificate_id: str, chain: str) -> tuple[str, str, int] | None:
    try:
        leaf = load_chain(chain.encode())[0]
        return certificate_id, cert_id_of(leaf), unix(leaf.not_valid_before_utc)
    except PkiError as error:
        _log.error("a certificate has no certID", certificate=certificate_id, error=str(error))
        return None
