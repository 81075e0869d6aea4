from datetime import timedelta

import pytest

from pkicore.clock import unix
from pkicore.crl import VerifiedCrl
from services.ca.errors import PublicationDelayedError
from services.ca.wire import RevocationRequest, parse_serial
from services.chassis.audit import audit_records
from tests.support.ca_world import ACME, CaWorld

ISSUER = "issuing-ecdsa"


def newest(world: CaWorld) -> VerifiedCrl:
    """The newest CRL, verified."""
    return VerifiedCrl.verify(world.core.publisher.current[ISSUER].der, world.issuer(), world.clock.now())


async def revoke(world: CaWorld, name: str = "order-1") -> int:
    """Issue and revoke; the serial."""
    answer = await world.issue("a.example", idempotency_key=name)
    await world.core.revoker.revoke(ACME, RevocationRequest("superseded", serial=answer.serial))
    return parse_serial(answer.serial)


async def test_a_revocation_is_on_the_next_crl(world: CaWorld) -> None:
    """The next second's CRL has the serial, the next number and a later thisUpdate."""
    before = newest(world)
    serial = await revoke(world)
    await world.publish()
    after = newest(world)
    assert after.serials == {serial}
    assert after.number == before.number + 1
    assert after.this_update > before.this_update


async def test_crls_are_coalesced_to_one_a_second(world: CaWorld) -> None:
    """Many revocations in one second make one CRL, in the next second."""
    number = newest(world).number
    serials = frozenset([await revoke(world, str(count)) for count in range(5)])
    assert not await world.core.publisher.publish_due()
    assert newest(world).number == number
    await world.publish()
    assert (newest(world).number, newest(world).serials) == (number + 1, serials)


async def test_only_the_issuer_concerned_publishes(world: CaWorld) -> None:
    """A revocation under one issuer leaves the other's CRL as it is."""
    before = world.core.publisher.current["issuing-mldsa"].number
    await revoke(world)
    await world.publish()
    assert world.core.publisher.current["issuing-mldsa"].number == before


async def test_a_crl_is_renewed_at_half_its_life(world: CaWorld) -> None:
    """Before half its life nothing is due; at half of it a new one comes, though nothing was revoked."""
    number = newest(world).number
    world.clock.advance(timedelta(hours=12) - timedelta(seconds=1))
    await world.core.publisher.publish_due()
    assert newest(world).number == number
    await world.publish()
    assert newest(world).number == number + 1
    assert newest(world).next_update - newest(world).this_update == timedelta(days=1)


async def test_an_entry_leaves_one_crl_after_its_certificate_expired(world: CaWorld) -> None:
    """The first CRL after the expiry still has the entry; the second has not (RFC 5280 §3.3)."""
    serial = await revoke(world)
    await world.publish()
    world.clock.advance(timedelta(days=90))
    await world.publish()
    assert serial in newest(world).serials
    world.clock.advance(timedelta(hours=12))
    await world.publish()
    assert serial not in newest(world).serials


async def test_an_entry_stays_until_its_certificate_expires(world: CaWorld) -> None:
    """However many CRLs are published, a revoked certificate that is not expired stays on them."""
    serial = await revoke(world)
    for _ in range(20):
        world.clock.advance(timedelta(days=4))
        await world.publish()
        assert serial in newest(world).serials


async def test_numbers_and_entries_survive_a_restart(world: CaWorld) -> None:
    """A new process goes on with the next number, a later thisUpdate and every entry."""
    serial = await revoke(world)
    await world.publish()
    before = newest(world)
    world.clock.advance(timedelta(seconds=1))
    again = await CaWorld.open(world.directory, clock=world.clock, families=world.families)
    await again.start()
    after = newest(again)
    assert (after.number, after.serials) == (before.number + 1, frozenset({serial}))
    assert after.this_update > before.this_update
    await again.close()


async def test_a_revocation_just_before_the_end_is_on_the_first_crl(world: CaWorld) -> None:
    """A process that died between the revocation and its CRL: the next one publishes it at once."""
    serial = await revoke(world)
    world.clock.advance(timedelta(seconds=1))
    again = await CaWorld.open(world.directory, clock=world.clock, families=world.families)
    await again.start()
    assert serial in newest(again).serials
    await again.close()


async def test_two_publishers_never_share_a_number(world: CaWorld) -> None:
    """The second of two processes that publish at once steps back, and follows with the next number."""
    world.clock.advance(timedelta(seconds=1))
    other = await CaWorld.open(world.directory, clock=world.clock, families=world.families)
    await other.start()
    serial = await revoke(world)
    await other.core.log.refresh()
    world.clock.advance(timedelta(seconds=1))
    await world.core.publisher.publish_due()
    await other.core.publisher.publish_due()
    await other.publish()
    numbers = [
        record.record.detail["number"]
        async for record in audit_records(world.database)
        if record.record.event == "crl.published" and record.record.detail["issuer"] == ISSUER
    ]
    assert numbers == sorted(set(numbers))
    assert serial in newest(other).serials
    await other.close()


async def test_a_clock_set_back_waits_instead_of_publishing_an_older_crl(world: CaWorld) -> None:
    """ThisUpdate never falls: until the clock has caught up, the newest CRL stays."""
    before = world.core.publisher.current[ISSUER]
    world.clock.advance(-timedelta(minutes=2))
    await revoke(world)
    assert not await world.core.publisher.publish_due()
    assert world.core.publisher.current[ISSUER] == before
    world.clock.advance(timedelta(minutes=3))
    assert await world.core.publisher.publish_due()
    assert world.core.publisher.current[ISSUER].this_update == unix(world.clock.now())


async def test_a_crl_that_cannot_come_in_time_is_told_of(world: CaWorld) -> None:
    """With the clock behind the newest CRL, whoever asks for a new one gets a sentence instead of silence."""
    world.clock.advance(timedelta(hours=-1))
    with pytest.raises(PublicationDelayedError, match="clock"):
        await world.core.publisher.publish_all(seconds=0.05)


async def test_listeners_hear_of_each_new_crl(world: CaWorld) -> None:
    """Whoever subscribed is called once per CRL."""
    heard: list[tuple[str, int]] = []
    world.core.publisher.subscribe(lambda crl: heard.append((crl.issuer, crl.number)))
    await revoke(world)
    await world.publish()
    await world.publish()
    assert heard == [(ISSUER, newest(world).number)]


@pytest.mark.parametrize("family", ["ecdsa", "mldsa"])
async def test_a_crl_covers_end_entities_and_names_its_place(world: CaWorld, family: str) -> None:
    """The issuing CAs' CRLs are for end entities, at the URL that stands in the certificates."""
    stored = world.core.publisher.current[f"issuing-{family}"]
    crl = VerifiedCrl.verify(stored.der, world.issuer(family), world.clock.now())
    assert crl.scope == "user"
    assert world.families[family].issuing.crl_url.encode() in stored.der
