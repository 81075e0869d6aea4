"""The binding in newAccount (RFC 8555 §7.3.4): what binds, and what is refused."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from pkicore.encoding import base64url_decode
from services.acme.wire import AccountQuery
from tests.support.acme_client import AcmeProblemError
from tests.support.acme_server import BASE, AcmeServer
from tests.support.external_accounts import NEW_ACCOUNT, binding, bound, made, refusal
from tests.support.jose_key import JoseKey, b64u


@pytest.mark.requirement("rfc8555-7.3.4-01", "rfc8555-7.3.4-02", "rfc8555-7.3.4-11", "rfc8555-7.3.4-13")
@pytest.mark.parametrize("alg", ["HS256", "HS384", "HS512"])
async def test_an_account_is_bound(strict: AcmeServer, alg: str) -> None:
    """With any of the MAC algorithms; the account knows its external account, and the audit log does."""
    external = await made(strict, comment="web team")
    assert external.entry.kid.isascii()
    assert re.fullmatch("[A-Za-z0-9_-]{43,}", external.mac_key), "base64url, without padding"
    client = strict.client()
    sent = binding(external, client.key, alg=alg)
    account = await client.register(externalAccountBinding=sent)
    assert (account.status, account.body["externalAccountBinding"]) == ("valid", sent)
    async with strict.operated() as acme:
        (found,) = (await acme.accounts(AccountQuery(eab_kid=external.entry.kid))).accounts
        assert (await acme.external_account(external.entry.kid)).accounts == 1
    assert (found.url, found.eab_kid) == (client.kid, external.entry.kid)


@pytest.mark.parametrize("alg", ["ML-DSA-44", "ML-DSA-65", "ML-DSA-87"])
async def test_post_quantum_accounts_are_bound(strict: AcmeServer, alg: str) -> None:
    """An account key of ML-DSA is bound, orders and reads its order like any other."""
    client = await bound(strict, await made(strict), JoseKey.generate(alg))
    order = await client.new_order(["a.example"])
    assert (await client.read(order.url)).status == "pending"


@pytest.mark.requirement("rfc8555-7.3.4-07", "rfc8555-7.3.4-08", "rfc8555-7.3.4-09")
async def test_without_a_binding_there_is_no_account(strict: AcmeServer) -> None:
    """externalAccountRequired, and the directory says so beforehand; an existing account needs none, and shows none."""
    assert await refusal(strict, {}) == (403, "externalAccountRequired")
    assert (await strict.client().directory())["meta"]["externalAccountRequired"] is True
    client = await bound(strict, await made(strict))
    forged = binding(await made(strict), client.key, mac_key=b"k" * 64)
    for members in ({}, {"externalAccountBinding": forged}):
        response = await client.post_raw(NEW_ACCOUNT, members, use_jwk=True)
        assert (response.status_code, response.headers["location"]) == (200, client.kid)
        assert "externalAccountBinding" not in response.json()


async def test_a_binding_that_nobody_asked_for_binds_too(server: AcmeServer) -> None:
    """Where external accounts are optional, a client that has one is bound, and a wrong one is refused."""
    external = await made(server, identifiers=["a.example"])
    client = await bound(server, external)
    with pytest.raises(AcmeProblemError):
        await client.new_order(["b.example"])
    key = JoseKey.generate()
    forged = binding(external, key, mac_key=b"k" * 64)
    assert await refusal(server, {"externalAccountBinding": forged}, key) == (403, "unauthorized")
    assert "externalAccountRequired" not in (await client.directory())["meta"]


@pytest.mark.requirement(
    "rfc8555-7.3.4-03",
    "rfc8555-7.3.4-04",
    "rfc8555-7.3.4-05",
    "rfc8555-7.3.4-06",
    "rfc8555-7.3.4-11",
    "rfc8555-7.3.4-12",
    "rfc8555-7.3.4-14",
)
@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"mac_key": b"k" * 64}, (403, "unauthorized")),
        ({"header": {"kid": "eab-0000000000000000"}}, (403, "unauthorized")),
        ({"header": {"kid": ""}}, (400, "malformed")),
        ({"header": {"kid": 7}}, (400, "malformed")),
        ({"header": {"kid": "eab-\0"}}, (400, "malformed")),
        ({"header": {"kid": "eab-\n"}}, (400, "malformed")),
        ({"header": {"url": f"{BASE}/acme/new-order"}}, (400, "malformed")),
        ({"header": {"nonce": "AAAA"}}, (400, "malformed")),
        ({"header": {"jwk": JoseKey.generate().jwk}}, (400, "malformed")),
        ({"header": {"crit": ["x"], "x": 1}}, (400, "malformed")),
        ({"header": {"b64": False}}, (400, "malformed")),
        ({"alg": "none"}, (400, "badSignatureAlgorithm")),
        ({"alg": "ES256"}, (400, "badSignatureAlgorithm")),
        ({"alg": "RS256"}, (400, "badSignatureAlgorithm")),
        ({"alg": "HS1"}, (400, "badSignatureAlgorithm")),
        ({"payload": b""}, (400, "malformed")),
        ({"payload": b"{}"}, (400, "malformed")),
        ({"payload": b'{"kty":"EC","kty":"EC"}'}, (400, "malformed")),
        ({"payload": json.dumps(JoseKey.generate().jwk).encode()}, (400, "malformed")),
    ],
    ids=[
        "MAC by another key",
        "unknown kid",
        "empty kid",
        "kid that is no text",
        "kid with NUL",
        "kid of two lines",
        "another url",
        "nonce",
        "jwk in the header",
        "crit",
        "b64",
        "none",
        "ES256",
        "RS256",
        "HS1",
        "empty payload",
        "no key",
        "duplicate members",
        "another account's key",
    ],
)
async def test_bindings_that_are_refused(strict: AcmeServer, change: dict[str, Any], expected: tuple[int, str]) -> None:
    """A binding has the MAC of its key identifier, over the key of the account, for newAccount, and nothing else."""
    external, key = await made(strict, max_accounts=1), JoseKey.generate()
    wrong = binding(external, key, **change)
    assert await refusal(strict, {"externalAccountBinding": wrong}, key) == expected
    assert "account-created" not in strict.commits
    assert await refusal(strict, {}, key) == (403, "externalAccountRequired")
    assert (await bound(strict, external, key)).kid is not None


@pytest.mark.requirement("rfc8555-7.3.4-10", "rfc8555-7.3.4-14")
@pytest.mark.parametrize(
    "value",
    [
        None,
        {},
        [],
        "x",
        1,
        {"protected": "", "payload": "", "signature": ""},
        {"protected": 1, "payload": 2, "signature": 3},
    ],
)
async def test_what_is_no_binding(strict: AcmeServer, value: object) -> None:
    """It is malformed, and never taken for none."""
    assert await refusal(strict, {"externalAccountBinding": value}) == (400, "malformed")


@pytest.mark.requirement("rfc8555-7.3.4-11", "rfc8555-7.3.4-14")
async def test_the_missing_mac(strict: AcmeServer) -> None:
    """A binding without MAC, or with an empty or a shortened one, is none."""
    external, key = await made(strict), JoseKey.generate()
    honest = binding(external, key)
    short = b64u(base64url_decode(honest["signature"])[:16])
    for signature in ("", short):
        members = {"externalAccountBinding": {**honest, "signature": signature}}
        assert await refusal(strict, members, key) == (403, "unauthorized")
    del honest["signature"]
    assert await refusal(strict, {"externalAccountBinding": honest}, key) == (400, "malformed")


@pytest.mark.requirement("rfc8555-7.3.4-11")
async def test_a_kid_and_the_mac_key_of_another(strict: AcmeServer) -> None:
    """Whoever has one external account cannot use the kid of another; the answer is as for a kid of nobody."""
    mine, theirs, key = await made(strict), await made(strict), JoseKey.generate()
    answers = []
    for kid in (theirs.entry.kid, "eab-0000000000000000"):
        wrong = binding(mine, key, header={"kid": kid})
        client = strict.client(key)
        answers.append((await client.post_raw(NEW_ACCOUNT, {"externalAccountBinding": wrong}, use_jwk=True)).content)
    assert answers[0] == answers[1]


@pytest.mark.requirement("rfc8555-7.3.4-12")
async def test_a_seen_binding_serves_nobody_else(strict: AcmeServer) -> None:
    """Whoever sees a request cannot bind a key of his own with its binding."""
    external = await made(strict)
    client = await bound(strict, external)
    seen = binding(external, client.key)
    assert await refusal(strict, {"externalAccountBinding": seen}, JoseKey.generate()) == (400, "malformed")
