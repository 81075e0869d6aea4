"""Nothing is signed twice under an idempotency key, when an answer is lost between a real SDK and its server."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from pkcs11.exceptions import DeviceError, GeneralError

from pkicore.clock import SystemClock
from services.signer_hsm.backends import Backend
from services.signer_hsm.backends.gcp_kms import open_backend as open_gcp
from services.signer_hsm.backends.pkcs11.errors import translate
from services.signer_hsm.backends.vault import open_backend as open_vault
from services.signer_hsm.client import OutcomeUnknownError, SignerUnavailableError
from services.signer_hsm.wire import SignRequest
from tests.support.aws_kms_simulator import AwsKmsSimulator
from tests.support.backend_aws_kms import open_simulated
from tests.support.backend_gcp_kms import resources_of, settings_for
from tests.support.backend_vault import simulated_server
from tests.support.clock import ManualClock
from tests.support.gcp_kms_resources import Code
from tests.support.gcp_kms_simulator import simulator as gcp_simulator
from tests.support.openbao import provision
from tests.support.signer_world import CA, MemoryBackend, MemoryDevice, SignerWorld
from tests.support.vault_fixtures import MovableClock
from tests.support.vault_simulator.faults import Fault

DIGEST = hashlib.sha256(b"message").digest()
ONCE = SignRequest("digest", (DIGEST,), idempotency_key="once")
NO_KEY = SignRequest("digest", (DIGEST,))
BATCH = SignRequest("digest", (DIGEST, DIGEST), batch=True, idempotency_key="batch")


class Far(NamedTuple):
    """A back end, how its next answer to Sign is lost, how Sign fails in a gateway, and how many there were."""

    backend: Backend
    lose: Callable[[], None]
    fail: Callable[[], None]
    signed: Callable[[], int]


@asynccontextmanager
async def aws(path: Path) -> AsyncIterator[Far]:
    """AWS KMS; the SDK would repeat by itself."""
    del path
    with AwsKmsSimulator() as server:
        backend = await open_simulated(server, SystemClock(), attempts=3)
        yield Far(
            backend,
            lambda: server.drop("after", operation="Sign"),
            lambda: server.fail("ServiceUnavailable", status=503, operation="Sign"),
            lambda: server.calls["Sign"],
        )
        await backend.aclose()


@asynccontextmanager
async def gcp(path: Path) -> AsyncIterator[Far]:
    """Cloud KMS."""
    del path
    async with gcp_simulator(resources_of(ManualClock())) as server:
        backend = await open_gcp(settings_for(server), clock=ManualClock())
        yield Far(
            backend,
            lambda: server.faults.lose_answer("AsymmetricSign"),
            lambda: server.faults.lose_answer("AsymmetricSign", Code.INTERNAL),
            lambda: server.requests["AsymmetricSign"],
        )
        await backend.aclose()


@asynccontextmanager
async def vault(path: Path) -> AsyncIterator[Far]:
    """Vault; its gateway fails with a page of its own."""
    clock = MovableClock(SystemClock())
    with simulated_server(clock) as server:
        role = provision(server, path)
        backend = await open_vault(role.settings(), clock=clock)
        simulator = server.simulator
        assert simulator is not None
        where = f"{server.mount}/sign/"
        yield Far(
            backend,
            lambda: simulator.faults.add(Fault(where, hang_up="after")),
            lambda: simulator.faults.add(Fault(where, status=503, body=b"<html>no server</html>")),
            lambda: sum(where in path for _, path, _ in simulator.requests),
        )
        await backend.aclose()


@asynccontextmanager
async def pkcs11(path: Path) -> AsyncIterator[Far]:
    """A device whose answers become what the module says of them."""
    del path
    device = MemoryDevice()

    def breaking(error: DeviceError | GeneralError) -> Callable[[], None]:
        async def step() -> None:
            del device.after["sign"]
            raise translate(error) from error

        return lambda: device.after.update(sign=step)

    backend = MemoryBackend("device", device, ManualClock())
    yield Far(backend, breaking(DeviceError()), breaking(GeneralError()), lambda: len(device.signed))


@pytest.fixture(params=[aws, gcp, vault, pkcs11], ids=lambda each: each.__name__)
async def far(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Far]:
    """Each back end in turn."""
    world: Callable[[Path], AbstractAsyncContextManager[Far]] = request.param
    async with world(tmp_path) as opened:
        yield opened


@pytest.fixture
async def service(far: Far, tmp_path: Path) -> AsyncIterator[SignerWorld]:
    """The service over it, with a key."""
    opened = await SignerWorld.open(f"sqlite:///{tmp_path}/signer.sqlite3", backend=far.backend, deadline=5.0)
    await opened.make("ca.issuing")
    yield opened
    await opened.close()


@pytest.mark.parametrize("how", ["lose", "fail"])
async def test_a_lost_signature_is_not_made_again(far: Far, service: SignerWorld, how: str) -> None:
    """The caller gets a typed error, its repetition outcome-unknown; the server was asked to sign once."""
    before, ca = far.signed(), service.client(CA)
    (far.lose if how == "lose" else far.fail)()
    with pytest.raises(SignerUnavailableError):
        await ca.sign_request("ca.issuing", ONCE)
    for _ in range(2):
        with pytest.raises(OutcomeUnknownError):
            await ca.sign_request("ca.issuing", ONCE)
    assert far.signed() == before + 1 or (how == "fail" and far.signed() == before)  # a gateway may not hand it on
    await ca.sign_request("ca.issuing", SignRequest("digest", (DIGEST,), idempotency_key="another"))


async def test_without_an_idempotency_key_it_is_asked_for_again(far: Far, service: SignerWorld) -> None:
    """Who does not mind a second signature sees nothing of the lost one."""
    before = far.signed()
    far.lose()
    await service.client(CA).sign_request("ca.issuing", NO_KEY)
    assert far.signed() == before + 2


async def test_an_idempotent_batch_keeps_its_answer(far: Far, service: SignerWorld) -> None:
    """What became of each item is answered again as it is, or is unknown for good; nothing is signed again."""
    ca = service.client(CA)
    far.lose()
    try:
        first = await ca.sign_request("ca.issuing", BATCH)
    except SignerUnavailableError:
        first = None
    signed = far.signed()
    if first is None:
        with pytest.raises(OutcomeUnknownError):
            await ca.sign_request("ca.issuing", BATCH)
    else:
        assert await ca.sign_request("ca.issuing", BATCH) == first
    assert far.signed() == signed
