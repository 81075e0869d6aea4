"""Lists with many entries: in the database without them, back after a restart, at rest while their deltas tell."""

from __future__ import annotations

import importlib.util
import sqlite3
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.migration import MigrationContext
from alembic.operations import Operations
from cryptography import x509

from pkicore.clock import from_unix, unix
from pkicore.crl import Revocation, encode_entry
from pkicore.errors import KeyUnavailableError, MalformedError, RevokedError
from pkicore.mtls.peer import IssuedBy, key_hash
from pkicore.mtls.revocation import ListMissingError
from services.ca.app import MIGRATIONS
from services.ca.crl_pace import Pace
from services.ca.publication import CrlPublisher
from services.ca.transport import LedgerLists, ledger_crls
from services.ca.wire import RevocationRequest, format_serial, parse_serial
from services.chassis.audit import audit_records
from tests.support.ca_world import OPERATOR, CaWorld
from tests.support.clock import ManualClock
from tests.support.pki import MemoryKey, make_hierarchy

ISSUER = "issuing-ecdsa"
DELTA = f"{ISSUER}/delta"
MANY = 430  # entries from which a list is stored without them
EVENT = "crl.published"
DAY = 86_400


class AbsentKey(MemoryKey):
    """Its signer does not answer."""

    async def sign(self, message: bytes) -> bytes:
        """Not now."""
        raise KeyUnavailableError(f"no answer for {len(message)} octets")


def add_revocations(world: CaWorld, count: int, shards: int = 1) -> list[int]:
    """Revoke so many certificates at once, as rows without certificates, which end within ten hours of each other."""
    now, serials = unix(world.clock.now()), [(1 << 120) + number for number in range(count)]
    with sqlite3.connect(world.directory / "ca.sqlite3") as connection:
        (last,) = connection.execute("SELECT coalesce(max(sequence), 0) FROM revocations").fetchone()
        for number, serial in enumerate(serials):
            entry = encode_entry(Revocation(serial, from_unix(now), "superseded"))
            ends, shard = now + DAY + number * 7919 % 36_000, serial % shards + 1 if shards > 1 else 0
            row = (last + number + 1, format_serial(serial), ISSUER, now, "superseded", ends, entry, shard, "")
            connection.execute("INSERT INTO revocations VALUES (?,?,?,?,?,?,?,?,?)", row)
    connection.close()
    return serials


async def revoke(world: CaWorld, name: str, reason: str = "superseded") -> int:
    """Issue and revoke; the serial."""
    answer = await world.issue("a.example", idempotency_key=name)
    await world.core.revoker.revoke(OPERATOR, RevocationRequest(reason, serial=answer.serial))
    return parse_serial(answer.serial)


def der_of(publisher: CrlPublisher, path: str) -> bytes:
    """A newest list."""
    found = publisher.newest(path)
    assert found is not None
    return found.der


def serials_of(publisher: CrlPublisher, path: str) -> set[int]:
    """What a newest list names."""
    return {entry.serial_number for entry in x509.load_der_x509_crl(der_of(publisher, path))}


def number_of(publisher: CrlPublisher, path: str) -> int:
    """The number of a newest list."""
    found = publisher.newest(path)
    assert found is not None
    return found.number


async def again(world: CaWorld, *, signs: bool = True) -> CaWorld:
    """A later process over the same database."""
    world.clock.advance(timedelta(seconds=1))
    keys = {} if signs else {family: AbsentKey(item.issuing_key.private_key) for family, item in world.families.items()}
    return await CaWorld.open(world.directory, clock=world.clock, families=world.families, keys=keys)


@pytest.fixture
async def large(tmp_path: Path) -> AsyncIterator[CaWorld]:
    """A CA with two shards, many revocations, one hold, and a revocation that no list has yet."""
    clock = ManualClock()
    family = await make_hierarchy("ecdsa", clock)
    family = replace(family, issuing=replace(family.issuing, crl_shards=2))
    world = await (await CaWorld.open(tmp_path, clock=clock, families={"ecdsa": family})).start()
    add_revocations(world, 2 * MANY, shards=2)
    await revoke(world, "held", "certificateHold")
    await world.publish()
    await revoke(world, "later")
    yield world
    await world.close()


async def test_a_large_list_is_stored_without_its_entries_and_read_with_them(large: CaWorld) -> None:
    """What is read is what was published, octet for octet, whatever was revoked since; rows are small."""
    for path in (ISSUER, f"{ISSUER}/1", f"{ISSUER}/2"):
        row, whole = await large.core.store.crl_row(path), await large.core.store.crl(path)
        assert row is not None
        assert whole is not None
        assert (row.is_whole, len(row.der) < 1500) == (False, True)
        assert whole.der == der_of(large.core.publisher, path)


async def test_going_back_by_migration_puts_the_entries_in_again(large: CaWorld) -> None:
    """An earlier version reads whole lists, of the same numbers."""
    path = MIGRATIONS / "versions" / "0007_large_crls.py"
    spec = importlib.util.spec_from_file_location("large_crls", path)
    assert spec is not None
    assert spec.loader is not None
    migration = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(migration)
    engine = sa.create_engine(f"sqlite:///{large.directory / 'ca.sqlite3'}")
    with engine.begin() as connection, Operations.context(MigrationContext.configure(connection)):
        migration.downgrade()
        rows = connection.execute(sa.text("SELECT * FROM crls")).mappings().all()
    engine.dispose()
    whole = {row["issuer"]: row["der"] for row in rows if not row["issuer"].endswith("/delta")}
    assert whole == {path: crl.der for path, crl in large.core.publisher.current.items()}
    assert "ended_before" not in rows[0]


async def test_a_restart_serves_large_lists_as_they_were_though_nothing_can_be_signed(large: CaWorld) -> None:
    """From the entries in the database, before anything is published."""
    before = {path: crl.der for path, crl in large.core.publisher.current.items()}
    assert len(before) == 3
    later = await again(large, signs=False)
    await later.core.publisher.load()
    assert set(later.core.publisher.current) == set()
    with pytest.raises(KeyUnavailableError):
        await later.core.publisher.publish_due()
    assert {path: crl.der for path, crl in later.core.publisher.current.items()} == before
    await later.close()


async def test_a_list_whose_entries_are_not_those_of_the_ledger_is_not_shown(large: CaWorld) -> None:
    """What is missing is found out; the next list has the next number."""
    number = number_of(large.core.publisher, ISSUER)
    with sqlite3.connect(large.directory / "ca.sqlite3") as connection:
        connection.execute("DELETE FROM revocations WHERE sequence = 5")
    connection.close()
    with pytest.raises(MalformedError, match="other entries"):
        await large.core.store.crl(ISSUER)
    later = await again(large, signs=False)
    await later.core.publisher.load()
    with pytest.raises(KeyUnavailableError):
        await later.core.publisher.publish_due()
    assert later.core.publisher.current.keys() == {f"{ISSUER}/2"}
    await later.close()
    later = await again(large)
    await later.start()
    assert number_of(later.core.publisher, ISSUER) == number + 1
    await later.close()


async def test_a_list_that_another_process_published_is_followed_by_one_with_everything(large: CaWorld) -> None:
    """Its entries are not read for that: ours has them, and the next number."""
    other = await again(large)
    await other.start()
    serial = await revoke(other, "by the other")
    await other.publish()
    number = number_of(other.core.publisher, ISSUER)
    for _ in range(2):
        await large.publish()
    assert number_of(large.core.publisher, ISSUER) == number + 1
    assert serial in serials_of(large.core.publisher, ISSUER)
    assert serials_of(large.core.publisher, ISSUER) == serials_of(other.core.publisher, ISSUER)
    await other.close()


async def test_the_ca_holds_the_shards_that_its_peers_name(large: CaWorld) -> None:
    """From the publisher's memory, or from the database before there is one; the complete list it does not read."""
    for publisher in (None, large.core.publisher):
        lists = LedgerLists(large.core.store, publisher)
        crls = ledger_crls({ISSUER: large.issuer()}, lists, None, large.clock, 3600, by_certificate=True)
        await crls.refresh()
        assert crls.newest() == ()
        issuer = large.families["ecdsa"].issuing
        link = IssuedBy(key_hash(large.issuer()), (1 << 120) + 1, (issuer.shard_url(2),))
        with pytest.raises(ListMissingError) as missing:
            crls.check([link])
        await crls.take_up(missing.value)
        assert [crl.der for crl in crls.newest()] == [der_of(large.core.publisher, f"{ISSUER}/2")]
        with pytest.raises(RevokedError):
            crls.check([link])


@pytest.fixture
async def resting(world: CaWorld) -> tuple[CaWorld, CrlPublisher]:
    """A publisher whose lists rest for ever once they were made; and the world that it is in."""
    publisher = CrlPublisher(
        store=world.core.store,
        log=world.core.log,
        cas=world.core.hierarchy.cas,
        roots=(),
        clock=world.clock,
        lifetime=timedelta(days=1),
        pace=Pace(lambda: 0.0, small=0),
    )
    await publisher.load()
    world.clock.advance(timedelta(seconds=1))
    assert await publisher.publish_due()
    return world, publisher


async def test_while_a_list_rests_its_delta_tells_at_once(resting: tuple[CaWorld, CrlPublisher]) -> None:
    """With the next number and what changed since its base; the list follows after its rest, and has everything."""
    world, publisher = resting
    complete = number_of(publisher, ISSUER)
    serials = set()
    for count in (1, 2):
        serials.add(await revoke(world, f"{count}"))
        world.clock.advance(timedelta(seconds=1))
        assert not await publisher.publish_due()
        assert number_of(publisher, ISSUER) == complete
        assert (number_of(publisher, DELTA), serials_of(publisher, DELTA)) == (complete + count, serials)
    delta = x509.load_der_x509_crl(der_of(publisher, DELTA))
    assert delta.extensions.get_extension_for_class(x509.DeltaCRLIndicator).value.crl_number <= complete
    world.clock.advance(timedelta(seconds=1))
    assert not await publisher.publish_due()
    assert number_of(publisher, DELTA) == complete + 2  # nothing new to tell
    publisher.hurry()
    assert await publisher.publish_due()
    assert serials_of(publisher, ISSUER) == serials
    assert number_of(publisher, ISSUER) == number_of(publisher, DELTA) == complete + 3
    published = [item.record.detail async for item in audit_records(world.database) if item.record.event == EVENT]
    numbers = [detail["number"] for detail in published if detail["issuer"] in {ISSUER, DELTA}]
    assert numbers == list(range(1, complete + 4))


async def test_a_restart_amid_a_rest_goes_on_with_the_next_number(resting: tuple[CaWorld, CrlPublisher]) -> None:
    """The delta's number counts, though the list itself is older."""
    world, publisher = resting
    serial = await revoke(world, "1")
    world.clock.advance(timedelta(seconds=1))
    await publisher.publish_due()
    number = number_of(publisher, DELTA)
    later = await again(world)
    await later.start()
    assert number_of(later.core.publisher, ISSUER) == number_of(later.core.publisher, DELTA) == number + 1
    assert serials_of(later.core.publisher, ISSUER) == {serial}
    await later.close()


async def test_a_clock_set_back_amid_a_rest_keeps_what_there_is(resting: tuple[CaWorld, CrlPublisher]) -> None:
    """Not even a delta comes with an earlier second."""
    world, publisher = resting
    await revoke(world, "1")
    world.clock.advance(timedelta(seconds=1))
    await publisher.publish_due()
    before = der_of(publisher, DELTA)
    await revoke(world, "2")
    world.clock.advance(-timedelta(minutes=1))
    assert not await publisher.publish_due()
    assert der_of(publisher, DELTA) == before
    world.clock.advance(timedelta(minutes=2))
    await publisher.publish_due()
    assert len(serials_of(publisher, DELTA)) == 2
