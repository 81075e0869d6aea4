"""signer-hsm over a real database and a device in memory, without listeners; a clock that stands still.

`MemoryDevice` stands for a key device behind a `Backend`: it outlives the service in a test, as a token outlives a
process, and fails as it is told.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property
from types import SimpleNamespace
from typing import Any, Literal

import httpx
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from prometheus_client import CollectorRegistry

from pkicore.algorithms import ALGORITHMS, Algorithm, Payload, PrivateKey, algorithm_of, generate_private_key
from pkicore.identity import SpiffeId
from services.chassis.asgi import AsgiApp
from services.chassis.audit import audit_records
from services.chassis.database import CommitObserver, Database
from services.chassis.observability import HttpMetrics
from services.chassis.peer import CallerPolicy
from services.signer_hsm.app import MIGRATIONS, Core, CoreRules, build_core, internal_application
from services.signer_hsm.attestations import device_statements
from services.signer_hsm.backends import Attestation, Backend, BackendHealth, BackendKey, Destruction, KeyLabel
from services.signer_hsm.backends.guard import GuardedBackend
from services.signer_hsm.backends.payloads import kinds_of, sign_payload
from services.signer_hsm.backends.settings import BackendSettings
from services.signer_hsm.client import SignerClient
from services.signer_hsm.errors import BackendError, KeyNotFoundError
from services.signer_hsm.metrics import SignerMetrics
from services.signer_hsm.policy import OidcVerifier, Policy
from services.signer_hsm.schemes import Scheme
from services.signer_hsm.store import SignerStore
from services.signer_hsm.wire import NewKeyRequest
from tests.support.clock import ManualClock
from tests.support.migrated import migrated

TRUST_DOMAIN = "pqcpki.internal"
CA = SpiffeId.service(TRUST_DOMAIN, "ca")
SHOP = SpiffeId.workload(TRUST_DOMAIN, "shop")
ADMIN = SpiffeId.operator(TRUST_DOMAIN, "admin")
SECOND = SpiffeId.operator(TRUST_DOMAIN, "second")
STRANGER = SpiffeId.workload(TRUST_DOMAIN, "stranger")

ENDPOINTS = """endpoints = ["POST /v1/keys", "GET /v1/keys", "GET /v1/keys/{id}", "POST /v1/keys/{id}/sign",
  "GET /v1/keys/{id}/pubkey", "POST /v1/keys/{id}/rotate", "POST /v1/keys/{id}/disable", "POST /v1/keys/{id}/enable",
  "POST /v1/keys/{id}/destroy", "GET /v1/keys/{id}/attestation", "POST /v1/keys/{id}/attestation", "GET /v1/policy",
  "GET /v1/approvals", "POST /v1/approvals", "GET /v1/openapi.json", "POST /sign", "GET /pubkey", "GET /health"]
"""
CALLER_POLICY = "".join(
    f'[[allow]]\ncaller = "spiffe://{TRUST_DOMAIN}/{who}/*"\nservice = "signer-hsm"\n{ENDPOINTS}'
    for who in ("service", "workload", "operator")
)


def tenant(name: str, backend: str = "device", **changed: object) -> str:
    """A tenant of a key policy."""
    values = {"max_keys": 20, "rate_per_second": 1000.0, "burst": 2000, "max_in_flight": 64} | changed
    lines = "".join(f"{key} = {value}\n" for key, value in values.items())
    return f'[[tenants]]\nid = "{name}"\nbackends = ["{backend}"]\n{lines}'


def rule(name: str, tenant: str, callers: Sequence[SpiffeId], acts: Sequence[str], **more: object) -> str:
    """A rule of a key policy; `more` in TOML's words."""
    extra = "".join(f"{key} = {value}\n" for key, value in more.items())
    who, what = [str(caller) for caller in callers], list(acts)
    return f'[[rules]]\nid = "{name}"\ntenant = "{tenant}"\ncallers = {who}\nacts = {what}\nkeys = ["*"]\n{extra}'


LIFE_CYCLE = ("create", "import", "rotate", "disable", "enable", "destroy")
LOOK = ("list", "show", "pubkey", "attestation")
ALL_KINDS = '["digest", "mu", "message"]'
KEY_POLICY = (
    "version = 1\n"
    + tenant("ca")
    + tenant("shop", "other")
    + rule("ca-signs", "ca", [CA], ["sign", "show", "pubkey", "list"], kinds=ALL_KINDS)
    + rule("admins", "ca", [ADMIN, SECOND], [*LIFE_CYCLE, *LOOK, "approve"])
    + rule("shop-all", "shop", [SHOP], [*LIFE_CYCLE, *LOOK, "sign", "approve"], kinds='["digest"]')
)

Step = Callable[[], Awaitable[None]]


@dataclass
class MemoryDevice:
    """Keys by label, and what is to go wrong.

    Attributes:
        before: called with the operation's name before it is carried out; raises or waits.
        after: likewise, once it has been carried out: the answer is lost then.
        calls: the operations so far, failed ones too.
        signed: payloads that were really signed.
        refused: payloads that fail alone, each with its error.
        schemes: the only ones that keys of an algorithm sign with.
        waits_until: a destruction is not final before that.
    """

    keys: dict[str, PrivateKey] = field(default_factory=dict)
    disabled: set[str] = field(default_factory=set)
    before: dict[str, Step] = field(default_factory=dict)
    after: dict[str, Step] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    signed: list[bytes] = field(default_factory=list)
    refused: dict[bytes, BackendError] = field(default_factory=dict)
    kinds: Mapping[str, frozenset[Payload]] = field(
        default_factory=lambda: {name: kinds_of(row) for name, row in ALGORITHMS.items()}
    )

    schemes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    waits_until: datetime | None = None

    def fail(self, operation: str, error: BackendError, *, when: Literal["before", "after"] = "before") -> None:
        """Have the operation fail from now on, before or after it was carried out."""

        async def step() -> None:
            raise error

        (self.before if when == "before" else self.after)[operation] = step

    def heal(self) -> None:
        """Nothing goes wrong any more."""
        self.before.clear()
        self.after.clear()


@dataclass
class MemoryBackend:
    """A `Backend` over a `MemoryDevice`."""

    name: str
    device: MemoryDevice
    clock: ManualClock
    type: str = "file"

    @property
    def offers(self) -> Mapping[str, frozenset[Payload]]:
        """Everything but RSA 4096."""
        return {name: kinds for name, kinds in self.device.kinds.items() if name != "rsa-4096"}

    @property
    def imports(self) -> frozenset[str]:
        """ECDSA P-256."""
        return frozenset({"ecdsa-p256"})

    async def _step(self, operation: str) -> None:
        self.device.calls.append(operation)
        if step := self.device.before.get(operation):
            await step()

    async def _done(self, operation: str) -> None:
        if step := self.device.after.get(operation):
            await step()

    async def create(self, label: KeyLabel, algorithm: Algorithm) -> BackendKey:
        """Make a key."""
        await self._step("create")
        self.device.keys[str(label)] = generate_private_key(algorithm)
        await self._done("create")
        return await self.load(str(label))

    async def import_key(self, label: KeyLabel, private_key: PrivateKey) -> BackendKey:
        """Take a key in."""
        await self._step("import")
        self.device.keys[str(label)] = private_key
        await self._done("import")
        return await self.load(str(label))

    async def find(self, label: KeyLabel) -> BackendKey | None:
        """Look a key up."""
        await self._step("find")
        return await self.load(str(label)) if str(label) in self.device.keys else None

    async def load(self, handle: str) -> BackendKey:
        """The key behind a handle."""
        if handle not in self.device.keys:
            raise KeyNotFoundError("gone")
        public_key = self.device.keys[handle].public_key()
        der = public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        algorithm = algorithm_of(public_key)
        return BackendKey(
            handle,
            algorithm,
            public_key,
            self.device.kinds[algorithm.name],
            handle not in self.device.disabled,
            {"origin": "generated", "octets": len(der)},
            self.device.schemes.get(algorithm.name, ()),
        )

    async def sign(
        self, handle: str, scheme: Scheme, kind: Payload, payloads: Sequence[bytes], *, once: bool = False
    ) -> Sequence[bytes | BackendError]:
        """Sign."""
        del once
        await self._step("sign")
        signatures = [self._signature(handle, scheme, kind, payload) for payload in payloads]
        await self._done("sign")
        return signatures

    def _signature(self, handle: str, scheme: Scheme, kind: Payload, payload: bytes) -> bytes | BackendError:
        if payload in self.device.refused:
            return self.device.refused[payload]
        self.device.signed.append(payload)
        return sign_payload(self.device.keys[handle], scheme, kind, payload)

    async def set_enabled(self, handle: str, *, enabled: bool) -> None:
        """Disable or enable."""
        await self._step("enable" if enabled else "disable")
        (self.device.disabled.discard if enabled else self.device.disabled.add)(handle)

    async def destroy(self, handle: str) -> Destruction:
        """Destroy at once, or schedule it."""
        await self._step("destroy")
        if self.device.waits_until is not None:
            return Destruction(final=False, at=self.device.waits_until, proof={"scheduled": handle})
        self.device.keys.pop(handle, None)
        await self._done("destroy")
        return Destruction(final=True, at=self.clock.now(), proof={"removed": handle})

    async def attest(self, handle: str) -> Attestation:
        """The device's word."""
        await self._step("attest")
        return Attestation("attributes", "module", verified=False, claims={"handle": handle})

    async def health(self) -> BackendHealth:
        """Ready."""
        await self._step("health")
        return BackendHealth(ready=True, detail={"keys": len(self.device.keys)})

    async def aclose(self) -> None:
        """Nothing to close."""


@dataclass
class SignerWorld:
    """The service's domain; `commits` has the label of each durable commit."""

    url: str
    clock: ManualClock
    device: MemoryDevice
    other: MemoryDevice
    database: Database
    core: Core
    commits: list[str]

    @classmethod
    async def open(
        cls,
        url: str,
        *,
        clock: ManualClock | None = None,
        device: MemoryDevice | None = None,
        policy: str = KEY_POLICY,
        observer: CommitObserver | None = None,
        deadline: float = 2.0,
        monotonic: Callable[[], float] = time.monotonic,
        backend: Backend | None = None,
    ) -> SignerWorld:
        """Open (again, with the same clock and device) the service whose database this is.

        `backend` takes the device's place, under the name `device`.
        """
        clock, device, other = clock or ManualClock(), device or MemoryDevice(), MemoryDevice()
        await migrated(url, MIGRATIONS)
        commits: list[str] = []

        def observe(moment: Literal["before", "after"], label: str) -> None:
            if moment == "after":
                commits.append(label)
            if observer is not None:
                observer(moment, label)

        database = await Database.open(url, clock=clock, commit_observer=observe)
        store = SignerStore(database)
        await store.refresh()
        metrics = SignerMetrics(CollectorRegistry())
        settings = {"deadline_seconds": deadline, "breaker_failures": 1000, "workers": 8}
        opened: dict[str, Backend] = {
            "device": backend or MemoryBackend("device", device, clock),
            "other": MemoryBackend("other", other, clock),
        }
        backends = {
            name: GuardedBackend(held, BackendSettings.model_validate({"name": name, **settings}), metrics)
            for name, held in opened.items()
        }
        rules = CoreRules(
            approval_lifetime=timedelta(hours=1),
            patience=dict.fromkeys(backends, 2 * deadline),
            verify_attestation=device_statements(None, clock),
        )
        core = build_core(
            store,
            Policy.load(policy, "json" if policy.startswith("{") else "toml"),
            backends,
            rules,
            tokens=OidcVerifier((), clock=clock, monotonic=monotonic),
            clock=clock,
            metrics=metrics,
            monotonic=monotonic,
        )
        return cls(url, clock, device, other, database, core, commits)

    async def close(self) -> None:
        """Close the database."""
        await self.database.close()

    async def reopen(self) -> SignerWorld:
        """As after a restart: the same database, device and clock."""
        await self.close()
        again = await SignerWorld.open(self.url, clock=self.clock, device=self.device)
        await again.core.versions.recover()
        return again

    @cached_property
    def application(self) -> AsgiApp:
        """The mTLS listener's."""
        return internal_application(self.core, CallerPolicy.load(CALLER_POLICY), HttpMetrics(CollectorRegistry()))

    def http(self, caller: SpiffeId | None, **headers: str) -> httpx.AsyncClient:
        """The mTLS listener's application, called by a peer with this identity."""
        app = self.application
        peer = None if caller is None else SimpleNamespace(spiffe_id=caller, serial=1)

        async def with_peer(scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401 -- ASGI's own types
            await app({**scope, "state": {"peer": peer}}, receive, send)

        return httpx.AsyncClient(transport=httpx.ASGITransport(with_peer), base_url="https://signer", headers=headers)

    def client(self, caller: SpiffeId = ADMIN) -> SignerClient:
        """The service as a caller calls it; the connection in memory needs no closing."""
        return SignerClient(self.http(caller))

    async def make(self, key_id: str, algorithm: str = "ecdsa-p256") -> None:
        """A key, made by an administrator of the tenant."""
        owner, _, name = key_id.partition(".")
        request = NewKeyRequest(owner, name, algorithm, f"make-{key_id}")
        await self.client(ADMIN if owner == "ca" else SHOP).create(request)

    async def audit(self) -> list[dict[str, Any]]:
        """The decisions on record, oldest first."""
        records = [stored.record async for stored in audit_records(self.database)]
        return [dict(record.detail) for record in records if record.event == "key.decision"]


async def never() -> None:
    """An answer that does not come."""
    await asyncio.sleep(3600)
