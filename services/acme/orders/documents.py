"""How clients see an order (RFC 8555 §7.1.3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from pkicore.clock import Clock, unix
from services.acme.answers import answer, location, not_found, retry_after, rfc3339
from services.acme.requests import AccountRequest
from services.acme.store import OrderRow, Store
from services.acme.urls import Urls
from services.chassis.asgi import Response

POLL_SECONDS: Final = 2


class OrderDocuments:
    """Finds orders for their accounts, and shows them."""

    def __init__(self, store: Store, urls: Urls, clock: Clock) -> None:
        self._store = store
        self._urls = urls
        self._clock = clock

    async def own(self, request: AccountRequest, order_id: str) -> OrderRow:
        """The order, if it is of the account that asks.

        Raises:
            AcmeError: malformed (404 for others' and unknown ones).
        """
        order = await self._store.order(order_id, request.account.id)
        if order is None:
            raise not_found()
        return order

    def status(self, order: OrderRow) -> str:
        """Expiry is judged at use."""
        expired = order.status in {"pending", "ready"} and order.expires <= unix(self._clock.now())
        return "invalid" if expired else order.status

    async def answer(self, order: OrderRow) -> Response:
        """The order, its URL, and when to ask again while the CA works."""
        document = self.document(order, await self._store.authorization_ids(order.id))
        headers = [location(self._urls.of(f"order/{order.id}"))]
        if order.status == "processing":
            headers.append(retry_after(POLL_SECONDS))
        return answer(document, *headers)

    def document(self, order: OrderRow, authorization_ids: Sequence[str]) -> dict[str, Any]:
        """The order object; members without content are left out."""
        document: dict[str, Any] = {
            "status": self.status(order),
            "expires": rfc3339(order.expires),
            "identifiers": [identifier.document() for identifier in order.identifiers],
            "profile": order.profile,
            "authorizations": [self._urls.of(f"authz/{authorization_id}") for authorization_id in authorization_ids],
            "finalize": self._urls.of(f"finalize/{order.id}"),
        }
        for name, seconds in (("notBefore", order.not_before), ("notAfter", order.not_after)):
            if seconds is not None:
                document[name] = rfc3339(seconds)
        if order.replaces is not None:
            document["replaces"] = order.replaces
        if order.certificate_id is not None:
            document["certificate"] = self._urls.of(f"cert/{order.certificate_id}")
        if order.error is not None:
            document["error"] = dict(order.error)
        return document
