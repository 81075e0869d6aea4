"""Orders (RFC 8555 §7.4): placed, read, finalized; and the download of what came of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from pkicore.clock import Clock, unix
from pkicore.encoding import base64url_decode
from pkicore.errors import MalformedError, PkiError
from pkicore.jose.jwk import thumbprint
from pkicore.x509.csr import UnverifiedCsr, VerifiedCsr
from services.acme.answers import answer, location, not_found, retry_after, rfc3339
from services.acme.errors import AcmeError, Subproblem
from services.acme.identifiers import BadNameError, Identifier, canonical_dns_name
from services.acme.ids import new_id, new_token
from services.acme.issuance import Issuance
from services.acme.requests import AccountRequest
from services.acme.store import AuthorizationRow, ChallengeRow, OrderRow, Store
from services.acme.urls import Urls
from services.chassis.asgi import Response
from services.chassis.database import AuditEvent
from services.chassis.errors import ConflictError

POLL_SECONDS: Final = 2
_LIMIT_RETRY_SECONDS: Final = 3600
_DER_SEQUENCE: Final = b"\x30"
_MAX_VALUE: Final = 300  # characters of an identifier, before it is judged


@dataclass(frozen=True)
class OrderRules:
    """What the operator allows: seconds an order lives, names in one order, unfinished orders of one account."""

    lifetime: int
    max_identifiers: int
    max_pending: int


class Orders:
    """The resources newOrder, order, finalize and certificate."""

    def __init__(self, store: Store, issuance: Issuance, urls: Urls, rules: OrderRules, clock: Clock) -> None:
        self._store = store
        self._issuance = issuance
        self._urls = urls
        self._rules = rules
        self._clock = clock

    async def create(self, request: AccountRequest, _: str) -> Response:
        """Place an order.

        Raises:
            AcmeError: malformed, rejectedIdentifier, unsupportedIdentifier, compound or rateLimited.
        """
        members = request.members()
        for name in ("notBefore", "notAfter"):
            if name in members:
                raise AcmeError("malformed", f"{name} is not offered: the profile decides the validity; leave it out")
        identifiers = self._identifiers(members.get("identifiers"))
        now = unix(self._clock.now())
        account_id = request.account.id
        await self._check_limit(account_id, now)
        order = OrderRow(new_id(), account_id, "pending", identifiers, now + self._rules.lifetime, now)
        authorized = [_authorization(order, identifier) for identifier in identifiers]
        detail = {"order": order.id, "identifiers": [identifier.value for identifier in identifiers]}
        ids = [authorization.id for authorization, _ in authorized]
        audit = AuditEvent("order.created", f"account:{account_id}", detail)
        await self._store.create_order(order, ids, authorized, audit)
        document = self._document(order, ids)
        return answer(document, location(self._urls.of(f"order/{order.id}")), status=201)

    async def read(self, request: AccountRequest, order_id: str) -> Response:
        """An order of the account.

        Raises:
            AcmeError: malformed (404 for others' and unknown ones).
        """
        request.require_read()
        return await self._answer(await self._own(request, order_id))

    async def finalize(self, request: AccountRequest, order_id: str) -> Response:
        """Take the CSR of a ready order, and wait a little for the certificate.

        1 the order is the account's · 2 the CSR proves a key and asks for exactly the order's names · 3 ready becomes
        processing, committed with the CSR, if every authorization still holds · 4 the CA is asked, under an idempotency
        key made of the order's id · 5 processing becomes valid, committed with the certificate.
        Repeating the request with the same CSR after a lost answer is harmless.

        Raises:
            AcmeError: malformed, badCSR or orderNotReady.
        """
        order = await self._own(request, order_id)
        csr = _parse_csr(request.members().get("csr"))
        if _is_finalized_with(order, csr):
            return await self._answer(await self._issued(order))
        if self._status(order) != "ready":
            raise AcmeError("orderNotReady", f"the order is {self._status(order)}, not ready")
        verified = _verify_csr(csr)
        _check_names(verified, order.identifiers)
        if await self._store.account_by_thumbprint(thumbprint(verified.public_key)) is not None:
            raise AcmeError("badCSR", "the key of the CSR is the key of an account; a certificate needs its own")
        detail = {"order": order.id, "key": thumbprint(verified.public_key)}
        audit = AuditEvent("order.finalized", f"account:{order.account_id}", detail)
        try:
            await self._store.start_processing(order, csr.der, unix(self._clock.now()), audit)
        except ConflictError as error:
            order = await self._own(request, order_id)
            if not _is_finalized_with(order, csr):  # else a repetition of this request was quicker
                raise AcmeError("orderNotReady", "the order is no longer ready") from error
        else:
            order = replace(order, status="processing", csr=csr.der)
        return await self._answer(await self._issued(order))

    async def certificate(self, request: AccountRequest, certificate_id: str) -> Response:
        """The chain of a certificate of the account, leaf first, without the root (RFC 8555 §7.4.2).

        Raises:
            AcmeError: malformed (404 for others' and unknown ones).
        """
        request.require_read()
        certificate = await self._store.certificate(certificate_id, request.account.id)
        if certificate is None:
            raise not_found()
        return Response(200, certificate.chain.encode(), [(b"content-type", b"application/pem-certificate-chain")])

    # Placing

    def _identifiers(self, value: Any) -> tuple[Identifier, ...]:  # noqa: ANN401 - JSON from the client
        if not isinstance(value, list) or not value or not all(_is_identifier(item) for item in value):
            form = f'{{"type": …, "value": …}} of at most {_MAX_VALUE} characters'
            raise AcmeError("malformed", f"identifiers must be a list of {form}, at least one")
        if len(value) > self._rules.max_identifiers:
            raise AcmeError("malformed", f"an order has at most {self._rules.max_identifiers} identifiers")
        accepted: dict[Identifier, None] = {}
        refused: list[Subproblem] = []
        for item in value:
            try:
                accepted[_identifier(item["type"], item["value"])] = None
            except AcmeError as error:
                refused.append(Subproblem(error.acme_type, error.detail, Identifier(item["type"], item["value"])))
        if refused:
            raise _refusal(refused)
        return tuple(accepted)

    async def _check_limit(self, account_id: str, now: int) -> None:
        limit = self._rules.max_pending
        if await self._store.count_unfinished_orders(account_id, now, limit) >= limit:
            raise AcmeError(
                "rateLimited",
                f"the account has {limit} unfinished orders; finish them, deactivate them or let them expire",
                headers=[retry_after(_LIMIT_RETRY_SECONDS)],
            )

    # Reading

    async def _own(self, request: AccountRequest, order_id: str) -> OrderRow:
        order = await self._store.order(order_id, request.account.id)
        if order is None:
            raise not_found()
        return order

    async def _issued(self, order: OrderRow) -> OrderRow:
        """The order as it stands once the CA has answered, or after as long as a client is kept waiting."""
        if order.status == "processing":
            await self._issuance.wait(order)
        return await self._store.order_by_id(order.id) or order

    async def _answer(self, order: OrderRow) -> Response:
        document = self._document(order, await self._store.authorization_ids(order.id))
        headers = [location(self._urls.of(f"order/{order.id}"))]
        if order.status == "processing":
            headers.append(retry_after(POLL_SECONDS))
        return answer(document, *headers)

    def _status(self, order: OrderRow) -> str:
        """Expiry is judged at use."""
        expired = order.status in {"pending", "ready"} and order.expires <= unix(self._clock.now())
        return "invalid" if expired else order.status

    def _document(self, order: OrderRow, authorization_ids: Sequence[str]) -> dict[str, Any]:
        document: dict[str, Any] = {
            "status": self._status(order),
            "expires": rfc3339(order.expires),
            "identifiers": [identifier.document() for identifier in order.identifiers],
            "authorizations": [self._urls.of(f"authz/{authorization_id}") for authorization_id in authorization_ids],
            "finalize": self._urls.of(f"finalize/{order.id}"),
        }
        if order.certificate_id is not None:
            document["certificate"] = self._urls.of(f"cert/{order.certificate_id}")
        if order.error is not None:
            document["error"] = dict(order.error)
        return document


def _is_identifier(item: object) -> bool:
    return (
        isinstance(item, dict)
        and isinstance(item.get("type"), str)
        and isinstance(item.get("value"), str)
        and len(item["type"]) + len(item["value"]) <= _MAX_VALUE
    )


def _identifier(kind: str, value: str) -> Identifier:
    if kind != "dns":
        raise AcmeError("unsupportedIdentifier", "only identifiers of type dns are offered")
    try:
        return Identifier("dns", canonical_dns_name(value))
    except BadNameError as error:
        raise AcmeError("rejectedIdentifier", str(error)) from error


def _refusal(refused: Sequence[Subproblem]) -> AcmeError:
    """One refused name speaks for itself; several are listed (RFC 8555 §6.7.1)."""
    if len(refused) == 1:
        only = refused[0]
        return AcmeError(only.acme_type, only.detail, subproblems=refused)
    types = {subproblem.acme_type for subproblem in refused}
    acme_type = types.pop() if len(types) == 1 else "compound"
    return AcmeError(acme_type, f"{len(refused)} identifiers are refused", subproblems=refused)


def _authorization(order: OrderRow, identifier: Identifier) -> tuple[AuthorizationRow, Sequence[ChallengeRow]]:
    """A pending authorization and its challenges: a wildcard can only be proven in the DNS (RFC 8555 §8.3)."""
    authorization = AuthorizationRow(
        id=new_id(),
        account_id=order.account_id,
        identifier=identifier.base,
        wildcard=identifier.is_wildcard,
        status="pending",
        expires=order.expires,
    )
    offered = ("dns-01",) if identifier.is_wildcard else ("http-01", "dns-01")
    return authorization, [ChallengeRow(new_id(), authorization.id, kind, new_token(), "pending") for kind in offered]


def _is_finalized_with(order: OrderRow, csr: UnverifiedCsr) -> bool:
    return order.status in {"processing", "valid"} and order.csr == csr.der


def _parse_csr(value: object) -> UnverifiedCsr:
    if not isinstance(value, str):
        raise AcmeError("malformed", "the payload must have csr, a base64url string")
    try:
        der = base64url_decode(value)
    except MalformedError as error:
        raise AcmeError("malformed", "csr must be base64url of DER, not PEM") from error
    if not der.startswith(_DER_SEQUENCE):  # the parser would take PEM as well
        raise AcmeError("badCSR", "csr must be base64url of DER, not PEM")
    try:
        return UnverifiedCsr.parse(der)
    except PkiError as error:
        raise AcmeError("badCSR", str(error)) from error


def _verify_csr(csr: UnverifiedCsr) -> VerifiedCsr:
    try:
        return csr.verify()
    except PkiError as error:
        raise AcmeError("badCSR", str(error)) from error


def _check_names(csr: VerifiedCsr, identifiers: Sequence[Identifier]) -> None:
    """The CSR asks for exactly the names of the order (RFC 8555 §7.4); a name beyond them was never validated."""
    if csr.names.ip or csr.names.uri or csr.names.email:
        raise AcmeError("badCSR", "the CSR asks for names that are not DNS names")
    ordered = {identifier.value for identifier in identifiers}
    if set(csr.names.dns) != ordered:
        raise AcmeError("badCSR", "the names of the CSR are not exactly those of the order")
    if csr.common_name is not None and csr.common_name.lower() not in ordered:
        raise AcmeError("badCSR", "the common name of the CSR is not a name of the order")
