"""Certificates of before there was an index of names get theirs while the CA runs, on both engines."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from services.ca.client import CaClient
from services.ca.ledger.naming import Naming
from services.ca.ledger.store.naming import Named, NamingStore
from services.ca.schema import certificate_names, certificates
from services.chassis.database import Database, Unit, Write
from services.chassis.errors import ConflictError
from tests.support.ca_world import OPERATOR, CaWorld


@pytest.fixture
async def world(tmp_path: Path, empty_url: str) -> AsyncIterator[CaWorld]:
    """A CA that has issued twice, on either engine, whose rows are as 0003 had them."""
    opened = await CaWorld.open(tmp_path, url=empty_url)
    for number in range(3):
        await opened.issue(f"www{number}.old.test", idempotency_key=f"old-{number}")
    await as_before(opened.database)
    yield opened
    await opened.close()


async def as_before(database: Database) -> None:
    """What 0004 made of older rows."""
    strip = sa.update(certificates).values(names=sa.bindparam("of"), algorithm=sa.bindparam("by"))
    writes = [
        Write(database.prepare(sa.delete(certificate_names)), {}),
        Write(database.prepare(strip), {"of": "{}", "by": ""}),
    ]
    await database.commit(Unit("as before", writes))


async def found(world: CaWorld, **query: str) -> list[tuple[str, tuple[str, ...]]]:
    """Algorithm and DNS names of what a search finds."""
    async with world.internal(OPERATOR) as http:
        rows = (await CaClient(http).ledger(query)).certificates
    return sorted((row.algorithm, tuple(row.names.get("dns", ()))) for row in rows)


async def test_old_certificates_are_found_by_name(world: CaWorld) -> None:
    """Before, the search does not find them; after, it does, and by common name, with their algorithm."""
    assert await found(world, name="*.old.test") == []
    await world.core.naming.run()
    expected = [("ecdsa-p256", (f"www{number}.old.test",)) for number in range(3)]
    assert await found(world, name="*.old.test") == expected
    assert await found(world, common_name="www1.old.test") == expected[1:2]
    assert await world.core.naming.step() == 0


async def test_it_goes_on_where_it_was_interrupted(world: CaWorld) -> None:
    """A process that dies between two commits leaves the rest to the next; nothing is done twice."""
    assert await world.core.naming.step(2) == 2
    assert len(await found(world, name="*.old.test")) == 2
    again = Naming(NamingStore(world.database))
    assert [await again.step(), await again.step()] == [1, 0]
    assert len(await found(world, name="*.old.test")) == 3


async def test_two_replicas_do_not_disturb_each_other(world: CaWorld) -> None:
    """Who comes second changes nothing, and finds out."""
    store = NamingStore(world.database)
    rows = await store.unnamed(10)
    named = [Named(row, [("dns", "www.old.test")], "ecdsa-p256") for row in rows]
    await store.name(named)
    with pytest.raises(ConflictError):
        await store.name(named)
    assert len(await found(world, name="*.old.test")) == 3


async def test_a_row_that_does_not_parse_stops_nothing(world: CaWorld) -> None:
    """It is logged, marked and left; the others get their names."""
    (row, *_) = await NamingStore(world.database).unnamed(1)
    spoil = sa.update(certificates).where(certificates.c.serial == sa.bindparam("of")).values(tbs=sa.bindparam("junk"))
    write = Write(world.database.prepare(spoil), {"of": row.serial, "junk": b"\x30\x03junk"}, 1)
    await world.database.commit(Unit("spoilt", [write]))
    await world.core.naming.run()
    assert len(await found(world, name="*.old.test")) == 2
    assert await found(world, serial=row.serial) == [("unknown", ())]
