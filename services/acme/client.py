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

from services.acme.incidents.wire import (
    MAX_AT_RISK,
    AtRiskPage,
    IncidentEntry,
    IncidentList,
    IncidentRequest,
    Selected,
    Selection,
)
from services.acme.rate_limits.wire import LimitEntry, LimitList
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

SELECTION_WAIT: Final = 600.0  # seconds; a million certificates may be selected
PROGRESS_WAIT: Final = 120.0  # seconds; every certificate concerned is looked at
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

    async def agree_for_account(self, account_id: str, terms: str) -> AccountEntry:
        """Record that its holder agreed to the terms in force, which have this URL."""
        path = f"/v1/accounts/{_segment(account_id)}/agreement"
        return await self._acme.ask(AccountEntry.from_json, "POST", path, orjson.dumps({"terms": terms}))

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

    async def limits(self) -> LimitList:
        """The usual limits, then those of accounts and external accounts."""
        return await self._acme.ask(LimitList.from_json, "GET", "/v1/limits")

    async def set_limit(self, wanted: LimitEntry) -> LimitList:
        """Give an account, or every account of a key identifier, another limit."""
        return await self._acme.ask(LimitList.from_json, "POST", "/v1/limits", wanted.to_json())

    async def reset_limits(self, subject: str) -> None:
        """Fill the buckets of an account, an address or a name."""
        body = orjson.dumps({"subject": subject})
        await self._acme.ask(lambda _body: None, "POST", "/v1/limits/reset", body)

    async def prepare_incident(self, wanted: IncidentRequest) -> IncidentEntry:
        """Prepare an incident; nobody is told of it yet."""
        return await self._acme.ask(IncidentEntry.from_json, "POST", "/v1/incidents", wanted.to_json())

    async def select_for_incident(self, incident_id: str, selection: Selection) -> Selected:
        """Have a prepared incident concern more certificates; hundreds of thousands take a while."""
        path = f"/v1/incidents/{_segment(incident_id)}/certificates"
        body = selection.to_json()
        return await self._acme.ask(Selected.from_json, "POST", path, body, seconds=SELECTION_WAIT)

    async def open_incident(self, incident_id: str) -> IncidentEntry:
        """Move the suggested windows of all that it concerns into the past."""
        path = f"/v1/incidents/{_segment(incident_id)}/opening"
        return await self._acme.ask(IncidentEntry.from_json, "POST", path, b"{}", seconds=PROGRESS_WAIT)

    async def close_incident(self, incident_id: str) -> IncidentEntry:
        """Have suggested windows be as they were."""
        path = f"/v1/incidents/{_segment(incident_id)}/closure"
        return await self._acme.ask(IncidentEntry.from_json, "POST", path, b"{}", seconds=PROGRESS_WAIT)

    async def discard_incident(self, incident_id: str) -> None:
        """Forget a prepared incident."""
        await self._acme.ask(lambda _body: None, "DELETE", f"/v1/incidents/{_segment(incident_id)}")

    async def incidents(self) -> IncidentList:
        """Open and closed incidents, the newest first."""
        return await self._acme.ask(IncidentList.from_json, "GET", "/v1/incidents")

    async def incident(self, incident_id: str) -> IncidentEntry:
        """An incident and how far it is."""
        path = f"/v1/incidents/{_segment(incident_id)}"
        return await self._acme.ask(IncidentEntry.from_json, "GET", path, seconds=PROGRESS_WAIT)

    async def at_risk(self, incident_id: str, after: str = "", limit: int = MAX_AT_RISK) -> AtRiskPage:
        """Certificates of an incident that nobody has replaced."""
        path = f"/v1/incidents/{_segment(incident_id)}/at-risk?{urlencode({'after': after, 'limit': limit})}"
        return await self._acme.ask(AtRiskPage.from_json, "GET", path, seconds=PROGRESS_WAIT)


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
