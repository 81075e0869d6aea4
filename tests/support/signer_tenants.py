"""The real application of signer-hsm with two tenants, `left` and `right`, over a real SQLite file.

Each tenant has a back end of its own (`alpha`, `beta`; in memory, or in files where those matter), a workload that may
do everything, one that may use the keys `pub-*` only, and operators. Commits and queries are counted. Peers are handed
in as the mTLS listener would.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
from prometheus_client import CollectorRegistry

from pkicore.identity import SpiffeId
from services.chassis.asgi import AsgiApp
from services.chassis.database import Database, Prepared, Row
from services.chassis.observability import HttpMetrics
from services.chassis.oidc import OidcIssuerSettings
from services.chassis.peer import CallerPolicy
from services.signer_hsm.app import MIGRATIONS, Core, CoreRules, build_core, internal_application
from services.signer_hsm.attestations import device_statements
from services.signer_hsm.backends.guard import GuardedBackend
from services.signer_hsm.backends.registry import BackendRegistry
from services.signer_hsm.backends.settings import BackendSettings, FileSettings
from services.signer_hsm.metrics import SignerMetrics
from services.signer_hsm.policy import OidcVerifier, Policy
from services.signer_hsm.store import SignerStore
from tests.support.clock import ManualClock
from tests.support.migrated import migrated
from tests.support.signer_world import MemoryBackend, MemoryDevice

DIGEST = base64.b64encode(hashlib.sha256(b"x").digest()).decode()
BACKENDS: Mapping[str, str] = {"left": "alpha", "right": "beta"}
BURST = 40
_CALLERS = """
[[allow]]
caller = "spiffe://test/{kind}/*"
service = "signer-hsm"
endpoints = ["POST /v1/keys", "GET /v1/keys", "GET /v1/keys/{{id}}", "POST /v1/keys/{{id}}/rotate",
             "POST /v1/keys/{{id}}/disable", "POST /v1/keys/{{id}}/enable", "POST /v1/keys/{{id}}/destroy",
             "POST /v1/keys/{{id}}/sign", "GET /v1/keys/{{id}}/pubkey", "GET /v1/keys/{{id}}/attestation",
             "POST /v1/keys/{{id}}/attestation", "POST /sign", "GET /pubkey", "GET /health", "GET /v1/policy",
             "POST /v1/approvals", "GET /v1/approvals"]
"""
_TENANT = """
[[tenants]]
id = "{tenant}"
backends = ["{backend}"]
max_keys = 4
max_versions = 3
rate_per_second = 10
burst = {burst}
max_in_flight = 2

[[rules]]
id = "{tenant}-works"
tenant = "{tenant}"
callers = ["spiffe://test/workload/{tenant}"]
acts = ["create", "list", "show", "pubkey", "sign", "rotate", "disable", "enable", "attestation"]
keys = ["*"]
kinds = ["digest"]

[[rules]]
id = "{tenant}-destroys"
tenant = "{tenant}"
callers = ["spiffe://test/workload/{tenant}"]
acts = ["destroy"]
keys = ["*"]
approvals = 1

[[rules]]
id = "{tenant}-some"
tenant = "{tenant}"
callers = ["spiffe://test/workload/{tenant}-some"]
acts = ["create", "list", "show", "pubkey", "sign", "rotate", "disable", "enable", "destroy", "attestation", "approve"]
keys = ["pub-*"]
kinds = ["digest"]

[[rules]]
id = "{tenant}-approves"
tenant = "{tenant}"
callers = ["spiffe://test/operator/{tenant}"]
acts = ["approve"]
keys = ["*"]
"""


class CountingDatabase(Database):
    """Counts what it is asked."""

    queries = 0

    async def fetch_one(self, prepared: Prepared, /, **params: Any) -> Row | None:  # noqa: ANN401 - column values
        """As the real one."""
        self.queries += 1
        return await super().fetch_one(prepared, **params)

    async def fetch_all(self, prepared: Prepared, /, **params: Any) -> list[Row]:  # noqa: ANN401 - column values
        """As the real one."""
        self.queries += 1
        return await super().fetch_all(prepared, **params)


@dataclass
class TenantsWorld:
    """A started service without listeners.

    Attributes:
        core: the domain.
        database: whose queries are counted.
        commits: the labels of all commits so far.
        seconds: what the monotonic clock of rates says.
    """

    core: Core
    database: CountingDatabase
    commits: list[str]
    seconds: float = 1000.0
    _metrics: HttpMetrics = field(default_factory=lambda: HttpMetrics(CollectorRegistry()))

    @cached_property
    def application(self) -> AsgiApp:
        """The mTLS listener's."""
        policy = CallerPolicy.load("".join(_CALLERS.format(kind=kind) for kind in ("workload", "operator")))
        return internal_application(self.core, policy, self._metrics)

    def caller(self, path: str) -> httpx.AsyncClient:
        """A client that the mTLS listener has verified as `spiffe://test<path>`."""
        app = self.application
        peer = SimpleNamespace(spiffe_id=SpiffeId.parse(f"spiffe://test{path}"), serial=1)

        async def with_peer(scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401 - ASGI's own types
            await app({**scope, "state": {"peer": peer}}, receive, send)

        return httpx.AsyncClient(transport=httpx.ASGITransport(with_peer), base_url="https://signer-hsm")

    async def create(self, tenant: str, name: str) -> None:
        """A P-256 key, made by the tenant's own workload."""
        body = {"tenant": tenant, "name": name, "algorithm": "ecdsa-p256", "idempotency_key": f"make-{name}"}
        async with self.caller(f"/workload/{tenant}") as http:
            answer = await http.post("/v1/keys", json=body)
        assert answer.status_code == 201, answer.text

    def work(self) -> tuple[int, int]:
        """Commits and queries so far."""
        return len(self.commits), self.database.queries


@asynccontextmanager
async def tenants_world(
    directory: Path, *, issuers: Sequence[OidcIssuerSettings] = (), more_rules: str = "", files: bool = False
) -> AsyncIterator[TenantsWorld]:
    """Two tenants; `issuers` vouch for tokens that `more_rules` speak of.

    With `files` their keys are those in the directory.
    """
    clock, registry, commits = ManualClock(), CollectorRegistry(), list[str]()
    url = f"sqlite:///{directory / 'signer.sqlite3'}"
    await migrated(url, MIGRATIONS)
    database = await CountingDatabase.open(
        url, clock=clock, commit_observer=lambda when, label: commits.append(label) if when == "after" else None
    )
    metrics = SignerMetrics(registry)
    backends = await _open_backends(directory, clock, metrics, files=files)
    text = "version = 1\n" + "".join(
        _TENANT.format(tenant=tenant, backend=backend, burst=BURST) for tenant, backend in BACKENDS.items()
    )
    tokens = OidcVerifier(issuers, clock=clock, monotonic=lambda: world.seconds)
    store = SignerStore(database)
    await store.refresh()
    rules = CoreRules(
        approval_lifetime=timedelta(hours=24),
        patience=dict.fromkeys(BACKENDS.values(), 10.0),
        verify_attestation=device_statements(None, clock),
    )
    core = build_core(
        store,
        Policy.load(text + more_rules),
        backends,
        rules,
        tokens=tokens,
        clock=clock,
        metrics=metrics,
        monotonic=lambda: world.seconds,
    )
    world = TenantsWorld(core, database, commits)
    try:
        yield world
    finally:
        await tokens.aclose()
        for backend in backends.values():
            await backend.aclose()
        await database.close()


async def _open_backends(
    directory: Path, clock: ManualClock, metrics: SignerMetrics, *, files: bool
) -> Mapping[str, GuardedBackend]:
    names = BACKENDS.values()
    if files:
        settings = [_file_settings(directory, name) for name in names]
        return (await BackendRegistry.open(settings, clock=clock, metrics=metrics)).backends
    return {
        name: GuardedBackend(
            MemoryBackend(name, MemoryDevice(), clock), BackendSettings.model_validate({"name": name}), metrics
        )
        for name in names
    }


def _file_settings(directory: Path, name: str) -> FileSettings:
    passphrase_file = directory / "passphrase"
    passphrase_file.touch(mode=0o600)
    passphrase_file.write_text("correct horse battery staple")
    return FileSettings.model_validate(
        {"name": name, "type": "file", "directory": directory / name, "passphrase_file": passphrase_file}
    )
