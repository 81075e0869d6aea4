"""A stopped deployment as the keys commands meet it, with signer-hsm in this process instead of one of its own.

The ceremony is real, and so are files, settings, both databases and the file back end (named `device`). What stands in
is the listener: the client calls signer-hsm's application in memory, under the key policy that a process would get.
"""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pkicore.clock import Clock
from pkicore.identity import SpiffeId
from services.ca.ceremony import hold_ceremony
from services.ca.cold_start import NobodySigns, open_core, signer_state
from services.ca.core import Core
from services.ca.deployment import Deployment, Ports
from services.ca.destruction import Destruction
from services.ca.key_places import KeyPlaces
from services.ca.layout import SIGNER, Layout
from services.ca.migration import Migration
from services.ca.presence import NothingRuns
from services.ca.rollover import Rollover
from services.ca.root_rollover import RootRollover
from services.ca.settings import CaSettings
from services.ca.stopped import StoppedDeployment
from services.ca.temporary_signer import SignerState
from services.chassis.audit import audit_records
from services.chassis.database import Database
from services.chassis.settings import load_settings
from services.signer_hsm.backends.file import open_backend
from services.signer_hsm.backends.settings import FileSettings
from services.signer_hsm.client import SignerClient
from tests.support.clock import ManualClock
from tests.support.signer_world import CA, TRUST_DOMAIN, SignerWorld

BACKEND: Final = "device"
_PORTS: Final = Ports(5000, 5080, 5090, 4000, 4090)


@asynccontextmanager
async def open_signer(state: SignerState, clock: ManualClock) -> AsyncIterator[SignerWorld]:
    """signer-hsm with the state's database, key policy and file back end."""
    backend = await open_backend(FileSettings.model_validate(state.backends[0]), clock=clock)
    world = await SignerWorld.open(state.database_url, clock=clock, policy=state.key_policy, backend=backend)
    try:
        yield world
    finally:
        await world.close()
        await backend.aclose()


@dataclass
class StoppedWorld:
    """One deployment.

    Attributes:
        said: what commands told.
    """

    layout: Layout
    clock: ManualClock
    said: list[str] = field(default_factory=list)

    @classmethod
    async def make(cls, directory: Path) -> StoppedWorld:
        """Hold the ceremony; the issuing keys are in files."""
        world = cls(Layout(directory), ManualClock())
        deployment = Deployment("Test", TRUST_DOMAIN, "127.0.0.1", _PORTS)
        await hold_ceremony(
            world.layout, deployment, passphrase_file=None, clock=world.clock, progress=lambda _line: None
        )
        return world

    @classmethod
    def copied(cls, made: Path, directory: Path) -> StoppedWorld:
        """A copy that is in no other's way."""
        shutil.copytree(made, directory)
        for path in (directory / "config").glob("*.toml"):
            path.write_text(path.read_text().replace(str(made), str(directory)))
        return cls(Layout(directory), ManualClock())

    @property
    def deployment(self) -> StoppedDeployment:
        """As `ztca keys` has it under its lock."""
        clock = self.clock

        @asynccontextmanager
        async def start(
            _beside: Path, state: SignerState, caller: SpiffeId, *, environment: Mapping[str, str], pool: Executor
        ) -> AsyncIterator[SignerClient]:
            del environment, pool
            async with open_signer(state, clock) as signer:
                yield signer.client(caller)

        return StoppedDeployment(self.layout, {}, clock, self.said.append, start)

    @property
    def migration(self) -> Migration:
        """`ztca keys migrate` and `rollback`."""
        return Migration(self.deployment)

    @property
    def destruction(self) -> Destruction:
        """`ztca keys destroy-files`."""
        return Destruction(self.deployment)

    def rollover(self, pool: Executor) -> Rollover:
        """`ztca ca prepare`, `activate`, `retire`."""
        return Rollover(self.deployment, NothingRuns(), KeyPlaces(self.deployment, runs=False), pool)

    def root_rollover(self, pool: Executor) -> RootRollover:
        """`ztca ca prepare-root`, `activate-root`, `retire-root`."""
        return RootRollover(self.deployment, NothingRuns(), pool)

    @property
    def backends(self) -> tuple[Mapping[str, Any], ...]:
        """What `--signer-backends` would have."""
        keys, passphrase = self.layout.signer_keys, self.layout.passphrase
        return ({"name": BACKEND, "type": "file", "directory": str(keys), "passphrase_file": str(passphrase)},)

    @property
    def settings(self) -> CaSettings:
        """The CA's, as they are now."""
        return load_settings(CaSettings, self.layout.settings("ca"))

    def change_key_policy(self, old: str, new: str) -> None:
        """Edit keys.toml."""
        text = self.layout.key_policy.read_text()
        assert old in text
        self.layout.key_policy.write_text(text.replace(old, new))

    @asynccontextmanager
    async def signer(self) -> AsyncIterator[SignerWorld]:
        """The deployment's signer-hsm, as it runs under `ztca up`."""
        async with open_signer(signer_state(self.layout, {}), self.clock) as world:
            yield world

    @asynccontextmanager
    async def ca(self) -> AsyncIterator[Core]:
        """The deployment's CA, as it runs under `ztca up`, with signer-hsm where there is one."""
        if SIGNER not in self.layout.services:
            async with self._ca(NobodySigns()) as core:
                yield core
            return
        async with self.signer() as signer, self._ca(signer.client(CA)) as core:
            yield core

    @asynccontextmanager
    async def _ca(self, signer: NobodySigns | SignerClient) -> AsyncIterator[Core]:
        clock: Clock = self.clock
        database = await Database.open(self.settings.database_url, clock=clock)
        try:
            with ThreadPoolExecutor(2) as pool:
                core = await open_core(self.settings, database, signer, clock, pool)
                await core.start()
                yield core
        finally:
            await database.close()

    async def events(self, prefix: str) -> list[tuple[str, Mapping[str, Any]]]:
        """Those of the CA's audit log, with their details."""
        database = await Database.open(self.settings.database_url, clock=self.clock)
        try:
            records = [stored.record async for stored in audit_records(database)]
        finally:
            await database.close()
        return [(record.event, record.detail) for record in records if record.event.startswith(prefix)]
