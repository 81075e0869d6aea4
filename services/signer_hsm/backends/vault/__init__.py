"""Keys in HashiCorp Vault or OpenBao, Transit engine: they are made there and never leave.

Each key version is a Transit key of its own, named by its label `TENANT.NAME.vN`. Transit knows no disabled keys: the
service's own state has to do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final

import structlog

from pkicore.algorithms import ALGORITHMS, Algorithm, Payload, PrivateKey, algorithm_of
from pkicore.clock import Clock
from services.chassis.observability import current_request_id
from services.signer_hsm.backends import Attestation, BackendHealth, BackendKey, Destruction, Fact, KeyLabel
from services.signer_hsm.backends.lane import Lane
from services.signer_hsm.backends.settings import VaultSettings
from services.signer_hsm.backends.vault.http import VaultHttp
from services.signer_hsm.backends.vault.keys import kinds_of, transit_type
from services.signer_hsm.backends.vault.server import ServerState, ask, diagnosed
from services.signer_hsm.backends.vault.session import Session
from services.signer_hsm.backends.vault.transit import Transit
from services.signer_hsm.errors import BackendError, NotOfferedError
from services.signer_hsm.schemes import Scheme

__all__ = ["VaultBackend", "open_backend"]

UPKEEP_SECONDS: Final = 1.0
"""How often the token's time is looked at; nothing is sent before a renewal is due."""
_UPKEEP_QUEUE: Final = 8

_log = structlog.get_logger(__name__)


class VaultBackend:
    """One Transit mount; its calls run in a lane of their own, renewals and health in another one."""

    def __init__(self, settings: VaultSettings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._http = VaultHttp(settings)
        self._session = Session(self._http, settings, clock)
        self._transit = Transit(self._session, settings.mount, lambda error: diagnosed(self._http, error))
        self._state: ServerState | None = None
        self._upkeep = Lane(f"{settings.name}-upkeep", 1, _UPKEEP_QUEUE)
        self._keeper: asyncio.Task[None] | None = None
        self.lane = Lane(settings.name, settings.workers, settings.queue)

    @property
    def name(self) -> str:
        """Its name in the settings."""
        return self._settings.name

    @property
    def type(self) -> str:
        """Always vault."""
        return "vault"

    @property
    def offers(self) -> Mapping[str, frozenset[Payload]]:
        """The classical algorithms, and ML-DSA once the server has said that it is of a version that has it."""
        return {
            algorithm.name: kinds_of(algorithm)
            for algorithm in ALGORITHMS.values()
            if algorithm.family != "mldsa" or (self._state is not None and self._state.mldsa)
        }

    @property
    def imports(self) -> frozenset[str]:
        """The classical algorithms, if the settings allow it."""
        if not self._settings.allow_import:
            return frozenset()
        return frozenset(algorithm.name for algorithm in ALGORITHMS.values() if algorithm.family != "mldsa")

    async def open(self, upkeep_seconds: float) -> None:
        """Ask which algorithms there are, and begin to keep the token alive; a server that is down is no error.

        Raises:
            MisconfiguredError: a file with credentials is missing, empty or open to others.
        """
        self._session.check_files()
        try:
            await self._ask()
        except BackendError as error:
            _log.warning("vault not ready", backend=self.name, reason=str(error))
        self._keeper = asyncio.create_task(self._keep(upkeep_seconds), name=f"{self.name}-upkeep")

    async def create(self, label: KeyLabel, algorithm: Algorithm) -> BackendKey:
        """Make a key that never leaves the server.

        Raises:
            NotOfferedError: the server has no such algorithm.
            WrongStateError: there is a Transit key of that name which must not be taken over.
            BackendError: any other failure.
        """
        if algorithm.name not in self.offers and self._state is None:
            await self._ask()
        if algorithm.name not in self.offers:
            raise NotOfferedError(f"this Vault makes no keys of algorithm {algorithm.name}")
        pure_names = self._state is not None and self._state.mldsa == "openbao"
        parameters = transit_type(algorithm, pure_names=pure_names)
        return await self.lane.run(self._transit.create, label, algorithm, parameters, current_request_id())

    async def import_key(self, label: KeyLabel, private_key: PrivateKey) -> BackendKey:
        """Bring in an existing key, wrapped for the server's own key.

        Raises:
            NotOfferedError: the settings do not allow it, or Transit takes no such key.
            WrongStateError: there is another key with this label.
            BackendError: any other failure.
        """
        name = algorithm_of(private_key.public_key()).name
        if name not in self.imports:
            raise NotOfferedError(f"the import of {name} keys is not offered by this back end")
        return await self.lane.run(self._transit.import_key, label, private_key, current_request_id())

    async def find(self, label: KeyLabel) -> BackendKey | None:
        """The key version with this label, None if there is none."""
        return await self.lane.run(self._transit.find, label, current_request_id())

    async def load(self, handle: str) -> BackendKey:
        """The key version behind a handle.

        Raises:
            KeyNotFoundError: it is gone.
            BackendError: any other failure.
        """
        return await self.lane.run(self._transit.load, handle, current_request_id())

    async def sign(
        self,
        handle: str,
        scheme: Scheme,
        kind: Payload,
        payloads: Sequence[bytes],
        *,
        once: bool = False,  # noqa: ARG002 - Backend's; only what the server has refused is repeated here
    ) -> Sequence[bytes | BackendError]:
        """One signature per payload; several go in one batch.

        Raises:
            NotOfferedError: mu, or a digest of an algorithm that has its own hash: Transit would sign it as a message.
            BackendError: none could be signed.
        """
        return await self.lane.run(self._transit.sign, handle, scheme, kind, payloads, current_request_id())

    async def set_enabled(self, handle: str, *, enabled: bool) -> None:
        """Nothing: Transit has no such state for one version, so the service's own has to do."""

    async def destroy(self, handle: str) -> Destruction:
        """Delete the Transit key. Safe to repeat."""
        proof = await self.lane.run(self._transit.remove, handle, current_request_id())
        return Destruction(final=True, at=self._clock.now(), proof=proof)

    async def attest(self, handle: str) -> Attestation:
        """The server's word on how the key is held; it has no device to vouch for it."""
        key = await self.load(handle)
        return Attestation(format="attributes", by="module", verified=False, claims=key.evidence)

    async def health(self) -> BackendHealth:
        """Whether signing would work now: the server serves, and the token stands."""
        detail: dict[str, Fact] = {"state": "unreachable"}
        try:
            state = await self._ask()
            detail |= {"state": state.state, "sealed": state.state == "sealed", "version": state.version}
            if state.serves:
                await self._upkeep.run(self._session.lookup)
        except BackendError as error:
            return BackendHealth(False, {**detail, **self._facts(), "problem": error.cause, "reason": str(error)})
        return BackendHealth(state.serves and not self.lane.exhausted, {**detail, **self._facts()})

    async def aclose(self) -> None:
        """Give back threads and connections; the token is left to expire."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
            self._keeper = None
        await self.lane.aclose()
        await self._upkeep.aclose()
        self._http.close()

    def _facts(self) -> Mapping[str, Fact]:
        left = self._session.seconds_left
        token = {} if left is None else {"token_ttl_seconds": left}
        return {**token, **self.lane.facts()}

    async def _ask(self) -> ServerState:
        self._state = await self._upkeep.run(ask, self._http)
        return self._state

    async def _keep(self, seconds: float) -> None:
        """Renew the token when two thirds of its time are over; signing goes on with it meanwhile."""
        pause = seconds
        while True:
            await asyncio.sleep(pause)
            if not self._session.renewal_due:
                continue
            try:
                await self._upkeep.run(self._session.renew)
                pause = seconds
            except BackendError as error:
                _log.warning("vault token not renewed", backend=self.name, reason=str(error))
                pause = min(pause * 2, 30.0)


async def open_backend(
    settings: VaultSettings, *, clock: Clock, upkeep_seconds: float = UPKEEP_SECONDS
) -> VaultBackend:
    """A back end over one Transit mount; a server that is down or sealed now may come back later.

    Args:
        settings: its part of the settings file.
        clock: for the token's time and for destructions.
        upkeep_seconds: how often the token's time is looked at.

    Raises:
        MisconfiguredError: the settings cannot work.
    """
    backend = VaultBackend(settings, clock)
    await backend.open(upkeep_seconds)
    return backend
