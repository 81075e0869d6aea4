"""`/v1/webhooks` and `/v1/webhook-deliveries`: receivers, and what became of what was sent to them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal, get_args

import orjson

from services.chassis.fields import Fields

EventType = Literal["signature.created", "signature.removed", "evidence.exported"]
EVENT_TYPES: Final[tuple[EventType, ...]] = get_args(EventType)
DeliveryState = Literal["pending", "delivered", "dead"]
DELIVERY_STATES: Final[tuple[DeliveryState, ...]] = get_args(DeliveryState)
_MAX_URL: Final = 2048


@dataclass(frozen=True, slots=True)
class NewWebhookRequest:
    """`POST /v1/webhooks`: a receiver for events of the caller's tenant."""

    url: str
    events: tuple[str, ...]

    def to_json(self) -> bytes:
        """The request body."""
        return orjson.dumps({"url": self.url, "events": list(self.events)})


@dataclass(frozen=True, slots=True)
class WebhookAnswer:
    """A receiver without its secret; times in Unix seconds, `previous_until` 0 where no former secret is good."""

    id: str
    url: str
    events: tuple[str, ...]
    state: str
    created_at: int
    created_by: str
    previous_until: int

    def members(self) -> dict[str, Any]:
        """Its JSON members."""
        return asdict(self)

    @classmethod
    def of(cls, members: object) -> WebhookAnswer:
        """Read one; MalformedError where it is none."""
        body = Fields.of(members)
        return cls(
            body.text("id"),
            body.text("url", _MAX_URL),
            tuple(body.texts("events")),
            body.text("state"),
            body.time("created_at"),
            body.text("created_by", 4096),
            body.time("previous_until"),
        )


@dataclass(frozen=True, slots=True)
class NewWebhookAnswer:
    """A receiver that was just registered, or got a new secret; `secret` is shown this once."""

    secret: str = field(repr=False)
    described: WebhookAnswer

    @classmethod
    def from_json(cls, data: bytes) -> NewWebhookAnswer:
        """Read an answer body; MalformedError where it is none."""
        body = Fields.parse(data)
        return cls(body.text("secret"), WebhookAnswer.of(body.members))


@dataclass(frozen=True, slots=True)
class WebhookList:
    """`GET /v1/webhooks`: those of the caller's tenant."""

    webhooks: tuple[WebhookAnswer, ...]

    @classmethod
    def from_json(cls, data: bytes) -> WebhookList:
        """Read an answer body; MalformedError where it is none."""
        return cls(tuple(map(WebhookAnswer.of, Fields.parse(data).objects("webhooks"))))


@dataclass(frozen=True, slots=True)
class DeliveryAnswer:
    """An event on its way to a receiver; times in Unix seconds."""

    event: str
    webhook: str
    type: str
    state: str
    attempts: int
    due_at: int
    created_at: int
    last_status: int | None
    last_error: str | None

    def members(self) -> dict[str, Any]:
        """Its JSON members."""
        return asdict(self)

    @classmethod
    def of(cls, members: object) -> DeliveryAnswer:
        """Read one; MalformedError where it is none."""
        body = Fields.of(members)
        return cls(
            body.text("event"),
            body.text("webhook"),
            body.text("type"),
            body.text("state"),
            body.time("attempts"),
            body.time("due_at"),
            body.time("created_at"),
            body.optional_time("last_status"),
            body.optional_text("last_error", 4096),
        )


@dataclass(frozen=True, slots=True)
class DeliveryPage:
    """`GET /v1/webhook-deliveries`; `next` is the `after` of the following page, None at the end."""

    deliveries: tuple[DeliveryAnswer, ...]
    next: str | None

    @classmethod
    def from_json(cls, data: bytes) -> DeliveryPage:
        """Read an answer body; MalformedError where it is none."""
        body = Fields.parse(data)
        return cls(tuple(map(DeliveryAnswer.of, body.objects("deliveries"))), body.optional_text("next"))
