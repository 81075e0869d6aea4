"""Certificates in place of others: who may only renew gets the same key and subject certified again, and no more."""

from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from pkicore.errors import MalformedError
from pkicore.identity import SpiffeId
from pkicore.x509.certificate import load_chain
from services.ca.errors import BlockedKeyError, NotAuthorisedError
from services.ca.wire import CertificateRequest, IssuedCertificate, RevocationRequest
from services.chassis.audit import audit_records
from tests.support.ca_world import ACME, OPERATOR, CaWorld, server_request
from tests.support.pki import TRUST_DOMAIN, make_csr

SIGNING = SpiffeId.service(TRUST_DOMAIN, "signing")
NAME = "Test time-stamping"
Key = ec.EllipticCurvePrivateKey


def asking(
    key: Key, renews: str | None, *, idempotency_key: str = "again", name: str = NAME, profile: str = "timestamping"
) -> CertificateRequest:
    """For a certificate of the time-stamping authority."""
    return CertificateRequest(make_csr(key, common_name=name), profile, (), idempotency_key, renews=renews)


@pytest.fixture
def key() -> Key:
    """Of the authority."""
    return ec.generate_private_key(ec.SECP256R1())


async def first(world: CaWorld, key: Key, idempotency_key: str = "first", **changed: str) -> IssuedCertificate:
    """The certificate that the ceremony has made."""
    request = asking(key, None, idempotency_key=idempotency_key, **changed)
    return (await world.core.issuance.issue(OPERATOR, request)).answer


async def renewed(world: CaWorld, request: CertificateRequest, caller: SpiffeId = SIGNING) -> IssuedCertificate:
    """What the service gets."""
    return (await world.core.issuance.issue(caller, request)).answer


@pytest.mark.parametrize("days", [310, 400])
async def test_the_same_key_and_subject_are_certified_again(world: CaWorld, key: Key, days: int) -> None:
    """For a further year, before the end and after it; the audit log says in whose place."""
    old = await first(world, key)
    world.clock.advance(timedelta(days=days))
    new = await renewed(world, asking(key, old.serial))
    before, after = (load_chain(one.chain.encode())[0] for one in (old, new))
    assert (after.public_key(), after.subject) == (key.public_key(), before.subject)
    assert after.not_valid_after_utc - before.not_valid_after_utc == timedelta(days=days)
    intents = [item.record.detail async for item in audit_records(world.database)]
    assert [one["renews"] for one in intents if "renews" in one] == [old.serial]
    assert (await renewed(world, asking(key, new.serial, idempotency_key="and again"))).serial != new.serial


async def test_a_first_certificate_is_not_for_whoever_may_renew(world: CaWorld, key: Key) -> None:
    """The service has no way to a certificate for a key that nobody else has had certified."""
    for profile in ("timestamping", "artefact-signing"):
        with pytest.raises(NotAuthorisedError):
            await renewed(world, asking(key, None, profile=profile))


async def test_another_key_is_not_certified_in_its_place(world: CaWorld, key: Key) -> None:
    """Whoever has taken over the service cannot slip in a key of their own."""
    old = await first(world, key)
    with pytest.raises(NotAuthorisedError, match="for this key and subject"):
        await renewed(world, asking(ec.generate_private_key(ec.SECP256R1()), old.serial))


async def test_another_subject_is_not_certified_in_its_place(world: CaWorld, key: Key) -> None:
    """The key keeps its name."""
    old = await first(world, key)
    with pytest.raises(NotAuthorisedError):
        await renewed(world, asking(key, old.serial, name="Bank time-stamping"))


async def test_a_key_does_not_change_its_profile(world: CaWorld, key: Key) -> None:
    """A key that signs artefacts does not become one that vouches for times, nor the other way."""
    old = await first(world, key)
    with pytest.raises(NotAuthorisedError):
        await renewed(world, asking(key, old.serial, profile="artefact-signing"))
    artefacts = await first(world, key, "artefacts", profile="artefact-signing")
    with pytest.raises(NotAuthorisedError):
        await renewed(world, asking(key, artefacts.serial))


@pytest.mark.parametrize("serial", ["ff", "0" * 41 + "1"])
async def test_what_was_never_issued_is_not_renewed(world: CaWorld, key: Key, serial: str) -> None:
    """A serial that this CA does not know."""
    with pytest.raises(NotAuthorisedError):
        await renewed(world, asking(key, serial))


@pytest.mark.parametrize("serial", ["", "zz", "0", "f" * 41])
async def test_what_is_no_serial_is_refused_as_such(world: CaWorld, key: Key, serial: str) -> None:
    """A request that makes no sense never reaches the ledger."""
    with pytest.raises(MalformedError):
        await renewed(world, asking(key, serial))


@pytest.mark.parametrize("reason", ["superseded", "keyCompromise", "cessationOfOperation"])
async def test_what_was_revoked_is_not_renewed(world: CaWorld, key: Key, reason: str) -> None:
    """Revocation ends it, whatever the reason; another certificate of the key lives on unless the key is blocked."""
    old, other = await first(world, key), await first(world, key, "another")
    await world.core.revoker.revoke(OPERATOR, RevocationRequest(reason, serial=old.serial))
    with pytest.raises(NotAuthorisedError):
        await renewed(world, asking(key, old.serial))
    if reason == "keyCompromise":
        with pytest.raises((NotAuthorisedError, BlockedKeyError)):
            await renewed(world, asking(key, other.serial))
    else:
        assert (await renewed(world, asking(key, other.serial))).serial != other.serial


async def test_nobody_else_may_renew(world: CaWorld, key: Key) -> None:
    """Another service, a workload, and the same path of another trust domain."""
    old = await first(world, key)
    strangers = (ACME, SpiffeId.workload(TRUST_DOMAIN, "x"), SpiffeId.service("other.internal", "signing"))
    for stranger in strangers:
        with pytest.raises(NotAuthorisedError):
            await renewed(world, asking(key, old.serial), stranger)


async def test_whoever_says_renew_is_held_to_it(world: CaWorld, key: Key) -> None:
    """An operator, who needs no such leave, does not get a certificate that claims another's place."""
    server = await world.issue("a.example", key=key)
    with pytest.raises(NotAuthorisedError):
        await renewed(world, asking(key, server.serial), OPERATOR)


async def test_the_profile_of_servers_is_renewed_by_nobody(world: CaWorld) -> None:
    """Where a profile names no renewers, naming a certificate opens no door."""
    world_key = ec.generate_private_key(ec.SECP256R1())
    old = await world.issue("a.example", key=world_key)
    request = replace(server_request("a.example", key=world_key, idempotency_key="x"), renews=old.serial)
    with pytest.raises(NotAuthorisedError):
        await renewed(world, request, SpiffeId.workload(TRUST_DOMAIN, "x"))


async def test_the_same_request_again_is_the_same_certificate(world: CaWorld, key: Key) -> None:
    """A service that was killed before it had kept the answer asks again and gets that answer."""
    old = await first(world, key)
    request = asking(key, old.serial)
    assert await renewed(world, request) == await renewed(world, CertificateRequest.from_json(request.to_json()))
