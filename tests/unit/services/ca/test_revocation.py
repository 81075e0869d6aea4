import asyncio
import hashlib
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from sqlalchemy import select

from pkicore.algorithms import ALGORITHMS, generate_private_key
from pkicore.crl import VerifiedCrl
from pkicore.encoding import integer
from pkicore.errors import MalformedError
from pkicore.identity import SpiffeId
from pkicore.x509.certificate import load_chain
from services.ca.errors import (
    AlreadyRevokedError,
    BlockedKeyError,
    NotAuthorisedError,
    ReasonError,
    UnknownCertificateError,
)
from services.ca.revocation import parse_reason
from services.ca.schema import serials
from services.ca.selection import SelectionRequest, Selector
from services.ca.store import Ledgered
from services.ca.wire import RevocationRequest, parse_serial
from services.chassis.audit import audit_records
from tests.support.ca_world import ACME, OPERATOR, CaWorld
from tests.support.pki import TRUST_DOMAIN


def key_hash(key: ec.EllipticCurvePrivateKey) -> bytes:
    """SHA-256 of the SubjectPublicKeyInfo."""
    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(spki).digest()


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("keyCompromise", "keyCompromise"),
        ("KEYCOMPROMISE", "keyCompromise"),
        (1, "keyCompromise"),
        ("1", "keyCompromise"),
        (0, "unspecified"),
        (9, "privilegeWithdrawn"),
    ],
)
def test_a_reason_has_a_name_and_a_number(given: str | int, name: str) -> None:
    """Both are taken, names in any case."""
    assert parse_reason(given) == name


@pytest.mark.parametrize(
    "given", [2, 6, 7, 8, 10, 11, -1, "removeFromCRL", "certificateHold", "cACompromise", "", "01", "x"]
)
def test_a_reason_that_does_not_apply_is_refused(given: str | int) -> None:
    """Holds, CA compromises, delta-only and unknown reasons are refused with a sentence."""
    with pytest.raises(ReasonError):
        parse_reason(given)


@pytest.mark.parametrize("form", ["{}", "0{}", "00:{}"])
async def test_a_serial_is_found_however_it_is_written(world: CaWorld, form: str) -> None:
    """Upper case, colons and leading zeros name the same certificate."""
    answer = await world.issue("a.example")
    revoked = await world.core.revoker.revoke(ACME, RevocationRequest(1, serial=form.format(answer.serial.upper())))
    assert (revoked.serial, revoked.reason) == (answer.serial, "keyCompromise")


async def test_a_certificate_is_found_by_its_bytes(world: CaWorld) -> None:
    """The DER bytes name their certificate."""
    answer = await world.issue("a.example")
    der = load_chain(answer.certificate.encode())[0].public_bytes(Encoding.DER)
    assert (await world.core.revoker.revoke(ACME, RevocationRequest(0, certificate=der))).serial == answer.serial


async def test_a_lookalike_is_not_the_certificate(world: CaWorld) -> None:
    """Other bytes with the serial and the names of one of ours revoke nothing."""
    answer = await world.issue("a.example")
    real = load_chain(answer.certificate.encode())[0]
    lookalike = bytearray(real.public_bytes(Encoding.DER))
    lookalike[-1] ^= 1
    with pytest.raises(UnknownCertificateError):
        await world.core.revoker.revoke(OPERATOR, RevocationRequest(0, certificate=bytes(lookalike)))
    assert (await ledgered(world, answer.serial)).revoked_at is None


@pytest.mark.parametrize("der", [b"", b"\x30\x00", b"-----BEGIN CERTIFICATE-----"])
async def test_bytes_that_are_no_certificate_are_refused(world: CaWorld, der: bytes) -> None:
    """Junk is malformed, not unknown."""
    with pytest.raises(MalformedError):
        await world.core.revoker.revoke(OPERATOR, RevocationRequest(0, certificate=der))


async def test_an_unknown_serial_is_unknown(world: CaWorld) -> None:
    """A serial that was reserved but never used is not a certificate."""
    answer = await world.issue("a.example")
    rows = await world.database.fetch_all(world.database.prepare(select(serials.c.serial)))
    reserved = [item["serial"] for item in rows]
    unused = [item for item in reserved if await world.core.store.by_serial(parse_serial(item)) is None]
    assert unused
    assert answer.serial not in unused
    with pytest.raises(UnknownCertificateError):
        await world.core.revoker.revoke(OPERATOR, RevocationRequest(0, serial=unused[0]))


async def test_a_service_revokes_only_what_it_asked_for(world: CaWorld) -> None:
    """Another service's certificate is out of a service's reach; an operator reaches all."""
    answer = await world.issue("a.example")
    other = SpiffeId.service(TRUST_DOMAIN, "signing")
    with pytest.raises(NotAuthorisedError):
        await world.core.revoker.revoke(other, RevocationRequest(0, serial=answer.serial))
    await world.core.revoker.revoke(OPERATOR, RevocationRequest(0, serial=answer.serial))


async def test_a_compromise_told_of_after_the_revocation_still_blocks_the_key(world: CaWorld) -> None:
    """The certificate stays revoked as it was; its key is never certified again, and the log says who said so, once."""
    key = ec.generate_private_key(ec.SECP256R1())
    serial = (await world.issue("a.example", key=key)).serial
    await world.core.revoker.revoke(ACME, RevocationRequest("superseded", serial=serial))
    for answer in ("and stays so; its key is blocked now$", r"was revoked before \(superseded, 20[0-9TZ:-]+\)$"):
        with pytest.raises(AlreadyRevokedError, match=answer):
            await world.core.revoker.revoke(ACME, RevocationRequest("keyCompromise", serial=serial))
    with pytest.raises(BlockedKeyError):
        await world.issue("a.example", idempotency_key="again", key=key)
    events = [stored.record async for stored in audit_records(world.database) if stored.record.event == "key.blocked"]
    assert [(event.actor, event.detail["serial"]) for event in events] == [(str(ACME), serial)]
    assert (events[0].detail["key_hash"], events[0].detail["reason"]) == (key_hash(key).hex(), "keyCompromise")


async def test_whoever_revokes_a_key_as_compromised_is_on_record_as_having_blocked_it(world: CaWorld) -> None:
    """Once, however many certificates it has, beside the record of each revocation."""
    key = ec.generate_private_key(ec.SECP256R1())
    for number in range(3):
        await world.issue("a.example", idempotency_key=str(number), key=key)
    request = SelectionRequest(Selector(key_hash=key_hash(key)), "keyCompromise")
    assert len((await world.core.revoker.revoke_selected(OPERATOR, request)).serials) == 3
    events = [stored.record async for stored in audit_records(world.database)]
    assert len(await world.core.store.revocations_after(0, 10)) == 3
    assert [event.event for event in events].count("certificate.revoked") == 3
    (blocked,) = (event for event in events if event.event == "key.blocked")
    assert (blocked.actor, blocked.detail["key_hash"]) == (str(OPERATOR), key_hash(key).hex())


async def test_two_revocations_at_once_revoke_once(world: CaWorld) -> None:
    """Of ten concurrent revocations of one serial one succeeds; the others conflict; the log has one record."""
    answer = await world.issue("a.example")
    requests = [RevocationRequest(reason, serial=answer.serial) for reason in ("superseded", "keyCompromise") * 5]
    outcomes = await asyncio.gather(
        *(world.core.revoker.revoke(ACME, request) for request in requests), return_exceptions=True
    )
    assert sum(isinstance(outcome, AlreadyRevokedError) for outcome in outcomes) == 9
    found = [item async for item in audit_records(world.database) if item.record.event == "certificate.revoked"]
    assert len(found) == 1
    rows = await world.core.store.revocations_after(0, 10)
    assert [row.sequence for row in rows] == [1]


async def test_an_issuers_entries_are_its_own(world: CaWorld) -> None:
    """A list has all that its issuer revoked, however much others did before, and not what is held."""
    own = [await world.issue("a.example", idempotency_key=str(number)) for number in range(3)]
    other = await world.issue("a.example", idempotency_key="other", key=generate_private_key(ALGORITHMS["ml-dsa-65"]))
    for answer in (other, *own[:2]):
        await world.core.revoker.revoke(ACME, RevocationRequest(0, serial=answer.serial))
    await world.core.revoker.revoke(OPERATOR, RevocationRequest("certificateHold", serial=own[2].serial))
    entries = await world.core.store.final_entries(world.families["ecdsa"].issuing.id)
    assert len(entries) == 2
    for entry, answer in zip(entries, own, strict=False):
        assert integer(parse_serial(answer.serial)) in entry


async def test_the_feed_tells_in_order_and_wakes_who_waits(world: CaWorld) -> None:
    """A waiter is woken by the revocation, and the sequences follow each other."""
    answers = [await world.issue("a.example", idempotency_key=str(number)) for number in range(3)]
    waiting = asyncio.create_task(world.core.log.wait(0, 10))
    await asyncio.sleep(0)
    await asyncio.gather(
        *(world.core.revoker.revoke(ACME, RevocationRequest(0, serial=answer.serial)) for answer in answers)
    )
    async with asyncio.timeout(1):
        await waiting
    rows = await world.core.store.revocations_after(0, 10)
    assert [row.sequence for row in rows] == [1, 2, 3]
    assert [row.sequence for row in await world.core.store.revocations_after(2, 10)] == [3]


async def test_waiting_ends_without_a_revocation(world: CaWorld) -> None:
    """A waiter goes on when its time is over."""
    async with asyncio.timeout(1):
        await world.core.log.wait(0, 0.01)


async def test_another_process_sees_the_revocation(world: CaWorld) -> None:
    """A second process over the same database puts it on its CRL after its next look."""
    world.clock.advance(timedelta(seconds=1))
    other = await CaWorld.open(world.directory, clock=world.clock, families=world.families)
    await other.start()
    answer = await world.issue("a.example")
    await world.core.revoker.revoke(ACME, RevocationRequest(0, serial=answer.serial))
    await other.core.log.refresh()
    await other.publish()
    crl = VerifiedCrl.verify(other.core.publisher.current["issuing-ecdsa"].der, world.issuer(), world.clock.now())
    assert parse_serial(answer.serial) in crl.serials
    await other.close()


async def ledgered(world: CaWorld, serial: str) -> Ledgered:
    """The ledger's row of a serial that must be there."""
    row = await world.core.store.by_serial(parse_serial(serial))
    assert row is not None
    return row
