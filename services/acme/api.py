"""The routes of ACME: who must have signed a request, and which resource answers it.

Every POST is answered with a fresh nonce, errors too, and everything but the directory links to it (§6.5, §7.1).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, TypeVar

from pkicore.jose.jws import MAX_JWS
from services.acme.accounts.account import Accounts
from services.acme.accounts.key_change import KeyChange
from services.acme.accounts.new_account import NewAccounts
from services.acme.answers import link, not_found
from services.acme.authorizations.authorizations import Authorizations
from services.acme.browsers import EVERY_ORIGIN, preflights
from services.acme.client_address import client_address
from services.acme.directory import Directory, get_nonce, head_nonce, post_nonce
from services.acme.ids import is_id
from services.acme.nonces import Nonces
from services.acme.orders.ordering import Ordering
from services.acme.problems import problem_table
from services.acme.renewals.renewal_info import RenewalInfo
from services.acme.requests import AccountRequest, Authenticator, KeyRequest
from services.acme.revocation import Revocations
from services.acme.urls import PREFIX, Urls
from services.chassis.asgi import Application, Handler, Request, Response, Route
from services.chassis.observability import HttpMetrics

JOSE: Final = "application/jose+json"
_NEW_NONCE: Final = f"{PREFIX}new-nonce"
_DIRECTORY: Final = f"{PREFIX}directory"

Signed = TypeVar("Signed")


@dataclass(frozen=True)
class Resources:
    """Whoever answers."""

    directory: Directory
    new_accounts: NewAccounts
    accounts: Accounts
    key_change: KeyChange
    ordering: Ordering
    authorizations: Authorizations
    revocations: Revocations
    renewal_info: RenewalInfo


class Api:
    """Builds the ASGI application."""

    def __init__(self, resources: Resources, authenticator: Authenticator, nonces: Nonces, urls: Urls) -> None:
        self._resources = resources
        self._authenticator = authenticator
        self._nonces = nonces
        self._index = link(urls.of("directory"), "index")

    def application(self, metrics: HttpMetrics) -> Application:
        """The application of the public listener."""
        routes = self._routes()
        routes += preflights(routes)
        return Application("acme", routes, problems=problem_table(), metrics=metrics, finish=self._add_headers)

    def _routes(self) -> list[Route]:
        to = self._resources
        ahead = to.ordering.pre_authorizations
        return [
            Route("GET", _DIRECTORY, to.directory.get),
            Route("GET", _NEW_NONCE, get_nonce),
            Route("HEAD", _NEW_NONCE, head_nonce),
            Route("GET", f"{PREFIX}renewal-info/{{cert_id}}", to.renewal_info.get),
            self._post("directory", self._by_account(to.directory.post)),
            self._post("new-nonce", self._by_account(post_nonce)),
            self._post("new-account", self._by_key(to.new_accounts.create)),
            self._post("key-change", self._by_account(to.key_change.post)),
            self._post("acct/{id}", self._by_account(to.accounts.post)),
            self._post("acct/{id}/orders", self._by_account_at(to.ordering.orders.listed, _query)),
            self._post("new-order", self._by_account(to.ordering.orders.create)),
            *([] if ahead is None else [self._post("new-authz", self._by_account(ahead.create))]),
            self._post("order/{id}", self._by_account(to.ordering.orders.read)),
            self._post("finalize/{id}", self._by_account(to.ordering.finalization.post)),
            self._post("cert/{id}", self._by_account(to.ordering.certificates.read)),
            self._post("cert/{id}/{number}", self._by_account_at(to.ordering.certificates.alternate, _number)),
            self._post("authz/{id}", self._by_account(to.authorizations.post)),
            self._post("chall/{id}", self._by_account(to.authorizations.challenge)),
            self._post("revoke-cert", self._by_account_or_key(to.revocations.post)),
        ]

    @staticmethod
    def _post(path: str, handler: Handler) -> Route:
        return Route("POST", PREFIX + path, handler, media_types=(JOSE,), body_limit=MAX_JWS)

    def _by_account(self, handler: Callable[[AccountRequest, str], Awaitable[Response]]) -> Handler:
        async def handle(request: Request) -> Response:
            signed = await self._authenticator.by_account(_target(request), await request.body())
            return await handler(signed, _id(request))

        return handle

    def _by_account_at(
        self, handler: Callable[[AccountRequest, str, str], Awaitable[Response]], where: Callable[[Request], str]
    ) -> Handler:
        async def handle(request: Request) -> Response:
            signed = await self._authenticator.by_account(_target(request), await request.body())
            return await handler(signed, _id(request), where(request))

        return handle

    def _by_key(self, handler: Callable[[KeyRequest, str], Awaitable[Response]]) -> Handler:
        async def handle(request: Request) -> Response:
            signed = await self._authenticator.by_key(_target(request), await request.body())
            return await handler(signed, client_address(request))

        return handle

    def _by_account_or_key(self, handler: Callable[[AccountRequest | KeyRequest, str], Awaitable[Response]]) -> Handler:
        async def handle(request: Request) -> Response:
            signed = await self._authenticator.by_account_or_key(_target(request), await request.body())
            return await handler(signed, _id(request))

        return handle

    def _add_headers(self, request: Request, response: Response) -> None:
        headers = response.headers
        headers += EVERY_ORIGIN
        if request.method == "OPTIONS":
            return
        if request.path != _DIRECTORY:
            headers.append(self._index)
        if request.method == "POST" or request.path == _NEW_NONCE:
            headers.append((b"replay-nonce", self._nonces.issue().encode()))
            if not any(name == b"cache-control" for name, _ in headers):
                headers.append((b"cache-control", b"no-store"))


def _target(request: Request) -> str:
    """The path below the prefix as the client must have signed it: as it was sent, with the query if there is one."""
    query = _query(request)
    sent: bytes | None = request.scope.get("raw_path")
    path = (request.path if sent is None else sent.decode("latin-1")).removeprefix(PREFIX)
    return f"{path}?{query}" if query else path


def _query(request: Request) -> str:
    found: bytes = request.scope.get("query_string", b"")
    return found.decode("latin-1")


def _number(request: Request) -> str:
    return request.params["number"]


def _id(request: Request) -> str:
    """The id in the path, if there is one and it has the form of an id."""
    found = request.params.get("id")
    if found is not None and not is_id(found):
        raise not_found()
    return found or ""
