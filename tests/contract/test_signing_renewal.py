"""Certificates of keys that stay are renewed by the running service: over a year, crashes, replicas and refusals."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path

import orjson
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from pkicore.clock import unix
from pkicore.errors import BadCertificateError, KeyUnavailableError, TimestampRefusedError
from pkicore.identity import SpiffeId
from pkicore.tsp import token_of
from pkicore.x509.certificate import to_pem
from services.ca.client import CaUnavailableError
from services.ca.wire import IssuedCertificate, RevocationRequest, format_serial
from services.chassis.database import AuditEvent
from services.signer_hsm.wire import LifeCycleRequest
from services.signing.chains import Chain
from services.signing.key_certificates import ChainsInUse
from services.signing.store.certificates import StoredRequest
from services.signing.verification import NoTimestampError, verified_time
from tests.support.ca_world import OPERATOR, CaWorld
from tests.support.pki import make_csr
from tests.support.renewal_world import ARTEFACTS, BASE_URL, TSA, Door, Process, RenewalWorld, fetched
from tests.support.signer_world import ADMIN, TRUST_DOMAIN
from tests.support.signing_pki import CODE_SIGNING, TIME_STAMPING, SigningPki

DATA = b"the octets of a signature"
DUE = timedelta(days=306)  # of 365: less than sixty are left
TURN = timedelta(days=30)  # half of the sixty


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[RenewalWorld]:
    """Certificates of today."""
    opened = await RenewalWorld.open(tmp_path)
    yield opened
    await opened.close()


@pytest.fixture
async def both_engines(tmp_path: Path, empty_url: str) -> AsyncIterator[RenewalWorld]:
    """The same with the service's database on either engine."""
    opened = await RenewalWorld.open(tmp_path, empty_url)
    yield opened
    await opened.close()


async def stamp(process: Process) -> bytes:
    """A token about DATA."""
    return token_of(await process.authority.timestamp(DATA))


def believed(process: Process, token: bytes) -> datetime:
    """The time that a verifier believes who has just fetched the trusted root."""
    return verified_time([token], DATA, process.trusted)


def serial(chain: Chain) -> str:
    """Of a chain's certificate."""
    return format_serial(chain[0].serial_number)


async def test_nothing_is_asked_for_before_its_time(world: RenewalWorld) -> None:
    """Sixty days before the end, and not on the day before that."""
    service = await world.service()
    world.clock.advance(timedelta(days=304))
    assert await service.renewal.look()
    assert world.door.asked == []
    world.clock.advance(timedelta(days=2))
    assert await service.renewal.look()
    assert {one.profile for one in world.door.asked} == {"timestamping", "artefact-signing"}
    assert await service.renewal.look()
    assert len(world.door.asked) == 2


async def test_a_time_stamp_of_each_year_is_believed_for_ever(both_engines: RenewalWorld) -> None:
    """The authority goes over to the next certificate without a restart; the trusted root keeps every former one."""
    world = both_engines
    service = await world.service()
    tokens = [await stamp(service)]
    for _ in range(3):
        world.clock.advance(timedelta(days=310))
        assert await service.renewal.look()
        tokens.append(await stamp(service))
        world.clock.advance(TURN)
        assert await service.renewal.look()
        tokens.append(await stamp(service))
    assert await world.issued() == 6
    times = [believed(service, token) for token in tokens]
    assert times == sorted(set(times))
    assert times[-1] == world.clock.now()
    assert len(service.trusted) == 4
    restarted = await world.service()
    assert [believed(restarted, token) for token in tokens] == times
    assert restarted.authority.chain == service.authority.chain != world.first[TSA]


async def test_verifiers_know_the_next_certificate_before_it_is_used(world: RenewalWorld) -> None:
    """Whoever fetched the trusted root within thirty days of a renewal believes what comes after the turn."""
    service = await world.service()
    early = service.trusted
    world.clock.advance(DUE)
    await service.renewal.look()
    assert service.authority.chain == world.first[TSA]
    fetched_then = service.trusted
    assert len(fetched_then) == 2
    world.clock.advance(TURN)
    await service.renewal.look()
    assert service.authority.chain != world.first[TSA]
    token = await stamp(service)
    assert verified_time([token], DATA, fetched_then) == world.clock.now()
    with pytest.raises(NoTimestampError):
        verified_time([token], DATA, early)


async def test_former_certificates_are_believed_for_their_own_time_alone(world: RenewalWorld) -> None:
    """Each stands in the trusted root with its own validity, and the signing configuration has one service for all."""
    service = await world.service()
    world.clock.advance(DUE)
    await service.renewal.look()
    root = orjson.loads(await fetched(service, "/v1/trusted-root"))
    first, second = (one["validFor"] for one in root["timestampAuthorities"])
    assert first["end"] == f"{world.first[TSA][0].not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}"
    assert first["start"] < second["start"] < first["end"] < second["end"]
    config = orjson.loads(await fetched(service, "/v1/signing-config"))
    (tsa,) = config["tsaUrls"]
    assert (tsa["url"], tsa["validFor"]) == (
        f"{BASE_URL}/v1/timestamp",
        {"start": first["start"], "end": second["end"]},
    )


async def test_artefact_keys_have_their_next_certificate_in_profiles(world: RenewalWorld) -> None:
    """What CMS is made with follows, for a key of ML-DSA too; name and key stay."""
    service = await world.service()
    profile = ChainsInUse({ARTEFACTS: service.keys[ARTEFACTS]})
    assert profile[ARTEFACTS] == world.first[ARTEFACTS]
    world.clock.advance(DUE + TURN)
    await service.renewal.look()
    old, new = world.first[ARTEFACTS][0], profile[ARTEFACTS][0]
    assert (new.public_key(), new.subject) == (old.public_key(), old.subject)
    assert new.not_valid_after_utc > old.not_valid_after_utc
    assert profile[ARTEFACTS][1:] == world.first[ARTEFACTS][1:]
    assert (list(profile), len(profile)) == ([ARTEFACTS], 1)


async def test_it_is_on_record_and_to_be_seen(world: RenewalWorld) -> None:
    """An audit event with both serials; the end of the newest certificate and the attempts as metrics."""
    service = await world.service()
    before = service.metric("signing_certificate_not_after_seconds", key=TSA)
    assert before == world.first[TSA][0].not_valid_after_utc.timestamp()
    world.clock.advance(DUE)
    await service.renewal.look()
    newest = service.keys[TSA].newest
    (event,) = [one for one in await world.audit("certificate.renewed") if one["key"] == TSA]
    assert (event["serial"], event["renews"], event["profile"]) == (
        serial(newest),
        serial(world.first[TSA]),
        "timestamping",
    )
    after = service.metric("signing_certificate_not_after_seconds", key=TSA)
    assert after == newest[0].not_valid_after_utc.timestamp() > before
    assert service.metric("signing_certificate_renewals_total", result="success") == 2
    assert [one["key"] for one in await world.audit("certificate.configured")] == [TSA, ARTEFACTS]


async def test_a_new_root_is_followed_without_a_restart(world: RenewalWorld, tmp_path: Path) -> None:
    """What leads to a root that is not trusted yet is left aside; once it is trusted, verifiers are told of it."""
    service = await world.service()
    world.clock.advance(timedelta(days=100))
    (tmp_path / "later").mkdir()
    later = await (await CaWorld.open(tmp_path / "later", clock=world.clock)).start()
    chain = await world.certify(TSA, later)
    await later.close()
    event = AuditEvent("certificate.renewed", "another process", {"key": TSA})
    await service.store.keep(TSA, chain, unix(world.clock.now()), event)
    world.door.forge = IssuedCertificate("1", "", to_pem(chain[:-1]).decode(), 0)
    assert await service.renewal.look()
    with pytest.raises(BadCertificateError, match="none of our roots is above"):
        await service.renewal.renew(service.keys[TSA])
    assert len(service.trusted) == 1
    world.roots = (*world.roots, chain[-1])
    await service.renewal.renew(service.keys[TSA])
    assert service.keys[TSA].newest == chain
    assert [one.chain for one in service.trusted] == [world.first[TSA], chain]


async def test_without_the_ca_it_goes_on_with_what_it_has(world: RenewalWorld) -> None:
    """Stamps are made until the very end; once the CA is back, the next look renews, with the request that was kept."""
    service = await world.service()
    world.clock.advance(DUE)
    world.door.fault = CaUnavailableError("down")
    assert not await service.renewal.look()
    assert service.metric("signing_certificate_renewals_total", result="failure") == 2
    assert believed(service, await stamp(service)) == world.clock.now()
    world.door.fault = None
    world.clock.advance(timedelta(hours=23))
    assert await service.renewal.look()
    stamping = [one for one in world.door.asked if one.profile == "timestamping"]
    assert stamping[0] == stamping[1]
    assert len(service.trusted) == 2


async def test_what_has_run_out_is_renewed_when_the_ca_is_back(world: RenewalWorld) -> None:
    """No stamp under a certificate that is over; the first one after the renewal is good again."""
    service = await world.service()
    world.clock.advance(timedelta(days=366))
    with pytest.raises(TimestampRefusedError):
        await stamp(service)
    assert await service.renewal.look()
    assert believed(service, await stamp(service)) == world.clock.now()


async def test_a_key_that_cannot_sign_asks_for_nothing(world: RenewalWorld) -> None:
    """signer-hsm is away: no request, no harm, and the other look renews."""
    service = await world.service()
    world.clock.advance(DUE)
    world.signer.fault = KeyUnavailableError("away")
    assert not await service.renewal.look()
    assert world.door.asked == []
    world.signer.fault = None
    assert await service.renewal.look()


async def test_an_answer_that_was_lost_is_had_again(world: RenewalWorld) -> None:
    """The CA has issued, and nobody heard: the same request, by another process, brings that very certificate."""
    service = await world.service()
    world.clock.advance(DUE)
    world.door.lost = True
    assert not await service.renewal.look()
    world.door.lost = False
    restarted = await world.service()
    assert await restarted.renewal.look()
    assert await world.issued() == 2


async def test_processes_side_by_side_renew_once(both_engines: RenewalWorld) -> None:
    """Three look at the same moment: one certificate per key, and all use it, the one that asked or not."""
    world = both_engines
    services = [await world.service() for _ in range(3)]
    world.clock.advance(DUE)
    for _ in range(2):
        assert await asyncio.gather(*(one.renewal.look() for one in services)) == [True] * 3
    assert await world.issued() == 2
    assert len({serial(one.keys[TSA].newest) for one in services}) == 1
    assert [len(one.trusted) for one in services] == [2, 2, 2]
    assert len(await world.audit("certificate.renewed")) == 2


async def test_another_process_s_certificate_is_taken_over_by_a_look(world: RenewalWorld) -> None:
    """Without a word to the CA."""
    one, other = await world.service(), await world.service()
    world.clock.advance(DUE)
    await one.renewal.look()
    asked = len(world.door.asked)
    await other.renewal.look()
    assert len(world.door.asked) == asked
    assert serial(other.keys[TSA].newest) == serial(one.keys[TSA].newest) != serial(world.first[TSA])


async def test_a_certificate_that_the_operator_puts_there_goes_first(world: RenewalWorld) -> None:
    """A later one in the settings is used at once; what was used before stays in the trusted root."""
    service = await world.service()
    token = await stamp(service)
    world.clock.advance(timedelta(days=100))
    mine = await world.certify(TSA)
    restarted = await world.service({TSA: mine})
    assert restarted.authority.chain == mine
    assert len(restarted.trusted) == 2
    assert believed(restarted, token) < believed(restarted, await stamp(restarted))


async def test_a_revoked_certificate_is_not_renewed(world: RenewalWorld) -> None:
    """The operator has ended it: the CA says no, day after day, and the service says so."""
    service = await world.service()
    world.clock.advance(DUE)
    request = RevocationRequest("cessationOfOperation", serial=serial(world.first[TSA]))
    await world.ca.core.revoker.revoke(OPERATOR, request)
    assert not await service.renewal.look()
    assert service.keys[TSA].newest == world.first[TSA]
    assert serial(service.keys[ARTEFACTS].newest) != serial(world.first[ARTEFACTS])


async def test_another_service_gets_nothing(world: RenewalWorld) -> None:
    """With the same requests, under the identity of the ACME server."""
    door = Door(world.ca, SpiffeId.service(TRUST_DOMAIN, "acme"))
    service = await world.service(door=door)
    world.clock.advance(DUE)
    assert not await service.renewal.look()
    assert await world.issued() == 0


async def test_a_rotated_key_waits_for_the_operator_to_have_it_certified(world: RenewalWorld) -> None:
    """The new version is nobody's until it is certified: nothing is asked for it; then it is renewed like any other."""
    service = await world.service()
    await world.signer_world.client(ADMIN).rotate(ARTEFACTS, LifeCycleRequest("rotate"))
    world.clock.advance(DUE)
    assert not await service.renewal.look()
    assert [one.profile for one in world.door.asked] == ["timestamping"]
    certified = await world.certify(ARTEFACTS)
    assert certified[0].public_key() != world.first[ARTEFACTS][0].public_key()
    restarted = await world.service({ARTEFACTS: certified})
    assert restarted.keys[ARTEFACTS].in_use == certified
    assert await restarted.renewal.look()
    world.clock.advance(DUE)
    assert await restarted.renewal.look()
    assert restarted.keys[ARTEFACTS].newest[0].public_key() == certified[0].public_key()
    assert serial(restarted.keys[ARTEFACTS].newest) != serial(certified)


async def test_a_request_that_brings_nothing_is_made_anew_after_a_day(world: RenewalWorld) -> None:
    """An answer that cannot be used does not stand in the way for ever, and the CA issues no more than one a day."""
    service = await world.service()
    world.clock.advance(DUE)
    good = IssuedCertificate("1", "", to_pem(world.first[TSA][:-1]).decode(), 0)
    world.door.forge = good
    for _ in range(5):
        assert not await service.renewal.look()
    assert await world.issued() == 2
    world.clock.advance(timedelta(days=1))
    world.door.forge = None
    assert await service.renewal.look()
    assert await world.issued() == 4
    assert len(service.trusted) == 2


def forgeries(world: RenewalWorld) -> dict[str, Chain]:
    """What a CA that is not itself may answer, by a word about it."""
    other = SigningPki.make("ecdsa-p256", world.clock.now())
    holder, coder = other.issue("ecdsa-p256", TIME_STAMPING), other.issue("ecdsa-p256", CODE_SIGNING)
    ours = world.first[TSA]
    return {
        "another root": (holder.certificate, other.root.certificate),
        "another use": (coder.certificate, other.root.certificate),
        "another key": world.first[ARTEFACTS],
        "no later end": ours,
        "no chain": (holder.certificate, ours[1], ours[2]),
    }


@pytest.mark.parametrize("which", ["another root", "another use", "another key", "no later end", "no chain"])
async def test_what_the_ca_answers_is_held_against_what_it_follows(world: RenewalWorld, which: str) -> None:
    """Nothing of it is kept, published or used."""
    service = await world.service()
    world.clock.advance(DUE)
    forged = forgeries(world)[which]
    world.door.forge = IssuedCertificate("1", "", to_pem(forged[:-1]).decode(), 0)
    assert not await service.renewal.look()
    assert len(service.trusted) == 1
    assert await world.audit("certificate.renewed") == []
    assert service.authority.chain == world.first[TSA]


@pytest.mark.parametrize("which", ["another root", "another use", "no chain"])
async def test_what_somebody_writes_to_the_database_is_not_believed(world: RenewalWorld, which: str) -> None:
    """A chain that none of our roots vouches for reaches neither the authority nor the trusted root."""
    service = await world.service()
    planted = forgeries(world)[which]
    await service.store.keep(TSA, planted, 0, AuditEvent("test.planted", "test"))
    await service.renewal.look()
    restarted = await world.service()
    for process in (service, restarted):
        assert len(process.trusted) == 1
        assert process.authority.chain == world.first[TSA]


async def test_a_request_that_somebody_planted_gets_nothing(world: RenewalWorld) -> None:
    """Of another key, in the database: the CA gives nothing for it, and a day later the service asks by itself."""
    service = await world.service()
    world.clock.advance(DUE)
    name = world.first[TSA][0].subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)[0].value
    csr = make_csr(ec.generate_private_key(ec.SECP256R1()), common_name=str(name))
    planted = StoredRequest(csr, unix(world.clock.now()))
    await service.store.begin(TSA, serial(world.first[TSA]), planted)
    assert not await service.renewal.look()
    assert csr in [one.csr for one in world.door.asked]
    assert serial(service.keys[TSA].newest) == serial(world.first[TSA])
    world.clock.advance(timedelta(days=1))
    assert await service.renewal.look()
    assert service.keys[TSA].newest[0].public_key() == world.first[TSA][0].public_key()
    assert serial(service.keys[TSA].newest) != serial(world.first[TSA])


async def test_a_short_life_is_renewed_in_its_last_third(world: RenewalWorld) -> None:
    """However early the settings want it, so that no certificate is renewed the day it is made."""
    service = await world.service(early=timedelta(days=300))
    world.clock.advance(timedelta(days=200))
    await service.renewal.look()
    assert world.door.asked == []
    world.clock.advance(timedelta(days=60))
    await service.renewal.look()
    assert len(world.door.asked) == 2
    await service.renewal.look()
    assert len(world.door.asked) == 2


async def test_it_renews_by_itself(world: RenewalWorld) -> None:
    """The background task needs nobody to call it."""
    service = await world.service()
    world.clock.advance(DUE)
    renewed, publish = asyncio.Event(), service.renewal.changed

    def changed() -> None:
        publish()
        renewed.set()

    service.renewal.changed = changed
    running = asyncio.ensure_future(service.renewal.run())
    try:
        async with asyncio.timeout(30):
            await renewed.wait()
    finally:
        running.cancel()
    assert len(service.trusted) == 2


async def test_requests_under_way_end_with_the_certificate_they_began_with(world: RenewalWorld) -> None:
    """The turn comes between the serial and the signature of one: its token is whole, of the former certificate."""
    service = await world.service()
    world.clock.advance(DUE + TURN)
    held, reached = asyncio.Event(), asyncio.Event()

    async def gate() -> None:
        reached.set()
        await held.wait()

    world.signer.gate = gate
    stamping = asyncio.ensure_future(stamp(service))
    await reached.wait()
    world.signer.gate = None
    await service.renewal.look()
    assert service.authority.chain != world.first[TSA]
    held.set()
    token = await stamping
    assert verified_time([token], DATA, service.trusted[:1]) == world.clock.now()
