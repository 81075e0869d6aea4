"""What goes to a receiver: the body of an event, and the headers of Standard Webhooks 1.0 that authenticate it.

The signature is HMAC-SHA-256 over `id.timestamp.body`. The id stays the same over all attempts, so that a receiver sees
a repetition as one; the timestamp is that of the attempt, so that it can refuse what is older than five minutes.
While a secret is being replaced there are two signatures, and either is enough for the receiver.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import orjson

from pkicore.errors import MalformedError
from services.signing.wire.webhooks import EventType

MAX_BODY_BYTES: Final = 20 * 1024
"""What Standard Webhooks advises: an event names what happened, and the receiver fetches the rest."""


def event_body(event_type: EventType, at: datetime, data: Mapping[str, Any]) -> bytes:
    """The JSON that every attempt carries, octet for octet.

    Raises:
        MalformedError: it would be longer than 20 KiB.
    """
    members = {"type": event_type, "timestamp": at.strftime("%Y-%m-%dT%H:%M:%SZ"), "data": data}
    body = orjson.dumps(members)
    if len(body) > MAX_BODY_BYTES:
        raise MalformedError(f"an event has at most {MAX_BODY_BYTES} octets")
    return body


def webhook_headers(event_id: str, timestamp: int, body: bytes, secrets: Sequence[bytes]) -> dict[str, str]:
    """The three headers.

    Args:
        event_id: without a full stop, which separates what is signed.
        timestamp: of the attempt, Unix seconds.
        body: as it is sent.
        secrets: the present one, then those that are still good.
    """
    signed = f"{event_id}.{timestamp}.".encode() + body
    digests = [hmac.digest(secret, signed, hashlib.sha256) for secret in secrets]
    return {
        "webhook-id": event_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(f"v1,{base64.b64encode(digest).decode()}" for digest in digests),
    }
