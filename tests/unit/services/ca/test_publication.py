from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509

from pkicore.clock import unix
from pkicore.crl import VerifiedCrl
from pkicore.x509.certificate import crl_urls, load_chain
from services.ca.errors import PublicationDelayedError
from services.ca.wire import RevocationRequest, parse_serial
from services.chassis.audit import audit_records
from tests.support.ca_world import ACME, CaWorld
from tests.support.clock import ManualClock
from tests.support.pki import make_hierarchy

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


@pytest.fixture
async def sharded(tmp_path: Path) -> AsyncIterator[CaWorld]:
    """A CA whose classical issuer has three shards."""
    opened = await (await with_shards(tmp_path, 3)).start()
    yield opened
    await opened.close()


async def with_shards(directory: Path, shards: int, before: CaWorld | None = None) -> CaWorld:
    """The CA in a directory; as it was before, but for the number of shards."""
    clock = ManualClock() if before is None else before.clock
    families = {} if before is None else dict(before.families)
    if before is None:
        families = {family: await make_hierarchy(family, clock) for family in ("ecdsa", "mldsa")}
    ecdsa = families["ecdsa"]
    families["ecdsa"] = replace(ecdsa, issuing=replace(ecdsa.issuing, crl_shards=shards))
    return await CaWorld.open(directory, clock=clock, families=families)


def serials_of(world: CaWorld, path: str) -> set[int]:
    """The serials on a list, or on a delta."""
    stored = world.core.publisher.newest(path)
    assert stored is not None
    return {entry.serial_number for entry in x509.load_der_x509_crl(stored.der)}


def numbers_of(world: CaWorld, path: str) -> tuple[int, int | None]:
    """The CRL number of a list or delta, and its base's."""
    stored = world.core.publisher.newest(path)
    assert stored is not None
    crl = x509.load_der_x509_crl(stored.der)
    number = crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    found = [item.value.crl_number for item in crl.extensions if isinstance(item.value, x509.DeltaCRLIndicator)]
    return number, found[0] if found else None


async def test_a_revocation_is_on_its_shard_and_on_the_complete_list(sharded: CaWorld) -> None:
    """And on no other shard; only the two lists concerned have a new number."""
    before = dict(sharded.core.publisher.current)
    serial = await revoke(sharded)
    shard = serial % 3 + 1
    await sharded.publish()
    for number in (1, 2, 3):
        path = f"{ISSUER}/{number}"
        assert serials_of(sharded, path) == ({serial} if number == shard else set())
        assert numbers_of(sharded, path) == (2 if number == shard else 1, None)
    assert serials_of(sharded, ISSUER) == {serial}
    changed = {path for path, crl in sharded.core.publisher.current.items() if crl is not before[path]}
    assert changed == {ISSUER, f"{ISSUER}/{shard}"}


async def test_list_and_certificate_name_the_same_place(sharded: CaWorld) -> None:
    """The URL in the certificate is the only one of its shard, and one of the complete list's."""
    leaf = load_chain((await sharded.issue("a.example")).certificate.encode())[0]
    (url,) = crl_urls(leaf)
    shard = leaf.serial_number % 3 + 1
    assert url.endswith(f"/crl/{ISSUER}/{shard}")
    for path, points in ((f"{ISSUER}/{shard}", 1), (ISSUER, 4)):
        crl = VerifiedCrl.verify(sharded.core.publisher.current[path].der, sharded.issuer(), sharded.clock.now())
        assert (crl.covers([url]), len(crl.distribution_points), crl.scope) == (True, points, "user")


async def test_certificates_stay_in_their_shard_when_the_number_changes(sharded: CaWorld) -> None:
    """After a restart with none, the old shards are still published, and new certificates are in none."""
    serial = await revoke(sharded)
    sharded.clock.advance(timedelta(seconds=1))
    again = await (await with_shards(sharded.directory, 1, sharded)).start()
    assert serials_of(again, f"{ISSUER}/{serial % 3 + 1}") == serials_of(again, ISSUER) == {serial}
    leaf = load_chain((await again.issue("b.example", idempotency_key="new")).certificate.encode())[0]
    assert crl_urls(leaf) == [again.families["ecdsa"].issuing.crl_url]
    later = await revoke(again, "later")
    await again.publish()
    assert serials_of(again, ISSUER) == {serial, later}
    assert later not in serials_of(again, f"{ISSUER}/{later % 3 + 1}")
    await again.close()


@pytest.mark.parametrize("shards", [1, 3])
async def test_a_delta_tells_what_changed_since_its_base(tmp_path: Path, shards: int) -> None:
    """Base plus delta is the complete list, for every base from the delta's own on; numbers and seconds agree."""
    world = await (await with_shards(tmp_path, shards)).start()
    history = []
    for number in range(6):
        history.append((numbers_of(world, ISSUER)[0], serials_of(world, ISSUER)))
        await revoke(world, str(number))
        await world.publish()
        (complete, _), (delta, base) = numbers_of(world, ISSUER), numbers_of(world, f"{ISSUER}/delta")
        assert complete == delta
        for known, serials in history:
            if base is not None and known >= base:
                assert serials | serials_of(world, f"{ISSUER}/delta") == serials_of(world, ISSUER)
    assert numbers_of(world, f"{ISSUER}/delta") == (7, 1)
    await world.close()


async def test_a_base_is_left_after_half_a_life_and_kept_over_a_restart(world: CaWorld) -> None:
    """A new process goes on with the base of the old one; half a life later the delta is small again."""
    first = await revoke(world, "1")
    await world.publish()
    world.clock.advance(timedelta(seconds=1))
    again = await CaWorld.open(world.directory, clock=world.clock, families=world.families)
    await again.start()
    second = await revoke(again, "2")
    await again.publish()
    assert numbers_of(again, f"{ISSUER}/delta")[1] == 1
    assert serials_of(again, f"{ISSUER}/delta") == {first, second}
    again.clock.advance(timedelta(hours=12))
    await again.publish()
    number, base = numbers_of(again, f"{ISSUER}/delta")
    assert base == number - 1
    assert serials_of(again, f"{ISSUER}/delta") == set()
    await again.close()


async def test_a_delta_has_the_place_of_its_list_and_no_delta_of_its_own(sharded: CaWorld) -> None:
    """RFC 5280 §5.2.4 and §5.2.6: the same issuing distribution point, octet for octet; freshest CRL on lists only."""
    for path in (ISSUER, f"{ISSUER}/2"):
        places = []
        for name in (path, f"{path}/delta"):
            stored = sharded.core.publisher.newest(name)
            assert stored is not None
            extensions = x509.load_der_x509_crl(stored.der).extensions
            places.append(extensions.get_extension_for_class(x509.IssuingDistributionPoint).value)
            freshest = [item.value for item in extensions if isinstance(item.value, x509.FreshestCRL)]
            assert bool(freshest) == (name == path)
        assert places[0] == places[1]


async def test_numbers_of_every_list_have_no_gaps(sharded: CaWorld) -> None:
    """Whatever is published when, each list counts up by one, and its seconds rise."""
    for count in range(8):
        await revoke(sharded, str(count))
        if count % 3:
            await sharded.publish()
    sharded.clock.advance(timedelta(hours=13))
    await sharded.publish()
    numbers: dict[str, list[int]] = {}
    async for record in audit_records(sharded.database):
        if record.record.event == "crl.published":
            numbers.setdefault(record.record.detail["issuer"], []).append(record.record.detail["number"])
    assert {f"{ISSUER}/{number}" for number in (1, 2, 3)} <= numbers.keys()
    for found in numbers.values():
        assert found == list(range(1, len(found) + 1))


async def test_new_shards_are_waited_for(world: CaWorld) -> None:
    """Until they and a complete list that speaks for them are published, whoever takes them up is told so."""
    core, ca = world.core, world.core.hierarchy.cas[ISSUER]
    await core.publisher.extend(1)
    core.hierarchy.cas[ISSUER] = replace(ca, issuer=replace(ca.issuer, crl_shards=2))
    for _ in range(2):
        with pytest.raises(PublicationDelayedError, match=f"{ISSUER}, {ISSUER}/1, {ISSUER}/2"):
            await core.publisher.extend(0.01)
    await world.publish()
    await core.publisher.extend(1)
    assert newest(world).distribution_points == {ca.issuer.crl_url, *(f"{ca.issuer.crl_url}/{n}" for n in (1, 2))}
