"""A back end that does what the test says; the simulated outside world of the guard."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

from pkicore.algorithms import ALGORITHMS, Algorithm, Payload, PrivateKey, generate_private_key
from services.signer_hsm.backends import Attestation, BackendHealth, BackendKey, Destruction, KeyLabel
from services.signer_hsm.backends.lane import Lane
from services.signer_hsm.backends.payloads import sign_payload
from services.signer_hsm.errors import BackendError
from services.signer_hsm.schemes import Scheme


class ScriptedBackend:
    """Signs with a key in memory, after what the script does; each call is noted.

    Attributes:
        calls: the names of the calls, in order.
        script: errors to raise, or coroutines to await, one per call, the first first; None: go on.
        answers: what `sign` answers instead of signatures, one per call.
        state: what `health` answers.
    """

    type: Final = "file"

    def __init__(self, name: str = "scripted", algorithm: str = "ecdsa-p256", lane: Lane | None = None) -> None:
        self.name = name
        self.private_key: PrivateKey = generate_private_key(ALGORITHMS[algorithm])
        self.key = BackendKey("handle", ALGORITHMS[algorithm], self.private_key.public_key(), frozenset({"digest"}))
        self.calls: list[str] = []
        self.script: list[BackendError | Callable[[], Awaitable[object]] | None] = []
        self.answers: list[Sequence[bytes | BackendError]] = []
        self.state = BackendHealth(True, {"colour": "green"})
        if lane is not None:
            self.lane = lane

    @property
    def offers(self) -> Mapping[str, frozenset[Payload]]:
        """Its one algorithm."""
        return {self.key.algorithm.name: self.key.kinds}

    @property
    def imports(self) -> frozenset[str]:
        """Its one algorithm."""
        return frozenset(self.offers)

    async def _act(self, name: str) -> None:
        self.calls.append(name)
        act = self.script.pop(0) if self.script else None
        if isinstance(act, BackendError):
            raise act
        if act is not None:
            await act()

    async def create(self, label: KeyLabel, algorithm: Algorithm) -> BackendKey:
        """Its one key."""
        del label, algorithm
        await self._act("create")
        return self.key

    async def import_key(self, label: KeyLabel, private_key: PrivateKey) -> BackendKey:
        """Its one key."""
        del label, private_key
        await self._act("import")
        return self.key

    async def find(self, label: KeyLabel) -> BackendKey | None:
        """Its one key."""
        del label
        await self._act("find")
        return self.key

    async def load(self, handle: str) -> BackendKey:
        """Its one key."""
        del handle
        await self._act("load")
        return self.key

    async def sign(
        self, handle: str, scheme: Scheme, kind: Payload, payloads: Sequence[bytes], *, once: bool = False
    ) -> Sequence[bytes | BackendError]:
        """Signatures, or the next of `answers`."""
        del handle, once
        await self._act("sign")
        if self.answers:
            return self.answers.pop(0)
        return [sign_payload(self.private_key, scheme, kind, payload) for payload in payloads]

    async def set_enabled(self, handle: str, *, enabled: bool) -> None:
        """Nothing."""
        del handle
        await self._act("enable" if enabled else "disable")

    async def destroy(self, handle: str) -> Destruction:
        """Not in this script."""
        del handle
        await self._act("destroy")
        raise NotImplementedError

    async def attest(self, handle: str) -> Attestation:
        """A word."""
        del handle
        await self._act("attest")
        return Attestation("attributes", "module", False, {"colour": "green"})

    async def health(self) -> BackendHealth:
        """The state that the test set."""
        await self._act("health")
        return self.state

    async def aclose(self) -> None:
        """Noted."""
        await self._act("aclose")
