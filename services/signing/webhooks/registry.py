"""What a tenant does with its receivers: register, rotate, remove, see what died, send it again."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final, NamedTuple

from pkicore.clock import Clock, unix
from pkicore.errors import MalformedError
from services.chassis.database import AuditEvent
from services.chassis.errors import ConflictError
from services.chassis.outbound.addresses import AddressGuard
from services.signing.errors import NotFoundError, NotOfferedError
from services.signing.store.outbox import Delivery, OutboxStore, Webhook
from services.signing.webhooks.receiver_url import receiver_url
from services.signing.webhooks.secrets import SecretBox, new_secret, shown
from services.signing.wire.webhooks import DELIVERY_STATES, EVENT_TYPES, DeliveryState

OVERLAP_SECONDS: Final = 86_400
"""How long a secret is still good after it was replaced."""
MAX_PAGE: Final = 100


@dataclass(frozen=True, slots=True)
class ReceiverRules:
    """What a receiver may be.

    Attributes:
        guard: which addresses may be dialled.
        plain_http: whether http is let through, to loopback.
        per_tenant: how many receivers a tenant may have.
    """

    guard: AddressGuard
    plain_http: bool
    per_tenant: int


class Registered(NamedTuple):
    """A receiver, and its secret as it is shown this once."""

    webhook: Webhook
    secret: str


class Webhooks:
    """The receivers of tenants; whoever calls has seen to it that the caller may act for the tenant.

    Args:
        store: where they are kept.
        box: seals their secrets.
        rules: what they may be.
        clock: the time.
    """

    def __init__(self, store: OutboxStore, box: SecretBox, rules: ReceiverRules, clock: Clock) -> None:
        self._store = store
        self._box = box
        self._rules = rules
        self._clock = clock

    async def register(self, tenant: str, actor: str, url: object, events: object) -> Registered:
        """Keep a new receiver.

        Raises:
            MalformedError: a URL or events that are not taken.
            NotOfferedError: the tenant has as many as it may.
        """
        checked = receiver_url(url, self._rules.guard, plain_http=self._rules.plain_http)
        webhook_id, secret = f"wh_{secrets.token_hex(12)}", new_secret()
        webhook = Webhook(
            id=webhook_id,
            tenant=tenant,
            url=str(checked),
            events=_event_types(events),
            state="enabled",
            secret=self._box.seal(webhook_id, secret),
            previous_secret=None,
            previous_until=0,
            created_at=unix(self._clock.now()),
            created_by=actor,
        )
        detail = {"tenant": tenant, "webhook": webhook_id, "url": webhook.url, "events": list(webhook.events)}
        most = self._rules.per_tenant
        try:
            await self._store.register(webhook, most, AuditEvent("webhook.registered", actor, detail))
        except ConflictError as error:
            raise NotOfferedError(f"a tenant has at most {most} webhooks") from error
        return Registered(webhook, shown(secret))

    async def of_tenant(self, tenant: str) -> list[Webhook]:
        """The tenant's receivers."""
        return await self._store.webhooks(tenant)

    async def rotate(self, tenant: str, actor: str, webhook_id: str) -> Registered:
        """Give a receiver a new secret; messages are signed with both for a day. One that was gone is enabled again.

        Raises:
            NotFoundError: the tenant has no such receiver.
            ConflictError: somebody else has just rotated it.
        """
        seen = await self._own(tenant, webhook_id)
        secret, until = new_secret(), unix(self._clock.now()) + OVERLAP_SECONDS
        event = AuditEvent("webhook.rotated", actor, {"tenant": tenant, "webhook": webhook_id, "overlap_until": until})
        await self._store.rotate(seen, self._box.seal(webhook_id, secret), until, event)
        return Registered(await self._own(tenant, webhook_id), shown(secret))

    async def remove(self, tenant: str, actor: str, webhook_id: str) -> None:
        """Forget a receiver, and what was on its way to it.

        Raises:
            NotFoundError: the tenant has no such receiver.
        """
        webhook = await self._own(tenant, webhook_id)
        event = AuditEvent("webhook.removed", actor, {"tenant": tenant, "webhook": webhook_id})
        try:
            await self._store.remove(webhook, event)
        except ConflictError as error:
            raise _unknown(webhook_id) from error

    async def deliveries(
        self, tenant: str, state: DeliveryState | None, after: tuple[int, str, str] = (0, "", ""), most: int = MAX_PAGE
    ) -> Sequence[Delivery]:
        """The tenant's deliveries in a state, or in any, the oldest first: `dead` ones are the dead letters."""
        most = min(most, MAX_PAGE)
        if state is not None:
            return await self._store.deliveries(tenant, state, after, most)
        pages = [await self._store.deliveries(tenant, one, after, most) for one in DELIVERY_STATES]
        return sorted(chain.from_iterable(pages), key=lambda one: (one.created_at, one.event, one.webhook))[:most]

    async def redeliver(self, tenant: str, actor: str, event_id: str, webhook_id: str) -> None:
        """Send a delivery once more that is dead, or was delivered.

        Raises:
            NotFoundError: the tenant has no such delivery, it is on its way, or its receiver is gone.
        """
        detail = {"tenant": tenant, "webhook": webhook_id, "event": event_id}
        try:
            await self._store.redeliver(
                tenant,
                event_id,
                webhook_id,
                unix(self._clock.now()),
                AuditEvent("webhook.redelivered", actor, detail),
            )
        except ConflictError as error:
            raise NotFoundError(
                "there is no such delivery, or it is on its way, or its receiver is gone until its secret is rotated"
            ) from error

    async def _own(self, tenant: str, webhook_id: str) -> Webhook:
        found = await self._store.webhook(webhook_id)
        if found is None or found.tenant != tenant:
            raise _unknown(webhook_id)
        return found


def _unknown(webhook_id: str) -> NotFoundError:
    return NotFoundError(f"there is no webhook {webhook_id[:64]!r}")


def _event_types(events: object) -> tuple[str, ...]:
    if not isinstance(events, list) or not events or not all(event in EVENT_TYPES for event in events):
        raise MalformedError(f"a webhook's events must be a list of some of {', '.join(EVENT_TYPES)}")
    return tuple(sorted(set(events)))
