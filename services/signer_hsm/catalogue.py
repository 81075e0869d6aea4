"""Every key of the service in memory, as the database has it: looked up without a query, refreshed by a counter."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Literal

from cryptography.hazmat.primitives.serialization import load_der_public_key

from pkicore.algorithms import Algorithm, Payload, PublicKey, known_public_key
from services.signer_hsm.errors import KeyNotFoundError, WrongStateError
from services.signer_hsm.schemes import schemes_of
from services.signer_hsm.wire import (
    DestructionRecord,
    KeyDescription,
    PublicKeyAnswer,
    VersionDescription,
)

State = Literal["creating", "enabled", "disabled", "destroying", "destroyed", "failed"]
GONE: Final[frozenset[State]] = frozenset({"destroyed", "failed"})


@dataclass(frozen=True)
class KeyVersion:
    """A version of a key.

    Attributes:
        number: from 1.
        state: `creating` is an intent: the back end may have the key or not.
        handle: what the back end finds it by.
        public_key: SubjectPublicKeyInfo, DER.
        imported_key: SHA-256 of that of a key that is being brought in.
        kinds: payload kinds that it takes.
        evidence: the back end's word on how it is held.
        created_at: Unix seconds.
        destruction: how far its destruction is.
        attestation: a device's statement about it, as it was verified.
        schemes: what it signs with, the usual one first; none: all of its algorithm.
    """

    number: int
    state: State
    created_at: int
    handle: str | None = None
    public_key: bytes | None = None
    imported_key: bytes | None = None
    kinds: frozenset[Payload] = frozenset()
    evidence: Mapping[str, Any] | None = None
    destruction: DestructionRecord | None = None
    attestation: Mapping[str, Any] | None = None
    schemes: tuple[str, ...] = ()

    @cached_property
    def loaded_public_key(self) -> PublicKey | None:
        """The public key as an object, parsed once."""
        return None if self.public_key is None else known_public_key(load_der_public_key(self.public_key))

    def describe(self) -> VersionDescription:
        """As callers see it."""
        return VersionDescription(
            version=self.number,
            state=self.state,
            public_key=self.public_key,
            kinds=tuple(sorted(self.kinds)),
            created_at=self.created_at,
            evidence=self.evidence or {},
            destruction=self.destruction,
        )


@dataclass(frozen=True)
class Key:
    """A key: a name for its versions.

    Attributes:
        id: TENANT.NAME.
        tenant: whose it is.
        name: within the tenant.
        backend: the back end's name in the settings.
        algorithm: of all versions.
        current: the version that signs where none is named; 0 before there is one.
        created_at: Unix seconds.
        changed: the counter at its last change.
        versions: by number.
    """

    id: str
    tenant: str
    name: str
    backend: str
    algorithm: Algorithm
    current: int
    created_at: int
    changed: int
    versions: Mapping[int, KeyVersion]

    @property
    def alive(self) -> int:
        """How many of its versions could still sign, or are being made."""
        return sum(version.state not in GONE for version in self.versions.values())

    @property
    def is_gone(self) -> bool:
        """Whether nothing of it can ever sign again."""
        return not self.alive

    @property
    def next_version(self) -> int:
        """The number that no version had."""
        return max(self.versions, default=0) + 1

    def version(self, number: int | None) -> KeyVersion:
        """The version with that number; the current one for None.

        Raises:
            KeyNotFoundError: there is none.
        """
        found = self.versions.get(self.current if number is None else number)
        if found is None:
            if number is None and not self.is_gone:
                raise WrongStateError("the key has no version yet")
            raise KeyNotFoundError("there is no such key")
        return found

    def describe(self) -> KeyDescription:
        """As callers see it."""
        shown = self.versions[self.current or max(self.versions)]
        return KeyDescription(
            id=self.id,
            backend=self.backend,
            algorithm=self.algorithm.name,
            state=shown.state,
            version=shown.number,
            created_at=self.created_at,
            versions=tuple(version.describe() for _, version in sorted(self.versions.items())),
        )

    @cached_property
    def public_keys(self) -> dict[int, PublicKeyAnswer]:
        """The answer to `pubkey` by version, for those that have a public key; what the back end adds is left out."""
        all_schemes = tuple(scheme.name for scheme in schemes_of(self.algorithm))
        return {
            number: PublicKeyAnswer(
                self.id,
                number,
                self.algorithm.name,
                version.public_key,
                tuple(sorted(version.kinds)),
                version.schemes or all_schemes,
            )
            for number, version in self.versions.items()
            if version.public_key is not None
        }


class Catalogue:
    """The keys by id and by tenant; `counter` says up to which change."""

    def __init__(self) -> None:
        self.counter = -1
        self._keys: dict[str, Key] = {}
        self._tenants: dict[str, dict[str, Key]] = {}

    def take(self, keys: Iterable[Key], counter: int) -> None:
        """Put changed keys in; what is older than what is held stays out."""
        for key in keys:
            held = self._keys.get(key.id)
            if held is None or held.changed <= key.changed:
                self._keys[key.id] = key
                self._tenants.setdefault(key.tenant, {})[key.id] = key
        self.counter = max(self.counter, counter)

    def find(self, key_id: str) -> Key | None:
        """The key with this id."""
        return self._keys.get(key_id)

    def key(self, key_id: str) -> Key:
        """The key with this id.

        Raises:
            KeyNotFoundError: there is none.
        """
        found = self._keys.get(key_id)
        if found is None:
            raise KeyNotFoundError("there is no such key")
        return found

    def page(self, tenant: str, after: str | None, limit: int) -> Sequence[Key]:
        """The keys of a tenant, by id, from the one after `after`."""
        held = self._tenants.get(tenant, {})
        return [held[key_id] for key_id in sorted(held) if after is None or key_id > after][:limit]

    def alive(self, tenant: str) -> int:
        """How many keys of a tenant could still sign, or are being made."""
        return sum(not key.is_gone for key in self._tenants.get(tenant, {}).values())

    def in_state(self, *states: State) -> Iterator[tuple[Key, KeyVersion]]:
        """Every version that is in one of the states."""
        for key in list(self._keys.values()):
            for version in key.versions.values():
                if version.state in states:
                    yield key, version

    def unsettled(self) -> Iterator[tuple[Key, KeyVersion]]:
        """Versions that are being made or destroyed."""
        return self.in_state("creating", "destroying")
