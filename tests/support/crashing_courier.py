"""Delivers what is in an outbox, and dies by SIGKILL around the commit that would settle it.

Usage: crashing_courier.py DATABASE_FILE RESOLVER before|after
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from ipaddress import ip_network

from services.chassis.database import Database
from services.chassis.outbound.addresses import AddressGuard
from services.signing.store.outbox import OutboxStore
from services.signing.webhooks.courier import Courier
from services.signing.webhooks.registry import ReceiverRules
from services.signing.webhooks.secrets import SecretBox
from services.signing.webhooks.sender import Sender
from services.signing.webhooks.settings import WebhookSettings
from tests.support.clock import ManualClock


async def main(file: str, resolver: str, when: str) -> None:
    """Deliver once."""

    def die(moment: str, label: str) -> None:
        if (moment, label) == (when, "delivery-settled"):
            os.kill(os.getpid(), signal.SIGKILL)

    clock = ManualClock()
    database = await Database.open(f"sqlite:///{file}", clock=clock, commit_observer=die)
    networks = (ip_network("127.0.0.0/8"),)
    settings = WebhookSettings(
        allowed_networks=networks, plain_http=True, resolver=resolver, ca_file=None, per_tenant=3, attempt_seconds=5
    )
    guard = AddressGuard(networks)
    rules = ReceiverRules(guard, settings.plain_http, settings.per_tenant)
    sender = Sender.build(settings, guard)
    courier = Courier(OutboxStore(database), sender, SecretBox(bytes(32)), rules, clock, lambda: 0.0, lambda _: None)
    await courier.round()
    await courier.settled()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
