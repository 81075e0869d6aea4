"""The operators' endpoints, by FastAPI on a listener of their own: mutual TLS, behind the caller policy.

| endpoint                                     | what                                      |
|----------------------------------------------|-------------------------------------------|
| GET  /v1/accounts                            | accounts, by contact, key or EAB key      |
| GET  /v1/accounts/{id}                       | one of them                               |
| POST /v1/accounts/{id}/agreement             | to the terms, as the operator has it      |
| POST /v1/accounts/{id}/deactivation          | its end                                   |
| POST /v1/external-accounts                   | make a key identifier and its MAC key     |
| GET  /v1/external-accounts                   | all of them                               |
| GET  /v1/external-accounts/{kid}             | one of them                               |
| POST /v1/external-accounts/{kid}/revocation  | its end                                   |
| POST /v1/incidents                           | prepare one                               |
| GET  /v1/incidents                           | open and closed ones                      |
| GET  /v1/incidents/{id}                      | one, and how far it is                    |
| DELETE /v1/incidents/{id}                    | forget a prepared one                     |
| POST /v1/incidents/{id}/certificates         | what it concerns                          |
| POST /v1/incidents/{id}/opening              | its beginning                             |
| POST /v1/incidents/{id}/closure              | its end                                   |
| GET  /v1/incidents/{id}/at-risk              | what nobody has replaced                  |
| GET  /v1/limits                              | rate limits, and who has others           |
| POST /v1/limits                              | give somebody another one                 |
| POST /v1/limits/reset                        | let somebody begin anew                   |
| GET  /v1/openapi.json                        | this API, as OpenAPI                      |

Each feature has a module; all have the same guard, problems and log as the hot paths.
"""

from __future__ import annotations

from typing import Final

import fastapi

from services.acme.admin.accounts import add_accounts
from services.acme.admin.external_accounts import add_external_accounts
from services.acme.admin.incidents import add_incidents
from services.acme.admin.limits import add_limits
from services.acme.administration import Administration
from services.chassis.admin import admin_api
from services.chassis.peer import CallerPolicy

_SERVICE: Final = "acme"


def acme_admin(administration: Administration, policy: CallerPolicy) -> fastapi.FastAPI:
    """The admin API of an ACME server; every path is behind the caller policy."""
    router = fastapi.APIRouter(prefix="/v1")
    add_accounts(router, administration.accounts)
    add_external_accounts(router, administration.external_accounts)
    add_incidents(router, administration.incidents)
    add_limits(router, administration.limits)

    async def guard(request: fastapi.Request) -> None:
        peer = request.scope.get("state", {}).get("peer")
        policy.authorize(peer, _SERVICE, request.method, request.scope["path"])

    return admin_api("pqcpki ACME server", "What operators ask of the ACME server, over mutual TLS.", router, guard)
