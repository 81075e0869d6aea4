import pytest
from cryptography import x509
from cryptography.x509 import ocsp

from pkicore.crl import VerifiedCrl
from pkicore.ocsp import build_request, verify_response
from pkicore.x509.certificate import load_chain
from services.ca.errors import AlreadyRevokedError, NotHeldError, ReasonError
from services.ca.wire import RevocationRequest
from services.chassis.audit import audit_records
from tests.support.ca_world import ACME, OPERATOR, CaWorld

ISSUER = "issuing-ecdsa"


async def leaf_of(world: CaWorld) -> x509.Certificate:
    """A fresh certificate."""
    return load_chain((await world.issue("a.example")).certificate.encode())[0]


async def tell(world: CaWorld, leaf: x509.Certificate, reason: str) -> int:
    """As the operator; since when it is so."""
    request = RevocationRequest(reason, serial=f"{leaf.serial_number:x}")
    return (await world.core.revoker.revoke(OPERATOR, request)).revoked_at


def listed(world: CaWorld, path: str = ISSUER) -> dict[int, str]:
    """Serial to reason on a list or delta."""
    stored = world.core.publisher.newest(path)
    assert stored is not None
    return {
        entry.serial_number: entry.extensions.get_extension_for_class(x509.CRLReason).value.reason.value
        for entry in x509.load_der_x509_crl(stored.der)
    }


async def ocsp_says(world: CaWorld, leaf: x509.Certificate) -> ocsp.OCSPResponse:
    """The parsed answer."""
    return ocsp.load_der_ocsp_response((await world.core.answers.answer(build_request(leaf, world.issuer()))).der)


async def test_a_hold_is_a_revocation_until_it_is_released(world: CaWorld) -> None:
    """CRL and OCSP name certificateHold, and no longer after the release; the delta tells of the removal."""
    leaf = await leaf_of(world)
    await tell(world, leaf, "certificateHold")
    await world.publish()
    assert listed(world) == {leaf.serial_number: "certificateHold"}
    answer = await ocsp_says(world, leaf)
    assert answer.revocation_reason is x509.ReasonFlags.certificate_hold
    await tell(world, leaf, "removeFromCRL")
    await world.publish()
    assert listed(world) == {}
    assert listed(world, f"{ISSUER}/delta") == {leaf.serial_number: "removeFromCRL"}
    der = (await world.core.answers.answer(build_request(leaf, world.issuer()))).der
    verify_response(der, leaf, world.issuer(), world.clock.now())


async def test_a_hold_becomes_final_from_its_own_time_on(world: CaWorld) -> None:
    """The certificate was not to be used since it was held; the reason changes, everywhere, and stays."""
    leaf = await leaf_of(world)
    held_at = await tell(world, leaf, "certificateHold")
    await world.publish()
    assert await tell(world, leaf, "keyCompromise") == held_at
    await world.publish()
    assert listed(world) == {leaf.serial_number: "keyCompromise"}
    assert listed(world, f"{ISSUER}/delta") == {leaf.serial_number: "keyCompromise"}
    for reason in ("removeFromCRL", "certificateHold", "superseded"):
        with pytest.raises((AlreadyRevokedError, NotHeldError)):
            await tell(world, leaf, reason)


async def test_only_what_is_held_is_released(world: CaWorld) -> None:
    """A good and a revoked certificate are not."""
    leaf = await leaf_of(world)
    with pytest.raises(NotHeldError):
        await tell(world, leaf, "removeFromCRL")
    await tell(world, leaf, "superseded")
    with pytest.raises(NotHeldError):
        await tell(world, leaf, "removeFromCRL")
    assert (await ocsp_says(world, leaf)).revocation_reason is x509.ReasonFlags.superseded


async def test_what_was_released_can_be_held_and_revoked_again(world: CaWorld) -> None:
    """Each time the feed tells of it anew, at its end, and of nothing else; a restart finds the same."""
    leaf, sequences = await leaf_of(world), []
    for reason in ("certificateHold", "removeFromCRL", "certificateHold", "removeFromCRL", "superseded"):
        await tell(world, leaf, reason)
        (row,) = await world.core.store.revocations_after(0, 10)
        assert (row.serial, row.reason) == (leaf.serial_number, reason)
        sequences.append(row.sequence)
    assert sequences == sorted(set(sequences))
    await world.publish()
    again = await CaWorld.open(world.directory, clock=world.clock, families=world.families)
    await again.start()
    assert listed(again) == {leaf.serial_number: "superseded"}
    await again.close()


async def test_only_operators_hold_and_release(world: CaWorld) -> None:
    """A service's revocations are final, also of certificates that it asked for itself."""
    leaf = await leaf_of(world)
    for reason in ("certificateHold", "removeFromCRL"):
        with pytest.raises(ReasonError, match="operator"):
            await world.core.revoker.revoke(ACME, RevocationRequest(reason, serial=f"{leaf.serial_number:x}"))


async def test_the_audit_log_tells_holds_from_releases(world: CaWorld) -> None:
    """Three acts, three events, each with who did it."""
    leaf = await leaf_of(world)
    for reason in ("certificateHold", "removeFromCRL", "superseded"):
        await tell(world, leaf, reason)
    events = [
        (item.record.event, item.record.actor)
        async for item in audit_records(world.database)
        if item.record.detail.get("serial") == f"{leaf.serial_number:x}" and "reason" in item.record.detail
    ]
    assert events == [(f"certificate.{act}", str(OPERATOR)) for act in ("held", "released", "revoked")]


async def test_a_held_certificate_is_refused_by_whoever_checks_the_crl(world: CaWorld) -> None:
    """The verified list has the serial while it is held, and the next one has not."""
    leaf = await leaf_of(world)
    for reason, count in (("certificateHold", 1), ("removeFromCRL", 0)):
        await tell(world, leaf, reason)
        await world.publish()
        crl = VerifiedCrl.verify(world.core.publisher.current[ISSUER].der, world.issuer(), world.clock.now())
        assert len(crl.serials) == count
