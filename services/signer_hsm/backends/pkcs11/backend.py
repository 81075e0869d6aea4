"""The asynchronous face of a token: each call runs in a thread of this back end's own lane."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Literal

import structlog

from pkicore.algorithms import Algorithm, Payload, PrivateKey
from pkicore.clock import Clock
from services.signer_hsm.backends import Attestation, BackendHealth, BackendKey, Destruction, Fact, KeyLabel
from services.signer_hsm.backends.lane import Lane
from services.signer_hsm.backends.pkcs11 import keys, module
from services.signer_hsm.backends.pkcs11.operations import TokenKeys
from services.signer_hsm.backends.pkcs11.settings import read_pin
from services.signer_hsm.backends.pkcs11.token import TokenSessions, serial_of
from services.signer_hsm.backends.settings import Pkcs11Settings
from services.signer_hsm.errors import BackendError, KeyNotFoundError, NotOfferedError, UnavailableError
from services.signer_hsm.schemes import Scheme

_log = structlog.get_logger()


class Pkcs11Backend:
    """One token as a back end; see the protocol for what each method promises."""

    type: Literal["pkcs11"] = "pkcs11"

    def __init__(self, settings: Pkcs11Settings, loaded: module.Module, clock: Clock) -> None:
        self._settings = settings
        self._module = loaded
        self._clock = clock
        self._sessions = TokenSessions(loaded, settings)
        self._keys = TokenKeys(self._sessions)
        self._closed = False
        self.lane = Lane(settings.name, settings.workers, settings.queue)

    @classmethod
    async def open(cls, settings: Pkcs11Settings, *, clock: Clock) -> "Pkcs11Backend":
        """Load the module and try to log in.

        Raises:
            MisconfiguredError: what can never work: no module, no PIN.
        """
        read_pin(settings)
        backend = cls(settings, module.acquire(settings.module, settings.preload, settings.environment), clock)
        try:
            async with asyncio.timeout(settings.deadline_seconds):
                await backend._first_login()
        except TimeoutError:
            _log.error("pkcs11 token not ready", backend=settings.name, reason="it does not answer")
        except BackendError as error:
            _log.error("pkcs11 token not ready", backend=settings.name, reason=str(error), error=type(error).__name__)
        return backend

    async def _first_login(self) -> None:
        """Log in; once more after a moment: processes that start at the same instant can disturb each other."""
        try:
            await self.lane.run(self._sessions.connect)
        except UnavailableError as error:
            await asyncio.sleep(error.retry_after or 0)
            await self.lane.run(self._sessions.connect)

    @property
    def name(self) -> str:
        """Its name in the settings."""
        return self._settings.name

    @property
    def offers(self) -> Mapping[str, frozenset[Payload]]:
        """What the token offers, as of the last login; nothing before the first."""
        return self._sessions.offers

    @property
    def imports(self) -> frozenset[str]:
        """What the token offers, where the settings allow imports; it may yet refuse some of it."""
        return frozenset(self.offers) if self._settings.allow_import else frozenset()

    async def create(self, label: KeyLabel, algorithm: Algorithm) -> BackendKey:
        """Make a key that never leaves the token."""
        return await self.lane.run(self._keys.create, label, algorithm)

    async def import_key(self, label: KeyLabel, private_key: PrivateKey) -> BackendKey:
        """Bring in a key; its evidence says that it was not generated here."""
        if not self._settings.allow_import:
            raise NotOfferedError(f"the settings of {self.name} do not allow keys to be brought in")
        return await self.lane.run(self._keys.import_key, label, private_key)

    async def find(self, label: KeyLabel) -> BackendKey | None:
        """The key with this label, if the token is there and has none: None."""
        try:
            return await self.load(keys.handle_of(label))
        except KeyNotFoundError:
            return None

    async def load(self, handle: str) -> BackendKey:
        """The key with this handle."""
        return await self.lane.run(self._keys.load, handle)

    async def sign(
        self, handle: str, scheme: Scheme, kind: Payload, payloads: Sequence[bytes], *, once: bool = False
    ) -> Sequence[bytes | BackendError]:
        """Sign; one job of the lane for all payloads."""
        return await self.lane.run(self._keys.sign, handle, scheme, kind, payloads, once)

    async def set_enabled(self, handle: str, *, enabled: bool) -> None:
        """PKCS#11 knows no disabled keys: the service's own state has to do."""

    async def destroy(self, handle: str) -> Destruction:
        """Destroy at once; the proof is a search that no longer finds it."""
        proof = await self.lane.run(self._keys.destroy, handle)
        return Destruction(True, self._clock.now(), proof, found=proof["objects_destroyed"] != 0)

    async def attest(self, handle: str) -> Attestation:
        """The module's word; PKCS#11 has nothing that proves more."""
        return Attestation("attributes", "module", verified=False, claims=(await self.load(handle)).evidence)

    async def health(self) -> BackendHealth:
        """Whether token and login are there; logs in again if need be, but for a PIN that was refused."""
        if self.lane.exhausted:
            reason = "every thread is stuck in a call; only a restart helps"
            return BackendHealth(ready=False, detail={"reason": reason, **self.lane.facts()})
        try:
            return BackendHealth(ready=True, detail=await self.lane.run(self._look))
        except BackendError as error:
            return BackendHealth(
                ready=False, detail={"problem": error.cause, "reason": str(error), **self.lane.facts()}
            )

    def _look(self) -> Mapping[str, Fact]:
        token = self._sessions.look().token
        return {
            "token_label": token.label,
            "token_serial": serial_of(token),
            "model": token.model,
            "firmware": ".".join(map(str, token.firmware_version)),
            "logins": self._sessions.logins,
            **self.lane.facts(),
        }

    async def aclose(self) -> None:
        """Wait for the threads, close the sessions, give the module back; one that is stuck stays as it is."""
        if self._closed:
            return
        self._closed = True
        await self.lane.aclose()
        try:
            self._sessions.close()
            module.release(self._module)
        except BackendError as error:
            _log.error("pkcs11 module left open", backend=self.name, reason=str(error))
