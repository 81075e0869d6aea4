"""Keys in sealed files: for development, for tests, and for machines without a device.

Whoever can read this process's memory, or the directory and the passphrase, has the keys; the evidence says so. A key
is unsealed once (scrypt takes about a quarter of a second) and then signs from memory: P-256, P-384 and Ed25519 on the
event loop, the slow ones and long batches in the lane.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Final, TypeVar, TypeVarTuple

from pkicore.algorithms import ALGORITHMS, Algorithm, Payload, PrivateKey, algorithm_of
from pkicore.clock import Clock
from pkicore.errors import KeyAccessError, PkiError, UnsupportedError
from pkicore.keys.passphrase import read_passphrase
from services.signer_hsm.backends import Attestation, BackendHealth, BackendKey, Destruction, KeyLabel
from services.signer_hsm.backends.key_directory import KeyDirectory, OpenKey
from services.signer_hsm.backends.lane import Lane
from services.signer_hsm.backends.payloads import check_offered, kinds_of, sign_payload
from services.signer_hsm.backends.settings import FileSettings
from services.signer_hsm.errors import (
    BackendError,
    KeyNotFoundError,
    MisconfiguredError,
    NotOfferedError,
    UnavailableError,
    WrongStateError,
)
from services.signer_hsm.schemes import Scheme

__all__ = ["FileBackend", "open_backend"]

_INLINE_PAYLOADS: Final = 8  # about 2 ms of P-384; more would hold up everybody else's requests

T = TypeVar("T")
Args = TypeVarTuple("Args")


async def open_backend(settings: FileSettings, *, clock: Clock) -> FileBackend:
    """The keys in the settings' directory, which is made where it is missing.

    Raises:
        MisconfiguredError: no passphrase, one that does not open the keys, or a directory that is open to others.
        UnavailableError: the directory cannot be made or read.
    """
    lane = Lane(settings.name, settings.workers, settings.queue)
    try:
        directory = await lane.run(_open_directory, settings)
    except BaseException:
        await lane.aclose()
        raise
    return FileBackend(settings, clock, lane, directory)


def _open_directory(settings: FileSettings) -> KeyDirectory:
    try:
        directory = KeyDirectory(settings.directory, read_passphrase(settings.passphrase_file))
        directory.prepare()
    except KeyAccessError as error:
        raise MisconfiguredError(f"the back end {settings.name}: {error}") from error
    except OSError as error:
        raise UnavailableError(f"the key directory of the back end {settings.name} cannot be used") from error
    return directory


class FileBackend:
    """One directory of keys."""

    type: Final = "file"

    def __init__(self, settings: FileSettings, clock: Clock, lane: Lane, directory: KeyDirectory) -> None:
        self.name = settings.name
        self.lane = lane
        self._clock = clock
        self._keys = directory

    @property
    def offers(self) -> Mapping[str, frozenset[Payload]]:
        """Every algorithm of the table."""
        return _OFFERS

    @property
    def imports(self) -> frozenset[str]:
        """Every algorithm of the table."""
        return frozenset(_OFFERS)

    async def create(self, label: KeyLabel, algorithm: Algorithm) -> BackendKey:
        """A new sealed file with a new key."""
        if algorithm.name not in _OFFERS:
            raise NotOfferedError(f"keys of algorithm {algorithm.name} are not made here")
        return await self._run(self._keys.create, label, algorithm)

    async def import_key(self, label: KeyLabel, private_key: PrivateKey) -> BackendKey:
        """A new sealed file with the given key."""
        try:
            algorithm = algorithm_of(private_key.public_key())
        except PkiError as error:
            raise NotOfferedError("keys of that kind are not taken in") from error
        return await self._run(self._keys.create, label, algorithm, private_key)

    async def find(self, label: KeyLabel) -> BackendKey | None:
        """The key of that label; its file is unsealed for it."""
        try:
            return await self.load(str(label))
        except KeyNotFoundError:
            return None

    async def load(self, handle: str) -> BackendKey:
        """The key, as its file says."""
        return (await self._open(handle)).told

    async def sign(
        self,
        handle: str,
        scheme: Scheme,
        kind: Payload,
        payloads: Sequence[bytes],
        *,
        once: bool = False,  # noqa: ARG002 - Backend's; nothing is repeated here
    ) -> Sequence[bytes | BackendError]:
        """Signatures, at once where the key is quick and in memory."""
        key = await self._open(handle)
        _check_signs(key, scheme, kind)
        if key.told.algorithm.signs_inline and len(payloads) <= _INLINE_PAYLOADS:
            return _sign(key.private_key, scheme, kind, payloads)
        return await self._run(_sign, key.private_key, scheme, kind, payloads)

    async def set_enabled(self, handle: str, *, enabled: bool) -> None:
        """Rename the file: its suffix is the state."""
        await self._run(lambda: self._keys.set_enabled(handle, enabled=enabled))

    async def destroy(self, handle: str) -> Destruction:
        """Overwrite and unlink the file."""
        done = await self._run(self._keys.destroy, handle)
        proof = {**(done or {"method": "none: there is no such file"}), "directory": self._keys.id}
        return Destruction(final=True, at=self._clock.now(), proof=proof, found=done is not None)

    async def attest(self, handle: str) -> Attestation:
        """This module's word: the key lies in a file."""
        await self._open(handle)
        return Attestation("attributes", by="module", verified=False, claims=self._keys.evidence)

    async def health(self) -> BackendHealth:
        """Ready while the directory is the one that was opened."""
        try:
            await self._run(self._keys.require_present)
        except BackendError as error:
            return BackendHealth(False, {"problem": error.cause, "reason": str(error), **self.lane.facts()})
        return BackendHealth(True, {"directory": self._keys.id, **self.lane.facts()})

    async def aclose(self) -> None:
        """End the threads, and keep no key in memory."""
        await self.lane.aclose()
        self._keys.forget()

    async def _open(self, handle: str) -> OpenKey:
        opened = self._keys.opened(handle)
        return opened if opened is not None else await self._run(self._keys.open, handle)

    async def _run(self, function: Callable[[*Args], T], *args: *Args) -> T:
        try:
            return await self.lane.run(function, *args)
        except UnsupportedError as error:
            raise NotOfferedError(str(error)) from error
        except (PkiError, OSError) as error:
            raise UnavailableError(f"the key directory of the back end {self.name} cannot be used") from error


def _check_signs(key: OpenKey, scheme: Scheme, kind: Payload) -> None:
    check_offered(key.told.algorithm, key.told.kinds, scheme, kind)
    if not key.told.enabled:
        raise WrongStateError(f"the key {key.told.handle} is disabled")


def _sign(private_key: PrivateKey, scheme: Scheme, kind: Payload, payloads: Sequence[bytes]) -> list[bytes]:
    return [sign_payload(private_key, scheme, kind, payload) for payload in payloads]


_OFFERS: Final[Mapping[str, frozenset[Payload]]] = MappingProxyType(
    {name: kinds_of(algorithm) for name, algorithm in ALGORITHMS.items()}
)
