"""What receivers are told: enough to fetch the rest with a credential of their own, and nothing secret."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from pkicore.clock import from_unix
from services.chassis.database import Write
from services.signing.store.outbox import Event, OutboxStore
from services.signing.webhooks.message import event_body
from services.signing.wire import SignatureRecord
from services.signing.wire.webhooks import EventType

_NAMED: Final = 32  # subjects that an event names


def event(event_type: EventType, about: str, tenant: str, at: int, data: dict[str, Any]) -> Event:
    """An event whose id follows from what it is about: what happened once is told under one id.

    Args:
        event_type: what happened.
        about: id of what it happened to.
        tenant: whose receivers are told.
        at: Unix seconds.
        data: what they are told.
    """
    body = event_body(event_type, from_unix(at), {"tenant": tenant, **data})
    return Event(f"evt_{event_type.replace('.', '_')}_{about}", tenant, event_type, body, at)


def signature_created(record: SignatureRecord) -> Event:
    """Something was signed; of many subjects the first ones are named."""
    data = {
        "id": record.id,
        "url": record.urls["self"],
        "subjects": [{"sha256": subject.sha256} for subject in record.subjects[:_NAMED]],
        "subject_count": len(record.subjects),
        "policy_sha256": record.policy.sha256,
    }
    return event("signature.created", record.id, record.tenant, record.created, data)


def announcing_signatures(outbox: OutboxStore) -> Callable[[SignatureRecord], Sequence[Write]]:
    """What puts new signatures in the outbox, in the commit of their record."""
    return lambda record: (outbox.announcing(signature_created(record)),)
