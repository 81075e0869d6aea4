"""The real ACME service in memory, between a simulated CA and a simulated outside world.

The service and its database are the real ones. Simulated are the CA, which issues real certificates from a PKI in
memory and can be told to refuse or to be away, and the validator, which believes what a test tells it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import httpx
from prometheus_client import CollectorRegistry

import services.acme
from pkicore.clock import from_unix, unix
from pkicore.identity import SpiffeId
from pkicore.weak_keys import PublishedKeys
from pkicore.x509.certificate import sign_certificate, to_pem
from pkicore.x509.csr import UnverifiedCsr
from pkicore.x509.names import Names
from pkicore.x509.tbs import build_tbs, common_name_of, validity
from services.acme.accounts.account import AccountRules
from services.acme.accounts.terms import Terms
from services.acme.admin_application import admin_application
from services.acme.authorizations.authorizations import Validator
from services.acme.challenges.attempt import Attempt, PerspectiveAnswer
from services.acme.client import AcmeAdminClient
from services.acme.directory import Meta
from services.acme.errors import AcmeError
from services.acme.external_accounts.secret import EabSecret
from services.acme.identifiers import Identifier
from services.acme.nonces import open_nonces
from services.acme.orders.rules import OrderRules
from services.acme.rate_limits.rate_limits import Limits
from services.acme.service import AcmeService, Outside, ServiceRules
from services.acme.urls import Urls
from services.ca.acme_settings import acme_callers
from services.ca.client import (
    AlreadyRevokedError,
    BlockedAccountError,
    CaError,
    CaUnavailableError,
    KeyStatus,
    UnknownCertificateError,
)
from services.ca.wire import CertificateRequest, IssuedCertificate, RevocationAnswer, RevocationRequest, format_serial
from services.chassis.asgi import Application
from services.chassis.database import Database
from services.chassis.observability import HttpMetrics
from services.chassis.peer import CallerPolicy
from tests.support.acme_client import AcmeClient
from tests.support.clock import ManualClock
from tests.support.jose_key import JoseKey
from tests.support.migrated import migrated
from tests.support.pki import PROFILES, Hierarchy, make_hierarchy

BASE = "https://acme.test"
DIRECTORY = f"{BASE}/acme/directory"
OPERATOR = SpiffeId("pqcpki.internal", "/operator/admin")
POLICY = acme_callers("pqcpki.internal")


class CaSimulator:
    """Simulates the CA behind `CaClient`'s methods, idempotency included.

    Attributes:
        refusal: raised instead of issuing.
        away: while set, nothing is answered.
        answer_with: answered whatever was asked.
        lost_answers: so many answers are lost after the certificate was issued.
        alternates: further chains that come with each certificate.
        requests: every request for a certificate, repeated ones too.
        revoked: serial to reason.
        blocked: SHA-256 of the keys on the block list, hex; `asked` counts the questions about it.
    """

    def __init__(self, hierarchy: Hierarchy) -> None:
        self._hierarchy = hierarchy
        self._issued: dict[str, IssuedCertificate] = {}
        self.refusal: CaError | None = None
        self.answer_with: IssuedCertificate | None = None
        self.away = False
        self.lost_answers = 0
        self.alternates: tuple[str, ...] = ()
        self.requests: list[CertificateRequest] = []
        self.revoked: dict[str, str | int] = {}
        self.blocked: set[str] = set()
        self.asked = 0
        self.gate = asyncio.Event()
        self.gate.set()

    @property
    def issued(self) -> list[IssuedCertificate]:
        """Every certificate, once."""
        return list(self._issued.values())

    async def issue(self, request: CertificateRequest) -> IssuedCertificate:
        """As `CaClient.issue`."""
        self.requests.append(CertificateRequest.from_json(request.to_json()))
        await self.gate.wait()
        if self.away:
            raise CaUnavailableError("the simulated CA is away")
        if self.refusal is not None:
            raise self.refusal
        if self.answer_with is not None:
            return self.answer_with
        if request.account_key is not None and request.account_key.hex() in self.blocked:
            raise BlockedAccountError("blocked-account", 403, "the key of this account is on the block list of the CA")
        if request.idempotency_key not in self._issued:
            self._issued[request.idempotency_key] = await self._sign(request)
        if self.lost_answers:
            self.lost_answers -= 1
            raise CaUnavailableError("the simulated CA's answer was lost")
        return self._issued[request.idempotency_key]

    async def revoke(self, request: RevocationRequest) -> RevocationAnswer:
        """As `CaClient.revoke`."""
        if self.away:
            raise CaUnavailableError("the simulated CA is away")
        if request.serial not in {issued.serial for issued in self.issued}:
            raise UnknownCertificateError("unknown-certificate", 404, "never issued")
        if request.serial in self.revoked:
            raise AlreadyRevokedError("already-revoked", 409, "revoked before")
        self.revoked[request.serial] = request.reason
        return RevocationAnswer(request.serial, unix(self._hierarchy.clock.now()), str(request.reason))

    async def key_status(self, key_hash: str) -> KeyStatus:
        """As `CaClient.key_status`."""
        self.asked += 1
        if self.away:
            raise CaUnavailableError("the simulated CA is away")
        return KeyStatus(key_hash, key_hash in self.blocked, is_certified=False)

    async def _sign(self, request: CertificateRequest) -> IssuedCertificate:
        csr = UnverifiedCsr.parse(request.csr).verify()
        profile, issuer = PROFILES[request.profile], self._hierarchy.issuing
        begin, until = (None if at is None else from_unix(at) for at in (request.not_before, request.not_after))
        start, end = validity(profile, issuer, self._hierarchy.clock.now(), until, not_before=begin)
        serial = len(self._issued) + 4711
        by_type = {kind: [name.value for name in request.identifiers if name.type == kind] for kind in ("dns", "ip")}
        names = Names.build(**by_type)
        tbs = build_tbs(
            profile,
            issuer,
            serial=serial,
            not_before=start,
            not_after=end,
            public_key=csr.public_key,
            common_name=common_name_of(profile, csr.common_name, names),
            names=names,
        )
        certificate = await sign_certificate(tbs, self._hierarchy.issuing_key, issuer.certificate)
        chain = to_pem((certificate, *issuer.chain)).decode()
        leaf = to_pem((certificate,)).decode()
        return IssuedCertificate(format_serial(serial), leaf, chain, unix(end), self.alternates)


@dataclass
class ValidatorSimulator:
    """Simulates the outside world: every name validates at once, unless told otherwise.

    Attributes:
        failures: name to the error of its validation.
        gate: validations wait while it is not set.
        attempts: each, in order.
        answers: what remote perspectives are said to have seen.
        real: carries out the attempts, where it is set.
    """

    failures: dict[str, Exception] = field(default_factory=dict)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    attempts: list[Attempt] = field(default_factory=list)
    answers: tuple[PerspectiveAnswer, ...] = ()
    real: Validator | None = None

    def __post_init__(self) -> None:
        self.gate.set()

    async def validate(self, attempt: Attempt) -> tuple[PerspectiveAnswer, ...]:
        """As `services.acme.validation.Validator.validate`."""
        self.attempts.append(attempt)
        await self.gate.wait()
        if self.real is not None:
            return await self.real.validate(attempt)
        failure = self.failures.get(attempt.identifier.value)
        if failure is not None:
            if isinstance(failure, AcmeError) and failure.acme_type == "rateLimited":
                del self.failures[attempt.identifier.value]
            raise failure
        return self.answers


@dataclass
class CaaSimulator:
    """Simulates CAA records: every name may be issued for, unless told otherwise.

    Attributes:
        refusals: name to what the look-up ends in.
        checks: each, as (name, wildcard, method, account URL).
    """

    refusals: dict[str, AcmeError] = field(default_factory=dict)
    checks: list[tuple[str, bool, str, str]] = field(default_factory=list)

    async def check(self, identifier: Identifier, *, wildcard: bool, method: str, account_url: str) -> None:
        """As `services.acme.caa.Caa.check`."""
        self.checks.append((identifier.value, wildcard, method, account_url))
        if identifier.value in self.refusals:
            raise self.refusals[identifier.value]


@dataclass
class AcmeServer:
    """A running service and what surrounds it."""

    service: AcmeService
    database: Database
    ca: CaSimulator
    validator: ValidatorSimulator
    caa: CaaSimulator
    clock: ManualClock
    http: httpx.AsyncClient
    directory: Path
    commits: list[str]
    rules: ServiceRules
    url: str
    admin_applications: dict[str, Application] = field(default_factory=dict)

    @classmethod
    async def start(
        cls,
        directory: Path,
        *,
        terms: str = "",
        external_account_required: bool = False,
        max_pending: int = 100,
        hold_seconds: float = 2.0,
        published: PublishedKeys | None = None,
        limits: Limits | None = None,
        url: str = "",
        issuers: tuple[str, ...] = (),
        **orders: Any,  # noqa: ANN401 -- further fields of OrderRules
    ) -> Self:
        """A service with an empty database: SQLite in the directory, or the one of the URL."""
        clock, url = ManualClock(), url or f"sqlite:///{directory / 'acme.sqlite3'}"
        rules = ServiceRules(
            AccountRules(Terms(terms), max_contacts=3),
            OrderRules(lifetime=7 * 86400, max_identifiers=10, max_pending=max_pending, **orders),
            hold_seconds,
            EabSecret(directory / "eab-secret"),
            Meta(
                terms=terms,
                caa_identities=issuers,
                external_account_required=external_account_required,
                profiles={"server": "90 days", "short-lived": "six days"},
            ),
            published,
            limits or Limits(),
        )
        ca = CaSimulator(await make_hierarchy("ecdsa", clock))
        await migrated(url, Path(services.acme.__file__).parent / "migrations")
        return await cls._run(directory, rules, clock, ca, ValidatorSimulator(), CaaSimulator(), url)

    async def restart(self) -> Self:
        """Stop without ceremony and start anew on the same database, with the same CA and world."""
        await self.stop()
        return await self.replica()

    async def replica(self) -> Self:
        """Another process on the same database, with the same CA and world."""
        server = await self._run(self.directory, self.rules, self.clock, self.ca, self.validator, self.caa, self.url)
        await server.service.resume()
        return server

    async def stop(self) -> None:
        """End the process, as it were."""
        await self.http.aclose()
        await self.service.close()
        await self.database.close()

    def client(self, key: JoseKey | None = None) -> AcmeClient:
        """A client without an account yet."""
        return AcmeClient(self.http, DIRECTORY, key or JoseKey.generate())

    async def registered(self, key: JoseKey | None = None) -> AcmeClient:
        """A client with an account."""
        client = self.client(key)
        await client.register()
        return client

    @asynccontextmanager
    async def operated(
        self, caller: SpiffeId | None = OPERATOR, policy: str = POLICY
    ) -> AsyncIterator[AcmeAdminClient]:
        """The admin listener's client, as a peer with this identity under a caller policy."""
        async with self.admin(caller, policy) as http:
            yield AcmeAdminClient(http)

    @asynccontextmanager
    async def admin(self, caller: SpiffeId | None = OPERATOR, policy: str = POLICY) -> AsyncIterator[httpx.AsyncClient]:
        """The admin listener's application, called by a peer with this identity under a caller policy."""
        if policy not in self.admin_applications:  # FastAPI takes as long to make one as most tests
            self.admin_applications[policy] = admin_application(
                self.service.administration, CallerPolicy.load(policy), HttpMetrics(CollectorRegistry())
            )
        app = self.admin_applications[policy]
        peer = None if caller is None else SimpleNamespace(spiffe_id=caller, serial=1)

        async def with_peer(scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401 -- ASGI's own types
            await app({**scope, "state": {"peer": peer}}, receive, send)

        async with httpx.AsyncClient(transport=httpx.ASGITransport(with_peer), base_url="https://acme") as http:
            yield http

    async def settled(self, condition: Callable[[], bool]) -> None:
        """Let background work go on until the condition holds."""
        async with asyncio.timeout(60):
            while not condition():  # noqa: ASYNC110 - what is awaited has no event of its own
                await asyncio.sleep(0.005)

    @classmethod
    async def _run(
        cls,
        directory: Path,
        rules: ServiceRules,
        clock: ManualClock,
        ca: CaSimulator,
        validator: ValidatorSimulator,
        caa: CaaSimulator,
        url: str,
    ) -> Self:
        commits: list[str] = []

        def observer(when: str, label: str) -> None:
            if when == "after":
                commits.append(label)

        database = await Database.open(url, clock=clock, commit_observer=observer)
        service = AcmeService.assemble(
            database=database,
            outside=Outside(ca, validator, caa),
            nonces=await open_nonces(database, clock),
            urls=Urls(BASE),
            rules=rules,
            clock=clock,
            metrics=HttpMetrics(CollectorRegistry()),
        )
        http = httpx.AsyncClient(transport=httpx.ASGITransport(service.application), base_url=BASE)
        return cls(service, database, ca, validator, caa, clock, http, directory, commits, rules, url)


async def solve(_: object) -> None:
    """Nothing needs to be put anywhere: the simulated world believes everybody."""
