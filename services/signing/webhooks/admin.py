"""Webhooks and their dead letters, as callers manage those of their own tenant.

| endpoint                                     | what                                                              |
|----------------------------------------------|-------------------------------------------------------------------|
| POST   /v1/webhooks                          | register `{url, events}` (201); its secret is shown this once     |
| GET    /v1/webhooks                          | those of the tenant                                               |
| POST   /v1/webhooks/{id}/rotate              | a new secret; the old one signs along for a day                   |
| DELETE /v1/webhooks/{id}                     | forget it, and what is on its way to it (204)                     |
| GET    /v1/webhook-deliveries?state=&after=  | deliveries; with state those that are dead, pending or delivered  |
| POST   /v1/webhook-deliveries/{webhook}/{event} | send one again that is dead, or was delivered (202)            |
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

import fastapi
import orjson

from pkicore.errors import MalformedError
from pkicore.jose.strict import strict_object
from services.signing.admin import AddRoutes, CallerOf, json_body
from services.signing.callers import Caller
from services.signing.decisions import Decisions, access, caller_name
from services.signing.store.outbox import Delivery, Webhook
from services.signing.webhooks.registry import MAX_PAGE, Registered, Webhooks
from services.signing.wire.webhooks import DELIVERY_STATES, DeliveryState

_JSON: Final = "application/json"
_NO_STORE: Final = {"cache-control": "no-store"}
_CREATED, _ACCEPTED, _NO_CONTENT = 201, 202, 204
_AFTER: Final = re.compile(r"([0-9]{1,18})-([A-Za-z0-9_]{1,128})-(wh_[0-9a-f]{1,64})", re.ASCII)


def webhook_routes(webhooks: Webhooks, decisions: Decisions) -> AddRoutes:
    """The endpoints above."""

    async def permitted(request: fastapi.Request, caller_of: CallerOf) -> Caller:
        caller = await caller_of(request)
        await decisions.permit(access(caller, "manage_webhooks"))
        return caller

    def add(router: fastapi.APIRouter, caller_of: CallerOf) -> None:
        @router.post("/webhooks", status_code=_CREATED)
        async def register(request: fastapi.Request) -> fastapi.Response:
            """Register a receiver."""
            caller = await permitted(request, caller_of)
            body = strict_object(await json_body(request), "the request")
            if body.keys() != {"url", "events"}:
                raise MalformedError("the request must be an object with the members url and events")
            made = await webhooks.register(caller.tenant, caller_name(caller), body["url"], body["events"])
            return _registered(made, _CREATED)

        @router.get("/webhooks")
        async def listed(request: fastapi.Request) -> fastapi.Response:
            """The tenant's receivers."""
            caller = await permitted(request, caller_of)
            return _answer({"webhooks": [_members(one) for one in await webhooks.of_tenant(caller.tenant)]})

        @router.post("/webhooks/{webhook_id}/rotate")
        async def rotate(request: fastapi.Request, webhook_id: str) -> fastapi.Response:
            """Give a receiver a new secret."""
            caller = await permitted(request, caller_of)
            return _registered(await webhooks.rotate(caller.tenant, caller_name(caller), webhook_id), 200)

        @router.delete("/webhooks/{webhook_id}", status_code=_NO_CONTENT)
        async def remove(request: fastapi.Request, webhook_id: str) -> fastapi.Response:
            """Forget a receiver."""
            caller = await permitted(request, caller_of)
            await webhooks.remove(caller.tenant, caller_name(caller), webhook_id)
            return fastapi.Response(status_code=_NO_CONTENT)

        @router.get("/webhook-deliveries")
        async def deliveries(request: fastapi.Request) -> fastapi.Response:
            """One page of deliveries; `next` is the `after` of the following one."""
            caller = await permitted(request, caller_of)
            state, after = _state(request), _after(request.query_params.get("after"))
            return _page(await webhooks.deliveries(caller.tenant, state, after))

        @router.post("/webhook-deliveries/{webhook_id}/{event_id}", status_code=_ACCEPTED)
        async def redeliver(request: fastapi.Request, webhook_id: str, event_id: str) -> fastapi.Response:
            """Send one again."""
            caller = await permitted(request, caller_of)
            await webhooks.redeliver(caller.tenant, caller_name(caller), event_id, webhook_id)
            return fastapi.Response(status_code=_ACCEPTED)

    return add


def _state(request: fastapi.Request) -> DeliveryState | None:
    asked = request.query_params.get("state")
    if asked is None:
        return None
    for state in DELIVERY_STATES:
        if asked == state:
            return state
    raise MalformedError(f"state must be one of {', '.join(DELIVERY_STATES)}")


def _after(text: str | None) -> tuple[int, str, str]:
    if text is None:
        return (0, "", "")
    found = _AFTER.fullmatch(text)
    if found is None:
        raise MalformedError("after must be what a page called next")
    return int(found[1]), found[2], found[3]


def _page(found: Sequence[Delivery]) -> fastapi.Response:
    last = found[-1] if len(found) == MAX_PAGE else None
    following = None if last is None else f"{last.created_at}-{last.event}-{last.webhook}"
    return _answer({"deliveries": [_delivery(one) for one in found], "next": following})


def _members(webhook: Webhook) -> dict[str, Any]:
    """What is told of a receiver: everything but its secrets."""
    names = ("id", "url", "state", "created_at", "created_by", "previous_until")
    return {name: getattr(webhook, name) for name in names} | {"events": list(webhook.events)}


def _registered(made: Registered, status: int) -> fastapi.Response:
    return _answer({**_members(made.webhook), "secret": made.secret}, status)


def _delivery(delivery: Delivery) -> dict[str, Any]:
    names = ("event", "webhook", "type", "state", "attempts", "due_at", "created_at", "last_status", "last_error")
    return {name: getattr(delivery, name) for name in names}


def _answer(members: dict[str, Any], status: int = 200) -> fastapi.Response:
    return fastapi.Response(orjson.dumps(members), status, _NO_STORE, _JSON)
