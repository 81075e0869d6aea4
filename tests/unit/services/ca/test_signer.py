import asyncio
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from pkicore.algorithms import Payload, PublicKey
from pkicore.errors import KeyAccessError, KeyNotFoundError, KeyPermissionError, KeyUnavailableError
from pkicore.keys.remote import RemoteKey, RemotePublicKey
from pkicore.ocsp import build_request
from services.ca.errors import WrongSignatureError
from services.ca.signer import CONDITION, RemoteKeys
from services.ca.wire import CertificateRequest, RevocationRequest
from services.chassis.ops import Readiness
from tests.support.ca_world import ACME, OPERATOR, CaWorld, server_request
from tests.support.clock import ManualClock
from tests.support.pki import MemoryKey, make_hierarchy


@dataclass
class FaultySigner:
    """A signer in memory: answers, fails in a chosen way, hangs, or answers with another key's signatures."""

    keys: dict[str, MemoryKey]
    fault: KeyAccessError | None = None
    hangs: bool = False
    signatures_by: str = ""
    signed: list[str] = field(default_factory=list)

    async def public_key(self, key_id: str, version: int | None) -> RemotePublicKey:
        """The public half."""
        await self._suffer()
        return RemotePublicKey(version or 1, self.keys[key_id].public_key, frozenset({"message"}))

    async def sign(self, key_id: str, version: int, kind: Payload, payload: bytes, scheme: str) -> bytes:
        """A signature; these keys take messages, so that one signer does for all."""
        del version, kind, scheme
        await self._suffer()
        self.signed.append(key_id)
        return await self.keys[self.signatures_by or key_id].sign(payload)

    async def _suffer(self) -> None:
        if self.hangs:
            await asyncio.sleep(60)
        if self.fault is not None:
            raise self.fault


@pytest.fixture(scope="module")
def pool() -> Iterator[Executor]:
    """Where long messages are hashed."""
    with ThreadPoolExecutor(1) as executor:
        yield executor


def remote(signer: FaultySigner, pool: Executor, key_id: str = "ca.m", expected: PublicKey | None = None) -> RemoteKey:
    """A key of the signer."""
    return RemoteKey(f"signer-hsm:{key_id}/1", expected or signer.keys[key_id].public_key, signer, pool)


@dataclass
class Remote:
    """A started CA whose ML-DSA key is at the signer."""

    world: CaWorld
    signer: FaultySigner
    request: CertificateRequest = field(
        default_factory=lambda: server_request("a.example", key=MemoryKey.generate("ml-dsa-44").private_key)
    )

    async def issue(self, name: str) -> Any:  # noqa: ANN401 - the answer, whatever it is
        """An ML-DSA certificate for a server."""
        return await self.world.core.issuance.issue(ACME, replace(self.request, idempotency_key=name))


async def remote_world(directory: Path, pool: Executor) -> Remote:
    """Open one."""
    clock = ManualClock()
    families = {family: await make_hierarchy(family, clock) for family in ("ecdsa", "mldsa")}
    signer = FaultySigner({"ca.m": families["mldsa"].issuing_key, "ca.x": MemoryKey.generate("ml-dsa-65")})
    keys = {"mldsa": remote(signer, pool)}
    world = await CaWorld.open(directory, clock=clock, families=families, keys=keys)
    return Remote(await world.start(), signer)


async def test_a_ca_issues_with_a_key_that_it_does_not_have(tmp_path: Path, pool: Executor) -> None:
    """Issuing, revoking and publishing go through the signer."""
    remote_ca = await remote_world(tmp_path, pool)
    outcome = await remote_ca.issue("order-1")
    assert outcome.created
    assert set(remote_ca.signer.signed) == {"ca.m"}
    await remote_ca.world.core.revoker.revoke(OPERATOR, RevocationRequest("superseded", serial=outcome.answer.serial))
    await remote_ca.world.publish()
    assert remote_ca.world.core.publisher.current["issuing-mldsa"].number > 1
    await remote_ca.world.close()


async def test_a_signer_that_is_down_loses_nothing(tmp_path: Path, pool: Executor) -> None:
    """The request fails with 503, the intent shows what did not happen, and the same request completes it later."""
    remote_ca = await remote_world(tmp_path, pool)
    remote_ca.signer.fault = KeyUnavailableError("signer-hsm does not answer")
    with pytest.raises(KeyUnavailableError):
        await remote_ca.issue("order-1")
    (left,) = await remote_ca.world.core.store.open_intents()
    assert left.certificate is None
    remote_ca.signer.fault = None
    outcome = await remote_ca.issue("order-1")
    assert int(outcome.answer.serial, 16) == left.intent.serial
    assert await remote_ca.world.core.store.open_intents() == []
    await remote_ca.world.close()


async def test_an_abandoned_intent_is_rolled_forward(tmp_path: Path, pool: Executor) -> None:
    """Once the signer is back, what nobody asks for again is completed, but not what is being completed now."""
    remote_ca = await remote_world(tmp_path, pool)
    clock, issuance = remote_ca.world.clock, remote_ca.world.core.issuance
    remote_ca.signer.fault = KeyUnavailableError("down")
    with pytest.raises(KeyUnavailableError):
        await remote_ca.issue("order-1")
    remote_ca.signer.fault = None
    began = int(clock.now().timestamp())
    assert await issuance.recover(recorded_before=began) == 0
    clock.advance(timedelta(seconds=61))
    assert await issuance.recover(recorded_before=began + 1) == 1
    assert await issuance.recover() == 0
    await remote_ca.world.close()


async def test_a_wrong_signature_is_a_bad_gateway(tmp_path: Path, pool: Executor) -> None:
    """What another key signed is never a certificate; the caller gets 502 and may come again."""
    remote_ca = await remote_world(tmp_path, pool)
    remote_ca.signer.signatures_by = "ca.x"
    with pytest.raises(WrongSignatureError):
        await remote_ca.issue("order-1")
    request = server_request("a.example", key=MemoryKey.generate("ml-dsa-44").private_key, idempotency_key="order-2")
    async with remote_ca.world.internal(ACME) as http:
        answer = await http.post(
            "/v1/certificates", content=request.to_json(), headers={"content-type": "application/json"}
        )
    assert (answer.status_code, answer.json()["type"]) == (502, "urn:pqcpki:problem:bad-signer-answer")
    assert answer.headers["retry-after"] == "1"
    assert len(await remote_ca.world.core.store.open_intents()) == 2
    await remote_ca.world.close()


@pytest.mark.parametrize("fault", [KeyUnavailableError("down"), KeyPermissionError("forbidden")])
async def test_a_refusing_signer_is_unavailable_to_the_caller(
    tmp_path: Path, pool: Executor, fault: KeyAccessError
) -> None:
    """Whatever the signer's reason: 503, try again later, and no word of keys to blame the caller."""
    remote_ca = await remote_world(tmp_path, pool)
    remote_ca.signer.fault = fault
    request = server_request("a.example", key=MemoryKey.generate("ml-dsa-44").private_key)
    async with remote_ca.world.internal(ACME) as http:
        answer = await http.post(
            "/v1/certificates", content=request.to_json(), headers={"content-type": "application/json"}
        )
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    await remote_ca.world.close()


async def test_the_last_crl_is_served_while_the_signer_is_away(tmp_path: Path, pool: Executor) -> None:
    """A CRL that cannot be signed stays due, the one before stays current, OCSP answers go on, and it comes later."""
    remote_ca = await remote_world(tmp_path, pool)
    core = remote_ca.world.core
    answer = (await remote_ca.issue("order-1")).answer
    before = core.publisher.current["issuing-mldsa"]
    for fault in (KeyUnavailableError("down"), None):
        remote_ca.signer.fault, remote_ca.signer.signatures_by = fault, "" if fault else "ca.x"
        await core.catch_up()
        if fault:
            await core.revoker.revoke(OPERATOR, RevocationRequest("superseded", serial=answer.serial))
        remote_ca.world.clock.advance(timedelta(seconds=1))
        await core.catch_up()
        assert core.publisher.current["issuing-mldsa"] == before
    leaf = remote_ca.world.families["mldsa"].issuing.certificate
    assert (await core.answers.answer(build_request(leaf, leaf))).der
    remote_ca.signer.signatures_by = ""
    await core.catch_up()
    assert core.publisher.current["issuing-mldsa"].number == before.number + 1
    await remote_ca.world.close()


async def test_the_ca_starts_without_its_signer_and_is_ready_with_it(pool: Executor) -> None:
    """Readiness says what is missing; when the signer answers, what was left undone is done first."""
    signer = FaultySigner({"ca.m": MemoryKey.generate("ed25519")}, fault=KeyUnavailableError("down"))
    readiness = Readiness()
    keys = RemoteKeys([remote(signer, pool)], readiness)
    await keys.meet(0.01)
    assert "nothing can be signed" in readiness.reasons[CONDITION]
    done: list[bool] = []

    async def catch_up() -> None:
        done.append(CONDITION in readiness.reasons)

    waiting = asyncio.create_task(keys.wait(catch_up))
    await asyncio.sleep(0.01)
    signer.fault = None
    async with asyncio.timeout(5):
        await waiting
    assert done == [True]
    assert readiness.reasons == {}


async def test_a_signer_that_answers_at_once_holds_nobody_up(pool: Executor) -> None:
    """Every key is confirmed before the listeners open, and there is nothing to wait for."""
    signer = FaultySigner({"ca.m": MemoryKey.generate("ed25519")})
    readiness = Readiness()
    keys = RemoteKeys([remote(signer, pool)], readiness)
    await keys.meet(5)

    async def never() -> None:
        raise AssertionError("nothing was left undone")

    await keys.wait(never)
    assert readiness.reasons == {}


async def test_another_key_at_the_signer_keeps_the_ca_from_starting(pool: Executor) -> None:
    """A key that is not the certificate's is refused at the start, with a sentence that names it."""
    signer = FaultySigner({"ca.m": MemoryKey.generate("ed25519")})
    other = MemoryKey.generate("ed25519").public_key
    with pytest.raises(KeyNotFoundError, match=r"signer-hsm:ca.m/1 is another key"):
        await RemoteKeys([remote(signer, pool, expected=other)], Readiness()).meet(5)


async def test_another_key_at_the_signer_never_signs_later(pool: Executor) -> None:
    """Where the signer comes back with another key, the CA stays unready and says why in its log."""
    signer = FaultySigner({"ca.m": MemoryKey.generate("ed25519")}, fault=KeyUnavailableError("down"))
    readiness = Readiness()
    keys = RemoteKeys([remote(signer, pool, expected=MemoryKey.generate("ed25519").public_key)], readiness)
    await keys.meet(0.01)
    signer.fault = None
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await keys.wait(lambda: asyncio.sleep(0))
    assert CONDITION in readiness.reasons


def test_a_ca_with_file_keys_loads_no_signer() -> None:
    """Neither signer-hsm's client nor the SDK of any back end is imported with the CA: each start would pay for it."""
    heavy = ("services.signer_hsm", "boto3", "botocore", "hvac", "google.cloud", "grpc", "pkcs11")
    program = f"import sys, services.ca.app; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
