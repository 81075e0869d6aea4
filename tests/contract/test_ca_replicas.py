"""Two processes of the CA over one database, on SQLite and PostgreSQL."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from pkicore.clock import unix
from pkicore.crl import Revocation, VerifiedCrl, encode_entry
from services.ca.errors import AlreadyRevokedError
from services.ca.revocation_store import Candidate, Revoked
from services.ca.selection import SelectionRequest, Selector
from services.ca.wire import RevocationAnswer, RevocationRequest, parse_serial
from services.chassis.database import AuditEvent
from tests.support.ca_world import ACME, OPERATOR, CaWorld
from tests.support.ledger_rows import Row, add_rows, rows_of

ISSUER = "issuing-ecdsa"
PERIOD = Selector(issued_from=0, issued_to=1 << 40, profile="server")


@pytest.fixture
async def replicas(tmp_path: Path, empty_url: str) -> AsyncIterator[tuple[CaWorld, CaWorld]]:
    """One started after the other."""
    one = await (await CaWorld.open(tmp_path, url=empty_url)).start()
    one.clock.advance(timedelta(seconds=1))
    other = await CaWorld.open(tmp_path, clock=one.clock, families=one.families, url=empty_url)
    await other.start()
    yield one, other
    await other.close()
    await one.close()


async def test_two_replicas_that_revoke_the_same_serial_revoke_it_once(replicas: tuple[CaWorld, CaWorld]) -> None:
    """Of twenty attempts from both sides one succeeds; the others hear that it was revoked; the feed has it once."""
    one, other = replicas
    serial = (await one.issue("a.example")).serial
    attempts = (
        world.core.revoker.revoke(ACME, RevocationRequest("superseded", serial=serial))
        for world in (one, other)
        for _ in range(10)
    )
    outcomes = await asyncio.gather(*attempts, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes].count(AlreadyRevokedError) == 19
    assert sum(isinstance(outcome, RevocationAnswer) for outcome in outcomes) == 1
    assert [row.serial for row in await one.core.store.revocations_after(0, 10)] == [parse_serial(serial)]


async def test_replicas_that_revoke_different_serials_at_once_both_succeed(replicas: tuple[CaWorld, CaWorld]) -> None:
    """Neither takes the other's place in the feed, which has no gaps, and both see all of it."""
    one, other = replicas
    serials = [(await one.issue("a.example", idempotency_key=str(number))).serial for number in range(6)]
    await asyncio.gather(
        *(
            (one, other)[number % 2].core.revoker.revoke(ACME, RevocationRequest(0, serial=serial))
            for number, serial in enumerate(serials)
        )
    )
    rows = await other.core.store.revocations_after(0, 10)
    assert [row.sequence for row in rows] == [1, 2, 3, 4, 5, 6]
    assert {row.serial for row in rows} == {parse_serial(serial) for serial in serials}


async def test_both_carry_out_the_same_selection_at_once(replicas: tuple[CaWorld, CaWorld]) -> None:
    """Each certificate is revoked by one of them; what a crash left is done by whoever goes on."""
    one, other = replicas
    serials = {parse_serial((await one.issue("a.example", idempotency_key=str(number))).serial) for number in range(12)}
    answers = await asyncio.gather(
        *(world.core.revoker.revoke_selected(OPERATOR, SelectionRequest(PERIOD, 4)) for world in replicas)
    )
    done = [serial for answer in answers for serial in answer.serials]
    assert sorted(done) == sorted(serials)
    again = await other.core.revoker.revoke_selected(OPERATOR, SelectionRequest(PERIOD, 4))
    assert again.serials == ()


async def test_no_number_of_a_list_takes_back_what_the_one_before_it_said(replicas: tuple[CaWorld, CaWorld]) -> None:
    """What one revoked and published is on the next list of the other, which has not looked for a while."""
    one, other = replicas
    first, second = [parse_serial((await one.issue("a.example", idempotency_key=name)).serial) for name in "12"]
    await one.core.revoker.revoke(ACME, RevocationRequest(0, serial=f"{first:x}"))
    await one.publish()
    await other.core.revoker.revoke(ACME, RevocationRequest(0, serial=f"{second:x}"))
    for _ in range(2):  # the first attempt finds that another published meanwhile
        await other.publish()
    crl = VerifiedCrl.verify(other.core.publisher.current[ISSUER].der, one.issuer(), one.clock.now())
    assert crl.serials == {first, second}


async def test_a_hold_by_one_is_released_by_the_other(replicas: tuple[CaWorld, CaWorld]) -> None:
    """The row of the serial moves; neither replica keeps what it knew before."""
    one, other = replicas
    serial = (await one.issue("a.example")).serial
    await one.core.revoker.revoke(OPERATOR, RevocationRequest("certificateHold", serial=serial))
    await other.core.revoker.revoke(OPERATOR, RevocationRequest("removeFromCRL", serial=serial))
    await one.publish()
    assert (
        VerifiedCrl.verify(one.core.publisher.current[ISSUER].der, one.issuer(), one.clock.now()).serials == frozenset()
    )
    (row,) = await one.core.store.revocations_after(0, 10)
    assert (row.sequence, row.reason) == (2, "removeFromCRL")


async def _record_superseded(world: CaWorld, candidate: Candidate) -> None:
    """As the CA does, but for the selection."""
    at = world.clock.now()
    entry = encode_entry(Revocation(candidate.serial, at, "superseded"))
    happened = Revoked(0, candidate.serial, ISSUER, unix(at), "superseded", candidate.not_after, entry)
    await world.core.store.record(candidate, happened, AuditEvent("certificate.revoked", "test", {}))


async def test_a_replica_has_the_large_lists_of_the_other_octet_for_octet(replicas: tuple[CaWorld, CaWorld]) -> None:
    """The database has them without their entries, which it has already; both engines put them in in one order."""
    one, other = replicas
    ends = unix(one.clock.now()) + 86_400
    rows = rows_of(400, Row([("dns", "a.example.org")], key=b"k", not_after=ends), not_after=997)
    serials = await add_rows(one.database, rows)
    candidates = await asyncio.gather(*(one.core.store.candidate(int(serial, 16)) for serial in serials))
    await asyncio.gather(*(_record_superseded(one, candidate) for candidate in candidates if candidate is not None))
    for _ in range(2):  # the first attempt finds that the other published as it started
        await one.publish()
    row, published = await other.core.store.crl_row(ISSUER), one.core.publisher.newest(ISSUER)
    assert row is not None
    assert published is not None
    assert (row.is_whole, len(row.der) < 1000 < len(published.der)) == (False, True)
    assert await other.core.store.crl(ISSUER) == published
