"""The directory (RFC 8555 §7.1.1) and newNonce (§7.2)."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from services.acme.requests import AccountRequest
from services.acme.urls import Urls
from services.chassis.asgi import Request, Response

# What is not served is not advertised.
_RESOURCES: Final = {
    "newNonce": "new-nonce",
    "newAccount": "new-account",
    "newOrder": "new-order",
    "newAuthz": "new-authz",
    "revokeCert": "revoke-cert",
    "keyChange": "key-change",
    "renewalInfo": "renewal-info",
}


@dataclass(frozen=True, kw_only=True)
class Meta:
    """What the directory says of the server (RFC 8555 §9.7.6); what is empty is left out.

    Attributes:
        terms: URL of the terms of service.
        website: about this CA.
        caa_identities: names by which CAA records allow it.
        external_account_required: whether a new account must be bound.
        profiles: name to description.
    """

    terms: str = ""
    website: str = ""
    caa_identities: tuple[str, ...] = ()
    external_account_required: bool = False
    profiles: Mapping[str, str] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """The object `meta`."""
        members: dict[str, Any] = {
            "termsOfService": self.terms,
            "website": self.website,
            "caaIdentities": list(self.caa_identities),
            "externalAccountRequired": self.external_account_required,
            "profiles": dict(self.profiles),
        }
        return {name: value for name, value in members.items() if value}


class Directory:
    """Where clients start; its body is made once.

    Args:
        urls: of everything in it.
        meta: what it says of the server.
        absent: resources that this server does not offer.
    """

    def __init__(self, urls: Urls, meta: Meta, absent: Collection[str] = ()) -> None:
        document: dict[str, Any] = {name: urls.of(path) for name, path in _RESOURCES.items() if name not in absent}
        # A name that nobody knows, so that clients learn to pass over what they do not know (§7.1.1).
        document[secrets.token_urlsafe(8)] = urls.of("directory")
        if members := meta.document():
            document["meta"] = members
        self._body = orjson.dumps(document)

    async def get(self, _: Request) -> Response:
        """The directory, for anybody, who may keep it for a while."""
        response = self._response()
        response.headers.append((b"cache-control", b"public, max-age=300"))
        return response

    async def post(self, request: AccountRequest, _: str) -> Response:
        """The directory by POST-as-GET.

        Raises:
            AcmeError: malformed: a payload.
        """
        request.require_read()
        return self._response()

    def _response(self) -> Response:
        return Response(200, self._body, [(b"content-type", b"application/json")])


async def head_nonce(_: Request) -> Response:
    """A fresh nonce, which the frame puts into the header."""
    return Response(200)


async def get_nonce(_: Request) -> Response:
    """Likewise, said with 204 since there is no body."""
    return Response(204)


async def post_nonce(request: AccountRequest, _: str) -> Response:
    """Likewise by POST-as-GET.

    Raises:
        AcmeError: malformed: a payload.
    """
    request.require_read()
    return Response(204)
