"""Fixtures of the Vault tests: each test runs against the simulator and, where there is one, against a real server.

A test module says `pytest_plugins = ("tests.support.vault_fixtures",)`, and may import from here, for which
PYTEST_DONT_REWRITE stands here.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from pkicore.clock import Clock, SystemClock
from services.signer_hsm.backends.vault import VaultBackend, open_backend
from tests.support.backend_vault import simulated_server
from tests.support.openbao import Role, VaultServer, provision, real_server, real_server_missing
from tests.support.vault_simulator.server import VaultSimulator

Opener: TypeAlias = Callable[..., Awaitable[VaultBackend]]


class MovableClock:
    """The machine's clock, moved on when told; a real server's time goes on with the machine's."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._ahead = timedelta()

    def now(self) -> datetime:
        """The present, and what has been added to it."""
        return self._clock.now() + self._ahead

    def advance(self, step: timedelta) -> None:
        """Let time pass."""
        self._ahead += step


@pytest.fixture
def vault_clock() -> MovableClock:
    """The clock of the back end and of the simulator."""
    return MovableClock(SystemClock())


@pytest.fixture(scope="session")
def real_vault(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VaultServer]:
    """One real server for all tests of a process, each of which makes its own mounts."""
    missing = real_server_missing()
    if missing:
        pytest.skip(missing)
    with real_server(tmp_path_factory.mktemp("vault")) as server:
        yield server


@pytest.fixture(params=["simulator", "real"])
def vault(request: pytest.FixtureRequest, vault_clock: MovableClock) -> Iterator[VaultServer]:
    """A server with no mounts of this test yet."""
    if request.param == "real":
        real: VaultServer = request.getfixturevalue("real_vault")
        yield VaultServer(real.address, real.root_token, real.unseal_key, process=real.process)
        return
    with simulated_server(vault_clock) as server:
        yield server


@pytest.fixture
def simulated(vault_clock: MovableClock) -> Iterator[VaultServer]:
    """The simulator alone, for faults that no real server makes on order."""
    with simulated_server(vault_clock) as server:
        yield server


@pytest.fixture
def simulator(simulated: VaultServer) -> VaultSimulator:
    """The inside of the simulator."""
    assert simulated.simulator is not None
    return simulated.simulator


@pytest.fixture
def role(vault: VaultServer, tmp_path: Path) -> Role:
    """The service's AppRole, with all shipped policies that it may have."""
    return provision(vault, tmp_path)


@pytest.fixture
def simulated_role(simulated: VaultServer, tmp_path: Path) -> Role:
    """The same at the simulator."""
    return provision(simulated, tmp_path)


@pytest.fixture
async def opening(vault_clock: MovableClock) -> AsyncIterator[Opener]:
    """Opens back ends, and closes them at the end."""
    opened: list[VaultBackend] = []

    async def opener(role: Role, *, upkeep_seconds: float = 60, **changes: Any) -> VaultBackend:  # noqa: ANN401 - fields of the settings
        backend = await open_backend(role.settings(**changes), clock=vault_clock, upkeep_seconds=upkeep_seconds)
        opened.append(backend)
        return backend

    yield opener
    for backend in opened:
        await backend.aclose()
