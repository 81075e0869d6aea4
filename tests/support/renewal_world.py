"""The part of the signing service that renews certificates, over a real CA and a real signer-hsm core in memory.

world = await RenewalWorld.open(tmp_path)
service = await world.service()      # one process; another one shares the database
world.clock.advance(timedelta(days=310)); await service.renewal.look()
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import httpx
from cryptography import x509
from prometheus_client import CollectorRegistry

from pkicore.algorithms import known_public_key
from pkicore.identity import SpiffeId
from pkicore.keys.remote import RemoteKey, open_remote_key
from pkicore.x509.certificate import load_chain
from services.ca.client import CaClient, CaUnavailableError
from services.ca.client.csr import make_csr
from services.ca.signing_settings import signing_callers
from services.ca.wire import CertificateRequest, IssuedCertificate
from services.chassis.asgi import Application
from services.chassis.audit import audit_records
from services.chassis.database import CommitObserver, Database
from services.chassis.observability import HttpMetrics
from services.signing.app import MIGRATIONS
from services.signing.chains import Chain
from services.signing.key_certificates import CertifiedKey
from services.signing.metrics import SigningMetrics
from services.signing.opening import follow_authority
from services.signing.problems import PROBLEMS
from services.signing.published_trust import PublishedTrust
from services.signing.renewal import Means, Renewal
from services.signing.store import Numbers, SigningStore
from services.signing.store.certificates import CertificateStore
from services.signing.timestamps import DEFAULT_POLICY, Serials, TimestampAuthority, TimestampPolicy
from services.signing.trusted_root import TrustedAuthority, TrustedRoot
from tests.support.ca_world import OPERATOR, CaWorld
from tests.support.clock import ManualClock
from tests.support.migrated import migrated
from tests.support.signer_world import TRUST_DOMAIN, SignerWorld
from tests.support.signing_world import KEY_POLICY, SERVICE, SwitchableSigner, make_key

TSA: Final = "signing.tsa"
ARTEFACTS: Final = "acme.artefact-mldsa65"
PROFILES: Final = {TSA: "timestamping", ARTEFACTS: "artefact-signing"}
ALGORITHMS: Final = {TSA: "ecdsa-p256", ARTEFACTS: "ml-dsa-65"}
EARLY: Final = timedelta(days=60)
BASE_URL: Final = "https://signing.acme.test"


@dataclass
class Door:
    """The CA as the service reaches it over its application in memory.

    Attributes:
        caller: who calls.
        fault: raised instead of an answer.
        lost: whether the CA does as it is asked, and its answer is lost.
        forge: instead of the answer.
        asked: every request that was sent.
    """

    ca: CaWorld
    caller: SpiffeId = SERVICE
    fault: Exception | None = None
    lost: bool = False
    forge: IssuedCertificate | None = None
    asked: list[CertificateRequest] = field(default_factory=list)

    async def issue(self, request: CertificateRequest) -> IssuedCertificate:
        """As `CaClient.issue`."""
        self.asked.append(request)
        if self.fault is not None:
            raise self.fault
        async with self.ca.internal(self.caller, signing_callers(TRUST_DOMAIN)) as http:
            answer = await CaClient(http).issue(request)
        if self.lost:
            raise CaUnavailableError("the answer was lost")
        return answer if self.forge is None else self.forge


@dataclass
class Process:
    """One process of the service."""

    renewal: Renewal
    authority: TimestampAuthority
    published: PublishedTrust
    store: CertificateStore
    registry: CollectorRegistry
    keys: Mapping[str, CertifiedKey]

    def metric(self, name: str, **labels: str) -> float | None:
        """A sample."""
        return self.registry.get_sample_value(name, labels)

    @property
    def trusted(self) -> tuple[TrustedAuthority, ...]:
        """The time-stamping authorities that verifiers are told of."""
        return TrustedRoot.parse(self.published.to_json()).timestamp_authorities


@dataclass
class RenewalWorld:
    """CA, signer-hsm, and the database of the service; `roots` are those that it trusts."""

    ca: CaWorld
    signer_world: SignerWorld
    signer: SwitchableSigner
    door: Door
    url: str
    first: dict[str, Chain]
    stack: AsyncExitStack
    pool: ThreadPoolExecutor
    roots: tuple[x509.Certificate, ...] = ()

    @classmethod
    async def open(cls, directory: Path, url: str | None = None) -> RenewalWorld:
        """With certificates of today for both keys, as the ceremony makes them."""
        stack, clock = AsyncExitStack(), ManualClock()
        (directory / "ca").mkdir()
        ca = await (await CaWorld.open(directory / "ca", clock=clock)).start()
        stack.push_async_callback(ca.close)
        signer_world = await SignerWorld.open(f"sqlite:///{directory}/signer.sqlite3", clock=clock, policy=KEY_POLICY)
        stack.push_async_callback(signer_world.close)
        signer = SwitchableSigner(signer_world.client(SERVICE))
        pool = stack.enter_context(ThreadPoolExecutor(1))
        url = url or f"sqlite:///{directory}/signing.sqlite3"
        await migrated(url, MIGRATIONS)
        world = cls(ca, signer_world, signer, Door(ca), url, {}, stack, pool)
        world.roots = tuple(family.root.certificate for family in ca.families.values())
        for key_id, algorithm in ALGORITHMS.items():
            await make_key(signer_world, key_id, algorithm)
            world.first[key_id] = await world.certify(key_id)
        return world

    @property
    def clock(self) -> ManualClock:
        """Everybody's time."""
        return self.ca.clock

    async def close(self) -> None:
        """Close everything."""
        await self.stack.aclose()

    async def certify(self, key_id: str, ca: CaWorld | None = None) -> Chain:
        """A certificate as the ceremony or an operator obtains it, with its root; of another CA, if one is given."""
        ca = ca or self.ca
        key = await open_remote_key(f"signer-hsm:{key_id}", self.signer, self.pool)
        csr = await make_csr(key, common_name=f"key {key_id}")
        request = CertificateRequest(csr, PROFILES[key_id], (), f"{key_id} {self.clock.now()}")
        issued = (await ca.core.issuance.issue(OPERATOR, request)).answer
        chain = load_chain(issued.chain.encode())
        roots = [family.root.certificate for family in ca.families.values()]
        return (*chain, next(root for root in roots if root.subject == chain[-1].issuer))

    async def service(
        self,
        configured: Mapping[str, Chain] | None = None,
        *,
        door: Door | None = None,
        early: timedelta = EARLY,
        observer: CommitObserver | None = None,
    ) -> Process:
        """A process of the service, as `services.signing.opening` puts it together."""
        database = await Database.open(self.url, clock=self.clock, commit_observer=observer)
        self.stack.push_async_callback(database.close)
        chains = {**self.first, **(configured or {})}
        keys = {
            key_id: CertifiedKey(key_id, f"signer-hsm:{key_id}", PROFILES[key_id], chain, early=early)
            for key_id, chain in chains.items()
        }
        registry, store = CollectorRegistry(), CertificateStore(database)
        means = Means(
            store=store,
            authority=door or self.door,
            signer=self.signer,
            pool=self.pool,
            roots=lambda: self.roots,
        )
        renewal = Renewal(list(keys.values()), means, SigningMetrics(registry), self.clock)
        await renewal.open()
        stamping = keys[TSA]
        authority = TimestampAuthority(
            RemoteKey(
                f"signer-hsm:{TSA}/1", known_public_key(stamping.configured[0].public_key()), self.signer, self.pool
            ),
            stamping.in_use,
            policy=TimestampPolicy(DEFAULT_POLICY),
            serials=Serials(Numbers(SigningStore(database, self.clock), "timestamps")),
            clock=self.clock,
        )
        published = PublishedTrust(TrustedRoot(), BASE_URL, TRUST_DOMAIN)
        follow_authority(stamping, renewal, authority, published)
        return Process(renewal, authority, published, store, registry, keys)

    async def audit(self, *events: str) -> list[dict[str, Any]]:
        """The details of these audit events of the service, oldest first."""
        database = await Database.open(self.url, clock=self.clock)
        try:
            records = [stored.record async for stored in audit_records(database)]
        finally:
            await database.close()
        return [dict(record.detail) for record in records if record.event in events]

    async def issued(self) -> int:
        """How many certificates in place of others the CA has recorded."""
        records = [stored.record async for stored in audit_records(self.ca.database)]
        return sum("renews" in record.detail for record in records)


async def fetched(process: Process, path: str) -> bytes:
    """What anybody gets at one of the published paths."""
    metrics = HttpMetrics(CollectorRegistry())
    app = Application("signing", process.published.routes(), problems=PROBLEMS, metrics=metrics)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=BASE_URL) as http:
        answer = await http.get(path)
    assert answer.status_code == 200
    return answer.content
