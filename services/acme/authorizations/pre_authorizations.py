"""newAuthz (RFC 8555 §7.4.1): control of a name is proven ahead of the orders that need it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NoReturn

from pkicore.clock import Clock, unix
from services.acme.answers import answer, location, retry_after
from services.acme.authorizations.authorizations import Authorizations, new_authorization
from services.acme.authorizations.reuse import Reuse
from services.acme.errors import AcmeError
from services.acme.identifiers import Identifier
from services.acme.orders import requested
from services.acme.orders.rules import Admission, OrderRules
from services.acme.requests import AccountRequest, require_valid
from services.acme.store import AccountRow, AuthorizationRow, Store
from services.acme.urls import Urls
from services.chassis.asgi import Response
from services.chassis.database import AuditEvent
from services.chassis.errors import ConflictError

_RETRY_SECONDS: Final = 3600


class PreAuthorizations:
    """The resource newAuthz. What it makes, orders take up once it is valid."""

    def __init__(
        self,
        store: Store,
        admission: Admission,
        reuse: Reuse,
        authorizations: Authorizations,
        urls: Urls,
        rules: OrderRules,
        clock: Clock,
    ) -> None:
        self._store = store
        self._admission = admission
        self._reuse = reuse
        self._authorizations = authorizations
        self._urls = urls
        self._rules = rules
        self._clock = clock

    async def create(self, request: AccountRequest, _: str) -> Response:
        """Make a pending authorization: 201; or show the valid one that the account has: 200.

        Raises:
            AcmeError: userActionRequired, malformed, unsupportedIdentifier, rejectedIdentifier or rateLimited.
        """
        members, account = request.members(), request.account.row
        self._admission.terms.require(account)
        try:
            name, methods = await self._admitted(account, members.get("identifier"))
        except AcmeError as error:
            raise _forbidden(error) from error
        now = unix(self._clock.now())
        held = (await self._reuse.find(account.id, [name], None, now)).get(name)
        if held is not None:
            return await self._answer(held, 200)
        made = new_authorization(account.id, name, now + self._rules.lifetime, methods)
        charges = self._admission.limits.new_authorization(account, name)
        riding, most = self._admission.limits.writes(charges), self._rules.max_pending
        try:
            await self._store.create_authorization(made, now, most, _record(made[0], name), riding)
        except ConflictError as error:
            if error.write == len(riding):
                await self._refuse_room(account.id, error)
            await self._admission.limits.refuse(charges, error)
        return await self._answer(made[0], 201)

    async def _admitted(self, account: AccountRow, identifier: object) -> tuple[Identifier, Sequence[str]]:
        name = requested.identifier(identifier)
        methods = self._admission.profiles.methods(None, name)
        if name.is_wildcard or not methods:
            # Without the label that says so, the authorization would be for another name than was asked for.
            raise AcmeError("rejectedIdentifier", "this name cannot be authorized ahead of an order: order it")
        await self._admission.external.admit(account, [name])
        return name, methods

    async def _refuse_room(self, account_id: str, error: ConflictError) -> NoReturn:
        await require_valid(self._store, account_id, error)
        limit = self._rules.max_pending
        raise AcmeError(
            "rateLimited",
            f"the account has {limit} pending authorizations without an order; deactivate them or let them expire",
            headers=[retry_after(_RETRY_SECONDS)],
        ) from error

    async def _answer(self, authorization: AuthorizationRow, status: int) -> Response:
        document = await self._authorizations.document(authorization.id, authorization.account_id)
        return answer(document, location(self._urls.of(f"authz/{authorization.id}")), status=status)


def _forbidden(error: AcmeError) -> AcmeError:
    """What is not certified is refused with 403 here (RFC 8555 §7.4.1)."""
    if error.acme_type not in {"rejectedIdentifier", "unsupportedIdentifier"}:
        return error
    return AcmeError(error.acme_type, error.detail, status=403, subproblems=error.subproblems)


def _record(authorization: AuthorizationRow, name: Identifier) -> AuditEvent:
    detail = {"authorization": authorization.id, "identifier": name.value}
    return AuditEvent("authorization.created", f"account:{authorization.account_id}", detail)
