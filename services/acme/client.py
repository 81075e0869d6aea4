"""How the command line calls the ACME server's admin listener over mTLS.

AcmeAdminError
├─ AcmeUnavailableError   no answer, or an answer that makes no sense: try again later
└─ AcmeRefusedError       the ACME server answered with a problem document
   └─ AcmeForbiddenError     this caller may not ask that; the sentence says what the caller policy lacks
"""

from __future__ import annotations

from typing import Final
from urllib.parse import quote, urlencode

import orjson

from services.acme.wire import (
    OPERATOR_ENDPOINTS,
    AccountEntry,
    AccountPage,
    AccountQuery,
    ExternalAccountEntry,
    ExternalAccountPage,
    ExternalAccountRequest,
    NewExternalAccount,
    RevokedExternalAccount,
)
from services.chassis.http_client import SERVER_ERROR, Failure, Http, ServiceCalls

_FORBIDDEN: Final = 403


class AcmeAdminError(Exception):
    """The ACME server did not do what was asked."""


class AcmeUnavailableError(AcmeAdminError):
    """No usable answer."""


class AcmeRefusedError(AcmeAdminError):
    """A problem document: `kind` is its type without the urn prefix, `status` the HTTP status."""

    def __init__(self, kind: str, status: int, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind
        self.status = status


class AcmeForbiddenError(AcmeRefusedError):
    """The caller policy does not let this caller do that."""


class AcmeAdminClient:
    """The admin endpoints as methods; `http` is a pooled mTLS client that expects the ACME server's SPIFFE ID.

    All methods raise AcmeRefusedError (no, and why) and AcmeUnavailableError (no usable answer).
    """

    def __init__(self, http: Http) -> None:
        self._acme = ServiceCalls(http, "the ACME server", _error_of)

    async def accounts(self, query: AccountQuery) -> AccountPage:
        """A page of accounts."""
        return await self._acme.ask(AccountPage.from_json, "GET", f"/v1/accounts?{urlencode(query.parameters())}")

    async def account(self, account_id: str) -> AccountEntry:
        """An account by its id."""
        return await self._acme.ask(AccountEntry.from_json, "GET", f"/v1/accounts/{_segment(account_id)}")

    async def deactivate_account(self, account_id: str) -> AccountEntry:
        """End an account, for good."""
        path = f"/v1/accounts/{_segment(account_id)}/deactivation"
        return await self._acme.ask(AccountEntry.from_json, "POST", path, b"{}")

    async def create_external_account(self, wanted: ExternalAccountRequest) -> NewExternalAccount:
        """Make a key identifier; the answer holds its MAC key, which is told this once."""
        path = "/v1/external-accounts"
        return await self._acme.ask(NewExternalAccount.from_json, "POST", path, wanted.to_json())

    async def external_accounts(self, cursor: str = "", limit: int = 100) -> ExternalAccountPage:
        """A page of external accounts."""
        query = urlencode({"limit": limit} | ({"cursor": cursor} if cursor else {}))
        return await self._acme.ask(ExternalAccountPage.from_json, "GET", f"/v1/external-accounts?{query}")

    async def external_account(self, kid: str) -> ExternalAccountEntry:
        """An external account by its key identifier."""
        path = f"/v1/external-accounts/{_segment(kid)}"
        return await self._acme.ask(ExternalAccountEntry.from_json, "GET", path)

    async def revoke_external_account(self, kid: str, *, deactivate_accounts: bool = False) -> RevokedExternalAccount:
        """Let no account be made with it, nor anything be ordered by those that were."""
        path = f"/v1/external-accounts/{_segment(kid)}/revocation"
        body = orjson.dumps({"deactivate_accounts": deactivate_accounts})
        return await self._acme.ask(RevokedExternalAccount.from_json, "POST", path, body)


def _segment(text: str) -> str:
    return quote(text, safe="")


def _error_of(failure: Failure) -> AcmeAdminError:
    problem = failure.problem
    if problem is None or failure.status >= SERVER_ERROR:
        return AcmeUnavailableError(failure.sentence)
    if failure.status == _FORBIDDEN:
        return AcmeForbiddenError(problem.kind, failure.status, f"{problem.detail}; {_what_to_add()}")
    return AcmeRefusedError(problem.kind, failure.status, problem.detail)


def _what_to_add() -> str:
    """For deployments whose policy file is older than the admin listener."""
    endpoints = ", ".join(f'"{endpoint}"' for endpoint in OPERATOR_ENDPOINTS)
    return (
        "if operators are to: see that config/policy.toml has an [[allow]] with caller = "
        f'"spiffe://<trust domain>/operator/*", service = "acme" and endpoints = [{endpoints}], '
        "and start the ACME server again"
    )
