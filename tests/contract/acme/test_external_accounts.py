"""External accounts as operators make and end them: how many accounts, for which names, and until when."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from pkicore.clock import unix
from pkicore.encoding import base64url_decode
from services.acme.client import AcmeForbiddenError, AcmeRefusedError
from services.acme.external_accounts.administration import ExternalAccountAdministration
from services.acme.external_accounts.secret import EabSecret
from services.acme.requests import AccountCache
from services.acme.store.external_accounts import ExternalAccountStore
from services.acme.wire import ExternalAccountRequest
from services.chassis.database import AuditEvent
from tests.support.acme_client import AcmeProblemError
from tests.support.acme_orders import ready_order
from tests.support.acme_server import BASE, AcmeServer
from tests.support.external_accounts import NEW_ACCOUNT, binding, bound, made, refusal
from tests.support.jose_key import JoseKey

NEW_ORDER = f"{BASE}/acme/new-order"


async def test_no_more_accounts_than_allowed(strict: AcmeServer) -> None:
    """Of many at once exactly as many are made; a deactivated one still counts."""
    external = await made(strict, max_accounts=2)
    clients = [strict.client() for _ in range(5)]
    for client in clients:
        await client.nonce()
    answers = await asyncio.gather(
        *(
            client.post_raw(NEW_ACCOUNT, {"externalAccountBinding": binding(external, client.key)}, use_jwk=True)
            for client in clients
        )
    )
    assert sorted(answer.status_code for answer in answers) == [201, 201, 403, 403, 403]
    refused = next(answer for answer in answers if answer.status_code == 403)
    assert "all its accounts (2)" in refused.json()["detail"]
    winner = next(client for client, answer in zip(clients, answers, strict=True) if answer.status_code == 201)
    await winner.register()
    await winner.deactivate()
    key = JoseKey.generate()
    assert await refusal(strict, {"externalAccountBinding": binding(external, key)}, key) == (403, "unauthorized")
    async with strict.operated() as acme:
        assert (await acme.external_account(external.entry.kid)).status == "full"


async def test_the_same_key_twice_at_once_counts_once(strict: AcmeServer) -> None:
    """A client that repeats its request gets one account, and uses up one."""
    external, key = await made(strict, max_accounts=5), JoseKey.generate()
    clients = [strict.client(key) for _ in range(4)]
    for client in clients:
        await client.nonce()
    members = {"externalAccountBinding": binding(external, key)}
    answers = await asyncio.gather(*(client.post_raw(NEW_ACCOUNT, members, use_jwk=True) for client in clients))
    assert len({answer.headers["location"] for answer in answers}) == 1
    async with strict.operated() as acme:
        assert (await acme.external_account(external.entry.kid)).accounts == 1


async def test_an_external_account_expires(strict: AcmeServer) -> None:
    """No more accounts are made with it; those that were go on."""
    external = await made(strict, not_after=unix(strict.clock.now()) + 60)
    client = await bound(strict, external)
    strict.clock.advance(timedelta(seconds=61))
    key = JoseKey.generate()
    assert await refusal(strict, {"externalAccountBinding": binding(external, key)}, key) == (403, "unauthorized")
    assert (await client.new_order(["a.example"])).status == "pending"
    async with strict.operated() as acme:
        assert (await acme.external_account(external.entry.kid)).status == "expired"


async def test_only_allowed_names_are_ordered(strict: AcmeServer) -> None:
    """Each refused name has its sub-problem; also for authorizations ahead of orders."""
    external = await made(strict, identifiers=[".web.example", "web.example"])
    client = await bound(strict, external)
    assert (await client.new_order(["web.example", "a.web.example"])).status == "pending"
    with pytest.raises(AcmeProblemError) as refused:
        await client.new_order(["a.web.example", "bank.example", "mail.example"])
    assert (refused.value.status, refused.value.kind) == (400, "rejectedIdentifier")
    named = [problem["identifier"]["value"] for problem in refused.value.document["subproblems"]]
    assert named == ["bank.example", "mail.example"]
    ahead = {"identifier": {"type": "dns", "value": "bank.example"}}
    response = await client.post_raw(f"{BASE}/acme/new-authz", ahead)
    assert response.json()["type"].endswith(":rejectedIdentifier")


async def test_only_allowed_profiles_are_ordered(strict: AcmeServer) -> None:
    """InvalidProfile for any other, and for the usual one where that is not allowed."""
    client = await bound(strict, await made(strict, profiles=["short-lived"]))
    for members in ({"profile": "server"}, {}):
        with pytest.raises(AcmeProblemError) as refused:
            await client.new_order(["a.example"], **members)
        assert refused.value.kind == "invalidProfile"
    assert (await client.new_order(["a.example"], profile="short-lived")).body["profile"] == "short-lived"


async def test_revocation_of_an_external_account(strict: AcmeServer) -> None:
    """No account is made with it any more, its accounts order nothing, and what they had begun ends."""
    external = await made(strict)
    client, other = await bound(strict, external), await bound(strict, await made(strict))
    order = await ready_order(client, "a.example")
    async with strict.operated() as acme:
        done = await acme.revoke_external_account(external.entry.kid)
        assert (done.entry.status, done.deactivated) == ("revoked", 0)
        with pytest.raises(AcmeRefusedError, match="revoked already"):
            await acme.revoke_external_account(external.entry.kid)
    key = JoseKey.generate()
    assert await refusal(strict, {"externalAccountBinding": binding(external, key)}, key) == (403, "unauthorized")
    with pytest.raises(AcmeProblemError) as refused:
        await client.new_order(["a.example"])
    assert (refused.value.status, refused.value.kind) == (403, "unauthorized")
    assert "external account" in refused.value.detail
    assert (await client.read(order.url)).status == "invalid"
    assert (await client.read(client.kid or "")).status == "valid"
    assert (await other.new_order(["a.example"])).status == "pending"


async def test_revocation_with_the_accounts(strict: AcmeServer) -> None:
    """Where that is asked for, the accounts are deactivated: at once, and afterwards too."""
    external, other = await made(strict), await bound(strict, await made(strict))
    clients = [await bound(strict, external) for _ in range(2)]
    for client in clients:
        await client.read(client.kid or "")  # so that it is in memory
    async with strict.operated() as acme:
        await acme.revoke_external_account(external.entry.kid)
        assert (await clients[0].read(clients[0].kid or "")).status == "valid"
        done = await acme.revoke_external_account(external.entry.kid, deactivate_accounts=True)
    assert done.deactivated == 2
    for client in clients:
        with pytest.raises(AcmeProblemError) as refused:
            await client.read(client.kid or "")
        assert refused.value.kind == "unauthorized"
    assert (await other.read(other.kid or "")).status == "valid"


async def test_an_account_that_was_made_while_its_external_account_ends(strict: AcmeServer) -> None:
    """It ends too, though it is in memory and was on no list that was read before."""
    external, other = await made(strict), await made(strict)
    client = await bound(strict, external)
    await client.read(client.kid or "")
    audit = AuditEvent("external-account.revoked", "operator", {})
    await ExternalAccountStore(strict.database).revoke(external.entry.kid, 1, audit, deactivate=1)
    assert (await client.read(client.kid or "")).status == "valid", "as it is in memory"
    async with strict.operated() as acme:
        assert (await acme.revoke_external_account(other.entry.kid, deactivate_accounts=True)).deactivated == 0
    with pytest.raises(AcmeProblemError) as refused:
        await client.read(client.kid or "")
    assert refused.value.status == 401


class LateAccounts(ExternalAccountStore):
    """Where an account is made right after the first count: what another request may do at any time."""

    meanwhile: Callable[[], Awaitable[object]] | None = None

    async def bound_accounts(self, kid: str) -> int:
        """The count, and then one more."""
        found, late = await super().bound_accounts(kid), self.meanwhile
        if late is not None:
            self.meanwhile = None
            await late()
        return found


async def test_accounts_that_come_while_they_are_counted_are_counted(strict: AcmeServer) -> None:
    """The number told, and that in the audit log, is of those that the write ended."""
    external = await made(strict)
    clients = [await bound(strict, external)]

    async def one_more() -> None:
        clients.append(await bound(strict, external))

    store = LateAccounts(strict.database)
    store.meanwhile = one_more
    cache = AccountCache(strict.service.store, shared=False)
    administration = ExternalAccountAdministration(store, strict.rules.eab_secret, cache, (), strict.clock)
    done = await administration.revoke(external.entry.kid, "operator", deactivate_accounts=True)
    assert (done.entry.status, done.deactivated, len(clients)) == ("revoked", 2, 2)
    ended = [await strict.service.store.account((client.kid or "").rsplit("/", 1)[1]) for client in clients]
    assert [row is not None and row.status for row in ended] == ["deactivated"] * 2


async def test_what_cannot_be_looked_up_is_malformed(server: AcmeServer) -> None:
    """NUL, which no database takes, is the operator's mistake and not the server's."""
    async with server.operated() as acme:
        with pytest.raises(AcmeRefusedError) as refused:
            await acme.external_account("\0")
        assert refused.value.status == 400


async def test_an_external_account_survives_a_restart(strict: AcmeServer) -> None:
    """Its MAC key comes from the secret, not from memory."""
    external = await made(strict)
    restarted = await strict.restart()
    assert (await bound(restarted, external)).kid is not None
    await restarted.stop()


async def test_another_secret_is_the_servers_fault(strict: AcmeServer) -> None:
    """A server that lost the secret says so, and does not call the client's MAC wrong."""
    external, key = await made(strict), JoseKey.generate()
    strict.rules = replace(strict.rules, eab_secret=EabSecret(strict.directory / "another-secret"))
    restarted = await strict.restart()
    members = {"externalAccountBinding": binding(external, key)}
    assert await refusal(restarted, members, key) == (500, "serverInternal")
    await restarted.stop()


async def test_the_mac_key_is_kept_nowhere(strict: AcmeServer, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither the database nor a log has it, in any form."""
    external = await made(strict, comment="x")
    await bound(strict, external)
    raw = base64url_decode(external.mac_key)
    said = capsys.readouterr()
    for file in strict.directory.iterdir():
        content = file.read_bytes()
        assert external.mac_key.encode() not in content
        assert raw not in content
        assert raw.hex().encode() not in content
    assert external.mac_key not in said.out + said.err + repr(external)
    async with strict.operated() as acme:
        assert "mac" not in repr(await acme.external_accounts())


@pytest.mark.parametrize(
    "wanted",
    [
        {"identifiers": ["a..example"]},
        {"identifiers": ["192.0.2.1/24"]},
        {"identifiers": ["a.example"] * 501},
        {"profiles": ["nobody"]},
        {"not_after": 1},
        {"max_accounts": 0},
        {"max_accounts": -1},
        {"comment": "x" * 201},
        {"comment": "web\neab-0000 valid"},
    ],
    ids=["name", "network", "too many names", "profile", "past end", "no account", "negative", "long comment", "lines"],
)
async def test_external_accounts_that_make_no_sense(server: AcmeServer, wanted: dict[str, Any]) -> None:
    """They are refused with a sentence, and nothing is made."""
    with pytest.raises(AcmeRefusedError) as refused:
        await made(server, **wanted)
    assert refused.value.status == 400
    assert not server.commits


async def test_names_are_kept_in_their_one_form(server: AcmeServer) -> None:
    """So that what is shown is what is compared."""
    external = await made(server, identifiers=["Web.Example", "web.example", "2001:DB8::/32", "192.0.2.7"])
    assert external.entry.identifiers == ["web.example", "2001:db8::/32", "192.0.2.7/32"]


async def test_external_accounts_are_listed_by_pages(server: AcmeServer) -> None:
    """Each once, and one that there is not is not found."""
    kids = {(await made(server)).entry.kid for _ in range(3)}
    async with server.operated() as acme:
        first = await acme.external_accounts(limit=2)
        assert first.next is not None
        second = await acme.external_accounts(first.next, 2)
        for kid in ("eab-0", "x" * 200):
            with pytest.raises(AcmeRefusedError) as refused:
                await acme.external_account(kid)
            assert refused.value.status == 404
    assert {entry.kid for entry in (*first.external_accounts, *second.external_accounts)} == kids
    assert second.next is None


async def test_external_accounts_are_for_operators(server: AcmeServer) -> None:
    """Nobody else makes or sees one."""
    async with server.operated(None) as acme:
        for call in (acme.create_external_account(ExternalAccountRequest()), acme.external_accounts()):
            with pytest.raises(AcmeForbiddenError):
                await call
    assert not server.commits
