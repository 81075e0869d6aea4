"""What goes wrong between us and Vault: each has its own error in time, and is over without a restart."""

import asyncio
import base64
import hashlib
import os
import signal
import socket
import ssl
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from pkicore.algorithms import ALGORITHMS
from services.signer_hsm.backends import KeyLabel
from services.signer_hsm.backends.guard import GuardedBackend
from services.signer_hsm.backends.vault import VaultBackend, open_backend
from services.signer_hsm.errors import (
    BackendError,
    BadAnswerError,
    DeadlineError,
    ThrottledError,
    UnavailableError,
)
from services.signer_hsm.metrics import SignerMetrics
from services.signer_hsm.schemes import SCHEMES
from tests.support.backend_vault import simulated_server
from tests.support.openbao import Role, VaultServer, provision
from tests.support.vault_fixtures import MovableClock, Opener
from tests.support.vault_simulator.faults import Fault
from tests.support.vault_simulator.server import Standby, VaultSimulator, serving
from tests.support.vault_tls import self_signed

pytest_plugins = ("tests.support.vault_fixtures",)

EC = ALGORITHMS["ecdsa-p256"]
LABEL = KeyLabel("ca", "issuing", 1)
HANDLE = "ca.issuing.v1"
DIGEST = hashlib.sha256(b"x").digest()
HTML = {"Content-Type": "text/html"}
JSON = {"Content-Type": "application/json"}


@pytest.fixture
async def backend(simulated_role: Role, opening: Opener) -> VaultBackend:
    """A back end at the simulator, with one key."""
    made = await opening(simulated_role, timeout_seconds=0.5)
    await made.create(LABEL, EC)
    return made


async def sign(backend: VaultBackend | GuardedBackend, times: int = 1) -> Sequence[bytes | BackendError]:
    """Sign so many digests."""
    return await backend.sign(HANDLE, SCHEMES["ES256"], "digest", [DIGEST] * times)


def guarded(backend: VaultBackend, role: Role, **changes: int) -> GuardedBackend:
    """The guard that the service puts around it."""
    return GuardedBackend(backend, role.settings(**changes), SignerMetrics(CollectorRegistry()))


def signing(role: Role) -> str:
    """The path that signatures are asked for at."""
    return f"{role.server.mount}/sign/"


@pytest.mark.parametrize("when", ["before", "after"])
async def test_killed_in_mid_call(
    simulator: VaultSimulator, simulated_role: Role, backend: VaultBackend, when: str
) -> None:
    """Unavailable; the guard repeats the signature, and the caller sees nothing of it."""
    simulator.faults.add(Fault(signing(simulated_role), hang_up=when))
    with pytest.raises(UnavailableError):
        await sign(backend)
    simulator.faults.add(Fault(signing(simulated_role), hang_up=when))
    assert len(await sign(guarded(backend, simulated_role))) == 1


async def test_slow_is_a_deadline(simulator: VaultSimulator, simulated_role: Role, backend: VaultBackend) -> None:
    """In little more than the time-out, and the next call is served."""
    simulator.faults.add(Fault(signing(simulated_role), delay=4))
    begin = time.monotonic()
    with pytest.raises(DeadlineError):
        await sign(backend)
    assert time.monotonic() - begin < 3.5
    await sign(backend)


async def test_an_answer_that_drips_is_a_deadline(
    simulator: VaultSimulator, simulated_role: Role, backend: VaultBackend
) -> None:
    """Each octet comes in time, the whole does not."""
    simulator.faults.add(Fault(signing(simulated_role), status=200, body=b"x" * 10_000, drip=0.01))
    begin = time.monotonic()
    with pytest.raises(DeadlineError):
        await sign(backend)
    assert time.monotonic() - begin < 3


async def test_flapping(simulator: VaultSimulator, simulated_role: Role, opening: Opener) -> None:
    """Every second connection fails: with the guard's repetitions each caller gets a signature."""
    patient = await opening(simulated_role, timeout_seconds=20.0)
    await patient.create(LABEL, EC)
    guard = guarded(patient, simulated_role, breaker_failures=50)
    for _ in range(10):
        simulator.faults.add(Fault(signing(simulated_role), hang_up="before"))
        assert len(await sign(guard)) == 1


@pytest.mark.parametrize(
    ("status", "body", "headers", "expected"),
    [
        (200, b"<html>not vault</html>", HTML, BadAnswerError),
        (200, b"", JSON, BadAnswerError),
        (200, b"[]", JSON, BadAnswerError),
        (200, b"{}", JSON, BadAnswerError),
        (200, b'{"data":null}', JSON, BadAnswerError),
        (200, b'{"data":{"signature":7}}', JSON, BadAnswerError),
        (200, b'{"data":{"signature":"vault:v1"}}', JSON, BadAnswerError),
        (200, b'{"data":{"signature":"vault:v2:AAAA"}}', JSON, BadAnswerError),
        (200, b'{"data":{"signature":"vault:v1:"}}', JSON, BadAnswerError),
        (200, b'{"data":{"signature":"vault:v1:!!"}}', JSON, BadAnswerError),
        (200, b'{"data":{"signature":"' + b"A" * 5_000_000 + b'"}}', JSON, BadAnswerError),
        (200, b'{"a":' * 100_000, JSON, BadAnswerError),
        (204, b"", JSON, BadAnswerError),
        (400, b"garbage", HTML, BadAnswerError),
        (404, b"garbage", HTML, UnavailableError),
        (405, b'{"errors":[]}', JSON, BadAnswerError),
        (418, b"", HTML, BadAnswerError),
        (429, b'{"errors":["request path ...: rate limit quota exceeded"]}', JSON, ThrottledError),
        (500, b'{"errors":["internal error"]}', JSON, UnavailableError),
        (502, b"<html>bad gateway</html>", HTML, UnavailableError),
        (503, b'{"errors":["x"]}', {"Content-Type": "application/json; charset=utf-8"}, UnavailableError),
    ],
)
async def test_answers_that_make_no_sense(
    simulator: VaultSimulator,
    simulated_role: Role,
    backend: VaultBackend,
    status: int,
    body: bytes,
    headers: dict[str, str],
    expected: type[BackendError],
) -> None:
    """Each has its class, none has the server's words, and the next call is served."""
    simulator.faults.add(Fault(signing(simulated_role), status=status, body=body, headers=headers))
    with pytest.raises(expected) as caught:
        await sign(backend)
    for word in ("garbage", "html", "quota", "internal error"):
        assert word not in str(caught.value)
    await sign(backend)


async def test_a_batch_of_another_length_is_thrown_away(
    simulator: VaultSimulator, simulated_role: Role, backend: VaultBackend
) -> None:
    """Nobody could say which signature is whose."""
    simulator.faults.add(Fault(signing(simulated_role), change=lambda answer: answer["data"]["batch_results"].pop()))
    with pytest.raises(BadAnswerError):
        await sign(backend, 3)


async def test_one_bad_item_does_not_spoil_the_batch(
    simulator: VaultSimulator, simulated_role: Role, backend: VaultBackend
) -> None:
    """Its place has the error."""

    def spoil(answer: dict[str, Any]) -> None:
        answer["data"]["batch_results"][1] = {"error": "no"}
        answer["data"]["batch_results"][2] = "no"

    simulator.faults.add(Fault(signing(simulated_role), change=spoil))
    answers = await sign(backend, 4)
    assert [type(answer) for answer in answers] == [bytes, BadAnswerError, BadAnswerError, bytes]


async def test_a_wrong_signature_is_caught_by_the_guard(
    simulator: VaultSimulator, simulated_role: Role, backend: VaultBackend
) -> None:
    """One by another key, which is a good one in all other respects."""
    other = await backend.create(KeyLabel("ca", "other", 1), EC)
    (wrong,) = await backend.sign(other.handle, SCHEMES["ES256"], "digest", [DIGEST])
    assert isinstance(wrong, bytes)
    text = f"vault:v1:{base64.b64encode(wrong).decode()}"
    simulator.faults.add(Fault(signing(simulated_role), change=lambda answer: answer["data"].update(signature=text)))
    guard = guarded(backend, simulated_role)
    with pytest.raises(BadAnswerError, match="verify"):
        await sign(guard)
    assert len(await sign(guard)) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"name": "ca.other"},
        {"keys": {}},
        {"keys": None},
        {"keys": {"one": {}}},
        {"latest_version": 7},
        {"latest_version": True},
        {"min_encryption_version": "x"},
        {"keys": {"1": {"public_key": ""}}},
        {"keys": {"1": {"public_key": "AAAA"}}},
        {"keys": {"1": {"public_key": "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"}}},
        {"type": "ecdsa-p384"},
    ],
)
async def test_a_key_that_makes_no_sense_is_thrown_away(
    simulator: VaultSimulator, simulated_role: Role, backend: VaultBackend, change: dict[str, Any]
) -> None:
    """Another key's name, no versions, a public key of another algorithm."""
    path = f"{simulated_role.server.mount}/keys/"
    simulator.faults.add(Fault(path, change=lambda answer: answer["data"].update(change)))
    with pytest.raises(BadAnswerError):
        await backend.load(HANDLE)


async def test_sealed_and_unsealed_again(role: Role, opening: Opener) -> None:
    """Unavailable, health knows why, and signing goes on as soon as it is unsealed."""
    server = role.server
    if server.unseal_key is None:
        pytest.skip("a server that somebody else has started is not sealed by a test")
    backend = await opening(role)
    await backend.create(LABEL, EC)
    server.seal()
    try:
        with pytest.raises(UnavailableError, match="sealed"):
            await sign(backend)
        with pytest.raises(UnavailableError, match="sealed"):
            await backend.create(KeyLabel("ca", "other", 1), EC)
        health = await backend.health()
        assert (health.ready, health.detail["sealed"], health.detail["state"]) == (False, True, "sealed")
    finally:
        server.unseal()
    await sign(backend)
    health = await backend.health()
    assert (health.ready, health.detail["sealed"]) == (True, False)


async def test_opened_while_sealed(role: Role, opening: Opener) -> None:
    """The service starts, and the back end comes up by itself."""
    server = role.server
    if server.unseal_key is None:
        pytest.skip("a server that somebody else has started is not sealed by a test")
    server.seal()
    try:
        backend = await opening(role)
        with pytest.raises(UnavailableError, match="sealed"):
            await backend.create(LABEL, EC)
    finally:
        server.unseal()
    await backend.create(LABEL, EC)
    await sign(backend)


@pytest.mark.parametrize(
    ("standby", "state", "word"),
    [
        ("redirects", "standby", "standby"),
        ("lost", "standby", "standby"),
        ("lost-500", "standby", "standby"),
        ("recovery", "recovery-standby", "disaster"),
    ],
)
async def test_standbys_are_told_apart(
    simulator: VaultSimulator, backend: VaultBackend, standby: Standby, state: str, word: str
) -> None:
    """In the error and in health; all of them may pass."""
    simulator.standby = standby
    with pytest.raises(UnavailableError, match=word):
        await sign(backend)
    health = await backend.health()
    assert (health.ready, health.detail["state"]) == (False, state)
    simulator.standby = ""
    await sign(backend)


async def test_a_performance_standby_serves(simulator: VaultSimulator, backend: VaultBackend) -> None:
    """It signs itself; health says what it is."""
    simulator.standby = "performance"
    await sign(backend)
    health = await backend.health()
    assert (health.ready, health.detail["state"]) == (True, "performance-standby")


async def test_uninitialised(simulator: VaultSimulator, backend: VaultBackend) -> None:
    """Not the same as sealed."""
    simulator.initialised = False
    with pytest.raises(UnavailableError, match="initialised"):
        await sign(backend)
    assert (await backend.health()).detail["state"] == "uninitialised"


def _stopped(process: int) -> None:
    """Return when every thread of a process that was told to stop has stopped."""
    patience = time.monotonic() + 20
    while any(
        task.read_text().rpartition(")")[2].split()[0] != "T" for task in Path(f"/proc/{process}/task").glob("*/stat")
    ):
        assert time.monotonic() < patience
        time.sleep(0.01)


async def test_a_server_that_hangs_is_a_deadline(role: Role, opening: Opener) -> None:
    """The real one is stopped by a signal; all threads hang, and all come back."""
    backend = await opening(role, timeout_seconds=0.5, workers=2)
    await backend.create(LABEL, EC)
    if role.server.process is None:
        pytest.skip("only a process that the tests have started is stopped; the simulator has its own delays")
    os.kill(role.server.process, signal.SIGSTOP)
    try:
        await asyncio.to_thread(_stopped, role.server.process)
        answers = await asyncio.gather(*(sign(backend) for _ in range(4)), return_exceptions=True)
        assert {type(answer) for answer in answers} == {DeadlineError}
        assert (await backend.health()).ready is False
    finally:
        os.kill(role.server.process, signal.SIGCONT)
    await sign(backend)


async def test_nobody_listens_and_then_somebody_does(
    vault_clock: MovableClock, simulated: VaultServer, simulator: VaultSimulator, tmp_path: Path
) -> None:
    """The server's process is replaced by another one at the same address."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    role = provision(simulated, tmp_path)
    with serving(simulator, port=port) as address:
        backend = await open_backend(role.settings(address=address), clock=vault_clock)
        try:
            await backend.create(LABEL, EC)
        except BaseException:
            await backend.aclose()
            raise
    try:
        with pytest.raises(UnavailableError):
            await sign(backend)
        health = await backend.health()
        assert (health.ready, health.detail["state"]) == (False, "unreachable")
        with serving(simulator, port=port):
            await sign(backend)
            assert (await backend.health()).ready
    finally:
        await backend.aclose()


async def test_a_hung_server_does_not_hold_up_the_loop(
    simulator: VaultSimulator, simulated_role: Role, backend: VaultBackend
) -> None:
    """While the threads wait, other tasks run, and health still answers."""
    simulator.faults.add(Fault(signing(simulated_role), times=2, delay=0.4))
    hung = [asyncio.create_task(sign(backend)) for _ in range(2)]
    await asyncio.sleep(0.02)
    begin = time.monotonic()
    assert (await backend.health()).ready
    assert time.monotonic() - begin < 0.3
    await asyncio.gather(*hung)


@pytest.fixture
def tls_files(tmp_path: Path) -> tuple[Path, Path]:
    """A self-signed certificate of the loopback, and its key."""
    return self_signed(tmp_path)


@pytest.mark.parametrize("trusted", [True, False])
async def test_tls_is_verified_by_the_operators_roots(
    tls_files: tuple[Path, Path], vault_clock: MovableClock, tmp_path: Path, *, trusted: bool
) -> None:
    """With the right roots it works; with the system's alone nothing is sent."""
    certificate, key = tls_files
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with simulated_server(vault_clock) as server:
        role = provision(server, tmp_path)
        assert server.simulator is not None
        before = len(server.simulator.requests)
        with serving(server.simulator, tls=context) as address:
            changes = {"ca_file": certificate} if trusted else {}
            backend = await open_backend(
                role.settings(address=address, allow_plain_http=False, **changes), clock=vault_clock
            )
            try:
                if trusted:
                    await backend.create(LABEL, EC)
                    await sign(backend)
                    return
                with pytest.raises(UnavailableError, match="TLS"):
                    await backend.find(LABEL)
                assert len(server.simulator.requests) == before
            finally:
                await backend.aclose()
