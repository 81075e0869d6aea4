"""What comes after signatures, put together for `app.py`: webhooks, retention, evidence."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import SystemRandom
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, Counter

from pkicore.algorithms import PublicKey
from pkicore.clock import Clock
from pkicore.errors import KeyNotFoundError
from pkicore.keys.passphrase import read_passphrase
from pkicore.keys.remote import RemoteSigner
from services.chassis.asgi import Route
from services.chassis.database import Database
from services.chassis.outbound.addresses import AddressGuard
from services.chassis.runner import BackgroundTask
from services.signing.access import Access
from services.signing.decisions import Decisions
from services.signing.evidence.download import archive_routes
from services.signing.evidence.export import ArchiveEquipment, Evidence
from services.signing.objects import Objects
from services.signing.quotas import Quotas
from services.signing.retention import Retention, RetentionRule
from services.signing.signatures import Signatures
from services.signing.store import SigningStore
from services.signing.store.evidence import EvidenceStore
from services.signing.store.outbox import OutboxStore
from services.signing.store.retention import RetentionStore
from services.signing.webhooks.courier import Courier, Outcome
from services.signing.webhooks.registry import ReceiverRules, Webhooks
from services.signing.webhooks.secrets import SALT_BYTES, SecretBox
from services.signing.webhooks.sender import Sender
from services.signing.webhooks.settings import WebhookSettings

if TYPE_CHECKING:
    from services.signing.admin import AddRoutes

ARCHIVES: Final = "evidence"
"""Directory of archives, in the service's state."""


@dataclass(frozen=True, kw_only=True)
class Signed:
    """What this stands on.

    Attributes:
        trusted_root: as it is served; None where there is none.
    """

    store: SigningStore
    outbox: OutboxStore
    objects: Objects
    quotas: Quotas
    decisions: Decisions
    signatures: Signatures
    signer: RemoteSigner
    trusted_root: Callable[[], bytes | None]


@dataclass(frozen=True, kw_only=True)
class AftercareRules:
    """What the settings say."""

    webhooks: WebhookSettings
    retention: Sequence[RetentionRule]
    passphrase_file: Path
    directory: Path
    audit_archives: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Aftercare:
    """Webhooks, retention and evidence of one process."""

    webhooks: Webhooks
    courier: Courier
    retention: Retention
    evidence: Evidence
    decisions: Decisions

    def background(self) -> list[BackgroundTask]:
        """What goes on beside the requests."""
        return [
            BackgroundTask("webhooks", self.courier.run),
            BackgroundTask("webhooks-clean-up", self.courier.clean_up),
            BackgroundTask("retention", self.retention.run),
            BackgroundTask("evidence-clean-up", self.evidence.clean_up),
        ]

    def routes(self, entrance: Access) -> list[Route]:
        """What is not for FastAPI."""
        return archive_routes(self.evidence, self.decisions, entrance.caller)

    def admin(self) -> list[AddRoutes]:
        """The endpoints; FastAPI is loaded here and not before."""
        from services.signing.evidence.admin import evidence_routes
        from services.signing.webhooks.admin import webhook_routes

        return [
            webhook_routes(self.webhooks, self.decisions),
            evidence_routes(self.evidence, self.retention, self.decisions),
        ]


async def build_aftercare(
    database: Database, signed: Signed, rules: AftercareRules, *, clock: Clock, registry: CollectorRegistry
) -> Aftercare:
    """Wire it.

    Raises:
        KeyAccessError: the passphrase cannot be read.
        OSError: the directory of archives cannot be made, or the file of roots not be read.
        dns.resolver.NoResolverConfiguration: no resolver is given and the system names none.
        DatabaseError: the salt of the secrets can be neither read nor made.
    """
    settings = rules.webhooks
    guard = AddressGuard(settings.allowed_networks)
    receivers = ReceiverRules(guard, settings.plain_http, settings.per_tenant)
    box = await _box(signed.outbox, rules.passphrase_file)
    courier = Courier(
        signed.outbox,
        Sender.build(settings, guard),
        box,
        receivers,
        clock,
        SystemRandom().random,
        attempts(registry),
    )
    retention = Retention(RetentionStore(database), signed.outbox, rules.retention, clock)
    archives = rules.directory / ARCHIVES
    await asyncio.to_thread(archives.mkdir, mode=0o700, parents=True, exist_ok=True)
    equipment = ArchiveEquipment(
        store=signed.store,
        archives=EvidenceStore(database, rules.audit_archives),
        outbox=signed.outbox,
        retention=retention,
        objects=signed.objects,
        signer=signed.signatures,
        quotas=signed.quotas,
        public_key=partial(public_key, signed.signer),
        trusted_root=signed.trusted_root,
        directory=archives,
        clock=clock,
    )
    return Aftercare(
        webhooks=Webhooks(signed.outbox, box, receivers, clock),
        courier=courier,
        retention=retention,
        evidence=Evidence(equipment),
        decisions=signed.decisions,
    )


async def public_key(signer: RemoteSigner, name: str) -> PublicKey:
    """The public half of a key as records name it, TENANT.NAME/VERSION.

    Raises:
        KeyAccessError: it is not to be had.
    """
    key_id, _, version = name.partition("/")
    if not version.isdigit():
        raise KeyNotFoundError(f"{name} names no version of a key")
    return (await signer.public_key(key_id, int(version))).public_key


async def _box(outbox: OutboxStore, passphrase_file: Path) -> SecretBox:
    salt = await outbox.salt(os.urandom(SALT_BYTES))
    return await asyncio.to_thread(lambda: SecretBox.derive(read_passphrase(passphrase_file), salt))


def attempts(registry: CollectorRegistry) -> Callable[[Outcome], None]:
    """Counts the outcome of each attempt to deliver a webhook."""
    outcomes = Counter("signing_webhook_attempts", "Attempts to deliver.", ("outcome",), registry=registry)
    return lambda outcome: outcomes.labels(outcome).inc()
