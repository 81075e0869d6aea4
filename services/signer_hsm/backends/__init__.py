"""What every back end offers, whatever stands behind it.

A back end is asked for keys by label and for signatures by handle. It knows neither tenants' rights nor policies;
whoever calls it has decided, recorded and checked the payload already. Each method raises a `BackendError` and nothing
else; the SDK's own exception is its `__cause__`, so that the log has it and the caller has not.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Protocol, TypeAlias

from pkicore.algorithms import Algorithm, Payload, PrivateKey, PublicKey
from services.signer_hsm.errors import BackendError
from services.signer_hsm.schemes import Scheme

Fact: TypeAlias = str | int | bool | None
Facts: TypeAlias = Mapping[str, Fact]
PLACES: Final = ("token_serial", "directory")
"""The facts that name what keys lie in, where another one can take its place unnoticed: in the evidence of each key, in
the proof of its destruction and in the health of the back end."""


@dataclass(frozen=True, slots=True)
class KeyLabel:
    """The name of one key version, the same in every back end, so that it is found again after a lost answer."""

    tenant: str
    name: str
    version: int

    def __str__(self) -> str:
        return f"{self.tenant}.{self.name}.v{self.version}"


@dataclass(frozen=True, slots=True)
class BackendKey:
    """A key version that exists.

    Attributes:
        handle: what the back end finds it by; opaque, stable over restarts, not a secret.
        algorithm: the row of the table.
        public_key: the public half.
        kinds: payload kinds that this key takes.
        enabled: whether the back end would sign with it now.
        evidence: the back end's own word on how the key is held (origin, attributes, protection level).
        schemes: the names of those it signs with, the usual one first; none: all of its algorithm.
    """

    handle: str
    algorithm: Algorithm
    public_key: PublicKey
    kinds: frozenset[Payload]
    enabled: bool = True
    evidence: Facts = field(default_factory=dict)
    schemes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Destruction:
    """How far a key's destruction is: `final` at once, or at a time until which the back end could still undo it.

    Where nothing was `found`, the proof is as good as the word that this is where the key was (`PLACES`).
    """

    final: bool
    at: datetime
    proof: Facts
    found: bool = True


@dataclass(frozen=True, slots=True)
class Attestation:
    """A statement of the device about a key.

    Attributes:
        format: "yubihsm2", "gcp-cavium-v1", "gcp-cavium-v2", or "attributes": the back end's word only.
        by: who vouches: "device" (verified against the operator's roots), "cloud", "module".
        verified: whether the statement's signatures were checked up to a root that the operator supplied.
        claims: what it says.
        statement: the raw statement, where there is one.
        chain: DER certificates that sign it, leaf first.
    """

    format: str
    by: str
    verified: bool
    claims: Facts
    statement: bytes | None = None
    chain: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class BackendHealth:
    """Whether signing would work now; `detail` holds numbers and words for people and metrics, never secrets."""

    ready: bool
    detail: Facts


class Backend(Protocol):
    """One configured back end."""

    @property
    def name(self) -> str:
        """Its name in the settings."""
        ...

    @property
    def type(self) -> str:
        """file, pkcs11, vault, aws_kms or gcp_kms."""
        ...

    @property
    def offers(self) -> Mapping[str, frozenset[Payload]]:
        """The algorithms that keys can be made of, each with the payload kinds that such a key takes."""
        ...

    @property
    def imports(self) -> frozenset[str]:
        """The algorithms whose private keys can be brought in; empty where that is not allowed."""
        ...

    async def create(self, label: KeyLabel, algorithm: Algorithm) -> BackendKey:
        """Make a key that never leaves the back end.

        Not safe to repeat: after an unknown outcome ask `find` first.

        Raises:
            NotOfferedError: an algorithm that is not in `offers`.
            BackendError: any other failure.
        """
        ...

    async def import_key(self, label: KeyLabel, private_key: PrivateKey) -> BackendKey:
        """Bring in an existing key, not extractable from then on.

        Raises:
            NotOfferedError: this back end, or its settings, do not allow it.
            BackendError: any other failure.
        """
        ...

    async def find(self, label: KeyLabel) -> BackendKey | None:
        """The key version with this label, None if there is none."""
        ...

    async def load(self, handle: str) -> BackendKey:
        """The key version behind a handle, as the back end has it now.

        Raises:
            KeyNotFoundError: it is gone.
            BackendError: any other failure.
        """
        ...

    async def sign(
        self, handle: str, scheme: Scheme, kind: Payload, payloads: Sequence[bytes], *, once: bool = False
    ) -> Sequence[bytes | BackendError]:
        """One signature per payload, in their order; a payload that failed alone has its error in its place.

        ECDSA signatures are DER, RSA's and the others' raw. Payloads have been checked against scheme and kind.
        With `once` nothing is asked for again, here or in the SDK, that may have been signed already.

        Raises:
            BackendError: none could be signed; `uncertain` if one may have been.
        """
        ...

    async def set_enabled(self, handle: str, *, enabled: bool) -> None:
        """Disable or enable the key in the back end, where it can; else the service's own state has to do."""
        ...

    async def destroy(self, handle: str) -> Destruction:
        """Destroy the key, or schedule it where the back end insists on a waiting time. Safe to repeat."""
        ...

    async def attest(self, handle: str) -> Attestation:
        """What the back end can say of how the key is held.

        Raises:
            NotOfferedError: nothing.
        """
        ...

    async def health(self) -> BackendHealth:
        """Whether signing would work now; asks the back end, does not raise for a back end that is down."""
        ...

    async def aclose(self) -> None:
        """Give back sessions, connections and threads."""
        ...
