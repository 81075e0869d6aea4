"""The Vault back end's world for the contract suite: a real OpenBao or Vault where there is one, else the simulator."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from pkicore.clock import Clock
from services.signer_hsm.backends import Facts
from services.signer_hsm.backends.vault import VaultBackend, open_backend
from tests.support.backend_world import BackendWorld
from tests.support.openbao import VaultServer, provision, real_server, real_server_missing
from tests.support.vault_simulator.server import Edition, VaultSimulator, serving

EVIDENCE: Facts = {"held_by": "vault-transit", "exportable": False, "allow_plaintext_backup": False, "derived": False}
CLASSICAL = ("ecdsa-p256", "ecdsa-p384", "ed25519", "rsa-2048")


@contextmanager
def simulated_server(clock: Clock, edition: Edition = "openbao") -> Iterator[VaultServer]:
    """The simulator as a server to test against."""
    simulator = VaultSimulator(clock, edition)
    with serving(simulator) as address:
        yield VaultServer(address, simulator.tokens.root, simulator.unseal_key, simulator)


@asynccontextmanager
async def world(tmp_path: Path, clock: Clock) -> AsyncIterator[BackendWorld]:
    """A Transit mount with the shipped policies and an AppRole."""
    server_of = simulated_server(clock) if real_server_missing() else real_server(tmp_path / "server")
    with server_of as server:
        settings = provision(server, tmp_path).settings(allow_import=True)

        async def open_again() -> VaultBackend:
            return await open_backend(settings, clock=clock)

        made = BackendWorld(
            backend=await open_again(),
            algorithms=CLASSICAL,
            open_again=open_again,
            evidence=EVIDENCE,
            disables=False,
        )
        try:
            yield made
        finally:
            await made.backend.aclose()
