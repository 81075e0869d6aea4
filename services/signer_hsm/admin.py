"""The life cycle of keys, by FastAPI: what need not be quick, and is described by OpenAPI. Same door as the hot paths.

| endpoint                            | what                                                             |
|-------------------------------------|------------------------------------------------------------------|
| POST /v1/keys                       | make a key (201), or bring one in                                |
| GET  /v1/keys?tenant=&after=&limit= | the keys of a tenant that the caller may list                    |
| GET  /v1/keys/{id}                  | a key and its versions                                           |
| POST /v1/keys/{id}/rotate           | make the next version                                            |
| POST /v1/keys/{id}/disable, enable  | have a version sign no more, or again                            |
| POST /v1/keys/{id}/destroy          | destroy a version                                                |
| GET  /v1/keys/{id}/attestation      | what vouches for how a version is held; POST hands in a statement|
| GET  /v1/policy                     | the key policy in force                                          |
| POST /v1/approvals                  | agree to an act; GET lists what was agreed to                    |
| GET  /v1/openapi.json               | this API, as OpenAPI                                             |
"""

from collections.abc import Collection
from typing import Final

import fastapi

from pkicore.clock import unix
from pkicore.errors import MalformedError
from services.chassis.admin import admin_api
from services.chassis.errors import MediaTypeError
from services.signer_hsm.api import parse_version
from services.signer_hsm.caller_policy_file import Authorizer
from services.signer_hsm.catalogue import Key
from services.signer_hsm.domain import SERVICE, Domain
from services.signer_hsm.keys import Change
from services.signer_hsm.policy import Caller
from services.signer_hsm.store import StoredApproval
from services.signer_hsm.wire import (
    MAX_KEYS,
    ApprovalAnswer,
    ApprovalList,
    ApprovalRequest,
    AttestationUpload,
    KeyPage,
    LifeCycleRequest,
    NewKeyRequest,
    PolicyAnswer,
    checked_tenant,
    split_key_id,
)

_JSON: Final = "application/json"
_CREATED: Final = 201
_PAGE: Final = 100
_LIMIT_DIGITS: Final = 4


def signer_admin(domain: Domain, policy: Authorizer) -> fastapi.FastAPI:
    """The admin API; every path is behind the caller policy."""
    router = fastapi.APIRouter(prefix="/v1")
    _add_keys(router, domain)
    _add_life_cycle(router, domain)
    _add_attestations(router, domain)
    _add_approvals(router, domain)

    async def guard(request: fastapi.Request) -> None:
        peer = request.scope.get("state", {}).get("peer")
        policy.authorize(peer, SERVICE, request.method, request.scope["path"])

    return admin_api("pqcpki signer-hsm", "The life cycle of keys, over mutual TLS.", router, guard)


def _add_keys(router: fastapi.APIRouter, domain: Domain) -> None:
    @router.post("/keys", status_code=_CREATED)
    async def create(request: fastapi.Request) -> fastapi.Response:
        """Make a key, or, with `private_key`, bring one in."""
        wanted = NewKeyRequest.from_json(await _body(request))
        return _key(await domain.life_cycle.create(await _caller(domain, request), wanted), _CREATED)

    @router.get("/keys")
    async def keys(request: fastapi.Request) -> fastapi.Response:
        """The keys of a tenant by id, one page; `next` is the `after` of the next one."""
        query = _query(request, {"tenant", "after", "limit"})
        tenant, after = checked_tenant(query.get("tenant")), query.get("after")
        if after is not None:
            split_key_id(after)
        caller = await _caller(domain, request)
        page = await domain.listing.page(caller, tenant, after, _limit(query.get("limit")))
        return _json(KeyPage(tuple(key.describe() for key in page.keys), page.next).to_json())

    @router.get("/keys/{key_id}")
    async def key(key_id: str, request: fastapi.Request) -> fastapi.Response:
        """A key and its versions."""
        tenant, name = split_key_id(key_id)
        return _key(await domain.listing.show(await _caller(domain, request), tenant, name))

    @router.get("/policy")
    async def key_policy() -> fastapi.Response:
        """The key policy in force."""
        present = domain.decisions.policy
        return _json(PolicyAnswer(present.version, present.sha256).to_json())


def _add_life_cycle(router: fastapi.APIRouter, domain: Domain) -> None:
    async def change(what: Change, key_id: str, request: fastapi.Request) -> fastapi.Response:
        tenant, name = split_key_id(key_id)
        wanted = LifeCycleRequest.from_json(await _body(request))
        return _key(await domain.life_cycle.change(await _caller(domain, request), what, tenant, name, wanted))

    @router.post("/keys/{key_id}/rotate")
    async def rotate(key_id: str, request: fastapi.Request) -> fastapi.Response:
        """Make the next version; it signs from then on where none is named."""
        tenant, name = split_key_id(key_id)
        wanted = LifeCycleRequest.from_json(await _body(request))
        return _key(await domain.life_cycle.rotate(await _caller(domain, request), tenant, name, wanted))

    @router.post("/keys/{key_id}/disable")
    async def disable(key_id: str, request: fastapi.Request) -> fastapi.Response:
        """Have a version sign no more."""
        return await change("disable", key_id, request)

    @router.post("/keys/{key_id}/enable")
    async def enable(key_id: str, request: fastapi.Request) -> fastapi.Response:
        """Have a disabled version sign again."""
        return await change("enable", key_id, request)

    @router.post("/keys/{key_id}/destroy")
    async def destroy(key_id: str, request: fastapi.Request) -> fastapi.Response:
        """Destroy a version; the answer has the back end's proof."""
        return await change("destroy", key_id, request)


def _add_attestations(router: fastapi.APIRouter, domain: Domain) -> None:
    @router.get("/keys/{key_id}/attestation")
    async def attestation(key_id: str, request: fastapi.Request) -> fastapi.Response:
        """What vouches for how a version is held."""
        tenant, name = split_key_id(key_id)
        version = parse_version(_query(request, {"version"}).get("version"))
        answer = await domain.attestations.show(await _caller(domain, request), tenant, name, version)
        return _json(answer.to_json())

    @router.post("/keys/{key_id}/attestation")
    async def hand_in(key_id: str, request: fastapi.Request) -> fastapi.Response:
        """Hand in a device's statement about a version; it is verified before it is kept."""
        tenant, name = split_key_id(key_id)
        upload = AttestationUpload.from_json(await _body(request))
        answer = await domain.attestations.hand_in(await _caller(domain, request), tenant, name, upload)
        return _json(answer.to_json())


def _add_approvals(router: fastapi.APIRouter, domain: Domain) -> None:
    @router.post("/approvals", status_code=_CREATED)
    async def approve(request: fastapi.Request) -> fastapi.Response:
        """Agree to a life-cycle act."""
        wanted = ApprovalRequest.from_json(await _body(request))
        given = await domain.approvals.approve(await _caller(domain, request), wanted)
        return _json(_approval(given).to_json(), _CREATED)

    @router.get("/approvals")
    async def approvals(request: fastapi.Request) -> fastapi.Response:
        """The approvals of a tenant that are still good, and that the caller might have given."""
        tenant = checked_tenant(_query(request, {"tenant"}).get("tenant"))
        found = await domain.approvals.listed(await _caller(domain, request), tenant)
        return _json(ApprovalList(tuple(map(_approval, found))).to_json())


async def _body(request: fastapi.Request) -> bytes:
    """The body, read under the frame's limit already."""
    media_type = request.headers.get("content-type", "").split(";", 1)[0].strip().lower()
    if media_type != _JSON:
        raise MediaTypeError((_JSON,))
    return await request.body()


async def _caller(domain: Domain, request: fastapi.Request) -> Caller:
    peer = request.scope.get("state", {}).get("peer")
    return await domain.callers.caller(peer, request.scope["headers"], request.method, request.url.path)


def _query(request: fastapi.Request, allowed: Collection[str]) -> dict[str, str]:
    pairs = request.query_params.multi_items()
    query = dict(pairs)
    if len(query) < len(pairs) or not query.keys() <= set(allowed):
        raise MalformedError(f"the query may have {', '.join(sorted(allowed))}, each once")
    return query


def _limit(text: str | None) -> int:
    if text is None:
        return _PAGE
    if not (text.isascii() and text.isdigit() and len(text) <= _LIMIT_DIGITS and 1 <= int(text) <= MAX_KEYS):
        raise MalformedError(f"limit must be a whole number from 1 to {MAX_KEYS}")
    return int(text)


def _key(key: Key, status: int = 200) -> fastapi.Response:
    return _json(key.describe().to_json(), status)


def _json(body: bytes, status: int = 200) -> fastapi.Response:
    return fastapi.Response(body, status, media_type=_JSON)


def _approval(given: StoredApproval) -> ApprovalAnswer:
    approval = given.approval
    return ApprovalAnswer(
        id=approval.id,
        act=given.act,
        key=f"{given.tenant}.{given.key}",
        version=given.version,
        binding=approval.binding,
        approver=approval.approver,
        approved_at=unix(approval.approved_at),
        expires_at=unix(approval.expires_at),
    )
