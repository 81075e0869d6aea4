import asyncio
import math
from collections.abc import AsyncIterator
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.x509 import ocsp
from sqlalchemy import select

from pkicore.clock import unix
from pkicore.encoding import DerReader, explicit, extension, generalized_time, integer, octet_string, sequence
from pkicore.errors import BadSignatureError, RevokedError
from pkicore.keys.file import FileKey
from pkicore.ocsp import CertId, CertStatus, Responder, build_request, error_response, verify_response
from pkicore.x509.certificate import load_chain
from services.ca.known_statuses import KnownStatuses
from services.ca.responder import OcspAnswers, Room
from services.ca.schema import serials
from services.ca.wire import RevocationRequest
from tests.support.ca_world import ACME, OPERATOR, CaWorld
from tests.support.pki import MemoryKey, make_hierarchy


async def leaf_of(world: CaWorld, name: str = "order-1") -> x509.Certificate:
    """A fresh server certificate."""
    return load_chain((await world.issue("a.example", idempotency_key=name)).certificate.encode())[0]


@pytest.mark.parametrize("hash_name", ["sha1", "sha256"])
async def test_an_issued_certificate_is_good(world: CaWorld, hash_name: str) -> None:
    """Both kinds of CertID get a good answer that verifies."""
    leaf = await leaf_of(world)
    request = build_request(leaf, world.issuer(), hash_name="sha256" if hash_name == "sha256" else "sha1")
    answer = await world.core.answers.answer(request)
    status = verify_response(answer.der, leaf, world.issuer(), world.clock.now())
    assert status.next_update - status.this_update == timedelta(hours=12)


async def test_an_answer_is_kept_until_half_its_life(world: CaWorld) -> None:
    """The same request gets the same bytes for six of twelve hours, then new ones."""
    request = build_request(await leaf_of(world), world.issuer())
    first = await world.core.answers.answer(request)
    world.clock.advance(timedelta(hours=6) - timedelta(seconds=1))
    assert await world.core.answers.answer(request) is first
    world.clock.advance(timedelta(seconds=1))
    assert (await world.core.answers.answer(request)).this_update > first.this_update


async def test_a_revocation_is_seen_at_once_by_every_kind_of_request(world: CaWorld) -> None:
    """Kept answers by SHA-1 and SHA-256 are gone with the revocation, nonced ones follow."""
    leaf = await leaf_of(world)
    requests = [
        build_request(leaf, world.issuer()),
        build_request(leaf, world.issuer(), hash_name="sha256"),
        build_request(leaf, world.issuer(), nonce=b"n" * 32),
    ]
    for request in requests:
        await world.core.answers.answer(request)
    await world.core.revoker.revoke(ACME, RevocationRequest("keyCompromise", serial=f"{leaf.serial_number:x}"))
    for request in requests:
        answer = await world.core.answers.answer(request)
        with pytest.raises(RevokedError):
            verify_response(answer.der, leaf, world.issuer(), world.clock.now())
        single = ocsp.load_der_ocsp_response(answer.der)
        assert single.revocation_reason is x509.ReasonFlags.key_compromise


async def test_nonced_answers_are_not_kept(world: CaWorld) -> None:
    """A nonce is echoed, and its answer is signed anew each time."""
    leaf = await leaf_of(world)
    request = build_request(leaf, world.issuer(), nonce=b"n" * 32)
    first, second = await world.core.answers.answer(request), await world.core.answers.answer(request)
    assert first.fresh_until == 0
    assert first is not second
    verify_response(first.der, leaf, world.issuer(), world.clock.now(), nonce=b"n" * 32)


async def test_serials_that_were_never_issued_are_unknown(world: CaWorld) -> None:
    """Neighbours, zero, negative, reserved and random serials are unknown, never good."""
    leaf = await leaf_of(world)
    pool = [int(row["serial"], 16) for row in await world.database.fetch_all(world.database.prepare(select(serials)))]
    unused = [serial for serial in pool if await world.core.store.by_serial(serial) is None][:3]
    for serial in (leaf.serial_number + 1, leaf.serial_number - 1, leaf.serial_number >> 8, 0, -5, 1, *unused):
        answer = await world.core.answers.answer(request_for(world.issuer(), serial))
        assert ocsp.load_der_ocsp_response(answer.der).certificate_status is ocsp.OCSPCertStatus.UNKNOWN


async def test_a_serial_is_looked_up_under_its_issuer(world: CaWorld) -> None:
    """One issuer's serial is unknown under another."""
    leaf = await leaf_of(world)
    answer = await world.core.answers.answer(request_for(world.issuer("mldsa"), leaf.serial_number))
    assert ocsp.load_der_ocsp_response(answer.der).certificate_status is ocsp.OCSPCertStatus.UNKNOWN


async def test_other_issuers_are_none_of_our_business(world: CaWorld) -> None:
    """A stranger's CertID, a root's, and a mixture of two issuers are unauthorized."""
    stranger = (await make_hierarchy("ecdsa", world.clock)).issuing.certificate
    root = world.families["ecdsa"].root.certificate
    for request in (
        request_for(stranger, 5),
        request_for(root, world.issuer().serial_number),
        several(CertId.of(world.issuer(), 5), CertId.of(world.issuer("mldsa"), 5)),
    ):
        assert (await world.core.answers.answer(request)).der == error_response("unauthorized")


async def test_several_certificates_are_answered_together(world: CaWorld) -> None:
    """A request for two certificates of one issuer gets two single responses, dropped by a revocation of either."""
    one, two = await leaf_of(world, "1"), await leaf_of(world, "2")
    request = several(CertId.of(world.issuer(), one.serial_number), CertId.of(world.issuer(), two.serial_number))
    first = await world.core.answers.answer(request)
    assert [item.serial_number for item in ocsp.load_der_ocsp_response(first.der).responses] == [
        one.serial_number,
        two.serial_number,
    ]
    await world.core.revoker.revoke(ACME, RevocationRequest(0, serial=f"{two.serial_number:x}"))
    second = ocsp.load_der_ocsp_response((await world.core.answers.answer(request)).der)
    assert [item.certificate_status.name for item in second.responses] == ["GOOD", "REVOKED"]


@pytest.mark.parametrize("junk", [b"", b"\x00", b"\x30\x80", b"\x30\x03\x02\x01\x00", b"A" * 5000])
async def test_junk_is_malformed(world: CaWorld, junk: bytes) -> None:
    """What is no request gets the response malformedRequest, unsigned and not kept."""
    answer = await world.core.answers.answer(junk)
    assert (answer.der, answer.fresh_until) == (error_response("malformedRequest"), 0)


async def test_the_cache_is_bounded(world: CaWorld) -> None:
    """An attacker who asks about ever new certificates fills eight places and no more, nor more than the octets."""
    requests = [build_request(await leaf_of(world, str(number)), world.issuer()) for number in range(9)]
    small, sizes = answers_with(world, Room(100, 3000)), list[int]()
    for request in requests:
        await world.core.answers.answer(request)
        sizes.append(len((await small.answer(request)).der))
    assert world.core.answers.kept == 8
    assert world.core.answers.filled == 1
    now, places = unix(world.clock.now()), 3000 // max(sizes)
    assert small.kept == places < len(requests)
    assert [small.ready(request, now) is not None for request in requests[-places - 1 :]] == [False, *[True] * places]
    assert (await answers_with(world, Room(100, 10)).answer(requests[0])).fresh_until


async def test_of_one_certificate_four_answers_are_kept(world: CaWorld) -> None:
    """In whatever words it is asked: by SHA-1 and SHA-256, with NULL or without. So many a revocation signs anew."""
    leaf = await leaf_of(world)
    usual = CertId.of(world.issuer(), leaf.serial_number), CertId.of(world.issuer(), leaf.serial_number, "sha256")
    for cert_id in (*usual, *map(without_parameters, usual)):
        for words in (*(padded(cert_id, bytes([number])) for number in range(5)), several(cert_id, cert_id)):
            assert (await world.core.answers.answer(words)).fresh_until
        version = sequence(sequence(explicit(0, integer(0)), sequence(sequence(cert_id.der))))
        await world.core.answers.answer(version)
        assert (await world.core.answers.answer(several(cert_id))).fresh_until
    assert world.core.answers.kept == 4
    await world.core.revoker.revoke(OPERATOR, RevocationRequest("certificateHold", serial=f"{leaf.serial_number:x}"))
    assert await world.core.answers.refresh() == 4


async def test_a_revocation_does_not_wait_for_earlier_ones(world: CaWorld) -> None:
    """Its answers are signed anew first; what somebody has asked for meanwhile is not signed again."""
    leaves = [await leaf_of(world, name) for name in "1234"]
    answers, now = world.core.answers, unix(world.clock.now())
    first, second, third, last = requests = [build_request(leaf, world.issuer()) for leaf in leaves]
    for leaf, request in zip(leaves, requests, strict=True):
        await answers.answer(request)
        await world.core.revoker.revoke(ACME, RevocationRequest(0, serial=f"{leaf.serial_number:x}"))
    assert answers.kept == 0
    await answers.answer(second)
    refresh = asyncio.create_task(answers.refresh())
    while answers.kept < 2:  # noqa: ASYNC110 (the task is looked at in the middle of its work)
        await asyncio.sleep(0)
    assert [answers.ready(each, now) is not None for each in (first, third, last)] == [False, False, True]
    assert await refresh == 3


async def test_what_nobody_asks_in_earnest_is_not_kept(world: CaWorld) -> None:
    """Neither answers about serials that were never issued, nor those to bloated requests, take up memory."""
    leaf = await leaf_of(world)
    for serial in range(1, 20):
        assert (await world.core.answers.answer(request_for(world.issuer(), serial))).fresh_until == 0
    await world.core.answers.answer(padded(CertId.of(world.issuer(), leaf.serial_number), bytes(3000)))
    assert world.core.answers.kept == 0


async def test_an_answer_made_during_a_revocation_is_not_kept(world: CaWorld) -> None:
    """Asked while it is being revoked, whatever was answered: afterwards everybody is told revoked."""
    leaf = await leaf_of(world)
    request = build_request(leaf, world.issuer())
    revocation = world.core.revoker.revoke(ACME, RevocationRequest(0, serial=f"{leaf.serial_number:x}"))
    await asyncio.gather(revocation, *(world.core.answers.answer(request) for _ in range(5)))
    answer = await world.core.answers.answer(request)
    with pytest.raises(RevokedError):
        verify_response(answer.der, leaf, world.issuer(), world.clock.now())


async def test_a_responder_is_renewed_before_it_expires(world: CaWorld) -> None:
    """With a third of its life left the responder gets a new certificate for the same key, and answers go on."""
    before = world.core.responders.of("issuing-ecdsa").certificate
    world.clock.advance(timedelta(days=19))
    await world.core.responders.ensure()
    assert world.core.responders.of("issuing-ecdsa").certificate == before
    world.clock.advance(timedelta(days=2))
    await world.core.responders.ensure()
    after = world.core.responders.of("issuing-ecdsa").certificate
    assert after.not_valid_after_utc > before.not_valid_after_utc
    assert after.public_key() == before.public_key()


async def test_without_a_valid_responder_the_answer_is_try_later(world: CaWorld) -> None:
    """An expired responder signs nothing."""
    leaf = await leaf_of(world)
    world.clock.advance(timedelta(days=31))
    answer = await world.core.answers.answer(build_request(leaf, world.issuer()))
    assert answer.der == error_response("tryLater")


def request_for(issuer: x509.Certificate, serial: int) -> bytes:
    """A request for one serial, which need not be a possible one."""
    return several(CertId.of(issuer, serial))


def answers_with(world: CaWorld, room: Room) -> OcspAnswers:
    """The world's, with other bounds."""
    core = world.core
    return OcspAnswers(
        store=core.store,
        issuers=core.hierarchy.certificates,
        responders=core.responders,
        clock=world.clock,
        lifetime=timedelta(hours=1),
        room=room,
    )


def without_parameters(cert_id: CertId) -> CertId:
    """The same, its hash algorithm without NULL (RFC 5754 §2)."""
    algorithm, *rest = DerReader(cert_id.der).enter().read_elements()
    oid, _null = DerReader(algorithm).enter().read_elements()
    return replace(cert_id, der=sequence(sequence(oid), *rest))


def padded(cert_id: CertId, padding: bytes) -> bytes:
    """A request with an extension that nobody knows."""
    extensions = explicit(2, sequence(extension("1.2.3.4", padding)))
    return sequence(sequence(sequence(sequence(cert_id.der)), extensions))


def several(*cert_ids: CertId) -> bytes:
    """A request for several certificates."""
    return sequence(sequence(sequence(*(sequence(item.der) for item in cert_ids))))


async def test_what_is_asked_for_is_signed_anew_before_it_gets_old(world: CaWorld) -> None:
    """At nine tenths of its fresh life, in the background; what nobody asked for again is left to end."""
    wanted, unwanted = [build_request(await leaf_of(world, name), world.issuer()) for name in "12"]
    first = await world.core.answers.answer(wanted)
    await world.core.answers.answer(unwanted)
    assert await world.core.answers.answer(wanted) is first
    world.clock.advance(timedelta(hours=5))
    assert await world.core.answers.refresh() == 0
    world.clock.advance(timedelta(minutes=30))
    assert await world.core.answers.refresh() == 1
    world.clock.advance(timedelta(minutes=31))
    warm = await world.core.answers.answer(wanted)
    assert unix(world.clock.now()) - warm.this_update == 31 * 60
    assert (await world.core.answers.answer(unwanted)).this_update == unix(world.clock.now())


async def test_what_a_revocation_dropped_is_signed_anew_at_once(world: CaWorld) -> None:
    """The background task has the revoked answer ready before anybody asks."""
    leaf = await leaf_of(world)
    await world.core.answers.answer(build_request(leaf, world.issuer()))
    runner = asyncio.create_task(world.core.answers.run())
    await world.core.revoker.revoke(ACME, RevocationRequest("superseded", serial=f"{leaf.serial_number:x}"))
    async with asyncio.timeout(5):
        while not world.core.answers.kept:  # noqa: ASYNC110 (the loop under test is what is waited for)
            await asyncio.sleep(0.01)
    runner.cancel()
    answer = await world.core.answers.answer(build_request(leaf, world.issuer()))
    assert ocsp.load_der_ocsp_response(answer.der).certificate_status is ocsp.OCSPCertStatus.REVOKED


async def test_the_archive_cutoff_is_told_where_it_is_set(world: CaWorld) -> None:
    """RFC 6960 §4.4.4: producedAt less the time that the settings say, in each single response; nowhere without."""
    leaf = await leaf_of(world)
    core, request = world.core, build_request(leaf, world.issuer())
    answers = OcspAnswers(
        store=core.store,
        issuers=core.hierarchy.certificates,
        responders=core.responders,
        clock=world.clock,
        lifetime=timedelta(hours=1),
        room=Room(1),
        archive=timedelta(days=365),
    )
    told = generalized_time(world.clock.now() - timedelta(days=365))
    assert explicit(1, sequence(extension("1.3.6.1.5.5.7.48.1.6", told))) in (await answers.answer(request)).der
    assert b"\x2b\x06\x01\x05\x05\x07\x30\x01\x06" not in (await core.answers.answer(request)).der
    verify_response((await answers.answer(request)).der, leaf, world.issuer(), world.clock.now())


async def test_a_clock_set_back_gets_no_answers_from_the_future(world: CaWorld) -> None:
    """What was kept is signed anew as of now, in the background, too."""
    leaf = await leaf_of(world)
    request = build_request(leaf, world.issuer())
    before = await world.core.answers.answer(request)
    world.clock.advance(-timedelta(minutes=30))
    after = await world.core.answers.answer(request)
    assert after.this_update == unix(world.clock.now()) < before.this_update
    verify_response(after.der, leaf, world.issuer(), world.clock.now())


class OwnResponders:
    """A responder whose key is in this process, as the CA has it from a file."""

    def __init__(self, responder: Responder, pool: Executor) -> None:
        assert isinstance(responder.key, MemoryKey)
        key = FileKey("file:/responder.key", responder.key.private_key, pool)
        self.responder = Responder.of_own_key(responder.certificate, key, responder.issuer_certificate)

    def of(self, _issuer: str) -> Responder:
        """The one that there is."""
        return self.responder


@pytest.fixture
async def own(world: CaWorld) -> AsyncIterator[OcspAnswers]:
    """Answers that are signed in this process, and follow the revocation log."""
    with ThreadPoolExecutor(1) as pool:
        core = world.core
        answers = OcspAnswers(
            store=core.store,
            issuers=core.hierarchy.certificates,
            responders=OwnResponders(core.responders.of("issuing-ecdsa"), pool),
            clock=world.clock,
            lifetime=timedelta(hours=1),
            room=Room(4),
            log_age=core.log.age,
        )
        core.log.subscribe(answers.take)
        yield answers


async def test_a_nonce_about_a_known_status_is_signed_at_once(world: CaWorld, own: OcspAnswers) -> None:
    """The database is asked the first time; later answers say when the status was known, and that they are new."""
    leaf, now = await leaf_of(world), unix(world.clock.now())
    nonces = [bytes([number]) * 32 for number in range(3)]
    requests = [build_request(leaf, world.issuer(), nonce=nonce) for nonce in nonces]
    assert own.signed_here(requests[0], now) is None
    await own.answer(requests[0])
    for nonce, request in list(zip(nonces, requests, strict=True))[1:]:
        der = own.signed_here(request, now)
        assert der is not None
        verify_response(der, leaf, world.issuer(), world.clock.now(), nonce=nonce)
        single = ocsp.load_der_ocsp_response(der)
        assert unix(single.produced_at_utc) == now
        assert now - 11 <= unix(single.this_update_utc) < now
        assert single.next_update_utc == single.this_update_utc + timedelta(hours=1)
    assert own.signed_here(build_request(leaf, world.issuer()), now) is None


async def test_a_revocation_ends_a_known_status(world: CaWorld, own: OcspAnswers) -> None:
    """Held, the next nonce is answered with revoked; released, with good."""
    leaf, now = await leaf_of(world), unix(world.clock.now())
    request = build_request(leaf, world.issuer(), nonce=b"n" * 16)
    for reason, status in (("certificateHold", "REVOKED"), ("removeFromCRL", "GOOD")):
        await own.answer(request)
        assert own.signed_here(request, now) is not None
        await world.core.revoker.revoke(OPERATOR, RevocationRequest(reason, serial=f"{leaf.serial_number:x}"))
        assert own.signed_here(request, now) is None
        await own.answer(request)
        der = own.signed_here(request, now)
        assert der is not None
        assert ocsp.load_der_ocsp_response(der).certificate_status.name == status


async def test_what_is_read_during_a_revocation_is_not_known(world: CaWorld, own: OcspAnswers) -> None:
    """Whichever came first."""
    leaf, now = await leaf_of(world), unix(world.clock.now())
    request = build_request(leaf, world.issuer(), nonce=b"n" * 16)
    revocation = world.core.revoker.revoke(ACME, RevocationRequest(0, serial=f"{leaf.serial_number:x}"))
    await asyncio.gather(revocation, *(own.answer(request) for _ in range(5)))
    der = own.signed_here(request, now)
    assert der is None or ocsp.load_der_ocsp_response(der).certificate_status.name == "REVOKED"


async def test_known_statuses_are_bounded_and_issued(world: CaWorld, own: OcspAnswers) -> None:
    """Four places, for the newest; a serial that is unknown now is looked up again."""
    now = unix(world.clock.now())
    requests = [build_request(await leaf_of(world, str(n)), world.issuer(), nonce=b"n") for n in range(6)]
    for request in requests:
        await own.answer(request)
    assert [own.signed_here(request, now) is None for request in requests] == [True, True, False, False, False, False]
    stranger = sequence(
        sequence(
            sequence(sequence(CertId.of(world.issuer(), 5).der)),
            explicit(2, sequence(extension("1.3.6.1.5.5.7.48.1.2", octet_string(b"n")))),
        )
    )
    assert ocsp.load_der_ocsp_response((await own.answer(stranger)).der).certificate_status.name == "UNKNOWN"
    assert own.signed_here(stranger, now) is None


def test_statuses_are_known_while_the_log_is_read() -> None:
    """Ten seconds without news from the database, and it is asked again; answers never claim to be newer than news."""
    age = [0.0]
    known = KnownStatuses(lambda: age[0], 4)
    known.learn("issuing", CertId("sha1", b"", b"", 7, b"der"), CertStatus.good(), known.seen)
    found = []
    for age[0] in (0.0, 0.2, 9.5, 10.0, math.inf):
        found.append(known.known_at(100) if known.of(b"der") is not None else None)
    assert found == [100, 99, 90, None, None]


async def test_a_key_that_is_not_the_certificates_is_no_own_responder(world: CaWorld) -> None:
    """It is tried once, when it is loaded."""
    responder = world.core.responders.of("issuing-ecdsa")
    with ThreadPoolExecutor(1) as pool:
        foreign = FileKey("file:/x", MemoryKey.generate("ecdsa-p256").private_key, pool)
        with pytest.raises(BadSignatureError):
            Responder.of_own_key(responder.certificate, foreign, responder.issuer_certificate)
