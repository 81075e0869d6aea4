"""The back end: each key version of ours is a crypto key with one version."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from types import MappingProxyType
from typing import Final, TypeAlias, TypeVar

from google.cloud import kms_v1

from pkicore.algorithms import Algorithm, Payload, PrivateKey, PublicKey
from pkicore.clock import Clock, from_unix, unix
from services.signer_hsm.backends import Attestation, BackendHealth, BackendKey, Destruction, Fact, KeyLabel
from services.signer_hsm.backends.gcp_kms.algorithms import KmsAlgorithm, new_key_rows
from services.signer_hsm.backends.gcp_kms.answers import (
    KnownVersion,
    checked_public_key,
    checked_signature,
    known_version,
    public_key_request,
    sign_request,
)
from services.signer_hsm.backends.gcp_kms.calls import RETRY_SECONDS, KmsCalls
from services.signer_hsm.backends.gcp_kms.creation import KeyCreation, State, is_labelled
from services.signer_hsm.backends.gcp_kms.evidence import attestation_of, destruction_of, evidence_of, word
from services.signer_hsm.backends.gcp_kms.names import Names, labels_of
from services.signer_hsm.backends.settings import CREATE_DEADLINES, GcpKmsSettings
from services.signer_hsm.errors import (
    BackendError,
    BadAnswerError,
    BusyError,
    DeadlineError,
    KeyNotFoundError,
    NotOfferedError,
    ThrottledError,
    UnavailableError,
    WrongStateError,
    gravest,
    nothing_done,
)
from services.signer_hsm.schemes import Scheme

Answer = TypeVar("Answer")
Trying: TypeAlias = Callable[[Callable[[], Awaitable[bytes]]], Awaitable[bytes]]

MAX_KNOWN: Final = 4096
_NEVER_MADE: Final = frozenset({State.GENERATION_FAILED, State.IMPORT_FAILED})
_GONE: Final = frozenset({State.DESTROYED, State.PENDING_EXTERNAL_DESTRUCTION, State.EXTERNAL_DESTRUCTION_FAILED})


class GcpKmsBackend:
    """One project, location and key ring prefix of Cloud KMS.

    Algorithm, protection level and public key of a version never change, so they are kept once seen; its state is not.
    """

    type = "gcp_kms"

    def __init__(self, settings: GcpKmsSettings, calls: KmsCalls, clock: Clock) -> None:
        self._settings = settings
        self._calls = calls
        self._clock = clock
        self._names = Names(settings)
        self._creation = KeyCreation(calls, self._names)
        self._rows = new_key_rows(settings.rsa_scheme)
        self._known: dict[str, KnownVersion] = {}
        self._public_keys: dict[str, PublicKey] = {}

    @property
    def name(self) -> str:
        """Its name in the settings."""
        return self._settings.name

    @property
    def offers(self) -> Mapping[str, frozenset[Payload]]:
        """What KMS has; which protection level a location has an algorithm at shows when a key is made."""
        return MappingProxyType({name: frozenset({row.kind}) for name, row in self._rows.items()})

    @property
    def imports(self) -> frozenset[str]:
        """None: KMS takes keys by import jobs only, wrapped by hand."""
        return frozenset()

    async def create(self, label: KeyLabel, algorithm: Algorithm) -> BackendKey:
        """Make a key, or take over the one that an earlier try made without our hearing of it.

        Raises:
            NotOfferedError: KMS, or the location at this protection level, does not have the algorithm.
            WrongStateError: the name is taken by another key, or the label's key is disabled or destroyed.
            DeadlineError: it may have been made; `find` tells.
            BackendError: any other failure.
        """
        row = self._rows.get(algorithm.name)
        if row is None:
            raise NotOfferedError(f"{self.name}: KMS has no signing keys of algorithm {algorithm.name}")
        in_software = algorithm.name in self._settings.software_algorithms
        level: kms_v1.ProtectionLevel = kms_v1.ProtectionLevel.__members__[
            "SOFTWARE" if in_software else self._settings.protection_level
        ]
        async with self._within_deadline(self._deadline(CREATE_DEADLINES)):
            await self._creation.make(label, row, level)
            try:
                return await self._made(label, row, level)
            except (UnavailableError, ThrottledError, BusyError) as error:
                raise DeadlineError(f"{self.name}: the key is made, but KMS does not show it") from error

    async def import_key(self, label: KeyLabel, private_key: PrivateKey) -> BackendKey:  # noqa: ARG002 - Backend's
        """Not offered.

        Raises:
            NotOfferedError: always; docs/operations/gcp-kms.md says how to import by hand, and why to roll instead.
        """
        raise NotOfferedError(f"{self.name}: KMS takes existing keys by import jobs only; make a new key instead")

    async def find(self, label: KeyLabel) -> BackendKey | None:
        """The version with this label.

        One that is destroyed or could not be generated is none, nor is another owner's key of the same name.
        """
        async with self._within_deadline():
            try:
                key = await self._creation.read_key(label)
                version = await self._creation.generated(await self._creation.read(self._names.version(label)))
            except KeyNotFoundError:
                return None
            if version.state in _GONE | _NEVER_MADE or not is_labelled(key, dict(labels_of(label))):
                return None
            return await self._described(self._names.version(label), version)

    async def load(self, handle: str) -> BackendKey:
        """The version behind a handle.

        KMS gives out public keys of enabled versions only: one that this process has not seen enabled is WrongState.

        Raises:
            KeyNotFoundError: there is none, or it is destroyed.
            WrongStateError: it is disabled and its public key not known here.
            BackendError: any other failure.
        """
        name = self._names.checked(handle)
        async with self._within_deadline():
            version = await self._creation.read(name)
            if version.state in _GONE:
                raise KeyNotFoundError(f"{self.name}: the key version is destroyed")
            return await self._described(name, version)

    async def sign(
        self, handle: str, scheme: Scheme, kind: Payload, payloads: Sequence[bytes], *, once: bool = False
    ) -> Sequence[bytes | BackendError]:
        """One signature per payload, each a request of its own.

        Raises:
            NotOfferedError: the version is bound to another scheme or payload kind.
            BackendError: none could be signed.
        """
        name = self._names.checked(handle)
        until = self._deadline()
        with nothing_done():
            async with self._within_deadline(until):
                known = self._known.get(name) or self._keep(known_version(await self._creation.read(name), name))
        if (scheme.name, kind) != (known.row.scheme, known.row.kind):
            raise NotOfferedError(f"{self.name}: this key version signs {known.row.scheme} of a {known.row.kind} only")
        answers = await self._sign_all(known, payloads, until, _once if once else _at_most_twice)
        failures = [answer for answer in answers if isinstance(answer, BackendError)]
        if failures and len(failures) == len(answers):
            raise gravest(failures)
        return answers

    async def _sign_all(
        self, known: KnownVersion, payloads: Sequence[bytes], until: float, trying: Trying
    ) -> Sequence[bytes | BackendError]:
        """At most `workers` of a batch are under way or waiting, so that no batch fills the queue."""
        answers: list[bytes | BackendError] = [b""] * len(payloads)
        remaining = iter(enumerate(payloads))

        async def work() -> None:
            for at, payload in remaining:
                answers[at] = await self._sign_one(known, payload, until, trying)

        if len(payloads) == 1:
            await work()  # the usual case, without another task
        else:
            await asyncio.gather(*(work() for _ in range(min(self._settings.workers, len(payloads)))))
        return answers

    async def _sign_one(
        self, known: KnownVersion, payload: bytes, until: float, trying: Trying
    ) -> bytes | BackendError:
        request = sign_request(known, payload)

        async def attempt() -> bytes:
            return checked_signature(known, await self._calls.ask(self._calls.client.asymmetric_sign, request))

        try:
            async with self._within_deadline(until):
                return await trying(attempt)
        except BackendError as error:
            return error

    async def set_enabled(self, handle: str, *, enabled: bool) -> None:
        """Disable or enable the version; KMS may take minutes until a disabled version signs nowhere."""
        name = self._names.checked(handle)
        async with self._within_deadline():
            await self._set_state(await self._creation.read(name), State.ENABLED if enabled else State.DISABLED)

    async def destroy(self, handle: str) -> Destruction:
        """Disable the version and schedule its destruction; until then KMS could restore it."""
        name = self._names.checked(handle)
        async with self._within_deadline():
            version = await self._creation.read(name)
            if version.state not in _GONE | {State.DESTROY_SCHEDULED}:
                version = await self._scheduled(version)
        final = version.state in _GONE
        at = version.destroy_event_time if final else version.destroy_time
        if at is None:
            raise BadAnswerError(f"{self.name}: KMS does not say when the key version is destroyed")
        return Destruction(final, from_unix(unix(at)), destruction_of(version, self._clock.now()))

    async def attest(self, handle: str) -> Attestation:
        """The HSM's statement, unverified, or KMS's word for a key in software.

        Raises:
            BadAnswerError: the statement is garbage.
            BackendError: any other failure.
        """
        name = self._names.checked(handle)
        async with self._within_deadline():
            version = await self._creation.read(name)
        known_version(version, name)
        return attestation_of(version)

    async def health(self) -> BackendHealth:
        """Whether KMS answers us: the first key ring is asked for."""
        began = time.monotonic()
        load: dict[str, Fact] = {"under_way": self._calls.under_way, "waiting": self._calls.waiting}
        request = kms_v1.ListKeyRingsRequest(parent=self._names.location, page_size=1)
        try:
            async with self._within_deadline():
                await self._calls.ask(self._calls.client.list_key_rings, request)
        except BackendError as error:
            return BackendHealth(ready=False, detail={**load, "problem": error.cause, "reason": str(error)})
        return BackendHealth(ready=True, detail={**load, "milliseconds": round((time.monotonic() - began) * 1000)})

    async def aclose(self) -> None:
        """Close the channel."""
        await self._calls.aclose()

    async def _made(self, label: KeyLabel, row: KmsAlgorithm, level: kms_v1.ProtectionLevel) -> BackendKey:
        version = await self._creation.made(label)
        known = self._keep(known_version(version, self._names.version(label)))
        if (known.row, known.protection_level) != (row, level):
            # Not a bad answer: after that the key would be looked for, found, and taken as it is.
            raise NotOfferedError(
                f"{self.name}: KMS made a {word(known.row.kms)} key at {word(known.protection_level)}, "
                f"not {word(row.kms)} at {word(level)}"
            )
        return await self._backend_key(known, version)

    async def _described(self, name: str, version: kms_v1.CryptoKeyVersion) -> BackendKey:
        known = self._keep(known_version(version, name))
        return await self._backend_key(known, await self._creation.generated(version))

    async def _backend_key(self, known: KnownVersion, version: kms_v1.CryptoKeyVersion) -> BackendKey:
        return BackendKey(
            handle=known.name,
            algorithm=known.row.algorithm,
            public_key=await self._public_key(known),
            kinds=frozenset({known.row.kind}),
            enabled=version.state == State.ENABLED,
            evidence=evidence_of(version),
            schemes=(known.row.scheme,),
        )

    async def _public_key(self, known: KnownVersion) -> PublicKey:
        if known.name in self._public_keys:
            return self._public_keys[known.name]
        request = public_key_request(known)

        async def attempt() -> PublicKey:
            return checked_public_key(known, await self._calls.ask(self._calls.client.get_public_key, request))

        key = await _at_most_twice(attempt)
        _remember(self._public_keys, known.name, key)
        return key

    def _keep(self, known: KnownVersion) -> KnownVersion:
        _remember(self._known, known.name, known)
        return known

    async def _set_state(self, version: kms_v1.CryptoKeyVersion, state: int) -> None:
        if version.state == state:
            return
        if version.state in _GONE | {State.DESTROY_SCHEDULED}:
            raise WrongStateError(f"{self.name}: the key version is in the state {word(version.state)}")
        request = kms_v1.UpdateCryptoKeyVersionRequest(
            {"crypto_key_version": {"name": version.name, "state": state}, "update_mask": {"paths": ["state"]}}
        )
        await self._calls.ask(self._calls.client.update_crypto_key_version, request)

    async def _scheduled(self, version: kms_v1.CryptoKeyVersion) -> kms_v1.CryptoKeyVersion:
        # Disabled first: nothing signs with it from then on, and an organisation's policy may demand it.
        await self._set_state(version, State.DISABLED)
        request = kms_v1.DestroyCryptoKeyVersionRequest(name=version.name)
        try:
            return await self._calls.ask(self._calls.client.destroy_crypto_key_version, request)
        except WrongStateError:
            now = await self._creation.read(version.name)
            if now.state in _GONE | {State.DESTROY_SCHEDULED}:
                return now  # somebody else was quicker
            raise

    def _deadline(self, times: int = 1) -> float:
        return asyncio.get_running_loop().time() + times * self._settings.deadline_seconds

    @asynccontextmanager
    async def _within_deadline(self, until: float | None = None) -> AsyncIterator[None]:
        """One deadline over all requests of an operation; `until` in the loop's own time."""
        try:
            async with asyncio.timeout_at(until if until is not None else self._deadline()):
                yield
        except TimeoutError as error:
            raise DeadlineError(f"{self.name}: not done within the deadline", retry_after=RETRY_SECONDS) from error


async def _once(attempt: Callable[[], Awaitable[bytes]]) -> bytes:
    return await attempt()


async def _at_most_twice(attempt: Callable[[], Awaitable[Answer]]) -> Answer:
    """A corrupted answer is asked for once more; nothing that changes anything is asked like this."""
    try:
        return await attempt()
    except BadAnswerError:
        return await attempt()


def _remember(kept: dict[str, Answer], name: str, value: Answer) -> None:
    if len(kept) >= MAX_KNOWN and name not in kept:
        kept.pop(next(iter(kept)))
    kept[name] = value
