"""What comes of a request while signer-hsm, the disk or the database fails; and what a crash leaves."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from pkicore.errors import KeyUnavailableError
from pkicore.keys.timed import TimedSigner
from services.signer_hsm.client import ForbiddenError, SignerUnavailableError, WrongStateError
from services.signer_hsm.wire import LifeCycleRequest
from tests.contract.test_signing_attacks import post
from tests.support.sboms import cyclonedx
from tests.support.signer_world import ADMIN
from tests.support.signing_world import SigningWorld, never, request

WITH_SBOM = request(profile="hybrid", sbom={"content": cyclonedx()})


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[SigningWorld]:
    """The service."""
    opened = await SigningWorld.open(tmp_path)
    yield opened
    await opened.close()


@pytest.mark.parametrize("known", [True, False], ids=["its keys known", "nothing known"])
async def test_while_signer_hsm_is_down_nothing_is_half_written(world: SigningWorld, known: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """503 with Retry-After, no record, no file; and afterwards the same request is signed."""
    if known:
        await world.sign(WITH_SBOM)
    files, signatures = len(world.files()), world.commits.count("signature")
    world.signer.fault = KeyUnavailableError("down")
    answer = await post(world, WITH_SBOM, **{"idempotency-key": "k"})
    assert (answer.status_code, answer.json()["type"]) == (503, "urn:pqcpki:problem:signer-unavailable")
    assert answer.headers["retry-after"] == "1"
    assert "down" not in answer.text
    assert (len(world.files()), world.commits.count("signature")) == (files, signatures)
    world.signer.fault = None
    assert (await post(world, WITH_SBOM, **{"idempotency-key": "k"})).status_code == 201


async def test_a_signer_that_asks_for_patience_is_passed_on(world: SigningWorld) -> None:
    """Its Retry-After is the caller's."""
    world.signer.fault = SignerUnavailableError("busy", kind="busy", status=503, retry_after=7.0)
    answer = await post(world, request(formats=["raw"]))
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "7")


async def test_a_signer_that_is_too_slow_is_down(world: SigningWorld) -> None:
    """Nobody waits longer than the settings say."""
    await world.sign(request(formats=["raw"]))
    inner = world.signer.signer
    world.signer.signer = TimedSigner(inner, 0.05)
    key = next(iter(world.signer_world.device.keys))
    assert key
    world.signer_world.device.before["sign"] = never
    answer = await post(world, request(formats=["raw"]))
    assert answer.status_code == 503
    world.signer_world.device.heal()


async def test_a_signature_that_does_not_verify_never_leaves(world: SigningWorld) -> None:
    """502, nothing kept: neither of a digest nor of a message."""
    world.signer.forge = lambda signature: signature[:-1] + bytes([signature[-1] ^ 1])
    for formats in (["raw"], ["dsse"]):
        answer = await post(world, request(formats=formats))
        assert (answer.status_code, answer.json()["type"]) == (502, "urn:pqcpki:problem:signer-bad-answer")
    assert "signature" not in world.commits


async def test_a_disabled_key_is_refused_and_its_successor_found(world: SigningWorld) -> None:
    """409 while it is disabled; after a rotation the new version signs, at once."""
    await world.sign(request(formats=["raw"]))
    world.signer.fault = WrongStateError("disabled", kind="wrong-state", status=409)
    assert (await post(world, request(formats=["raw"]))).status_code == 409
    world.signer.fault = None
    await world.signer_world.client(ADMIN).rotate("acme.artefact-es256", LifeCycleRequest("rotate"))
    record = await world.sign(request(formats=["raw"]))
    assert record.signatures[0].key == "acme.artefact-es256/2"


async def test_a_rotation_is_followed_when_the_key_is_no_longer_fresh(world: SigningWorld) -> None:
    """Until then the version that was current signs on; without a question to signer-hsm for each signature."""
    await world.sign(request(formats=["raw"]))
    await world.signer_world.client(ADMIN).rotate("acme.artefact-es256", LifeCycleRequest("rotate"))
    assert (await world.sign(request(formats=["raw"]))).signatures[0].key == "acme.artefact-es256/1"
    world.monotonic[0] += 11.0
    assert (await world.sign(request(formats=["raw"]))).signatures[0].key == "acme.artefact-es256/2"


async def test_one_failed_signature_of_several_fails_the_request(world: SigningWorld) -> None:
    """A hybrid is whole, or is not."""
    device = world.signer_world.device
    await world.sign(request(profile="hybrid", formats=["dsse"]))
    calls = 0

    async def second_fails() -> None:
        nonlocal calls
        calls += 1
        if calls > 1:
            raise KeyUnavailableError("gone")

    world.signer.gate = second_fails
    before = len(device.signed)
    answer = await post(world, request(profile="hybrid", formats=["dsse"]))
    assert answer.status_code == 503
    assert world.commits.count("signature") == 1
    assert len(device.signed) - before <= 1


async def test_a_witness_that_is_down_fails_the_request(tmp_path: Path) -> None:
    """503, and no record: what a profile promises is kept, or nothing is."""
    world = await SigningWorld.open(tmp_path, witnesses=True)
    await world.sign(request(profile="witnessed", formats=["raw", "dsse"]))
    world.clock.advance(timedelta(days=-1))
    answer = await post(world, request(profile="witnessed", formats=["dsse"]))
    assert answer.status_code == 503
    assert world.commits.count("signature") == 1
    await world.close()


async def test_files_that_no_record_names_are_swept(world: SigningWorld) -> None:
    """Old ones, as a crash leaves them; those that records name, and young ones, stay."""
    await world.sign(WITH_SBOM)
    kept = set(world.files())
    objects = world.directory / "objects" / "sha256"
    (objects / "ab").mkdir(exist_ok=True)
    orphan, young, upload = objects / "ab" / ("c" * 62), objects / "ab" / ("d" * 62), world.directory / "uploads" / "x"
    for path in (orphan, young, upload):
        path.write_bytes(b"x")
    await world.core.objects.sweep(world.core.store.object_is_used)
    assert set(world.files()) == kept | {orphan, young, upload}
    swept = await world.core.objects.sweep(world.core.store.object_is_used, now=time.time() + 3700)
    assert swept == 3
    assert set(world.files()) == kept


async def test_idempotency_keys_are_forgotten_in_time(world: SigningWorld) -> None:
    """After their days the same key may be used for something else."""
    assert (await post(world, request(formats=["raw"]), **{"idempotency-key": "k"})).status_code == 201
    world.clock.advance(timedelta(days=8))
    await world.core.upkeep.clean_up()
    assert (await post(world, request(b"other", formats=["raw"]), **{"idempotency-key": "k"})).status_code == 201


async def test_a_disk_that_cannot_be_written_keeps_nothing(world: SigningWorld) -> None:
    """The caller learns of an internal error and nothing of paths; no record names what is not there."""
    uploads = world.directory / "uploads"
    for path in uploads.iterdir():
        path.unlink()
    uploads.rmdir()
    answer = await post(world, WITH_SBOM)
    assert answer.status_code == 500
    assert os.fspath(world.directory) not in answer.text
    assert world.commits == []


async def test_requests_that_race_with_one_idempotency_key_in_two_processes_end_as_one(tmp_path: Path) -> None:
    """Both sign; one commits, and the other answers what that one did."""
    world = await SigningWorld.open(tmp_path)
    other = await SigningWorld.open(tmp_path, signer_world=world.signer_world)
    both = asyncio.Barrier(2)

    async def meet() -> None:
        await both.wait()

    world.signer.gate = other.signer.gate = meet
    body, headers = request(formats=["raw"]), {"idempotency-key": "k"}
    first, second = await asyncio.gather(post(world, body, **headers), post(other, body, **headers))
    assert first.status_code == second.status_code == 201
    assert first.content == second.content
    assert len(await world.audit("signature.created")) == 1
    await other.close()
    await world.close()


async def test_a_key_that_signer_hsm_does_not_give_us_is_as_good_as_none(world: SigningWorld) -> None:
    """A key that no rule of the key policy covers is answered like one that nobody has: 404, and what may be wrong."""
    world.signer.fault = ForbiddenError("no rule allows it")
    answer = await post(world, {"subjects": request()["subjects"], "key": "acme.artefact-es256"})
    assert answer.status_code == 404
    assert "key policy" in answer.json()["detail"]
    assert world.files() == []
