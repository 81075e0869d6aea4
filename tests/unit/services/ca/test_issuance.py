import asyncio
import hashlib
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import FrameType

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from pkicore.clock import unix
from pkicore.errors import KeyUnavailableError
from pkicore.x509.certificate import load_chain
from pkicore.x509.chain import verify_chain
from services.ca.errors import (
    BlockedKeyError,
    IdempotencyConflictError,
    RevokedIntentError,
    ValidityError,
    WrongSignatureError,
)
from services.ca.issuance import SERIAL_BATCH
from services.ca.store import CaStore
from services.ca.wire import RevocationRequest, parse_serial
from services.chassis.audit import audit_records
from tests.support.ca_world import ACME, CA, OPERATOR, CaWorld, server_request
from tests.support.pki import MemoryKey


class FailingKey:
    """A remote key whose back end is down until `up` is set; counts what it was asked to sign."""

    def __init__(self, key: MemoryKey) -> None:
        self._key = key
        self.uri, self.algorithm, self.public_key = key.uri, key.algorithm, key.public_key
        self.up = True
        self.asked: list[bytes] = []
        self.answer: dict[bytes, MemoryKey] = {}

    async def sign(self, message: bytes) -> bytes:
        """Sign, late, as a remote key does."""
        self.asked.append(message)
        await asyncio.sleep(0.01)
        if not self.up:
            raise KeyUnavailableError("the back end is down")
        return await self.answer.get(message, self._key).sign(message)


async def with_failing_key(directory: Path, seed: CaWorld) -> tuple[CaWorld, FailingKey]:
    """A second process over the same database, whose ecdsa key can fail."""
    seed.clock.advance(timedelta(seconds=1))
    key = FailingKey(seed.families["ecdsa"].issuing_key)
    world = await CaWorld.open(directory, clock=seed.clock, families=seed.families, keys={"ecdsa": key})
    return await world.start(), key


async def events(world: CaWorld, serial: str) -> list[str]:
    """The audit events that name this serial, in order."""
    return [
        item.record.event async for item in audit_records(world.database) if item.record.detail.get("serial") == serial
    ]


async def test_a_certificate_verifies_up_to_its_root(world: CaWorld) -> None:
    """The chain in the answer is the leaf's, without the root, and verifies."""
    answer = await world.issue("a.example")
    leaf, *above = load_chain(answer.chain.encode())
    root = world.families["ecdsa"].root.certificate
    verify_chain(leaf, tuple(above), (root,), world.clock.now(), "server")
    assert root not in above
    assert f"{leaf.serial_number:x}" == answer.serial


async def test_what_stays_the_same_is_made_once(world: CaWorld) -> None:
    """No key is loaded, no chain parsed, no SQL compiled and no extension encoded for another certificate of a kind."""
    await world.issue("a.example")
    called: set[str] = set()

    def seen(frame: FrameType, event: str, function: object) -> None:
        called.add(frame.f_code.co_name if event == "call" else str(getattr(function, "__name__", "")))

    sys.setprofile(seen)
    try:
        await world.issue("b.example", idempotency_key="order-2")
    finally:
        sys.setprofile(None)
    assert {"fill", "fits", "certify", "load_der_x509_csr"} <= called
    assert called.isdisjoint(
        {"load_pem_private_key", "load_der_private_key", "unseal", "load_chain", "load_pem_x509_certificates"}
    )
    assert called.isdisjoint({"compile_statement", "create_x509_certificate", "key_usage_of"})


async def test_the_family_of_the_key_chooses_the_issuer(world: CaWorld) -> None:
    """An ML-DSA key gets an ML-DSA chain, without a classical link."""
    key = MemoryKey.generate("ml-dsa-44").private_key
    answer = await world.issue("a.example", key=key)
    leaf, issuer = load_chain(answer.chain.encode())
    assert leaf.issuer == issuer.subject == world.issuer("mldsa").subject


async def test_intent_comes_before_certificate_in_the_audit_log(world: CaWorld) -> None:
    """What is about to be signed is on record before it is signed, with the hash of its bytes."""
    answer = await world.issue("a.example")
    assert await events(world, answer.serial) == ["certificate.intent", "certificate.issued"]
    tbs = load_chain(answer.certificate.encode())[0].tbs_certificate_bytes
    found = [
        item.record.detail async for item in audit_records(world.database) if item.record.event == "certificate.intent"
    ]
    assert hashlib.sha256(tbs).hexdigest() in {detail["tbs_sha256"] for detail in found}


async def test_the_same_request_yields_the_same_certificate(world: CaWorld) -> None:
    """A retry by the same idempotency key and CSR signs nothing."""
    request = server_request("a.example")
    first = await world.core.issuance.issue(ACME, request)
    second = await world.core.issuance.issue(ACME, request)
    assert (first.created, second.created) == (True, False)
    assert first.answer == second.answer


async def test_an_idempotency_key_stands_for_one_request(world: CaWorld) -> None:
    """The same key with another CSR is a conflict, and issues nothing."""
    await world.issue("a.example")
    with pytest.raises(IdempotencyConflictError):
        await world.issue("a.example")


async def test_another_end_of_validity_is_another_request(world: CaWorld) -> None:
    """Whoever asks for a shorter life under a used key is refused, not given the longer one."""
    request = server_request("a.example")
    await world.core.issuance.issue(ACME, request)
    now = unix(world.clock.now())
    for shorter in (replace(request, not_after=now + 3600), replace(request, not_before=now)):
        with pytest.raises(IdempotencyConflictError):
            await world.core.issuance.issue(ACME, shorter)


async def test_a_beginning_that_could_be_given_is_given_again_later(world: CaWorld) -> None:
    """A retry when it is longer past than the profile backdates has the same certificate; a new request has none."""
    now = unix(world.clock.now())
    request = replace(server_request("a.example"), not_before=now)
    first = await world.core.issuance.issue(ACME, request)
    world.clock.advance(timedelta(days=1))
    assert (await world.core.issuance.issue(ACME, request)).answer == first.answer
    assert unix(load_chain(first.answer.chain.encode())[0].not_valid_before_utc) == now
    with pytest.raises(ValidityError):
        await world.core.issuance.issue(ACME, replace(request, idempotency_key="order-2"))
    with pytest.raises(IdempotencyConflictError):
        await world.core.issuance.issue(ACME, replace(request, not_before=now + 1))


async def test_idempotency_keys_belong_to_their_caller(world: CaWorld) -> None:
    """Another caller's key of the same text is another key."""
    request = server_request("a.example")
    first = await world.core.issuance.issue(ACME, request)
    second = await world.core.issuance.issue(OPERATOR, request)
    assert first.answer.serial != second.answer.serial


async def test_concurrent_duplicates_are_signed_once(world: CaWorld, tmp_path: Path) -> None:
    """Ten requests with one idempotency key at the same time make one signature and one certificate."""
    slow, key = await with_failing_key(tmp_path, world)
    key.asked.clear()
    request = server_request("a.example")
    outcomes = await asyncio.gather(*(slow.core.issuance.issue(ACME, request) for _ in range(10)))
    assert len({outcome.answer.certificate for outcome in outcomes}) == 1
    assert sum(outcome.created for outcome in outcomes) == 1
    assert len(key.asked) == 1
    await slow.close()


async def test_an_intent_that_was_not_signed_is_completed_by_a_retry(world: CaWorld, tmp_path: Path) -> None:
    """With the key back end down the request fails; the retry signs the recorded bytes, not new ones."""
    slow, key = await with_failing_key(tmp_path, world)
    key.up, request = False, server_request("a.example")
    key.asked.clear()
    with pytest.raises(KeyUnavailableError):
        await slow.core.issuance.issue(ACME, request)
    key.up = True
    outcome = await slow.core.issuance.issue(ACME, request)
    certificate = load_chain(outcome.answer.certificate.encode())[0]
    assert key.asked == [certificate.tbs_certificate_bytes] * 2
    await slow.close()


async def test_a_new_process_completes_the_intents_of_a_dead_one(world: CaWorld, tmp_path: Path) -> None:
    """At start, what was recorded and not signed is signed; a retry then finds it."""
    slow, key = await with_failing_key(tmp_path, world)
    key.up, request = False, server_request("a.example")
    with pytest.raises(KeyUnavailableError):
        await slow.core.issuance.issue(ACME, request)
    await slow.close()
    assert await world.core.issuance.recover() == 1
    outcome = await world.core.issuance.issue(ACME, request)
    assert not outcome.created
    assert await world.core.issuance.recover() == 0


async def test_an_intent_can_be_revoked_and_is_then_never_signed(world: CaWorld, tmp_path: Path) -> None:
    """What may have been signed can be revoked by its serial; neither a retry nor a restart signs it afterwards."""
    slow, key = await with_failing_key(tmp_path, world)
    key.up, request = False, server_request("a.example")
    with pytest.raises(KeyUnavailableError):
        await slow.core.issuance.issue(ACME, request)
    (left,) = await CaStore(slow.database).open_intents()
    await slow.core.revoker.revoke(OPERATOR, RevocationRequest("superseded", serial=f"{left.intent.serial:x}"))
    key.up = True
    key.asked.clear()
    assert await slow.core.issuance.recover() == 0
    with pytest.raises(RevokedIntentError):
        await slow.core.issuance.issue(ACME, request)
    assert not key.asked
    await slow.close()


async def test_an_intent_whose_key_was_compromised_since_is_never_signed(world: CaWorld, tmp_path: Path) -> None:
    """A key that is reported between intent and signature gets no certificate, by retry or restart."""
    private_key = ec.generate_private_key(ec.SECP256R1())
    earlier = await world.issue("a.example", key=private_key)
    slow, key = await with_failing_key(tmp_path, world)
    key.up, request = False, server_request("b.example", key=private_key, idempotency_key="order-2")
    with pytest.raises(KeyUnavailableError):
        await slow.core.issuance.issue(ACME, request)
    key.up = True
    await slow.core.revoker.revoke(ACME, RevocationRequest("keyCompromise", serial=earlier.serial))
    assert await slow.core.issuance.recover() == 0
    with pytest.raises(BlockedKeyError):
        await slow.core.issuance.issue(ACME, request)
    await slow.close()


async def test_a_bad_intent_does_not_keep_the_ca_from_starting(world: CaWorld, tmp_path: Path) -> None:
    """An intent whose signature does not verify is logged and left; the others are completed."""
    slow, key = await with_failing_key(tmp_path, world)
    key.up = False
    for name in ("1", "2"):
        with pytest.raises(KeyUnavailableError):
            await slow.issue("a.example", idempotency_key=name)
    (bad, good) = await slow.core.store.open_intents()
    stranger, mine = MemoryKey.generate("ecdsa-p256"), slow.families["ecdsa"].issuing_key
    key.answer = {bad.intent.tbs: stranger, good.intent.tbs: mine}
    key.up = True
    assert await slow.core.issuance.recover() == 1
    assert [row.intent.serial for row in await slow.core.store.open_intents()] == [bad.intent.serial]
    await slow.close()


async def test_an_expired_intent_is_not_signed_at_start(world: CaWorld, tmp_path: Path) -> None:
    """What would be expired at birth is left alone."""
    slow, key = await with_failing_key(tmp_path, world)
    key.up = False
    with pytest.raises(KeyUnavailableError):
        await slow.issue("a.example")
    key.up = True
    slow.clock.advance(timedelta(days=91))
    assert await slow.core.issuance.recover() == 0
    await slow.close()


async def test_a_wrong_signature_never_becomes_a_certificate(world: CaWorld, tmp_path: Path) -> None:
    """A key that answers with another key's signature is found out before anything is stored."""
    stranger = FailingKey(MemoryKey.generate("ecdsa-p256"))
    wrong = await CaWorld.open(tmp_path, clock=world.clock, families=world.families, keys={"ecdsa": stranger})
    with pytest.raises(WrongSignatureError):
        await wrong.issue("a.example")
    (left,) = await wrong.core.store.open_intents()
    assert left.certificate is None
    await wrong.close()


async def test_serials_are_long_random_and_unique(world: CaWorld) -> None:
    """Over more than one batch: no serial twice, none above 20 octets, none with fewer than 64 random bits."""
    answers = [await world.issue("a.example", idempotency_key=str(number)) for number in range(SERIAL_BATCH + 6)]
    serials = {parse_serial(answer.serial) for answer in answers}
    assert len(serials) == len(answers)
    assert all(64 < serial.bit_length() < 160 for serial in serials)
    assert max(serial.bit_length() for serial in serials) >= 155


async def test_serials_are_committed_before_they_are_used(world: CaWorld) -> None:
    """Every serial of the ledger was reserved, in batches that cost one commit each."""
    labels: list[str] = []
    other = await CaWorld.open(
        world.directory,
        clock=world.clock,
        families=world.families,
        observer=lambda moment, label: labels.append(f"{moment} {label}"),
    )
    await other.issue("a.example")
    await other.issue("b.example", idempotency_key="order-2")
    assert [label for label in labels if label.startswith("before")] == [
        "before serials",
        "before intent",
        "before certificate",
        "before intent",
        "before certificate",
    ]
    await other.close()


async def test_a_compromised_key_is_never_certified_again(world: CaWorld) -> None:
    """After a revocation for keyCompromise the same key is refused, for whomever and whatever name."""
    key = ec.generate_private_key(ec.SECP256R1())
    answer = await world.issue("a.example", key=key)
    await world.core.revoker.revoke(ACME, RevocationRequest("keyCompromise", serial=answer.serial))
    with pytest.raises(BlockedKeyError):
        await world.issue("b.example", key=key, idempotency_key="order-2")


async def test_a_superseded_key_may_be_certified_again(world: CaWorld) -> None:
    """Only a compromise blocks a key."""
    key = ec.generate_private_key(ec.SECP256R1())
    answer = await world.issue("a.example", key=key)
    await world.core.revoker.revoke(ACME, RevocationRequest("superseded", serial=answer.serial))
    await world.issue("a.example", key=key, idempotency_key="order-2")


async def test_responders_are_certified_through_the_ledger(world: CaWorld) -> None:
    """The delegated responders' certificates are on record, as asked for by the CA itself."""
    for issuer in ("issuing-ecdsa", "issuing-mldsa"):
        certificate = world.core.responders.of(issuer).certificate
        row = await world.core.store.by_serial(certificate.serial_number)
        assert row is not None
        assert row.certificate == certificate.public_bytes(Encoding.DER)
        assert (row.intent.caller, row.intent.profile) == (str(CA), "ocsp-responder")
        assert certificate.extensions.get_extension_for_class(x509.OCSPNoCheck).critical is False
