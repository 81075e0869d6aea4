"""Accounts and external accounts on both engines, and where two processes serve one database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from services.acme.wire import AccountQuery
from tests.contract.acme.test_key_change import URL, inner
from tests.support.acme_client import AcmeProblemError
from tests.support.acme_server import AcmeServer
from tests.support.external_accounts import NEW_ACCOUNT, binding, bound, made
from tests.support.jose_key import JoseKey


@pytest.fixture
async def pair(tmp_path: Path, empty_url: str) -> AsyncIterator[tuple[AcmeServer, AcmeServer]]:
    """Two processes on one PostgreSQL; on SQLite, one that plays both."""
    first = await AcmeServer.start(tmp_path, url=empty_url)
    second = await first.replica() if empty_url.startswith("postgresql") else first
    yield first, second
    await first.stop()
    if second is not first:
        await second.stop()


async def test_no_more_accounts_than_allowed_by_all_of_them(pair: tuple[AcmeServer, AcmeServer]) -> None:
    """The number holds whichever process is asked."""
    external = await made(pair[0], max_accounts=2)
    clients = [server.client() for server in pair for _ in range(3)]
    for client in clients:
        await client.nonce()
    answers = await asyncio.gather(
        *(
            client.post_raw(NEW_ACCOUNT, {"externalAccountBinding": binding(external, client.key)}, use_jwk=True)
            for client in clients
        )
    )
    assert sorted(answer.status_code for answer in answers) == [201, 201, 403, 403, 403, 403]


async def test_a_revocation_holds_at_all_of_them(pair: tuple[AcmeServer, AcmeServer]) -> None:
    """What an operator ends by one process is over at the other with its next request."""
    first, second = pair
    external = await made(first)
    client = await bound(second, external)
    await client.read(client.kid or "")
    async with first.operated() as acme:
        done = await acme.revoke_external_account(external.entry.kid, deactivate_accounts=True)
    assert done.deactivated == 1
    with pytest.raises(AcmeProblemError) as refused:
        await client.new_order(["a.example"])
    assert refused.value.kind == "unauthorized"


async def test_two_changes_of_one_key_by_both(pair: tuple[AcmeServer, AcmeServer]) -> None:
    """One wins; the old key signs at neither any more."""
    client = await pair[0].registered()
    twin = pair[1].client(client.key)
    twin.kid = client.kid
    await twin.nonce()
    pairs = ((client, JoseKey.generate()), (twin, JoseKey.generate()))
    answers = await asyncio.gather(*(one.post_raw(URL, inner(one, key)) for one, key in pairs))
    codes = sorted(answer.status_code for answer in answers)
    assert codes[0] == 200
    assert codes[1] in {400, 403}
    for one in (client, twin):
        with pytest.raises(AcmeProblemError):
            await one.read(client.kid or "")


async def test_accounts_are_searched_by_everything_at_once(pair: tuple[AcmeServer, AcmeServer]) -> None:
    """All conditions together, page by page; an underscore is one."""
    external = await made(pair[0])
    clients = [await bound(server, external) for server in pair]
    for client in clients:
        await client.post(client.kid or "", {"contact": ["mailto:Ops_1@Example.com"]})
    query = AccountQuery(contact="ops_1@", eab_kid=external.entry.kid, status="valid", limit=1)
    async with pair[1].operated() as acme:
        page = await acme.accounts(query)
        assert page.next is not None
        rest = await acme.accounts(replace(query, cursor=page.next))
        found = [entry.url for entry in (*page.accounts, *rest.accounts)]
        exact = AccountQuery(thumbprint=clients[0].key.thumbprint(), contact="OPS_1", status="valid")
        assert [entry.url for entry in (await acme.accounts(exact)).accounts] == [clients[0].kid]
        assert (await acme.external_accounts(limit=1)).next is None
    assert sorted(found) == sorted(client.kid or "" for client in clients)
