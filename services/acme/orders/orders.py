"""Orders (RFC 8555 §7.4): placed, read, listed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, NamedTuple, NoReturn

from pkicore.clock import Clock, unix
from services.acme.answers import answer, link, location, retry_after
from services.acme.authorizations.authorizations import new_authorization
from services.acme.authorizations.reuse import Reuse
from services.acme.errors import AcmeError
from services.acme.identifiers import Identifier
from services.acme.ids import new_id
from services.acme.orders import requested
from services.acme.orders.documents import OrderDocuments
from services.acme.orders.rules import Admission, OrderRules
from services.acme.profiles.profiles import Profile
from services.acme.rate_limits.rate_limits import Charge
from services.acme.renewals.replacement import Replacement
from services.acme.requests import AccountRequest, require_valid
from services.acme.store import FIRST_PAGE, AuthorizationRow, NewAuthorization, OrderPlace, OrderRow, Store
from services.acme.urls import Urls
from services.chassis.asgi import Response
from services.chassis.database import AuditEvent
from services.chassis.errors import ConflictError

_LIMIT_RETRY_SECONDS: Final = 3600
_FINALIZE_WITHIN: Final = 3600  # seconds after notBefore; the CA's profiles begin no earlier than this before now
_PLACE: Final = re.compile(r"after=([0-9]{1,12})\.([A-Za-z0-9_-]{22})", re.ASCII)


class _Served(NamedTuple):
    """An order with its authorizations, in the order of its names; those that are new, and their challenges."""

    order: OrderRow
    ids: list[str]
    made: list[NewAuthorization]


class Orders:
    """The resources newOrder, order and the list of an account's orders."""

    def __init__(
        self,
        store: Store,
        admission: Admission,
        reuse: Reuse,
        documents: OrderDocuments,
        urls: Urls,
        rules: OrderRules,
        clock: Clock,
    ) -> None:
        self._store = store
        self._admission = admission
        self._reuse = reuse
        self._documents = documents
        self._urls = urls
        self._rules = rules
        self._clock = clock

    async def create(self, request: AccountRequest, _: str) -> Response:
        """Place an order.

        1 the account has agreed to the terms · 2 it may use the profile · 3 the names are such as the profile has ·
        4 its external account allows them · 5 the times are within the profile · 6 what it replaces is the account's ·
        7 valid authorizations of the account are taken up, others are made · 8 all of it is committed, with what it
        costs of the limits, if the account is valid still and has room for an order.

        Raises:
            AcmeError: userActionRequired, invalidProfile, malformed, rejectedIdentifier, unsupportedIdentifier,
                compound, unauthorized, alreadyReplaced or rateLimited.
        """
        members, account = request.members(), request.account.row
        admission = self._admission
        admission.terms.require(account)
        profile = admission.profiles.chosen(members.get("profile"), account)
        names = requested.identifiers(members.get("identifiers"), self._rules.max_identifiers)
        admission.profiles.check_names(profile, names, named="profile" in members)
        await admission.external.admit(account, names, profile.name)
        order = self._new(account.id, profile, names, members)
        replacement = await admission.renewals.replaced(members.get("replaces"), account.id, names, order.created_at)
        free = None if replacement is None else replacement.free
        charges = admission.limits.new_order(account, names, free)
        served = await self._place(order, profile, charges, replacement)
        document = self._documents.document(served.order, served.ids)
        return answer(document, location(self._urls.of(f"order/{order.id}")), status=201)

    async def read(self, request: AccountRequest, order_id: str) -> Response:
        """An order of the account.

        Raises:
            AcmeError: malformed (404 for others' and unknown ones).
        """
        request.require_read()
        return await self._documents.answer(await self._documents.own(request, order_id))

    async def listed(self, request: AccountRequest, account_id: str, query: str) -> Response:
        """A page of the account's orders, newest first, without the invalid ones (RFC 8555 §7.1.2.1).

        Raises:
            AcmeError: unauthorized for any other account; malformed for a query that no page links to.
        """
        request.require_read()
        if request.account.id != account_id:
            raise AcmeError("unauthorized", "this is not the account that signed the request")
        now, place = unix(self._clock.now()), _place_of(query)
        ids, following = await self._store.order_ids(account_id, now, place, self._rules.page)
        headers = [] if following is None else [link(self._urls.of(_page(account_id, following)), "next")]
        return answer({"orders": [self._urls.of(f"order/{order_id}") for order_id in ids]}, *headers)

    # Placing

    def _new(
        self, account_id: str, profile: Profile, names: tuple[Identifier, ...], members: Mapping[str, Any]
    ) -> OrderRow:
        now = unix(self._clock.now())
        begin, end = requested.period(members, profile, now)
        last = now + self._rules.lifetime
        return OrderRow(
            id=new_id(),
            account_id=account_id,
            status="pending",
            identifiers=names,
            expires=last if begin is None else min(last, begin + _FINALIZE_WITHIN),
            created_at=now,
            profile=profile.name,
            not_before=begin,
            not_after=end,
        )

    async def _place(
        self, order: OrderRow, profile: Profile, charges: Sequence[Charge], replacement: Replacement | None
    ) -> _Served:
        """Commit the order; with new authorizations alone where one that it took up is given up in this moment."""
        limits, renewals = self._admission.limits, self._admission.renewals
        replacing = renewals.writes(replacement, order.id, order.created_at)
        order = order if replacement is None else replace(order, replaces=replacement.cert_id)
        riding = (*limits.writes(charges), *replacing)
        found = await self._reuse.find(order.account_id, order.identifiers, profile, order.created_at)
        for reusable in (found, {}):
            served = self._served(order, profile, reusable)
            detail = {"order": order.id, "identifiers": [name.value for name in order.identifiers]}
            audit = AuditEvent("order.created", f"account:{order.account_id}", detail)
            try:
                await self._store.create_order(
                    served.order, served.ids, served.made, self._rules.max_pending, audit, riding
                )
            except ConflictError as error:
                renewals.refuse(replacement, error, len(charges))
                if error.write == len(riding):
                    await self._refuse_room(order.account_id, error)
                if not reusable or error.write < len(charges):
                    await limits.refuse(charges, error)
            else:
                return served
        raise AssertionError("without reused authorizations, a conflict is always refused")

    def _served(self, order: OrderRow, profile: Profile, reusable: Mapping[Identifier, AuthorizationRow]) -> _Served:
        ids, made, expires = [], [], order.expires
        for name in order.identifiers:
            authorization = reusable.get(name)
            if authorization is None:
                methods = self._admission.profiles.methods(profile, name)
                new = new_authorization(order.account_id, name, order.expires, methods)
                made.append(new)
                authorization = new[0]
            expires = min(expires, authorization.expires)
            ids.append(authorization.id)
        return _Served(replace(order, status="pending" if made else "ready", expires=expires), ids, made)

    async def _refuse_room(self, account_id: str, error: ConflictError) -> NoReturn:
        await require_valid(self._store, account_id, error)
        raise AcmeError(
            "rateLimited",
            f"the account has {self._rules.max_pending} unfinished orders;"
            " finish them, deactivate them or let them expire",
            headers=[retry_after(_LIMIT_RETRY_SECONDS)],
        ) from error


def _place_of(query: str) -> OrderPlace:
    """Where a page begins, by the query of its URL."""
    if not query:
        return FIRST_PAGE
    found = _PLACE.fullmatch(query)
    if found is None:
        raise AcmeError("malformed", "pages are found by the link in the one before")
    return int(found[1]), found[2]


def _page(account_id: str, place: OrderPlace) -> str:
    return f"acct/{account_id}/orders?after={place[0]}.{place[1]}"
