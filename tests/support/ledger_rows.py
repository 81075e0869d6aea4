"""Rows of the CA's ledger through its own store, without keys: what is searched is not what is signed."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from services.ca.ledger.names import names_text
from services.ca.store import CaStore, Intent
from services.chassis.database import AuditEvent, Database

NOW: Final = 1_790_000_000
DAY: Final = 86_400
_EVENT: Final = AuditEvent("test.row", "test", {}, logged=False)
_TOGETHER: Final = 500


@dataclass(frozen=True)
class Row:
    """A certificate to be: everything that searches look at."""

    names: Sequence[tuple[str, str]] = ()
    issuer: str = "issuing-ecdsa"
    profile: str = "server"
    caller: str = "spiffe://pki.test/service/acme"
    account: str = ""
    algorithm: str = "ecdsa-p256"
    key: bytes = b"key"
    recorded_at: int = NOW
    not_after: int = NOW + 90 * DAY
    signed: bool = True
    requester: str = field(default="{}")


def serial_of(number: int) -> int:
    """A serial such as the CA makes: 20 octets that tell nothing of their order."""
    return int.from_bytes(hashlib.sha256(b"%d" % number).digest()[:20], "big") >> 1 | 1 << 158


def intent_of(number: int, row: Row) -> Intent:
    """The intent of a row."""
    return Intent(
        serial=serial_of(number),
        issuer=row.issuer,
        profile=row.profile,
        caller=row.caller,
        idempotency_key=f"row-{number}",
        request_hash=b"\0" * 32,
        key_hash=hashlib.sha256(row.key).digest(),
        not_before=row.recorded_at,
        not_after=row.not_after,
        recorded_at=row.recorded_at,
        tbs=b"\x30" * 400,
        account=row.account,
        requester=row.requester,
        names=names_text(row.names),
        algorithm=row.algorithm,
    )


async def add_rows(database: Database, rows: Sequence[Row], *, first: int = 1) -> list[str]:
    """Write rows as issuance does, in three durable steps; their serials, as the ledger writes them."""
    store = CaStore(database)
    for begin in range(0, len(rows), _TOGETHER):
        piece = list(enumerate(rows[begin : begin + _TOGETHER], first + begin))
        await store.reserve_serials([serial_of(number) for number, _ in piece], NOW)
        await asyncio.gather(*(_add(store, intent_of(number, row), row) for number, row in piece))
    return [f"{serial_of(first + number):x}" for number in range(len(rows))]


async def _add(store: CaStore, intent: Intent, row: Row) -> None:
    await store.record_intent(intent, _EVENT, row.names)
    if row.signed:
        await store.store_certificate(intent.serial, b"\x30" * 600, _EVENT)


def rows_of(count: int, row: Row, **steps: int) -> list[Row]:
    """So many rows alike, whose named fields grow by a step from each to the next."""
    return [
        replace(row, **{name: getattr(row, name) + number * step for name, step in steps.items()})
        for number in range(count)
    ]
