"""How much of the Cloud KMS back end's work is under way at once, and what frees a place."""

from __future__ import annotations

import asyncio
import hashlib

import pytest

from services.signer_hsm.backends.payloads import verify_payload
from services.signer_hsm.errors import BusyError, UnavailableError
from tests.support.gcp_kms_faults import ES256, LABEL, P256, opened, sign
from tests.support.gcp_kms_simulator import GcpKmsSimulator


async def test_workers_and_queue_bound_what_is_under_way(server: GcpKmsSimulator) -> None:
    """KMS sees no more than `workers` requests at once; past `queue` waiting ones the rest is refused at once."""
    async with opened(server, workers=3, queue=5) as backend:
        key = await backend.create(LABEL, P256)
        server.peak, server.faults.delay = 0, 0.05
        answers = await asyncio.gather(*(sign(backend, key) for _ in range(20)), return_exceptions=True)
        assert server.peak == 3
        assert sum(isinstance(answer, bytes) for answer in answers) == 8
        assert sum(isinstance(answer, BusyError) for answer in answers) == 12
        server.faults.delay = 0.0
        await sign(backend, key)


async def test_a_batch_larger_than_the_queue_is_signed(server: GcpKmsSimulator) -> None:
    """A batch takes no more places than there are workers, so 64 payloads pass where four may wait."""
    async with opened(server, workers=2, queue=4, deadline_seconds=60.0, timeout_seconds=20.0) as backend:
        key = await backend.create(LABEL, P256)
        payloads = [hashlib.sha256(b"%d" % number).digest() for number in range(64)]
        server.faults.delay = 0.002
        batches = await asyncio.gather(*(backend.sign(key.handle, ES256, "digest", payloads) for _ in range(3)))
        for answers in batches:
            for payload, answer in zip(payloads, answers, strict=True):
                assert isinstance(answer, bytes)
                verify_payload(key.public_key, ES256, "digest", payload, answer)
        assert server.peak == 2


async def test_a_caller_who_gives_up_leaves_no_permit_behind(server: GcpKmsSimulator) -> None:
    """Cancelled requests free their places, waiting and under way."""
    async with opened(server, workers=1, queue=2) as backend:
        key = await backend.create(LABEL, P256)
        server.faults.delay = 0.5
        calls = [asyncio.create_task(sign(backend, key)) for _ in range(3)]
        await asyncio.sleep(0.1)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        server.faults.delay = 0.0
        await sign(backend, key)
        health = await backend.health()
        assert (health.detail["under_way"], health.detail["waiting"]) == (0, 0)


async def test_closing_ends_what_is_under_way(server: GcpKmsSimulator) -> None:
    """Requests under way at the close, and any after it, fail as unavailable."""
    async with opened(server) as backend:
        key = await backend.create(LABEL, P256)
        server.faults.delay = 0.9
        call = asyncio.create_task(sign(backend, key))
        await asyncio.sleep(0.1)
        await backend.aclose()
        with pytest.raises(UnavailableError):
            await call
        with pytest.raises(UnavailableError):
            await sign(backend, key)
        assert not (await backend.health()).ready
