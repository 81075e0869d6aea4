"""The CA's domain over a real SQLite file, with two issuing CAs in memory and a clock that stands still."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from prometheus_client import CollectorRegistry

from pkicore.algorithms import PrivateKey
from pkicore.identity import SpiffeId
from pkicore.keys import SigningKey
from pkicore.weak_keys import PublishedKeys
from pkicore.x509.names import Names
from pkicore.x509.profiles import Profile
from services.ca.app import MIGRATIONS, internal_application, status_application
from services.ca.core import Core, CoreRules, build_core
from services.ca.ct.log import CertificateLog
from services.ca.hierarchy import Hierarchy
from services.ca.issuance import IssuingCa
from services.ca.settings import IssuerState
from services.ca.wire import CertificateRequest, Identifier, IssuedCertificate
from services.chassis.asgi import AsgiApp
from services.chassis.database import CommitObserver, Database
from services.chassis.observability import HttpMetrics
from services.chassis.peer import CallerPolicy
from tests.support.clock import ManualClock
from tests.support.migrated import migrated
from tests.support.pki import PROFILES, TRUST_DOMAIN, MemoryKey, make_csr, make_hierarchy
from tests.support.pki import Hierarchy as FamilyOfKeys

ACME = SpiffeId.service(TRUST_DOMAIN, "acme")
CA = SpiffeId.service(TRUST_DOMAIN, "ca")
OPERATOR = SpiffeId.operator(TRUST_DOMAIN, "admin")
RESPONDERS = {"ecdsa": "ecdsa-p256", "rsa": "rsa-2048", "mldsa": "ml-dsa-44"}
POLICY = f"""
[[allow]]
caller = "spiffe://{TRUST_DOMAIN}/service/acme"
service = "ca"
endpoints = ["POST /v1/certificates", "POST /v1/revocations", "GET /v1/revocations",
             "GET /v1/blocked-keys/{{key_hash}}"]

[[allow]]
caller = "spiffe://{TRUST_DOMAIN}/operator/*"
service = "ca"
endpoints = ["POST /v1/certificates", "GET /v1/certificates/{{serial}}", "POST /v1/revocations",
             "GET /v1/revocations", "POST /v1/crls", "POST /v1/blocked-keys", "GET /v1/blocked-keys",
             "DELETE /v1/blocked-keys/{{key_hash}}", "GET /v1/issuers", "GET /v1/ledger/certificates",
             "GET /v1/ledger/certificates/{{serial}}", "GET /v1/ledger/refusals", "GET /v1/ledger/inventory",
             "GET /v1/openapi.json"]
"""


def identifiers(*dns: str, uri: Sequence[str] = ()) -> tuple[Identifier, ...]:
    """What a caller vouches for."""
    return (*(Identifier("dns", name) for name in dns), *(Identifier("uri", name) for name in uri))


def server_request(*dns: str, key: PrivateKey | None = None, idempotency_key: str = "order-1") -> CertificateRequest:
    """A request as the ACME server makes it."""
    csr = make_csr(key or ec.generate_private_key(ec.SECP256R1()), names=Names.build(dns=dns))
    return CertificateRequest(csr, "server", identifiers(*dns), idempotency_key)


def _state(family: str, retired: Collection[str]) -> IssuerState:
    return "retired" if family in retired else "active"


@dataclass
class CaWorld:
    """A started CA without listeners."""

    directory: Path
    clock: ManualClock
    database: Database
    families: dict[str, FamilyOfKeys]
    core: Core
    log: CertificateLog | None = None
    _applications: dict[str, tuple[Core, AsgiApp]] = field(default_factory=dict)

    @classmethod
    async def open(
        cls,
        directory: Path,
        *,
        clock: ManualClock | None = None,
        families: dict[str, FamilyOfKeys] | None = None,
        observer: CommitObserver | None = None,
        keys: dict[str, Any] | None = None,
        retired: Collection[str] = (),
        log_key: SigningKey | None = None,
        profiles: Mapping[str, Profile] = PROFILES,
        published: PublishedKeys | None = None,
        url: str | None = None,
    ) -> CaWorld:
        """Open (again, with the same clock and families) the CA whose database is in this directory.

        `keys` replaces issuing keys by family; `retired` are the families that issue nothing any more; with `log_key`
        there is a CT log. `url` is of another database. `published` are keys that everybody has.
        """
        clock = clock or ManualClock()
        families = families or {family: await make_hierarchy(family, clock) for family in ("ecdsa", "mldsa")}
        url = url or f"sqlite:///{directory / 'ca.sqlite3'}"
        await migrated(url, MIGRATIONS)
        database = await Database.open(url, clock=clock, commit_observer=observer)
        signing = {family: (keys or {}).get(family, item.issuing_key) for family, item in families.items()}
        hierarchy = Hierarchy(
            cas={
                item.issuing.id: IssuingCa.of(item.issuing, signing[family], state=_state(family, retired))
                for family, item in families.items()
            },
            responder_keys={
                item.issuing.id: MemoryKey.generate(RESPONDERS[family]) for family, item in families.items()
            },
            roots={item.root.id: item.root.certificate for item in families.values()},
        )
        rules = CoreRules(
            trust_domain=TRUST_DOMAIN,
            profiles=profiles,
            published=published,
            responders_directory=directory / "responders",
            crl_lifetime=timedelta(days=1),
            ocsp_lifetime=timedelta(hours=12),
            ocsp_cache_entries=8,
        )
        log = None if log_key is None else await CertificateLog.open(database, log_key, TRUST_DOMAIN, clock)
        core = build_core(database, hierarchy, rules, clock, log)
        return cls(directory, clock, database, families, core, log)

    async def start(self) -> CaWorld:
        """As the service does before its listeners open."""
        for file in (self.directory / "responders").glob("*.pem"):
            file.unlink()  # the responders' keys are new in each world
        await self.core.start()
        return self

    async def close(self) -> None:
        """Close the log and the database."""
        if self.log is not None:
            await self.log.close()
        await self.database.close()

    async def issue(
        self, *dns: str, idempotency_key: str = "order-1", key: PrivateKey | None = None
    ) -> IssuedCertificate:
        """A server certificate, as asked for by the ACME server."""
        request = server_request(*dns, key=key, idempotency_key=idempotency_key)
        return (await self.core.issuance.issue(ACME, request)).answer

    async def publish(self) -> None:
        """Let a second pass and publish what is due."""
        self.clock.advance(timedelta(seconds=1))
        await self.core.publisher.publish_due()

    def issuer(self, family: str = "ecdsa") -> x509.Certificate:
        """The certificate of an issuing CA."""
        return self.families[family].issuing.certificate

    def internal(self, caller: SpiffeId | None, policy: str = POLICY) -> httpx.AsyncClient:
        """The mTLS listener's application, called by a peer with this identity under a caller policy."""
        app = self._internal_application(policy)
        peer = None if caller is None else SimpleNamespace(spiffe_id=caller, serial=1)

        async def with_peer(scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401 -- ASGI's own types
            await app({**scope, "state": {"peer": peer}}, receive, send)

        return httpx.AsyncClient(transport=httpx.ASGITransport(with_peer), base_url="https://ca")

    def _internal_application(self, policy: str) -> AsgiApp:
        """One for each caller policy and domain: what FastAPI makes of its routes costs more than most tests."""
        made = self._applications.get(policy)
        if made is None or made[0] is not self.core:
            caller_policy, metrics = CallerPolicy.load(policy), HttpMetrics(CollectorRegistry())
            made = self.core, internal_application(self.core, caller_policy, metrics, self.clock)
            self._applications[policy] = made
        return made[1]

    def status(self) -> httpx.AsyncClient:
        """The HTTP listener's application."""
        app = status_application(self.core, 60, HttpMetrics(CollectorRegistry()), self.clock)
        return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://ca")
