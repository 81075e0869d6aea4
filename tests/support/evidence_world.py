"""The signing domain with keys in memory, and the evidence of what it signs; no listener, no network."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec, mldsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256
from prometheus_client import CollectorRegistry

from pkicore.algorithms import Payload, PrivateKey, PublicKey
from pkicore.errors import KeyNotFoundError
from pkicore.keys.remote import RemotePublicKey
from services.chassis.database import Database
from services.signing.callers import Caller
from services.signing.decisions import Decisions
from services.signing.evidence import export
from services.signing.evidence.export import Evidence, ExportRequest
from services.signing.incoming import DocumentFile, Incoming
from services.signing.jobs import Profile, Profiles
from services.signing.keys import SigningKeys
from services.signing.metrics import SigningMetrics
from services.signing.objects import Objects
from services.signing.policy import PolicySchema, PolicySet
from services.signing.quotas import Quota, Quotas
from services.signing.records import first_id
from services.signing.retention import Retention, RetentionRule
from services.signing.sbom import Sbom
from services.signing.sbom.record import BsiReport, Description
from services.signing.signatures import Equipment, Signatures
from services.signing.statements import Subject
from services.signing.store import SigningStore
from services.signing.store.evidence import EvidenceStore, StoredEvidence
from services.signing.store.outbox import OutboxStore
from services.signing.store.retention import RetentionStore
from services.signing.trusted_root import TrustedRoot
from services.signing.webhooks.events import announcing_signatures
from services.signing.wire import SignatureRecord, SignatureRequest
from services.signing.witnesses import Witnesses
from tests.support.clock import ManualClock
from tests.support.migrated import migrated

MIGRATIONS = Path(__file__).parents[2] / "services/signing/migrations"
ALICE = Caller("mtls", "spiffe://test/workload/alice", "acme")
MALLORY = Caller("mtls", "spiffe://test/workload/mallory", "other")
POLICY = '@id("all") permit (principal, action, resource);'
PROVENANCE = (
    b'{"buildDefinition":{"buildType":"https://b.test/t","externalParameters":{}},'
    b'"runDetails":{"builder":{"id":"https://b.test/1"}}}'
)


class HeldKeys:
    """Keys in memory, behind the interface of signer-hsm."""

    def __init__(self, keys: Mapping[str, PrivateKey]) -> None:
        self.keys = dict(keys)

    async def public_key(self, key_id: str, version: int | None) -> RemotePublicKey:
        """The public half; every key has one version."""
        if key_id not in self.keys or version not in {None, 1}:
            raise KeyNotFoundError(f"there is no {key_id}")
        key = self.keys[key_id]
        kinds: frozenset[Payload] = frozenset({"digest" if isinstance(key, ec.EllipticCurvePrivateKey) else "mu"})
        return RemotePublicKey(1, key.public_key(), kinds)

    async def sign(self, key_id: str, version: int, kind: Payload, payload: bytes, scheme: str) -> bytes:
        """A signature over a digest or mu."""
        assert (version, bool(scheme)) == (1, True)
        key = self.keys[key_id]
        if isinstance(key, ec.EllipticCurvePrivateKey):
            assert kind == "digest"
            return key.sign(payload, ec.ECDSA(Prehashed(SHA256())))
        assert isinstance(key, mldsa.MLDSA65PrivateKey)
        return key.sign_mu(payload)

    async def named(self, name: str) -> PublicKey:
        """A public key as records name it."""
        key_id, _, version = name.partition("/")
        return (await self.public_key(key_id, int(version))).public_key


class AcceptingSboms:
    """Takes every document for a CycloneDX SBOM: how those are checked is tested elsewhere."""

    async def check_sbom(self, path: Path, declared_media_type: str | None) -> Sbom:
        """What it is said to be."""
        del path
        media_type = declared_media_type or "application/vnd.cyclonedx+json"
        description = Description(None, None, None, None, 1)
        return Sbom("cyclonedx", "1.6", media_type, "https://cyclonedx.org/bom", description, BsiReport("g", (), ()))


@dataclass
class InForce:
    """Policies that do not change."""

    policies: PolicySet


@dataclass
class EvidenceWorld:
    """What a test of evidence or retention holds."""

    clock: ManualClock
    database: Database
    store: SigningStore
    outbox: OutboxStore
    objects: Objects
    signatures: Signatures
    quotas: Quotas
    retention: Retention
    evidence: Evidence
    held: HeldKeys
    directory: Path

    async def sign(
        self,
        subjects: Mapping[str, str],
        *,
        caller: Caller = ALICE,
        sbom: bytes | None = None,
        provenance: bytes | None = None,
    ) -> SignatureRecord:
        """Sign artefacts by SHA-256."""
        request = SignatureRequest(
            tuple(Subject(name, {"sha256": sha256}) for name, sha256 in subjects.items()), profile="default"
        )
        with self.quotas.place(caller.tenant):
            return await self._sign(request, caller, sbom, provenance)

    async def _sign(
        self, request: SignatureRequest, caller: Caller, sbom: bytes | None, provenance: bytes | None
    ) -> SignatureRecord:
        async with self.objects.scratch() as scratch:
            document = None if sbom is None else DocumentFile(scratch.write([sbom]), None)
            incoming = Incoming(caller, request, bytes(32), None, document, provenance)
            return SignatureRecord.from_json((await self.signatures.sign(incoming, scratch)).record)

    async def export(self, *signatures: str, name: str = "app-1.0", caller: Caller = ALICE) -> StoredEvidence:
        """Export the evidence of these."""
        return await self.evidence.export(caller, ExportRequest(name, signatures, (), "default"))

    def later(self, days: float) -> None:
        """Let days pass."""
        self.clock.advance(timedelta(days=days))

    def ruled_by(self, *rules: RetentionRule) -> Retention:
        """Retention by other rules, over the same database: what a changed setting comes to."""
        return Retention(RetentionStore(self.database), self.outbox, rules, self.clock)


@asynccontextmanager
async def evidence_world(
    directory: Path, *rules: RetentionRule, url: str | None = None
) -> AsyncIterator[EvidenceWorld]:
    """A world whose tenants acme and other each have a hybrid profile, over SQLite or the database of the URL."""
    url = url or f"sqlite:///{directory / 'signing.sqlite3'}"
    await migrated(url, MIGRATIONS)
    clock = ManualClock()
    database = await Database.open(url, clock=clock)
    store, outbox, objects = SigningStore(database, clock), OutboxStore(database), Objects(directory / "state")
    held = HeldKeys(
        {
            f"{tenant}.{name}": key
            for tenant in ("acme", "other")
            for name, key in (
                ("es256", ec.generate_private_key(ec.SECP256R1())),
                ("mldsa65", mldsa.MLDSA65PrivateKey.generate()),
                ("attestation-es256", ec.generate_private_key(ec.SECP256R1())),
                ("attestation-mldsa65", mldsa.MLDSA65PrivateKey.generate()),
            )
        }
    )
    policies = PolicySet.of_files({"all.cedar": POLICY}, PolicySchema([]))
    version = await store.policy_in_force(policies.sha256, policies.files)
    metrics = SigningMetrics(CollectorRegistry())
    profiles = {
        (tenant, "default"): Profile(
            (f"{tenant}.es256", f"{tenant}.mldsa65"),
            (f"{tenant}.attestation-es256", f"{tenant}.attestation-mldsa65"),
            ("raw", "dsse", "bundle"),
        )
        for tenant in ("acme", "other")
    }
    quotas = Quotas(
        Quota(1000.0, 1000, 100, 1 << 40),
        {},
        lambda tenant, since: store.octets_since(tenant, first_id(since)),
        clock=clock,
        monotonic=time.monotonic,
    )
    with ThreadPoolExecutor(1) as pool:
        equipment = Equipment(
            store=store,
            objects=objects,
            keys=SigningKeys(held, pool, time.monotonic, 10.0),
            profiles=Profiles(profiles),
            quotas=quotas,
            decisions=Decisions(InForce(policies.numbered(version)), store, metrics, time.monotonic),
            sboms=AcceptingSboms(),
            witnesses=Witnesses(),
            certifier=None,
            announce=announcing_signatures(outbox),
            metrics=metrics,
            clock=clock,
            verifier="https://signing.test",
        )
        archives = directory / "evidence"
        archives.mkdir()
        signatures = Signatures(equipment)
        retention = Retention(RetentionStore(database), outbox, rules, clock)
        evidence = Evidence(
            export.ArchiveEquipment(
                store=store,
                archives=EvidenceStore(database, directory / "audit-archive"),
                outbox=outbox,
                retention=retention,
                objects=objects,
                signer=signatures,
                quotas=quotas,
                public_key=held.named,
                trusted_root=TrustedRoot().to_json,
                directory=archives,
                clock=clock,
            )
        )
        yield EvidenceWorld(
            clock, database, store, outbox, objects, signatures, quotas, retention, evidence, held, archives
        )
    await database.close()
