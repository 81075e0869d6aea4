"""A Cloud KMS that is slow, cut off or gone: typed errors in time, and recovery without a restart."""

from __future__ import annotations

import asyncio
import time

import pytest

from services.signer_hsm.backends import Backend
from services.signer_hsm.errors import DeadlineError, UnavailableError
from tests.support.gcp_kms_faults import LABEL, P256, created, opened, relayed, sign, signs_again
from tests.support.gcp_kms_simulator import GcpKmsSimulator


async def test_a_slow_kms_ends_at_the_time_limit_and_works_again(server: GcpKmsSimulator) -> None:
    """Each request has its own limit; the caller hears in time, and the next request on the same channel works."""
    key = await created(server)
    async with opened(server, timeout_seconds=1.5) as backend:
        server.faults.delay = 6.0
        began = time.monotonic()
        with pytest.raises(DeadlineError):
            await sign(backend, key)
        assert time.monotonic() - began < 5.5
        assert not (await backend.health()).ready
        server.faults.delay = 0.0
        await sign(backend, key)


async def test_the_deadline_holds_over_all_requests_of_an_operation(server: GcpKmsSimulator) -> None:
    """An operation of two requests, each within its own limit, still ends at the operation's deadline."""
    await created(server)
    async with opened(server, deadline_seconds=2.0, timeout_seconds=1.9) as backend:
        server.faults.delay = 1.1
        began = time.monotonic()
        with pytest.raises(DeadlineError, match="not done within the deadline"):
            await backend.find(LABEL)
        assert time.monotonic() - began < 4.5


async def test_the_deadline_holds_while_waiting_for_a_permit(server: GcpKmsSimulator) -> None:
    """Callers who wait behind slow requests hear within their deadline too."""
    key = await created(server)
    async with opened(server, workers=1, deadline_seconds=2.0, timeout_seconds=1.5) as backend:
        server.faults.delay = 6.0
        began = time.monotonic()
        answers = await asyncio.gather(*(sign(backend, key) for _ in range(8)), return_exceptions=True)
        assert all(isinstance(answer, DeadlineError) for answer in answers)
        assert time.monotonic() - began < 5.5


async def test_the_back_end_killed_in_mid_call_and_back_again(server: GcpKmsSimulator) -> None:
    """A connection that dies under a request is a typed error at once; the same back end signs after the return."""
    async with relayed(server, deadline_seconds=5.0, timeout_seconds=5.0) as (backend, relay):
        key = await backend.create(LABEL, P256)
        server.faults.delay = 3.0
        calls = [asyncio.create_task(sign(backend, key)) for _ in range(4)]
        await asyncio.sleep(0.2)
        began = time.monotonic()
        await relay.stop()
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(answer, UnavailableError) for answer in answers)
        with pytest.raises(UnavailableError):
            await sign(backend, key)
        assert time.monotonic() - began < 4.5
        assert (await backend.health()).detail["problem"] == "unavailable"
        server.faults.delay = 0.0
        await relay.start()
        await signs_again(backend, key, within=20.0)


async def test_a_server_that_stops_in_mid_call_and_starts_again(server: GcpKmsSimulator) -> None:
    """The server's own shutdown is typed the same, and its keys are there after its restart."""
    async with opened(server) as backend:
        key = await backend.create(LABEL, P256)
        server.faults.delay = 1.0
        call = asyncio.create_task(sign(backend, key))
        await asyncio.sleep(0.1)
        await server.kill()
        with pytest.raises(UnavailableError):
            await call
        server.faults.delay = 0.0
        await server.start()
        await signs_again(backend, key, within=20.0)


async def test_a_network_that_swallows_everything_is_a_deadline(server: GcpKmsSimulator) -> None:
    """When nothing comes through and nothing is reset, the time limit speaks; flowing again, it signs again."""
    key = await created(server)
    async with relayed(server, timeout_seconds=1.5) as (backend, relay):
        await sign(backend, key)  # the connection stands
        relay.flowing.clear()
        began = time.monotonic()
        with pytest.raises(DeadlineError):
            await sign(backend, key)
        assert time.monotonic() - began < 4.5
        relay.flowing.set()
        await signs_again(backend, key, within=20.0)


async def test_no_kms_at_all(server: GcpKmsSimulator, backend: Backend) -> None:
    """With nobody listening every operation is unavailable at once, and health does not raise."""
    await server.kill()
    began = time.monotonic()
    with pytest.raises(UnavailableError):
        await backend.create(LABEL, P256)
    with pytest.raises(UnavailableError):
        await backend.find(LABEL)
    assert not (await backend.health()).ready
    assert time.monotonic() - began < 4.5
