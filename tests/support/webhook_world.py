"""Webhooks over a real database, with DNS and receivers simulated on loopback."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Any

from pkicore.clock import unix
from services.chassis.database import Database, Unit
from services.chassis.outbound.addresses import AddressGuard
from services.signing.store.outbox import Delivery, Event, OutboxStore
from services.signing.webhooks.courier import Courier, Outcome
from services.signing.webhooks.message import event_body
from services.signing.webhooks.registry import ReceiverRules, Registered, Webhooks
from services.signing.webhooks.secrets import SecretBox
from services.signing.webhooks.sender import Sender
from services.signing.webhooks.settings import WebhookSettings
from tests.support.clock import ManualClock
from tests.support.dns_server import DnsSimulator
from tests.support.migrated import migrated

MIGRATIONS = Path(__file__).parents[2] / "services/signing/migrations"
LOOPBACK = (ip_network("127.0.0.0/8"), ip_network("::1/128"))
BOX = SecretBox(bytes(32))


@dataclass
class WebhookWorld:
    """What a test of deliveries holds."""

    dns: DnsSimulator
    clock: ManualClock
    database: Database
    store: OutboxStore
    webhooks: Webhooks
    courier: Courier
    outcomes: list[Outcome]

    async def receiver(self, url: str, tenant: str = "acme") -> Registered:
        """Register a receiver of new signatures."""
        return await self.webhooks.register(tenant, "alice", url, ["signature.created"])

    async def happens(self, event_id: str, tenant: str = "acme") -> None:
        """Commit that something was signed."""
        body = event_body("signature.created", self.clock.now(), {"id": event_id})
        event = Event(event_id, tenant, "signature.created", body, unix(self.clock.now()))
        await self.database.commit(Unit("test", [self.store.announcing(event)]))

    async def deliver(self) -> None:
        """One round, until every attempt of it has ended."""
        await self.courier.round()
        await self.courier.settled()

    async def one(self, state: Any = "pending", tenant: str = "acme") -> Delivery:  # noqa: ANN401 -- a DeliveryState
        """The one delivery in that state."""
        (found,) = await self.webhooks.deliveries(tenant, state)
        return found

    def later(self, seconds: int) -> None:
        """Let time pass."""
        self.clock.advance(timedelta(seconds=seconds))


@asynccontextmanager
async def webhook_world(
    directory: Path,
    *,
    allowed: Sequence[IPv4Network | IPv6Network] = LOOPBACK,
    plain_http: bool = True,
    seconds: float = 10,
    ca_file: Path | None = None,
    random: float = 0.0,
    url: str | None = None,
) -> AsyncIterator[WebhookWorld]:
    """A world whose name hook.test is at 127.0.0.1, over SQLite in the directory or the database of the URL."""
    url = url or f"sqlite:///{directory / 'signing.sqlite3'}"
    await migrated(url, MIGRATIONS)
    clock, outcomes = ManualClock(), list[Outcome]()
    database = await Database.open(url, clock=clock)
    async with DnsSimulator() as dns:
        dns.set("hook.test", A=["127.0.0.1"])
        settings = WebhookSettings(
            allowed_networks=tuple(allowed),
            plain_http=plain_http,
            resolver=dns.address,
            ca_file=ca_file,
            per_tenant=3,
            attempt_seconds=seconds,
        )
        guard = AddressGuard(allowed)
        rules = ReceiverRules(guard, settings.plain_http, settings.per_tenant)
        store = OutboxStore(database)
        sender = Sender.build(settings, guard)
        courier = Courier(store, sender, BOX, rules, clock, lambda: random, outcomes.append)
        yield WebhookWorld(dns, clock, database, store, Webhooks(store, BOX, rules, clock), courier, outcomes)
    await database.close()
