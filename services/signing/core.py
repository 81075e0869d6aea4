"""The domain of the signing service, put together over one database and one directory: no listener, no socket."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from pkicore.clock import Clock
from pkicore.keys.remote import RemoteSigner
from services.chassis.database import Database
from services.signing.access import Access
from services.signing.api import SignatureEndpoints
from services.signing.api_keys import ManagedApiKeys
from services.signing.callers import ApiKeys, Callers, MtlsCallers, OidcCallers
from services.signing.decisions import Decisions, Policies
from services.signing.jobs import Profile, Profiles
from services.signing.key_certificates import CertifiedKey, ChainsInUse
from services.signing.keys import SigningKeys
from services.signing.metrics import SigningMetrics
from services.signing.objects import Objects
from services.signing.quotas import Quota, Quotas
from services.signing.records import first_id
from services.signing.settings import QuotaSettings, SigningSettings
from services.signing.signatures import Certifier, Checker, Equipment, Signatures
from services.signing.store import SigningStore
from services.signing.store.outbox import OutboxStore
from services.signing.upkeep import Upkeep
from services.signing.webhooks.events import announcing_signatures
from services.signing.witnesses import Witnesses


@dataclass(frozen=True, kw_only=True)
class CoreRules:
    """What the domain is told.

    Attributes:
        verifier: URL of this service, as summaries name it.
        profiles: by tenant and id.
        quota: of whoever has none of its own.
        quotas: by tenant.
        fresh_seconds: how long a key's current version is believed.
        upload_seconds: what a whole upload may take.
        remembered: how long an idempotency key is.
        published: keys whose public halves anybody may have, besides those of profiles.
    """

    verifier: str
    profiles: Mapping[tuple[str, str], Profile]
    quota: Quota
    quotas: Mapping[str, Quota] = field(default_factory=dict)
    fresh_seconds: float = 10.0
    upload_seconds: float = 300.0
    remembered: timedelta = timedelta(days=7)
    published: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Outside:
    """What the domain asks, and does not make.

    Attributes:
        signer: holds the keys.
        policies: in force.
        peers: mTLS callers.
        tokens: OIDC callers.
        sboms: checks them.
        witnesses: time-stamps and the log.
        certifier: short-lived certificates; None where there are none.
        pool: for long hashes.
    """

    signer: RemoteSigner
    policies: Policies
    peers: MtlsCallers
    tokens: OidcCallers
    sboms: Checker
    witnesses: Witnesses
    certifier: Certifier | None
    pool: Executor


@dataclass(frozen=True, kw_only=True)
class Core:
    """The domain over one database and one directory; no listener, no settings."""

    store: SigningStore
    outbox: OutboxStore
    objects: Objects
    keys: SigningKeys
    decisions: Decisions
    signatures: Signatures
    callers: Callers
    entrance: Access
    endpoints: SignatureEndpoints
    api_keys: ManagedApiKeys
    upkeep: Upkeep
    quotas: Quotas


def build_core(
    database: Database,
    directory: Path,
    outside: Outside,
    rules: CoreRules,
    *,
    clock: Clock,
    metrics: SigningMetrics,
    monotonic: Callable[[], float] = time.monotonic,
) -> Core:
    """Wire the domain."""
    store, outbox, objects = SigningStore(database, clock), OutboxStore(database), Objects(directory)
    keys = SigningKeys(outside.signer, outside.pool, monotonic, rules.fresh_seconds)
    decisions = Decisions(outside.policies, store, metrics, monotonic)
    quotas = _quotas(rules, store, clock, monotonic)
    equipment = Equipment(
        store=store,
        objects=objects,
        keys=keys,
        profiles=Profiles(rules.profiles),
        quotas=quotas,
        decisions=decisions,
        sboms=outside.sboms,
        witnesses=outside.witnesses,
        certifier=outside.certifier,
        announce=announcing_signatures(outbox),
        metrics=metrics,
        clock=clock,
        verifier=rules.verifier,
    )
    signatures = Signatures(equipment)
    callers = Callers(ApiKeys(store, clock), outside.tokens, outside.peers)
    entrance = Access(callers, decisions)
    endpoints = SignatureEndpoints(
        entrance=entrance,
        decisions=decisions,
        quotas=quotas,
        signatures=signatures,
        keys=keys,
        store=store,
        objects=objects,
        published=rules.published
        | {key for one in rules.profiles.values() for key in (*one.keys, *one.attestation_keys)},
        upload_seconds=rules.upload_seconds,
    )
    return Core(
        store=store,
        outbox=outbox,
        objects=objects,
        keys=keys,
        decisions=decisions,
        signatures=signatures,
        callers=callers,
        entrance=entrance,
        endpoints=endpoints,
        api_keys=ManagedApiKeys(store, decisions, clock),
        upkeep=Upkeep(store, objects, metrics, clock, rules.remembered, outside.witnesses.log),
        quotas=quotas,
    )


def _quotas(rules: CoreRules, store: SigningStore, clock: Clock, monotonic: Callable[[], float]) -> Quotas:
    return Quotas(
        rules.quota,
        rules.quotas,
        lambda tenant, since: store.octets_since(tenant, first_id(since)),
        clock=clock,
        monotonic=monotonic,
    )


def core_rules(settings: SigningSettings, base_url: str, certified: Mapping[str, CertifiedKey]) -> CoreRules:
    """The domain's rules as the settings have them; `certified` are the keys that have certificates."""
    profiles = {
        (one.tenant, one.id): Profile(
            one.keys,
            one.attestation_keys,
            one.formats,
            one.timestamp,
            one.log,
            ChainsInUse({key: certified[key] for key in one.certificates}),
        )
        for one in settings.profiles
    }
    own = {key.partition("/")[0] for key in (settings.log_key, settings.timestamp_key) if key is not None}
    return CoreRules(
        verifier=base_url,
        profiles=profiles,
        quota=_quota(settings.quota),
        quotas={one.tenant: _quota(one) for one in settings.tenant_quotas},
        fresh_seconds=settings.keys_fresh_seconds,
        upload_seconds=settings.upload_seconds,
        remembered=timedelta(days=settings.idempotency_days),
        published=frozenset(own),
    )


def _quota(settings: QuotaSettings) -> Quota:
    return Quota(settings.per_second, settings.burst, settings.in_flight, settings.bytes_per_day)
