"""The signing service in memory: its real application over a real signer-hsm core; a clock that stands still.

    world = await SigningWorld.open(tmp_path)
    async with world.http(OPERATOR) as http: await http.post("/v1/signatures", ...)

Tenants `acme` and `globex` have an ES256 and an ML-DSA-65 key each, and profiles over them. `SwitchableSigner` stands
between the service and signer-hsm and fails as it is told.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, Literal

import httpx
from cryptography import x509
from prometheus_client import CollectorRegistry

from pkicore.algorithms import Payload, PublicKey
from pkicore.clock import unix
from pkicore.identity import SpiffeId
from pkicore.keys.remote import RemotePublicKey, RemoteSigner, open_remote_key
from services.chassis.asgi import AsgiApp
from services.chassis.audit import audit_records
from services.chassis.database import AuditEvent, CommitObserver, Database
from services.chassis.observability import HttpMetrics
from services.signer_hsm.wire import NewKeyRequest
from services.signing.app import MIGRATIONS, public_application
from services.signing.callers import Caller, MtlsBinding, MtlsCallers, OidcCallers, Scopes, SigningIssuerSettings
from services.signing.callers.api_keys import new_api_key
from services.signing.core import Core, CoreRules, Outside, build_core
from services.signing.jobs import Profile
from services.signing.log import SigningLog, signing_log_routes
from services.signing.metrics import SigningMetrics
from services.signing.policy import PolicySchema, PolicySet
from services.signing.quotas import Quota
from services.signing.sbom import Limits, SbomChecker
from services.signing.signatures import Certifier, Checker
from services.signing.store import Numbers, SigningStore
from services.signing.timestamps import DEFAULT_POLICY, Serials, TimestampAuthority, TimestampPolicy
from services.signing.timestamps import routes as timestamp_routes
from services.signing.wire import Format, SignatureRecord
from services.signing.witnesses import Witnesses
from tests.support.clock import ManualClock
from tests.support.migrated import migrated
from tests.support.signer_world import ADMIN, ALL_KINDS, LIFE_CYCLE, LOOK, TRUST_DOMAIN, SignerWorld, rule, tenant
from tests.support.signing_pki import TIME_STAMPING, SigningPki

SERVICE: Final = SpiffeId.service(TRUST_DOMAIN, "signing")
OPERATOR: Final = SpiffeId.operator(TRUST_DOMAIN, "olga")  # of acme
BUILD: Final = SpiffeId.workload(TRUST_DOMAIN, "build")  # of acme
GLOBEX: Final = SpiffeId.operator(TRUST_DOMAIN, "gus")  # of globex
STRANGER: Final = SpiffeId.workload(TRUST_DOMAIN, "stranger")  # of nobody
VERIFIER: Final = "https://signing.acme.test"
ORIGIN: Final = "signing.acme.test"

TENANTS: Final = ("acme", "globex")
KEYS: Final[Mapping[str, str]] = {
    "artefact-es256": "ecdsa-p256",
    "artefact-mldsa65": "ml-dsa-65",
    "attestation-es256": "ecdsa-p256",
    "attestation-mldsa65": "ml-dsa-65",
}
OWN_KEYS: Final[Mapping[str, str]] = {"log": "ecdsa-p256", "tsa": "ecdsa-p256"}
_RULES: Final = "".join(
    tenant(name)
    + rule(f"{name}-signs", name, [SERVICE], ["sign", "pubkey"], kinds=ALL_KINDS)
    + rule(f"{name}-made", name, [ADMIN], [*LIFE_CYCLE, *LOOK])
    for name in (*TENANTS, "signing")
)
KEY_POLICY: Final = f"version = 1\n{_RULES}"

POLICIES: Final[Mapping[str, str]] = {
    "first.cedar": "".join(
        f"""\
@id("{name}-signs")
permit (principal in Tenant::"{name}", action in [Action::"sign", Action::"sign_certificate"],
    resource in Tenant::"{name}");
@id("{name}-looks")
permit (principal in Tenant::"{name}", action in [Action::"read", Action::"search", Action::"manage_api_keys",
    Action::"manage_webhooks", Action::"export_evidence"], resource == Tenant::"{name}");
"""
        for name in TENANTS
    ),
    "second.cedar": """\
@id("not-the-secret-key")
forbid (principal, action == Action::"sign", resource == Key::"acme.secret");
""",
}
QUOTA: Final = Quota(per_second=10_000.0, burst=10_000, in_flight=256, bytes_per_day=1 << 40)


def profiles() -> dict[tuple[str, str], Profile]:
    """`default` (ES256), `hybrid` (and ML-DSA-65), `witnessed` (likewise, stamped and logged) per tenant; `more`."""
    found = {}
    for name in TENANTS:
        keys = (f"{name}.artefact-es256", f"{name}.artefact-mldsa65")
        attestation_keys = (f"{name}.attestation-es256", f"{name}.attestation-mldsa65")
        formats: tuple[Format, ...] = ("raw", "dsse", "bundle")
        found[name, "default"] = Profile(keys[:1], attestation_keys[:1], formats)
        found[name, "hybrid"] = Profile(keys, attestation_keys, formats)
        found[name, "witnessed"] = Profile(keys, attestation_keys, formats, timestamp=True, log=True)
    found["acme", "more"] = Profile(("acme.p384", "acme.secret"), (), ("raw",))
    return found


@dataclass
class SwitchableSigner:
    """signer-hsm as the service reaches it, over a client in memory.

    Attributes:
        signer: the client.
        fault: raised instead of an answer.
        gate: waited for before a signature is asked for.
        forge: changes a signature on its way back.
        asked: how many signatures were asked for.
    """

    signer: RemoteSigner
    fault: Exception | None = None
    gate: Callable[[], Awaitable[None]] | None = None
    forge: Callable[[bytes], bytes] | None = None
    asked: int = 0

    async def public_key(self, key_id: str, version: int | None) -> RemotePublicKey:
        """As the signer, or the fault."""
        if self.fault is not None:
            raise self.fault
        return await self.signer.public_key(key_id, version)

    async def sign(self, key_id: str, version: int, kind: Payload, payload: bytes, scheme: str) -> bytes:
        """As the signer, or the fault."""
        self.asked += 1
        if self.gate is not None:
            await self.gate()
        if self.fault is not None:
            raise self.fault
        signature = await self.signer.sign(key_id, version, kind, payload, scheme)
        return signature if self.forge is None else self.forge(signature)


@dataclass
class FixedPolicies:
    """The policies in force, replaced by hand."""

    policies: PolicySet


@dataclass
class SigningWorld:
    """The service; `commits` has the label of each durable commit of its database.

    Attributes:
        directory: that the service may write to.
        signer_world: signer-hsm.
        signer: what is between the two.
        log: the transparency log, if the world was opened with witnesses.
        timestamp_chain: of the time-stamping authority, likewise.
    """

    directory: Path
    url: str
    clock: ManualClock
    signer_world: SignerWorld
    signer: SwitchableSigner
    policies: FixedPolicies
    database: Database
    core: Core
    commits: list[str]
    stack: AsyncExitStack
    log: SigningLog | None = None
    timestamps: TimestampAuthority | None = None
    timestamp_chain: tuple[x509.Certificate, ...] = ()
    monotonic: list[float] = field(default_factory=lambda: [0.0])

    @classmethod
    async def open(
        cls,
        directory: Path,
        *,
        url: str | None = None,
        signer_world: SignerWorld | None = None,
        clock: ManualClock | None = None,
        policies: Mapping[str, str] = POLICIES,
        quota: Quota = QUOTA,
        witnesses: bool = False,
        certifier: Certifier | None = None,
        sboms: Checker | None = None,
        issuers: Sequence[SigningIssuerSettings] = (),
        observer: CommitObserver | None = None,
        more_profiles: Mapping[tuple[str, str], Profile] | None = None,
    ) -> SigningWorld:
        """Open (again, with the same directory, clock and signer world) the service that writes to this directory.

        Args:
            directory: for databases and files.
            url: of the service's database; SQLite in the directory if not given.
            signer_world: signer-hsm; a fresh one with the keys if not given.
            clock: the time of both.
            policies: Cedar texts by file name.
            quota: of every tenant.
            witnesses: whether there are a log and a time-stamping authority, with keys at signer-hsm.
            certifier: short-lived certificates.
            sboms: checks SBOMs; the real checker if not given.
            issuers: OIDC issuers.
            observer: called around each commit of the service.
            more_profiles: by tenant and id, beside the usual ones.
        """
        stack = AsyncExitStack()
        clock = clock or (signer_world.clock if signer_world is not None else ManualClock())
        if signer_world is None:
            signer_world = await cls._signer_world(directory, clock)
            stack.push_async_callback(signer_world.close)
        url = url or f"sqlite:///{directory}/signing.sqlite3"
        await migrated(url, MIGRATIONS)
        commits: list[str] = []

        def observe(moment: Literal["before", "after"], label: str) -> None:
            if moment == "after":
                commits.append(label)
            if observer is not None:
                observer(moment, label)

        database = await Database.open(url, clock=clock, commit_observer=observe)
        stack.push_async_callback(database.close)
        signer = SwitchableSigner(signer_world.client(SERVICE))
        pool = stack.enter_context(ThreadPoolExecutor(2))
        world = cls(
            directory,
            url,
            clock,
            signer_world,
            signer,
            FixedPolicies(PolicySet.of_files(policies, PolicySchema()).numbered(1)),
            database,
            None,  # type: ignore[arg-type]  # made below, of what stands here
            commits,
            stack,
        )
        await SigningStore(database, clock).policy_in_force(
            world.policies.policies.sha256, world.policies.policies.files
        )
        if witnesses:
            await world._open_witnesses(pool)
        tokens = OidcCallers(issuers, clock=clock, monotonic=world.now)
        stack.push_async_callback(tokens.aclose)
        world.core = build_core(
            database,
            directory,
            Outside(
                signer=signer,
                policies=world.policies,
                peers=MtlsCallers(_BINDINGS),
                tokens=tokens,
                sboms=sboms or SbomChecker(Limits(children=1)),
                witnesses=Witnesses(world.timestamps, world.log),
                certifier=certifier,
                pool=pool,
            ),
            CoreRules(verifier=VERIFIER, profiles=profiles() | dict(more_profiles or {}), quota=quota),
            clock=clock,
            metrics=SigningMetrics(CollectorRegistry()),
            monotonic=world.now,
        )
        commits.clear()
        return world

    @staticmethod
    async def _signer_world(directory: Path, clock: ManualClock) -> SignerWorld:
        world = await SignerWorld.open(f"sqlite:///{directory}/signer.sqlite3", clock=clock, policy=KEY_POLICY)
        for owner in TENANTS:
            for name, algorithm in KEYS.items():
                await make_key(world, f"{owner}.{name}", algorithm)
        return world

    async def _open_witnesses(self, pool: ThreadPoolExecutor) -> None:
        for name, algorithm in OWN_KEYS.items():
            await make_key(self.signer_world, f"signing.{name}", algorithm)
        log_key = await open_remote_key("signer-hsm:signing.log", self.signer, pool)
        tsa_key = await open_remote_key("signer-hsm:signing.tsa", self.signer, pool)
        self.log = await SigningLog.open(self.database, key=log_key, origin=ORIGIN)
        self.stack.push_async_callback(self.log.close)
        pki = SigningPki.make("ecdsa-p256", self.clock.now())
        device_key = next(
            key
            for key in self.signer_world.device.keys.values()
            if _octets(key.public_key()) == _octets(tsa_key.public_key)
        )
        holder = pki.certify(device_key, TIME_STAMPING)
        self.timestamp_chain = (holder.certificate, pki.root.certificate)
        self.timestamps = TimestampAuthority(
            tsa_key,
            self.timestamp_chain,
            policy=TimestampPolicy(DEFAULT_POLICY),
            serials=Serials(Numbers(SigningStore(self.database, self.clock), "timestamps")),
            clock=self.clock,
        )

    def now(self) -> float:
        """Monotonic seconds; they stand still until `monotonic[0]` is changed."""
        return self.monotonic[0]

    async def close(self) -> None:
        """Close everything."""
        await self.stack.aclose()

    async def reopen(self, **changed: Any) -> SigningWorld:  # noqa: ANN401 -- as `open` takes them
        """As after a restart of the service alone: the same directory, database, clock and signer-hsm."""
        keeps = self.stack.pop_all()
        again = await SigningWorld.open(
            self.directory, url=self.url, clock=self.clock, signer_world=self.signer_world, **changed
        )
        again.stack.push_async_callback(keeps.aclose)
        return again

    @cached_property
    def application(self) -> AsgiApp:
        """The TLS listener's."""
        more = [] if self.log is None else signing_log_routes(self.log)
        more += [] if self.timestamps is None else timestamp_routes(self.timestamps)
        return public_application(self.core, HttpMetrics(CollectorRegistry()), more)

    def http(
        self, peer: SpiffeId | None = OPERATOR, *, api_key: str | None = None, **headers: str
    ) -> httpx.AsyncClient:
        """The TLS listener's application, called by a peer with this identity, or with an API key."""
        app = self.application
        shown = None if peer is None or api_key is not None else SimpleNamespace(spiffe_id=peer, serial=1)

        async def with_peer(scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401 -- ASGI's own types
            await app({**scope, "state": {"peer": shown}}, receive, send)

        if api_key is not None:
            headers["authorization"] = f"Bearer {api_key}"
        return httpx.AsyncClient(
            transport=httpx.ASGITransport(with_peer), base_url=VERIFIER, headers=headers, timeout=60
        )

    async def api_key(self, owner: str = "acme", scopes: Scopes | None = None, life_seconds: int = 3600) -> str:
        """An API key of a tenant."""
        maker = Caller("mtls", "spiffe://test/maker", owner)
        scopes = scopes or Scopes(actions=frozenset({"sign", "read", "search"}))
        made = new_api_key(maker, scopes, life_seconds, unix(self.clock.now()))
        await self.core.store.add_api_key(made.record, AuditEvent("test.api-key", "test"))
        return made.text

    async def sign(self, request: Mapping[str, Any], peer: SpiffeId = OPERATOR, **headers: str) -> SignatureRecord:
        """`POST /v1/signatures`, which succeeds."""
        async with self.http(peer) as http:
            answer = await http.post("/v1/signatures", json=dict(request), headers=headers)
        assert answer.status_code == 201, answer.text
        return SignatureRecord.from_json(answer.content)

    async def fetch(self, url: str, peer: SpiffeId = OPERATOR) -> httpx.Response:
        """What is at a path of the service."""
        async with self.http(peer) as http:
            return await http.get(url)

    async def public_key(self, key_id: str) -> PublicKey:
        """The public half of a key, as signer-hsm has it."""
        return (await self.signer.signer.public_key(key_id, None)).public_key

    async def audit(self, *events: str) -> list[dict[str, Any]]:
        """The details of audit records of these events, oldest first."""
        records = [stored.record async for stored in audit_records(self.database)]
        return [dict(record.detail) for record in records if record.event in events]

    def files(self) -> list[Path]:
        """Every file below uploads and objects."""
        return [
            path for name in ("uploads", "objects") for path in (self.directory / name).rglob("*") if path.is_file()
        ]


_BINDINGS: Final = (
    MtlsBinding(spiffe_id=str(OPERATOR), tenant="acme"),
    MtlsBinding(spiffe_id=str(BUILD), tenant="acme"),
    MtlsBinding(spiffe_id=str(GLOBEX), tenant="globex"),
)


async def make_key(world: SignerWorld, key_id: str, algorithm: str) -> None:
    """A key at signer-hsm, if it is not there."""
    owner, _, name = key_id.partition(".")
    await world.client(ADMIN).create(NewKeyRequest(owner, name, algorithm, f"make-{key_id}"))


def subject(content: bytes = b"an artefact", name: str = "app.tar.gz") -> dict[str, Any]:
    """An artefact as requests name it."""
    return {"name": name, "digest": {"sha256": hashlib.sha256(content).hexdigest()}}


def request(*contents: bytes, profile: str = "default", **more: object) -> dict[str, Any]:
    """The JSON of a request about artefacts with these contents."""
    subjects = [subject(content, f"file-{number}") for number, content in enumerate(contents or (b"an artefact",))]
    return {"subjects": subjects, "profile": profile, **more}


def _octets(public_key: PublicKey) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


async def never() -> None:
    """An answer that does not come."""
    await asyncio.sleep(3600)
