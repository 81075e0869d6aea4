from __future__ import annotations

import asyncio

import pytest

from pkicore.identity import SpiffeId
from services.acme.admin import acme_admin
from services.acme.client import AcmeForbiddenError, AcmeRefusedError
from services.acme.ids import new_id
from services.acme.wire import OPERATOR_ENDPOINTS, AccountQuery
from services.ca.acme_settings import OPERATOR_ENDPOINTS as IN_NEW_POLICIES
from services.chassis.peer import CallerPolicy
from tests.support.acme_client import AcmeProblemError
from tests.support.acme_server import OPERATOR, AcmeServer
from tests.support.jose_key import JoseKey

STRANGER = SpiffeId("pqcpki.internal", "/workload/web")


async def test_an_account_is_found_by_what_is_known_of_it(server: AcmeServer) -> None:
    """By a part of a contact in any case, by its key, by its status; what does not fit finds nothing."""
    client = await server.registered()
    await client.post(client.kid or "", {"contact": ["mailto:Ops_1@Example.com"]})
    other = await server.registered(JoseKey.generate("ML-DSA-65"))
    async with server.operated() as acme:
        for query in (
            AccountQuery(contact="ops_1@example"),
            AccountQuery(thumbprint=client.key.thumbprint()),
            AccountQuery(contact="EXAMPLE.COM", thumbprint=client.key.thumbprint(), status="valid"),
        ):
            assert [entry.url for entry in (await acme.accounts(query)).accounts] == [client.kid]
        for query in (
            AccountQuery(contact="ops%1"),
            AccountQuery(contact="opsX1"),
            AccountQuery(eab_kid="nobody"),
            AccountQuery(status="deactivated"),
        ):
            assert (await acme.accounts(query)).accounts == []
        shown = await acme.account((other.kid or "").rsplit("/", 1)[1])
    assert (shown.url, shown.algorithm, shown.thumbprint) == (other.kid, "ML-DSA-65", other.key.thumbprint())


async def test_pages_hold_each_account_once(server: AcmeServer) -> None:
    """Cursors lead through all accounts, those of one second too, the newest first."""
    made = {(await server.registered()).kid for _ in range(5)}
    async with server.operated() as acme:
        query, found = AccountQuery(limit=2), []
        while True:
            page = await acme.accounts(query)
            assert len(page.accounts) <= 2
            found += [entry.url for entry in page.accounts]
            if page.next is None:
                break
            query = AccountQuery(limit=2, cursor=page.next)
    assert len(found) == 5
    assert set(found) == made


async def test_an_operator_ends_an_account(server: AcmeServer) -> None:
    """Its next request, and its pending order, are over at once; the audit log names the operator."""
    client = await server.registered()
    order = await client.new_order(["a.example"])
    account_id = (client.kid or "").rsplit("/", 1)[1]
    async with server.operated() as acme:
        assert (await acme.deactivate_account(account_id)).status == "deactivated"
        with pytest.raises(AcmeRefusedError, match="deactivated already") as again:
            await acme.deactivate_account(account_id)
    assert again.value.status == 409
    with pytest.raises(AcmeProblemError) as refused:
        await client.read(order.url)
    assert (refused.value.status, refused.value.kind) == (401, "unauthorized")
    stored = await server.service.store.order_by_id(order.url.rsplit("/", 1)[1])
    assert stored is not None
    assert stored.status == "invalid"


@pytest.mark.parametrize(
    ("account_id", "status"),
    [(new_id(), 404), ("..", 403), ("a b", 404), ("x" * 300, 404)],
    ids=["unknown", "dots", "blank", "long"],
)
async def test_an_account_that_there_is_not(server: AcmeServer, account_id: str, status: int) -> None:
    """A problem document says so, whatever the id looks like; another path is for the policy to refuse."""
    async with server.operated() as acme:
        with pytest.raises(AcmeRefusedError) as refused:
            await acme.account(account_id)
    assert refused.value.status == status


@pytest.mark.parametrize(
    "query",
    [
        AccountQuery(status="gone"),
        AccountQuery(cursor="1"),
        AccountQuery(cursor=f"x.{new_id()}"),
        AccountQuery(limit=501),
    ],
    ids=["status", "cursor", "cursor without time", "limit"],
)
async def test_a_search_that_makes_no_sense(server: AcmeServer, query: AccountQuery) -> None:
    """It is refused with a sentence, and is no internal error."""
    async with server.operated() as acme:
        with pytest.raises(AcmeRefusedError) as refused:
            await acme.accounts(query)
    assert refused.value.status == 400


@pytest.mark.parametrize("caller", [STRANGER, None], ids=["a workload", "nobody"])
async def test_only_operators_are_let_in(server: AcmeServer, caller: SpiffeId | None) -> None:
    """Whoever the policy does not name learns nothing, and changes nothing."""
    client = await server.registered()
    account_id = (client.kid or "").rsplit("/", 1)[1]
    async with server.operated(caller) as acme:
        for call in (
            acme.accounts(AccountQuery()),
            acme.account(account_id),
            acme.agree_for_account(account_id, "https://ca.example/terms"),
            acme.deactivate_account(account_id),
        ):
            with pytest.raises(AcmeForbiddenError):
                await call
    assert (await client.read(client.kid or "")).status == "valid"


@pytest.mark.parametrize(
    ("method", "path"),
    [("HEAD", "/v1/accounts"), ("OPTIONS", "/v1/accounts"), ("BREW", "/v1/accounts"), ("GET", "/v1/nothing")],
)
async def test_the_policy_decides_before_anything_is_told(server: AcmeServer, method: str, path: str) -> None:
    """Neither which methods a path has nor which paths there are; operators have what their policy lists alone."""
    for caller in (STRANGER, None, OPERATOR):
        async with server.admin(caller) as http:
            answer = await http.request(method, path)
        assert (answer.status_code, answer.headers.get("allow")) == (403, None)


async def test_an_older_policy_gives_the_entry_that_it_lacks(server: AcmeServer) -> None:
    """A deployment from before the admin listener is told what to write into its policy file."""
    async with server.operated(OPERATOR, policy="") as acme:
        with pytest.raises(AcmeForbiddenError, match=r"config/policy\.toml") as refused:
            await acme.accounts(AccountQuery())
    assert all(endpoint in str(refused.value) for endpoint in OPERATOR_ENDPOINTS)
    assert IN_NEW_POLICIES == OPERATOR_ENDPOINTS


async def test_accounts_are_ended_once_by_two_operators(server: AcmeServer) -> None:
    """Of two at the same time one does it, the other learns that it is done."""
    account_id = ((await server.registered()).kid or "").rsplit("/", 1)[1]
    async with server.operated() as acme:
        answers = await asyncio.gather(*(acme.deactivate_account(account_id) for _ in range(2)), return_exceptions=True)
    assert sorted(type(answer).__name__ for answer in answers) == ["AccountEntry", "AcmeRefusedError"]
    assert server.commits.count("account-deactivated") == 1


async def test_the_policy_of_new_deployments_has_every_endpoint(server: AcmeServer) -> None:
    """What the admin listener serves is what operators may ask of it, neither more nor less."""
    app = acme_admin(server.service.administration, CallerPolicy.load(""))
    paths = app.openapi()["paths"]
    served = {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods}
    assert served == set(OPERATOR_ENDPOINTS)
