"""Making keys in Cloud KMS when answers are lost, come late or tell of somebody else's key."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from google.cloud import kms_v1

from services.signer_hsm.backends import Backend, KeyLabel
from services.signer_hsm.errors import DeadlineError, UnavailableError, WrongStateError
from tests.support.gcp_kms_faults import LABEL, P256, opened, sign
from tests.support.gcp_kms_resources import Code
from tests.support.gcp_kms_simulator import GcpKmsSimulator


async def test_a_lost_answer_to_the_making_of_a_ring_is_made_good_by_a_repetition(
    server: GcpKmsSimulator, backend: Backend
) -> None:
    """The first try made the ring and nobody heard; the second finds it there."""
    server.faults.lose_answer("CreateKeyRing")
    with pytest.raises(UnavailableError):
        await backend.create(LABEL, P256)
    await sign(backend, await backend.create(LABEL, P256))
    assert server.requests["CreateKeyRing"] == 1


async def test_two_who_make_the_same_ring_at_once(server: GcpKmsSimulator, backend: Backend) -> None:
    """The ring is missed by both and made by one; ALREADY_EXISTS is as good."""
    labels = [KeyLabel("ca", f"key-{number}", 1) for number in range(4)]
    keys = await asyncio.gather(*(backend.create(label, P256) for label in labels))
    assert len({key.handle for key in keys}) == 4
    assert server.requests["CreateKeyRing"] > 1


@pytest.mark.parametrize("code", [Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED, Code.INTERNAL])
async def test_a_lost_answer_to_the_making_of_a_key_makes_no_second_one(
    server: GcpKmsSimulator, backend: Backend, code: grpc.StatusCode
) -> None:
    """The one repetition is told that the key exists, and takes it, since the labels are its own."""
    server.resources.make_ring(kms_v1.CreateKeyRingRequest(parent=server.resources.location, key_ring_id="pqcpki-ca"))
    server.faults.lose_answer("CreateCryptoKey", code)
    key = await backend.create(LABEL, P256)
    await sign(backend, key)
    assert server.requests["CreateCryptoKey"] == 2


async def test_a_garbled_answer_to_the_making_of_a_key_makes_no_second_one(
    server: GcpKmsSimulator, backend: Backend
) -> None:
    """A key whose answer was garbled is there all the same: it is looked up and taken."""
    server.faults.change_next("CreateCryptoKey", lambda _answer: b"\xff\xff garbage")
    await sign(backend, await backend.create(LABEL, P256))


async def test_a_key_of_the_same_name_that_came_meanwhile_is_not_taken_without_our_labels(
    server: GcpKmsSimulator, backend: Backend
) -> None:
    """ALREADY_EXISTS is no proof that it is ours: without the labels it is refused."""
    theirs = kms_v1.CryptoKey(
        purpose=kms_v1.CryptoKey.CryptoKeyPurpose.ASYMMETRIC_SIGN,
        version_template=kms_v1.CryptoKeyVersionTemplate(
            algorithm=kms_v1.CryptoKeyVersion.CryptoKeyVersionAlgorithm.EC_SIGN_P256_SHA256
        ),
    )
    ring = server.resources.make_ring(
        kms_v1.CreateKeyRingRequest(parent=server.resources.location, key_ring_id="pqcpki-ca")
    )
    server.resources.make_key(
        kms_v1.CreateCryptoKeyRequest(parent=ring.name, crypto_key_id="issuing_v1", crypto_key=theirs)
    )
    server.faults.fail_next(Code.NOT_FOUND, 1, "GetCryptoKey")
    with pytest.raises(WrongStateError, match="labels"):
        await backend.create(LABEL, P256)
    assert await backend.find(LABEL) is None


async def test_an_unknown_outcome_is_said_to_be_one(server: GcpKmsSimulator, backend: Backend) -> None:
    """When the repetition gets no answer either, the error says that it may have been made; `find` tells later."""
    await backend.create(KeyLabel("ca", "other", 1), P256)
    server.faults.lose_answer("CreateCryptoKey")
    server.faults.skip_then_fail(1, Code.UNAVAILABLE, "CreateCryptoKey")
    with pytest.raises(DeadlineError, match="may have been made"):
        await backend.create(LABEL, P256)
    found = await backend.find(LABEL)
    assert found is not None
    assert await backend.create(LABEL, P256) == found


@pytest.mark.parametrize("method", ["GetCryptoKeyVersion", "GetPublicKey"])
@pytest.mark.parametrize("code", [Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED])
async def test_a_key_that_is_made_and_not_shown_leaves_the_outcome_open(
    server: GcpKmsSimulator, backend: Backend, method: str, code: grpc.StatusCode
) -> None:
    """Unavailable means that nothing was done; once the key is made, the error says so, and `find` has it."""
    server.faults.fail_next(code, 1, method)
    with pytest.raises(DeadlineError, match="is made"):
        await backend.create(LABEL, P256)
    found = await backend.find(LABEL)
    assert found is not None
    await sign(backend, found)


async def test_a_key_that_takes_its_time_is_waited_for(server: GcpKmsSimulator, backend: Backend) -> None:
    """PENDING_GENERATION is asked about again until the key is there."""
    server.resources.pending_reads = 3
    await sign(backend, await backend.create(LABEL, P256))


async def test_a_key_that_takes_too_long_is_found_later(server: GcpKmsSimulator) -> None:
    """Past the deadline the outcome is unknown; once generated, the key is found under its label."""
    async with opened(server, deadline_seconds=1.0) as hasty:
        server.resources.pending_reads = 1_000_000
        with pytest.raises(DeadlineError):
            await hasty.create(LABEL, P256)
        with pytest.raises(DeadlineError):
            await hasty.find(LABEL)
    async with opened(server) as backend:
        name = f"{server.resources.location}/keyRings/pqcpki-ca/cryptoKeys/issuing_v1/cryptoKeyVersions/1"
        server.resources.version(name).pending_reads = 0
        found = await backend.find(LABEL)
        assert found is not None
        await sign(backend, found)


async def test_a_generation_that_fails_uses_its_number_up(server: GcpKmsSimulator, backend: Backend) -> None:
    """GENERATION_FAILED is a wrong state; the next version is made in its stead."""
    server.resources.pending_reads, server.resources.generation_fails = 1, True
    for _ in range(2):
        with pytest.raises(WrongStateError, match="GENERATION_FAILED"):
            await backend.create(LABEL, P256)
    assert await backend.find(LABEL) is None
    server.resources.pending_reads, server.resources.generation_fails = 0, False
    await sign(backend, await backend.create(KeyLabel("ca", "issuing", 2), P256))
