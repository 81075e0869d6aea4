"""External accounts, and clients that bind their ACME accounts to them (RFC 8555 §7.3.4)."""

from __future__ import annotations

import hmac
import json
from typing import Any

from pkicore.encoding import base64url_decode
from services.acme.wire import ExternalAccountRequest, NewExternalAccount
from tests.support.acme_client import AcmeClient
from tests.support.acme_server import BASE, AcmeServer
from tests.support.jose_key import JoseKey, b64u

NEW_ACCOUNT = f"{BASE}/acme/new-account"
HASHES = {"HS256": "sha256", "HS384": "sha384", "HS512": "sha512"}


async def made(server: AcmeServer, **wanted: Any) -> NewExternalAccount:  # noqa: ANN401 -- fields of the request
    """An external account."""
    async with server.operated() as acme:
        return await acme.create_external_account(ExternalAccountRequest(**wanted))


def binding(
    external: NewExternalAccount,
    key: JoseKey,
    *,
    alg: str = "HS256",
    mac_key: bytes | None = None,
    header: dict[str, Any] | None = None,
    payload: bytes | None = None,
) -> dict[str, str]:
    """What an honest client sends, but for what is given."""
    protected = b64u(json.dumps({"alg": alg, "kid": external.entry.kid, "url": NEW_ACCOUNT, **(header or {})}).encode())
    body = b64u(json.dumps(key.jwk).encode() if payload is None else payload)
    octets = f"{protected}.{body}".encode()
    mac = hmac.digest(mac_key or base64url_decode(external.mac_key), octets, HASHES.get(alg, "sha256"))
    return {"protected": protected, "payload": body, "signature": b64u(mac)}


async def bound(server: AcmeServer, external: NewExternalAccount, key: JoseKey | None = None) -> AcmeClient:
    """A client whose account is bound."""
    client = server.client(key)
    await client.register(externalAccountBinding=binding(external, client.key))
    return client


async def refusal(server: AcmeServer, members: dict[str, Any], key: JoseKey | None = None) -> tuple[int, str]:
    """The status and type with which a newAccount request is refused."""
    response = await server.client(key).post_raw(NEW_ACCOUNT, members, use_jwk=True)
    return response.status_code, response.json()["type"].removeprefix("urn:ietf:params:acme:error:")
